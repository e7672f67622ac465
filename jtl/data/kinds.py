"""What a file is by its first bytes, as endings mislead and many images have none."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence

from jtl.common.extensions import IMAGE_EXTENSIONS, OTHER_IMAGE_EXTENSIONS

HEAD_BYTES = 512
"""How much of a file `kind_of` looks at."""

_TEXT_EXTENSIONS = (
    ".txt", ".csv", ".tsv", ".lst", ".list", ".flist", ".filelist", ".json", ".jsonl", ".xml",
    ".yaml", ".yml", ".md", ".xlsx",
)  # fmt: skip
"""Labels and boxes, which come by the thousands: not opened to see whether they are images."""

_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_STARTS = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"8BPS", "Photoshop"),
    (b"\x01\xda", "SGI"),
    (b"\x76\x2f\x31\x01", "OpenEXR"),
)
_PCX = re.compile(rb"\n[\x00\x02\x03\x05]\x01[\x01\x02\x04\x08]")
_INSTALL = {
    "HEIC": "install pillow-heif (pip install 'jtl[heif]'), or save it as JPEG",
    "AVIF": "upgrade Pillow (pip install -U pillow), or save it as JPEG",
}

LFS_POINTER = "is a pointer of Git LFS, not the file itself: run git lfs pull in its folder"


def is_lfs_pointer(head: bytes) -> bool:
    """Whether a file is what a clone without Git LFS has in place of a large one."""
    return head.startswith(b"version https://git-lfs.github.com/spec/")


def kind_of(head: bytes) -> str | None:
    """The format of an image file, or None where it is none that we know.

    Args:
        head: Its first `HEAD_BYTES`, or all of it.
    """
    for start, kind in _STARTS:
        if head.startswith(start):
            return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:2] == b"BM" and head[6:10] == bytes(4):  # Two reserved words of zero.
        return "BMP"
    if head[:1] == b"P" and head[1:2] in (b"1", b"2", b"3", b"4", b"5", b"6"):
        rest = head[2:].lstrip()
        return "PPM" if head[2:3].isspace() and (rest[:1].isdigit() or rest[:1] == b"#") else None
    if head[4:8] == b"ftyp":
        if b"avif" in head[8:64] or b"avis" in head[8:64]:
            return "AVIF"
        return "HEIC" if head[8:12] in _HEIC else None
    if head[128:132] == b"DICM":
        return "DICOM"
    if b"<svg" in head and head.lstrip()[:1] == b"<":
        return "SVG"
    if _PCX.match(head):
        return "PCX"
    return "TGA" if _is_tga(head) else None


def _is_tga(head: bytes) -> bool:
    """Whether a file has a header of Truevision's TGA, which has no mark of its own."""
    if len(head) < 18:
        return False
    mapped, kind = head[1], head[2]
    _, length, entry = struct.unpack("<HHB", head[3:8])
    width, height, depth, flags = struct.unpack("<HHBB", head[12:18])
    depths = {1: (8,), 2: (16, 24, 32), 3: (1, 8, 16)}.get(kind & 7, ())
    if kind & ~8 not in (1, 2, 3) or depth not in depths or not (width and height):
        return False
    if mapped != (kind & 7 == 1) or flags & 0xC0:
        return False
    return (length > 0 and entry in (15, 16, 24, 32)) if mapped else not any(head[3:8])


def by_ending(name: str) -> bool | None:
    """Whether a file is an image, as far as its name tells; None where one has to look inside."""
    lower = name.lower()
    if lower.endswith(IMAGE_EXTENSIONS + OTHER_IMAGE_EXTENSIONS):
        return True
    return False if lower.endswith(_TEXT_EXTENSIONS) else None


def unreadable_reason(data: bytes, readable: Sequence[str]) -> str:
    """Why Pillow makes nothing of a file, and what to do.

    Args:
        data: The file's bytes.
        readable: The formats that can be read.
    """
    kind = kind_of(data[:HEAD_BYTES])
    if kind is not None and kind not in readable:
        what = f"{'an' if kind in ('AVIF', 'SVG') else 'a'} {kind} image, which"
        if kind in _INSTALL:
            return f"{what} cannot be read here: {_INSTALL[kind]}"
        return f"{what} jtl does not read: save it as JPEG or PNG"
    if is_lfs_pointer(data):
        return LFS_POINTER
    start = data[:HEAD_BYTES].lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "a web page, not an image: download it again"
    return f"not an image, or damaged (readable formats: {', '.join(readable)})"
