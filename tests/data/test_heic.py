"""HEIC, which needs pillow-heif, and AVIF, which Pillow reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from jtl.common.errors import UserError
from jtl.data.decoding import decode
from support.data_files import class_folders, encode, opened


@pytest.fixture(params=["HEIF", "AVIF"])
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "HEIF":
        heif = pytest.importorskip(
            "pillow_heif", reason="needs pillow-heif (pip install jtl[heif])"
        )
        heif.register_heif_opener()
    elif not ("avif" in features.modules and features.check("avif")):
        pytest.skip("this Pillow does not read AVIF")
    return request.param


def two_colours() -> Image.Image:
    """Red above blue."""
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:20], pixels[20:] = (250, 10, 10), (10, 10, 250)
    return Image.fromarray(pixels)


def near(image: Image.Image, place: tuple[int, int], colour: tuple[int, ...]) -> bool:
    """Whether a pixel is as it was before it was encoded, with some loss."""
    found = image.getpixel(place)
    assert isinstance(found, tuple)
    return max(abs(a - b) for a, b in zip(found, colour, strict=True)) <= 4


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_colours(kind: str, mode: str):
    image = decode(encode(two_colours().convert(mode), kind, quality=95), "x")
    assert (image.size, image.mode) == ((60, 40), "RGB")
    red, blue = ((82,) * 3, (37,) * 3) if mode == "L" else ((250, 10, 10), (10, 10, 250))
    assert near(image, (5, 5), red)
    assert near(image, (55, 35), blue)


def test_the_orientation_is_applied_once(kind: str):
    exif = Image.Exif()
    exif[0x0112] = 6  # To be turned clockwise.
    image = decode(encode(two_colours(), kind, quality=95, exif=exif.tobytes()), "x")
    assert image.size == (40, 60)
    assert near(image, (35, 5), (250, 10, 10))
    assert near(image, (5, 55), (10, 10, 250))


def spoilt(data: bytes, how: str) -> bytes:
    return {"cut": data[: len(data) // 2], "head": data[:24]}[how]


@pytest.mark.parametrize("how", ["cut", "head"])
def test_damaged_ones_are_not_told_to_install_what_is_there(kind: str, how: str):
    with pytest.raises(UserError, match=r"damaged|truncated|not an image") as caught:
        decode(spoilt(encode(two_colours(), kind), how), "x")
    assert "install" not in str(caught.value)


def test_a_folder_of_them(tmp_path: Path, kind: str):
    root = class_folders(tmp_path, "a", "b", count=3)
    for number, path in enumerate(sorted(root.rglob("*.png"))):
        image: Any = two_colours().resize((60 + number, 40))
        path.with_suffix(f".{kind.lower()}").write_bytes(encode(image, kind))
        path.unlink()
    data = opened(str(root))
    assert (len(data.train) + len(data.val), data.class_names) == (6, ("a", "b"))
