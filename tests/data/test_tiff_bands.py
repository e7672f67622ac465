"""TIFF files with bands that are neither colours nor declared as transparency."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from jtl.data.decoding import as_decoded, decode, decode_measured
from jtl.data.image_file import BadImage
from support.data_files import encode

PHOTOMETRIC, EXTRA = 262, 338
PIXELS = np.random.default_rng(0).integers(0, 256, (9, 8, 4), np.uint8)
UNKNOWN = r"x.tif: a TIFF of {} bands that does not say what the last (is|2 are) \(near infrared"


def tiff(pixels: np.ndarray, extra: tuple[int, ...] | None, **options: object) -> bytes:
    """Pixels [H, W, C] with 1 or 3 colours and other bands, which the tag `extra` describes."""
    bands = [Image.fromarray(pixels[..., band].copy()) for band in range(pixels.shape[-1])]
    whole = Image.merge("RGBX" if len(bands) == 4 else "LA", bands)
    data = bytearray(encode(whole, "TIFF", **options))
    start = int.from_bytes(data[4:8], "little")
    count = int.from_bytes(data[start : start + 2], "little")
    for at in range(start + 2, start + 2 + 12 * count, 12):
        if int.from_bytes(data[at : at + 2], "little") == EXTRA:
            value = 0 if extra is None else extra[0]
            data[at + 8 : at + 10] = value.to_bytes(2, "little")
            if extra is None:  # As if another, unknown tag were there.
                data[at : at + 2] = (65_000).to_bytes(2, "little")
    return bytes(data)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_deflate"])
@pytest.mark.parametrize("extra", [None, (0,)])
@pytest.mark.parametrize("read", [decode, decode_measured])
def test_a_fourth_band_that_is_not_declared(
    compression: str | None, extra: tuple[int, ...] | None, read: Callable[..., object]
):
    with pytest.raises(BadImage, match=UNKNOWN.format(4)):
        read(tiff(PIXELS, extra, compression=compression), "x.tif")


def test_a_second_band_beside_grey():
    with pytest.raises(BadImage, match=UNKNOWN.format(2)):
        decode(tiff(PIXELS[..., :2], (0,)), "x.tif")


@pytest.mark.parametrize("extra", [None, (0,), (2,)])
def test_a_fourth_band_that_is_opaque_says_nothing(extra: tuple[int, ...] | None):
    pixels = PIXELS.copy()
    pixels[..., 3] = 255
    assert np.array_equal(np.asarray(decode(tiff(pixels, extra), "x.tif")), pixels[..., :3])


def test_an_unspecified_band_without_contrast_is_left_out():
    pixels = PIXELS.copy()
    pixels[..., 3] = 7
    assert np.array_equal(np.asarray(decode(tiff(pixels, (0,)), "x.tif")), pixels[..., :3])
    with pytest.raises(BadImage, match=UNKNOWN.format(4)):
        decode(tiff(pixels, None), "x.tif")  # If it were alpha, the image would be white.


def test_declared_transparency_is_laid_over_white():
    declared = decode(tiff(PIXELS, (2,)), "x.tif")
    assert declared == decode(encode(Image.fromarray(PIXELS), "PNG"), "x.png")


def test_an_image_that_was_opened_before():
    with pytest.raises(BadImage, match=UNKNOWN.format(4)):
        as_decoded(Image.open(io.BytesIO(tiff(PIXELS, (0,)))), "x.tif")
    declared = tiff(PIXELS, (2,))
    assert as_decoded(Image.open(io.BytesIO(declared)), "x") == decode(declared, "x")


@pytest.mark.parametrize("white", [False, True])
@pytest.mark.parametrize("deep", [False, True])
def test_grey_in_which_0_is_white(white: bool, deep: bool):
    pixels = PIXELS[..., 0].astype(np.uint16) * 257 if deep else PIXELS[..., 0]
    data = bytearray(encode(Image.fromarray(pixels), "TIFF"))
    start = int.from_bytes(data[4:8], "little")
    for at in range(start + 2, start + 2 + 12 * data[start], 12):
        if int.from_bytes(data[at : at + 2], "little") == PHOTOMETRIC:
            data[at + 8] = not white
    if white and deep:
        with pytest.raises(BadImage, match=r"x\.tif: a 16-bit TIFF in which 0 is white"):
            decode(bytes(data), "x.tif")
    else:
        expected = 255 - PIXELS[..., 0] if white else PIXELS[..., 0]
        assert np.array_equal(np.asarray(decode(bytes(data), "x.tif"))[..., 1], expected)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "P", "CMYK", "YCbCr", "LAB"])
def test_other_tiffs_are_read_as_before(mode: str):
    image = Image.fromarray(PIXELS[..., :3])
    if mode == "LAB":
        image = Image.merge("LAB", image.split())
    data = encode(image.convert(mode), "TIFF")
    assert decode(data, "x.tif").size == (8, 9)
