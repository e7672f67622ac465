"""Decoding and resizing on the host, compared with timm's evaluation transform."""

from __future__ import annotations

import functools
import io
import struct
import threading
import warnings
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from jtl.common.errors import UserError
from jtl.data.batches import in_threads, read_batch
from jtl.data.decoding import BadImage, HostTransform, decode, image_size
from support.paths import SHARED_DATA

IMAGENET_SAMPLE = SHARED_DATA / "imagenet-sample.zip"
ORIENTATION = 0x0112

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def encode(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    depth = {"RGB": (3,), "L": ()}[mode]
    random = np.random.default_rng(width * 1000 + height)
    return Image.fromarray(random.integers(0, 256, (height, width, *depth), np.uint8))


def oriented(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = value
    return exif


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def corners(image: Image.Image) -> list[tuple[int, ...]]:
    right, bottom = image.width - 1, image.height - 1
    spots = [(0, 0), (right, 0), (0, bottom), (right, bottom)]
    return [tuple(np.asarray(image)[y, x].tolist()) for x, y in spots]


# HostTransform


def timm_transform(size: int, crop_pct: float, interpolation: str):
    from timm.data import create_transform  # pyright: ignore[reportPrivateImportUsage]

    transform = create_transform(
        input_size=(3, size, size),
        is_training=False,
        interpolation=interpolation,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        crop_pct=crop_pct,
    )

    def uint8(image: Image.Image) -> np.ndarray:
        pixels = transform(image).numpy().transpose(1, 2, 0) * 255  # pyright: ignore
        assert np.abs(pixels - np.rint(pixels)).max() < 1e-3
        return np.rint(pixels).astype(np.uint8)

    return uint8


@functools.cache
def real_images() -> list[Image.Image]:
    """Some of the sample's images, and all that are smaller than a crop of 224."""
    images = []
    with zipfile.ZipFile(IMAGENET_SAMPLE) as archive:
        for index, name in enumerate(sorted(archive.namelist())):
            image = Image.open(io.BytesIO(archive.read(name)))
            if index % 25 == 0 or min(image.size) < 224:
                images.append(image.convert("RGB"))
    return images


@pytest.mark.peer
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("crop_pct", [0.875, 0.95])
def test_equals_timm_on_real_images(crop_pct: float, interpolation: str):
    if not IMAGENET_SAMPLE.exists():
        pytest.skip("imagenet-sample.zip is not in ../shared/data")
    images = real_images()
    assert sum(p.width > p.height for p in images) >= 10
    assert sum(p.width < p.height for p in images) >= 10
    assert sum(p.width == p.height for p in images) >= 1
    assert sum(max(p.size) < 224 for p in images) >= 5
    expected = timm_transform(224, crop_pct, interpolation)
    transform = HostTransform(224, crop_pct, interpolation)  # pyright: ignore
    for photo in images:
        actual = transform(photo)
        assert actual.dtype == np.uint8
        np.testing.assert_array_equal(actual, expected(photo))


@pytest.mark.peer
@pytest.mark.parametrize("crop_pct", [0.5, 0.65, 0.875, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("size", [7, 31, 32])
def test_equals_timm_in_every_rounding(size: int, crop_pct: float):
    expected = timm_transform(size, crop_pct, "bicubic")
    transform = HostTransform(size, crop_pct, "bicubic")
    sides = [1, 2, 3, 5, 8, 13, 31, 32, 33, 34, 35, 36, 37, 64, 77]
    for width in sides:
        for height in sides:
            photo = noise(width, height)
            np.testing.assert_array_equal(transform(photo), expected(photo))


def test_interpolations_and_crops_differ():
    photo = noise(300, 200)
    results = [
        HostTransform(96, crop_pct, interpolation)(photo)
        for crop_pct in (0.875, 0.95)
        for interpolation in ("bicubic", "bilinear")
    ]
    assert len({result.tobytes() for result in results}) == 4


def test_transform_result_is_an_array_of_its_own():
    result = HostTransform(32, 1.0, "bilinear")(noise(32, 32))
    np.testing.assert_array_equal(result, np.asarray(noise(32, 32)))
    result[:] = 0  # writable


def test_transform_converts_other_modes():
    transform = HostTransform(8, 1.0, "bilinear")
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    np.testing.assert_array_equal(transform(clear), np.full((8, 8, 3), 255))
    np.testing.assert_array_equal(transform(Image.new("L", (8, 8), 9)), np.full((8, 8, 3), 9))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0, 0.875, "bicubic"), "Image size 0 is not possible"),
        ((224, 0.0, "bicubic"), "crop_pct 0.0 is not possible: give a number above 0 and up to 1"),
        ((224, 1.01, "bicubic"), "crop_pct 1.01 is not possible"),
        ((224, 1.0, "bicubik"), "Unknown interpolation 'bicubik'.*Did you mean 'bicubic'"),
    ],
)
def test_transform_refuses_values_out_of_bounds(values, message: str):
    with pytest.raises(UserError, match=message):
        HostTransform(*values)


def test_elongated_image_is_refused_before_it_fills_the_memory():
    with pytest.raises(BadImage, match="20000 x 1 pixels is too elongated to be resized to 256"):
        HostTransform(224, 0.875, "bicubic")(Image.new("RGB", (20000, 1)))


# decode: pixels


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP", "GIF", "TGA", "PCX", "SGI"])
def test_lossless_formats_decode_exactly(kind: str):
    photo = noise(11, 7, "L") if kind == "GIF" else noise(11, 7)
    options = {"lossless": True} if kind == "WEBP" else {}
    decoded = decode(encode(photo, kind, **options), "a")
    assert decoded.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(decoded), np.asarray(photo.convert("RGB")))


def test_jpeg_decodes_as_pillow_does():
    data = encode(noise(40, 30), "JPEG")
    expected = np.asarray(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(np.asarray(decode(data, "a.jpg")), expected)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_transparency_is_laid_over_white(kind: str):
    photo = Image.new("RGBA", (2, 1))
    photo.putpixel((0, 0), (255, 0, 0, 0))
    photo.putpixel((1, 0), (0, 0, 0, 51))
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    decoded = decode(encode(photo, kind, **options), "a")
    assert np.asarray(decoded).tolist() == [[[255, 255, 255], [204, 204, 204]]]


def test_grey_with_alpha_is_laid_over_white():
    photo = Image.new("LA", (1, 1), (0, 51))
    assert np.asarray(decode(encode(photo, "PNG"), "a.png")).tolist() == [[[204, 204, 204]]]


def palette_image() -> Image.Image:
    photo = Image.new("P", (3, 1))
    photo.putpalette([*RED, *GREEN, *BLUE])
    for x in range(3):
        photo.putpixel((x, 0), x)
    return photo


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF"])
def test_palette_colours(kind: str):
    decoded = decode(encode(palette_image(), kind), "a")
    assert np.asarray(decoded).tolist() == [[list(RED), list(GREEN), list(BLUE)]]


@pytest.mark.parametrize("transparency", [1, bytes([255, 0, 255])])
def test_transparent_palette_entry_is_white(transparency: int | bytes):
    data = encode(palette_image(), "PNG", transparency=transparency)
    decoded = decode(data, "a.png")
    assert np.asarray(decoded).tolist() == [[list(RED), [255, 255, 255], list(BLUE)]]


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (4, 3), colour) for colour in (RED, GREEN, BLUE)]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=10)
    assert Image.open(io.BytesIO(data)).n_frames == 3  # pyright: ignore
    assert np.asarray(decode(data, "a.gif")).tolist() == [[list(RED)] * 4] * 3


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_scaled(kind: str):
    values = np.array([[0, 128, 129, 257, 256 * 100, 65535]], np.uint16)
    decoded = decode(encode(Image.fromarray(values), kind), "a")
    assert np.asarray(decoded)[0, :, 0].tolist() == [0, 0, 1, 1, 100, 255]
    assert decoded.mode == "RGB"


def test_32_bit_grey_is_scaled_if_it_fits_16_bits():
    fits = Image.fromarray(np.array([[0, 65535]], np.int32))
    assert np.asarray(decode(encode(fits, "TIFF"), "a"))[0, :, 0].tolist() == [0, 255]
    beyond = Image.fromarray(np.array([[0, 65536]], np.int32))
    with pytest.raises(BadImage, match=r"b\.tif: 32-bit pixels outside 0\.\.65535"):
        decode(encode(beyond, "TIFF"), "b.tif")


def test_floating_point_is_refused():
    data = encode(Image.fromarray(np.zeros((2, 2), np.float32)), "TIFF")
    with pytest.raises(BadImage, match=r"a\.tif: floating-point pixels have no defined range"):
        decode(data, "a.tif")


def test_bilevel_and_cmyk():
    bilevel = Image.new("1", (2, 1))
    bilevel.putpixel((1, 0), 1)
    assert np.asarray(decode(encode(bilevel, "PNG"), "a")).tolist() == [[[0] * 3, [255] * 3]]
    cyan = decode(encode(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "JPEG"), "a.jpg")
    assert corners(cyan) == [(0, 255, 255)] * 4


# decode: orientation


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("side", [12, 300])
def test_orientation_is_applied_and_known_from_the_header(kind: str, value: int, side: int):
    data = encode(noise(side, side // 2), kind, exif=oriented(value))
    decoded = decode(data, "a")
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(np.asarray(decoded), np.asarray(expected))
    assert decoded.size == ((side // 2, side) if value >= 5 else (side, side // 2))
    assert image_size(data, "a") == (decoded.height, decoded.width)
    try:
        head = image_size(data[:2048], "a", whole=len(data) <= 2048)
    except BadImage:
        assert side == 300  # the beginning does not tell: the caller reads the whole file
    else:
        assert head == (decoded.height, decoded.width)


def test_orientation_6_turns_clockwise():
    photo = Image.new("RGB", (2, 1))
    photo.putpixel((0, 0), RED)
    photo.putpixel((1, 0), BLUE)
    decoded = decode(encode(photo, "PNG", exif=oriented(6)), "a.png")
    assert np.asarray(decoded).tolist() == [[list(RED)], [list(BLUE)]]


def test_orientation_behind_the_pixels_of_a_png():
    plain = encode(noise(12, 6), "PNG")
    end = plain.rindex(b"IEND") - 4
    data = plain[:end] + png_chunk(b"eXIf", oriented(6).tobytes()[6:]) + plain[end:]
    assert decode(data, "a.png").size == (6, 12)
    assert image_size(data, "a.png") == (12, 6)
    with pytest.raises(BadImage, match="orientation may stand at the end"):
        image_size(data[:60], "a.png", whole=False)


def test_broken_exif_does_not_spoil_the_image():
    data = encode(noise(12, 6), "JPEG", exif=b"Exif\0\0nonsense, not TIFF")
    assert decode(data, "a.jpg").size == (12, 6)
    assert image_size(data, "a.jpg") == (6, 12)


# decode: damage


def test_empty_and_foreign_files():
    with pytest.raises(BadImage, match=r"^x\.jpg: the file is empty \(0 bytes\)$"):
        decode(b"", "x.jpg")
    for data, told in (
        (b"<html>not found</html>", r"a web page, not an image: download it again$"),
        (b"not found", r"not an image, or damaged \(readable formats: J"),
    ):
        for read in (decode, image_size):
            with pytest.raises(BadImage, match=rf"^x\.jpg: {told}"):
                read(data, "x.jpg")


def test_formats_that_run_programs_are_not_opened():
    data = encode(noise(4, 4), "EPS")
    with pytest.raises(BadImage, match="not an image"):
        decode(data, "x.png")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF", "PPM", "WEBP", "TGA", "PCX", "SGI"])
def test_truncated_files_are_refused(kind: str):
    data = encode(noise(64, 48), kind)
    for part in (0.3, 0.6, 0.9):
        with pytest.raises(BadImage, match=r"^x: "):
            decode(data[: int(len(data) * part)], "x")


def test_every_damage_becomes_bad_image():
    random = np.random.default_rng(0)
    refused = 0
    for kind in ("JPEG", "PNG", "BMP", "TIFF", "PPM", "WEBP", "GIF"):
        whole = np.frombuffer(encode(noise(16, 12), kind), np.uint8)
        for _ in range(60):
            data = whole.copy()
            data[random.integers(0, min(len(data), 120), 6)] = random.integers(0, 256, 6)
            for read in (decode, image_size):
                try:
                    read(data.tobytes(), "x")
                except BadImage:
                    refused += 1
    assert refused > 100


def test_decompression_bomb(monkeypatch: pytest.MonkeyPatch):
    data = encode(Image.new("RGB", (30, 20)), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 299)
    with pytest.raises(BadImage, match=r"^x\.png: more than 598 pixels, which could exhaust"):
        decode(data, "x.png")
    with pytest.raises(BadImage, match="more than 598 pixels"):
        image_size(data, "x.png")


def test_pillow_warnings_do_not_escape(monkeypatch: pytest.MonkeyPatch):
    data = encode(Image.new("RGB", (30, 20)), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 599)  # now 600 pixels are only suspicious
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(io.BytesIO(data))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert decode(data, "x.png").size == (30, 20)
        warnings.warn("of others, still seen", stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["of others, still seen"]


# batches


def square(index: int) -> np.ndarray:
    return np.full((2, 2, 3), index, np.uint8)


@pytest.mark.parametrize("size", [2, None])
def test_batch_is_in_the_order_asked_for(size: int | None):
    indices = np.random.default_rng(0).integers(-100, 100, 500)
    names = [str(index) for index in range(100)]
    batch = read_batch(
        lambda index: square(index % 100), indices, names=names, size=size, where="x"
    )
    assert batch.shape == (500, 2, 2, 3)
    np.testing.assert_array_equal(batch[:, 1, 1, 2], indices % 100)


def test_batch_runs_in_several_threads():
    barrier = threading.Barrier(3, timeout=20)

    def load_one(index: int) -> np.ndarray:
        if index % 10 == 0:
            barrier.wait()  # passes only when three threads meet here
        return square(index)

    read_batch(load_one, np.arange(30), names=["x"] * 30, size=2, where="x")


def test_empty_batch():
    empty = np.array([], np.int64)
    assert read_batch(square, empty, names=["x"], size=2, where="x").shape == (0, 2, 2, 3)
    assert read_batch(square, empty, names=["x"], size=None, where="x").shape == (0, 0, 0, 3)


def test_batch_refuses_bad_indices():
    with pytest.raises(IndexError, match="indices reach from 0 to 3, of 3"):
        read_batch(square, np.arange(4), names=["x"] * 3, size=2, where="x")
    with pytest.raises(IndexError, match="from -4 to -4, of 3"):
        read_batch(square, np.array([-4]), names=["x"] * 3, size=2, where="x")
    with pytest.raises(TypeError, match=r"a vector of integers, got bool of shape \(3,\)"):
        read_batch(square, np.ones(3, bool), names=["x"] * 3, size=2, where="x")


def test_errors_of_the_program_are_not_hidden():
    def load_one(index: int) -> np.ndarray:
        raise KeyError(index)

    with pytest.raises(KeyError):
        read_batch(load_one, np.arange(3), names=["x"] * 3, size=2, where="x")


def test_closing_cancels_what_has_not_begun():
    done = []
    results = in_threads(lambda rows: done.append(rows) or threading.Event().wait(0.01), 64_000)
    next(results)
    results.close()
    seen = len(done)
    assert seen < 200  # of 1000
