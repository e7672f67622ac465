"""Host-side images: decoding to RGB and resizing for evaluation.

Everything here is uint8; normalization happens on the device.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Literal

import numpy as np
from PIL import ExifTags, Image

from jtl.common.errors import UserError, suggest
from jtl.config.data import Fit
from jtl.data import deep_colour, tiff_bands
from jtl.data.image_file import BadImage, open_image
from jtl.data.square_fit import fitted

_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

# What brings an image upright, by the value of the EXIF orientation tag (EXIF 2.32, 4.6.4).
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LYING = (5, 6, 7, 8)  # orientations that exchange width and height
_TURNED = ((2, 3, 6, 7), (3, 4, 7, 8))
"""Orientations whose stored end of a row or column is the upright image's left side, or its top."""
_PNG_ORIENTATION_CHUNKS = (b"eXIf", b"Raw profile type", b"XML:com.adobe.xmp")

_MAX_UPSCALED_PIXELS = 2**26  # 256 MB in Pillow, per thread

_SCALED = "jtl_scaled"
"""In the `info` of an image that `decode` has scaled: the (width, height) of the whole, and the
box that this fills (left, top, right, bottom), whose last pixels on one side may be parts."""

BITS = 16
"""The bits of images that have more than 8."""


@dataclasses.dataclass(frozen=True)
class HostTransform:
    """The field's evaluation preprocessing: resize the shorter side, crop the centre.

    The shorter side becomes `floor(size / crop_pct)` pixels, the longer side keeps the aspect
    ratio (rounded down), both antialiased; then the central `size` x `size` pixels are cut out,
    with offsets rounded half to even. Equal on every uint8 to timm's evaluation transform
    (`timm.data.create_transform`), which is torchvision's `Resize` and `CenterCrop`. Because
    `crop_pct` is at most 1, the resized image always covers the crop: nothing is ever padded.

    Attributes:
        size: Height and width of the result, in pixels.
        crop_pct: The crop's share of the resized shorter side, in (0, 1].
        interpolation: "bicubic" or "bilinear".
        scaled_jpeg: Whether large JPEGs are scaled while they are decoded, to no less than twice
            the size that they are then resized to; see `decode`. Of a photograph of 12 megapixels
            that takes a third of the time, and no value differs by more than a few of 255.
        fit: `pad` and `squash` keep all of the image instead; see `jtl.data.square_fit`.
        fill: The colour of what `pad` adds, RGB.

    Raises:
        UserError: If a value is outside these bounds.
    """

    size: int
    crop_pct: float
    interpolation: Literal["bicubic", "bilinear"]
    scaled_jpeg: bool = dataclasses.field(default=False, repr=False)
    fit: Fit = dataclasses.field(default="crop", repr=False)
    fill: tuple[int, ...] = dataclasses.field(default=(0, 0, 0), repr=False)

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UserError(f"Image size {self.size} is not possible: give at least 1 pixel.")
        if not 0 < self.crop_pct <= 1:
            raise UserError(
                f"crop_pct {self.crop_pct} is not possible: give a number above 0 and up to 1."
            )
        if self.interpolation not in _RESAMPLING:
            raise UserError(
                f"Unknown interpolation '{self.interpolation}': use 'bicubic' or 'bilinear'."
                + suggest(self.interpolation, _RESAMPLING)
            )

    @property
    def shorter_side(self) -> int | None:
        """What `decode` may scale an image to; None for nothing less than the whole."""
        if not self.scaled_jpeg:
            return None
        return 2 * (self.size if self.fit != "crop" else math.floor(self.size / self.crop_pct))

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Resize and crop one image.

        Args:
            image: An image of any size; modes other than RGB are converted like in `decode`.

        Returns:
            uint8 [size, size, 3].

        Raises:
            BadImage: If the image is so elongated that the resized one would not fit in memory.
        """
        image = _to_rgb(image)
        (width, height), box = image.info.get(_SCALED, (image.size, None))
        if self.fit != "crop":
            how = self.fit, self.size, _RESAMPLING[self.interpolation], self.fill
            return fitted(image, (width, height), box, *how)
        short, long = min(width, height), max(width, height)
        new_short = math.floor(self.size / self.crop_pct)
        new_long = int(new_short * long / short)
        if new_short * new_long > max(_MAX_UPSCALED_PIXELS, width * height):
            raise BadImage(
                f"{width} x {height} pixels is too elongated to be resized to {new_short} pixels "
                "on its shorter side"
            )
        new_size = (new_short, new_long) if width <= height else (new_long, new_short)
        if new_size != image.size:
            image = image.resize(new_size, _RESAMPLING[self.interpolation], box)
        left = round((new_size[0] - self.size) / 2)
        top = round((new_size[1] - self.size) / 2)
        return np.array(image.crop((left, top, left + self.size, top + self.size)))


def decode(
    data: bytes, name: str, bit_depth: int = BITS, shorter_side: int | None = None
) -> Image.Image:
    """Decode the contents of an image file.

    The EXIF orientation is applied; of an animation the first frame is taken; transparency is
    laid over white; 16 bits are scaled (not clipped) to 8.

    Args:
        data: The file's bytes, in one of `FORMATS`.
        name: What to call the file in messages.
        bit_depth: How many of 16 bits are used.
        shorter_side: A JPEG whose shorter side has twice, four or eight times as many pixels as
            this is decoded at a half, a quarter or an eighth of its size, from that part of the
            coefficients of its blocks. A `HostTransform` places it as if it were whole.

    Returns:
        A loaded image in mode "RGB".

    Raises:
        BadImage: If the file is empty, damaged, truncated, of another format, or so large that
            Pillow takes it for a decompression bomb (twice `PIL.Image.MAX_IMAGE_PIXELS`); or if
            it has values beyond `bit_depth`.
    """
    with _named_errors(name):
        image = _open(data)
        full = image.size
        if shorter_side is not None:
            image.draft(None, (shorter_side, shorter_side))  # pyright: ignore[reportArgumentType]
        if image.size != full:
            upright = _upright_rgb(image, bit_depth)
            upright.info[_SCALED] = _filled(upright.size, full, _orientation(image))
            return upright
        deep = bit_depth < BITS and deep_colour.is_deep(image)
        pixels = _all_bits(image, data) if deep else None
        return _upright_rgb(image, bit_depth, pixels)


def _open(data: bytes) -> Image.Image:
    """As `open_image`; a TIFF with bands that Pillow would misread or drop is refused."""
    image = open_image(data)
    if image.format == "TIFF" and (fault := tiff_bands.fault(data)) is not None:
        raise BadImage(fault)
    return image


def _filled(
    size: tuple[int, int], full: tuple[int, int], orientation: int
) -> tuple[tuple[int, int], tuple[float, ...]]:
    """What `_SCALED` says of an upright image of a size, by the size that the file states."""
    full = (full[1], full[0]) if orientation in _LYING else full
    scale = round(max(full) / max(size))
    left, top = (
        pixels - side / scale if orientation in turned else 0.0
        for pixels, side, turned in zip(size, full, _TURNED, strict=True)
    )
    return full, (left, top, left + full[0] / scale, top + full[1] / scale)


def is_deep(head: bytes) -> bool:
    """Whether an image has more than 8 bits, by a file's first bytes."""
    try:
        image = open_image(head)
        return image.mode.startswith("I") or deep_colour.is_deep(image)
    except Exception:  # As of `_named_errors`; who decodes it says what is wrong.
        return False


def decode_measured(data: bytes, name: str) -> tuple[Image.Image, int]:
    """What `decode` gives, and the largest value of a 16-bit image; 0 of any other."""
    with _named_errors(name):
        image = _open(data)
        pixels = deep_pixels(data, image)
        deepest = 0 if pixels is None else int(pixels[..., :3].max())
        return _upright_rgb(image, BITS), deepest


def deep_pixels(data: bytes, image: Image.Image) -> np.ndarray | None:
    """All 16 bits of an image, [H, W] or [H, W, 3 or 4]; None if it has only 8.

    Args:
        data: The file's bytes.
        image: What `open_image` gives of it, not loaded yet.
    """
    if image.mode.startswith("I"):
        return np.asarray(image)
    return _all_bits(image, data) if deep_colour.is_deep(image) else None


def _all_bits(image: Image.Image, data: bytes) -> np.ndarray:
    return deep_colour.values(image, functools.partial(open_image, data))


def as_decoded(image: Image.Image, name: str, bit_depth: int = BITS) -> Image.Image:
    """What `decode` would give of an image that Pillow has opened or made.

    Args:
        image: In any mode.
        name: What to call it in messages.
        bit_depth: As of `decode`.

    Raises:
        BadImage: As `decode`.
    """
    with _named_errors(name):
        if (fault := tiff_bands.fault_of_opened(image)) is not None:
            raise BadImage(fault)
        if bit_depth < BITS and deep_colour.is_deep(image):
            raise BadImage("colour of 16 bits: give the file itself, not an image opened before")
        return _upright_rgb(image, bit_depth)


def image_size(data: bytes, name: str, *, whole: bool = True) -> tuple[int, int]:
    """The size that `decode` would give, from the file's header.

    Args:
        data: The file's bytes, or its first ones.
        name: What to call the file in messages.
        whole: Whether `data` is the whole file.

    Returns:
        (height, width) in pixels, EXIF orientation applied.

    Raises:
        BadImage: If the header cannot be read, or (`whole=False`) does not tell enough.
    """
    with _named_errors(name):
        image = open_image(data)
        width, height = image.size
        # Pillow gives a TIFF's size as it will be after its own turning.
        if width != height and image.format != "TIFF":
            if image.format == "PNG" and "exif" not in image.info:
                # A PNG may hold its orientation behind the pixels. Only then is decoding needed.
                if not whole:
                    raise BadImage("the orientation may stand at the end of the file")
                if any(chunk in data for chunk in _PNG_ORIENTATION_CHUNKS):
                    image.load()
                else:
                    return height, width
            if _orientation(image) in _LYING:
                width, height = height, width
        return height, width


def _upright_rgb(
    image: Image.Image, bit_depth: int, pixels: np.ndarray | None = None
) -> Image.Image:
    """An image upright in 8 bits; `pixels` are all bits of a 16-bit colour image."""
    image.load()
    turn = _UPRIGHT.get(_orientation(image))
    if pixels is not None:
        _refuse_beyond(pixels[..., :3], bit_depth)
        image = deep_colour.scaled(pixels, bit_depth)
    return _to_rgb(image if turn is None else image.transpose(turn), bit_depth)


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        return 1  # Unreadable EXIF says nothing about the pixels, which may be fine.


def _to_rgb(image: Image.Image, bit_depth: int = BITS) -> Image.Image:
    if image.mode.startswith("I"):
        return _from_16_bit(image, bit_depth)
    if image.mode == "F":
        raise BadImage("floating-point pixels have no defined range: save it with 8 or 16 bits")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_16_bit(image: Image.Image, bit_depth: int) -> Image.Image:
    """Greyscale 0..65535 to RGB 0..255; Pillow's own conversion would clip at 255."""
    pixels = np.asarray(image).astype(np.int64)
    if pixels.min() < 0 or pixels.max() > 65535:
        raise BadImage("32-bit pixels outside 0..65535: save it with 8 or 16 bits")
    _refuse_beyond(pixels, bit_depth)
    return deep_colour.scaled(pixels, bit_depth).convert("RGB")


def _refuse_beyond(pixels: np.ndarray, bit_depth: int) -> None:
    top = 2**bit_depth - 1
    if pixels.max() > top:
        raise BadImage(
            f"values up to {pixels.max():,}, and of {bit_depth} bits the largest is {top:,}; see "
            "--bit-depth"
        )


@contextlib.contextmanager
def _named_errors(name: str) -> Iterator[None]:
    """Turn whatever a broken file provokes into a `BadImage` that names it."""
    try:
        yield
    except Exception as error:  # Pillow's decoders raise nearly every kind on damaged files.
        raise BadImage(f"{name}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    match error:
        case BadImage():
            return str(error)
        case Image.DecompressionBombError():
            limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
            return f"more than {limit:,} pixels, which could exhaust the memory: scale it down"
        case MemoryError():
            return "not enough memory to decode it"
        case _:
            return f"damaged: {error or type(error).__name__}"
