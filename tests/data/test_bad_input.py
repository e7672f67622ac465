"""Odd and unreadable images, and bad folders: refused with their reason, or read as meant."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jtl.common.errors import UserError
from jtl.data import image_file
from support.data_files import (
    LISTED,
    RED,
    class_folders,
    damaged_png,
    encode,
    flat,
    noise,
    opened,
    with_odd,
)

# Image files that cannot be read


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", b"")


BAD_IMAGES: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "zero bytes": ("odd.jpg", bytes, "the file is empty"),
    "one byte": ("odd.jpg", lambda: b"\xff", "not an image"),
    "header alone": ("odd.jpg", lambda: noise("JPEG")[:300], "odd.jpg: "),
    **{
        f"truncated {kind}": (f"odd.{kind.lower()}", lambda k=kind: noise(k)[:-900], "odd")
        for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM")
    },
    "damaged PNG": ("odd.png", damaged_png, "damaged"),
    "text": ("odd.jpg", lambda: b"to be photographed", "not an image"),
    "web page": (
        "odd.jpg",
        lambda: b"<!DOCTYPE html><title>404</title>",
        "a web page, not an image",
    ),
    "HEIC": ("odd.jpg", lambda: b"\0\0\0\x18ftypheic", "a HEIC image, which cannot be read"),
    "SVG": ("odd.png", lambda: b'<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG image, which"),
    "PDF": ("odd.png", lambda: encode(flat(), "PDF"), "not an image"),
    "EPS": ("odd.jpg", lambda: encode(flat(), "EPS"), "not an image"),
    "ICO": ("odd.png", lambda: encode(flat(16, 16), "ICO"), "not an image"),
    "NumPy array": ("odd.png", lambda: b"\x93NUMPY\x01\x00" + bytes(200), "not an image"),
    "random bytes": ("odd.jpg", lambda: np.random.default_rng(1).bytes(5000), "not an image"),
    "zip": ("odd.jpg", lambda: b"PK\x05\x06" + bytes(18), "not an image"),
    "floating point": ("odd.tif", lambda: encode(flat(mode="F", colour=0.5), "TIFF"), "floating"),
    "32 bits": ("odd.tif", lambda: encode(flat(mode="I", colour=70_000), "TIFF"), "outside 0..65"),
    "decompression bomb": ("odd.png", lambda: png_of(30_000, 30_000), "more than 178,956,970 pix"),
    "impossible size": ("odd.png", lambda: png_of(0, 10), "odd.png: "),
}


@pytest.mark.usefixtures("without_heif")
@pytest.mark.parametrize("case", BAD_IMAGES)
def test_bad_images(tmp_path: Path, case: str):
    name, data, reason = BAD_IMAGES[case]
    spec = with_odd(tmp_path, name, data())
    with pytest.raises(UserError) as caught:
        opened(spec)
    message = str(caught.value)
    assert message.startswith("1 of 9 images of ")
    assert f"\n  train/a/{name}: " in message
    assert reason in message
    assert message.endswith("leave them out with --on-bad-image skip.")
    data_set = opened(spec, "skip")
    assert f"train/a/{name}" not in data_set.train.names
    assert (len(data_set.train), len(data_set.val)) == (4, 4)
    assert data_set.notes[0].startswith(
        f"Left out 1 of 9 images, which cannot be read: train/a/{name}: "
    )


# Image files that are odd, and fine


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(flat(4, 6), "JPEG", exif=exif)


def animation(kind: str) -> bytes:
    rest = [flat(colour=(0, 0, 255)), flat(colour=(0, 255, 0))]
    return encode(flat(), kind, save_all=True, append_images=rest)


def transparent(mode: str, colour: Any) -> bytes:
    return encode(flat(mode=mode, colour=colour), "PNG")


def palette() -> bytes:
    return encode(flat().convert("P", palette=Image.Palette.ADAPTIVE), "PNG")


ODD_IMAGES: dict[str, tuple[str, Callable[[], bytes], tuple[int, ...]]] = {
    "PNG named JPEG": ("odd.jpg", lambda: encode(flat(), "PNG"), RED),
    "JPEG named PNG": ("odd.png", lambda: encode(flat(), "JPEG"), RED),
    "capitals": ("odd.JPEG", lambda: encode(flat(), "JPEG"), RED),
    "CMYK": ("odd.jpg", lambda: encode(flat().convert("CMYK"), "JPEG"), RED),
    "grey JPEG": ("odd.jpg", lambda: encode(flat(mode="L", colour=90), "JPEG"), (90, 90, 90)),
    "progressive": ("odd.jpg", lambda: encode(flat(), "JPEG", progressive=True), RED),
    "trailing bytes": ("odd.jpg", lambda: encode(flat(), "JPEG") + b"x" * 99, RED),
    "broken profile": ("odd.jpg", lambda: encode(flat(), "JPEG", icc_profile=b"x" * 50), RED),
    "broken EXIF": ("odd.jpg", lambda: encode(flat(), "JPEG", exif=b"Exif\0\0MM\0*broken"), RED),
    "16 bits": ("odd.png", lambda: encode(flat(mode="I;16", colour=257 * 90), "PNG"), (90,) * 3),
    "1 bit": ("odd.png", lambda: encode(flat(mode="1", colour=1), "PNG"), (255, 255, 255)),
    "palette": ("odd.png", palette, RED),
    "alpha": ("odd.png", lambda: transparent("RGBA", (*RED, 255)), RED),
    "see-through": ("odd.png", lambda: transparent("RGBA", (*RED, 0)), (255, 255, 255)),
    "grey with alpha": ("odd.png", lambda: transparent("LA", (90, 255)), (90, 90, 90)),
    "EXIF rotation": ("odd.jpg", rotated, RED),
    "animated GIF": ("odd.gif", lambda: animation("GIF"), RED),
    "animated WebP": ("odd.webp", lambda: animation("WEBP"), RED),
    "animated PNG": ("odd.png", lambda: animation("PNG"), RED),
    "pages": ("odd.tif", lambda: animation("TIFF"), RED),
    "WebP": ("odd.webp", lambda: encode(flat(), "WEBP", lossless=True), RED),
    "LZW": ("odd.tiff", lambda: encode(flat(), "TIFF", compression="tiff_lzw"), RED),
    "PPM": ("odd.ppm", lambda: encode(flat(), "PPM"), RED),
    "quotes": ("odd 'one' [red].png", lambda: encode(flat(), "PNG"), RED),
    "Unicode": ("蜂 odd é.png", lambda: encode(flat(), "PNG"), RED),
}


@pytest.mark.parametrize("case", ODD_IMAGES)
def test_odd_images(tmp_path: Path, case: str):
    name, data, colour = ODD_IMAGES[case]
    split = opened(with_odd(tmp_path, name, data())).train
    (row,) = [i for i, path in enumerate(split.names) if "odd" in path]
    pixels = split.read(np.array([row]), None)[0]
    assert pixels.shape == (4, 6, 3)
    assert np.abs(pixels.astype(int) - colour).max() <= 4  # What JPEG and CMYK lose.


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (6000, 4000)])
def test_odd_sizes(tmp_path: Path, size: tuple[int, int]):
    data = opened(with_odd(tmp_path, "odd.png", encode(flat(*size), "PNG")))
    assert data.train.native_size() is None
    row = list(data.train.names).index("train/a/odd.png")
    assert data.train.read(np.array([row]), None).shape == (1, size[1], size[0], 3)


# Folders and links


def broken_link(root: Path) -> str:
    spec = with_odd(root, "good.png", encode(flat(), "PNG"))
    (root / "train" / "a" / "odd.png").symlink_to(root / "nowhere")
    return spec


def circle(root: Path) -> str:
    spec = with_odd(root, "good.png", encode(flat(), "PNG"))
    (root / "train" / "a" / "odd.png").symlink_to(root / "train" / "a" / "odd.png")
    return spec


def changed(write: Callable[[Path], Any]) -> Callable[[Path], str]:
    """Good class folders that `write` spoils."""

    def spoilt(root: Path) -> str:
        class_folders(root / "train", "a", "b")
        class_folders(root / "val", "a", "b")
        write(root)
        return f"folder:{root}"

    return spoilt


BAD_FOLDERS: dict[str, tuple[Callable[[Path], str], str]] = {
    "missing": (lambda root: f"folder:{root}/no", r"There is no file or folder .*no\."),
    "empty": (lambda root: f"folder:{root}", "has no class folders"),
    "flat": (lambda root: f"folder:{class_folders(root, 'a') / 'a'}", "has no class folders"),
    "one class": (lambda root: f"folder:{class_folders(root, 'a')}", "has only one class, 'a'"),
    "empty class": (
        changed(lambda root: (root / "train" / "c").mkdir()),
        "/train has class folders without images: c. Fill or remove them",
    ),
    "class of val alone": (
        changed(lambda root: class_folders(root / "val", "c")),
        "/val has classes that train does not have: c. The classes of train are a, b",
    ),
    "class of test alone": (
        changed(lambda root: class_folders(root / "test", "a", "c")),
        "/test has classes that train does not have: c",
    ),
    "no train": (
        changed(lambda root: (root / "train").rename(root / "test")),
        "has val/, test/ but no train/",
    ),
    "val without images": (
        changed(lambda root: [path.unlink() for path in (root / "val").rglob("*.png")]),
        r"the validation split of .* has no images. Put some there, or remove it",
    ),
    "val twice": (
        changed(lambda root: class_folders(root / "valid", "a", "b")),
        "several folders for the val split: val, valid",
    ),
    "broken link": (broken_link, LISTED),
    "link to itself": (circle, LISTED),
    "one image a class": (
        lambda root: f"folder:{class_folders(root, 'a', 'b', count=1)}",
        "every class has a single image",
    ),
}


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_bad_folders(tmp_path: Path, case: str):
    write, message = BAD_FOLDERS[case]
    with pytest.raises(UserError, match=message):
        opened(write(tmp_path))


def test_file_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    spec = with_odd(tmp_path, "odd.png", encode(flat(), "PNG"))

    # The superuser, as whom continuous integration may run, is refused nothing.
    def refusing(path: str, mode: str) -> Any:
        if path.endswith("odd.png"):
            raise PermissionError(13, "Permission denied", path)
        return open(path, mode)

    monkeypatch.setattr(image_file, "open", refusing, raising=False)
    with pytest.raises(UserError, match=r"1 of 9 .*\n  train/a/odd.png: Permission denied"):
        opened(spec)


def test_what_a_folder_may_hold_beside(tmp_path: Path):
    spec = with_odd(tmp_path, "good.png", encode(flat(), "PNG"))
    folder = tmp_path / "train" / "a"
    (folder / "loop").symlink_to(tmp_path / "train")
    (folder / "deeper.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "Thumbs.db").write_bytes(b"x")
    (folder / os.fsdecode(b"\xff.png")).write_bytes(encode(flat(), "PNG"))
    names = [name for name in opened(spec).train.names if name.startswith("train/a/")]
    assert names == [f"train/a/{name}" for name in ("0.png", "1.png", r"\xff.png", "good.png")]
