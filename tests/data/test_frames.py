"""Frames, pages and bands: the first image is used, and what is not is said."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jtl.data import verification
from jtl.data.decoding import BadImage, decode
from jtl.data.frames import has_more
from jtl.data.image_file import open_image
from jtl.data.sources.registry import load
from jtl.data.verification import Verification
from support.commands import main
from support.data_files import class_folders, encode

KINDS = {"gif": "GIF", "webp": "WEBP", "png": "PNG", "tif": "TIFF"}
TOLD = "several frames or pages (animations, TIFF stacks), for example {}: jtl reads only the first"


def several(kind: str, count: int = 3) -> bytes:
    random = np.random.default_rng(0)
    first, *rest = (
        Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8)) for _ in range(count)
    )
    return encode(first, kind, save_all=True, append_images=rest)


@pytest.mark.parametrize("kind", KINDS.values())
def test_files_of_several_images(kind: str):
    data = several(kind)
    with open_image(data) as image:
        assert getattr(image, "n_frames", 0) == 3
    assert has_more(data)
    assert not has_more(several(kind, 1))
    assert not has_more(data[:40])  # Damaged ones are reported where they are decoded.


def test_two_shots_of_one_photograph_are_one_image():
    shot = Image.open(io.BytesIO(several("PNG")))
    data = encode(shot.convert("RGB"), "MPO", save_all=True, append_images=[shot.convert("RGB")])
    assert data.startswith(b"\xff\xd8")
    assert not has_more(data)


@pytest.mark.parametrize("limit", [verification.DECODED_BYTES, 0])
def test_training_says_how_many_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
):
    """Of data too large to be decoded before, some images are looked at."""
    monkeypatch.setattr(verification, "DECODED_BYTES", limit)
    monkeypatch.setattr(verification, "WORTH_SECONDS", 0.0)
    root = class_folders(tmp_path / "data", "a", "b", count=3)
    check = Verification("error", tmp_path / "cache")
    assert not any("frames" in note for note in load(f"folder:{root}", verify=check).notes)
    for ending, kind in KINDS.items():
        (root / "b" / f"x.{ending}").write_bytes(several(kind))
    told = f"4 images have {TOLD.format('b/x.gif')}"
    for _ in range(2):  # The second time as remembered.
        assert any(told in note for note in load(f"folder:{root}", verify=check).notes)


def test_a_check_of_data_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    root = class_folders(tmp_path, "a", "b", count=3)
    (root / "a" / "x.tif").write_bytes(several("TIFF"))
    main("data", "check", root)
    assert f"note:     1 image has {TOLD.format('a/x.tif')}" in capsys.readouterr().out


def bands(count: int) -> bytes:
    """A TIFF of 8 x 8 pixels in grey bands, as those of satellites; Pillow writes none."""
    tags = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 8 + 2 + 9 * 12 + 4, 277: count, 278: 8,
            279: 64 * count}  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + bytes(64 * count)


def test_bands_of_satellites_are_refused_as_such():
    with pytest.raises(BadImage, match="x: a TIFF of 13 bands that are no colours: save three of"):
        decode(bands(13), "x")
    with pytest.raises(BadImage, match="not an image, or damaged"):
        decode(bands(13)[:60], "x")
    assert decode(bands(1), "x").size == (8, 8)
