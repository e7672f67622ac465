"""Data of all kinds, good and damaged: what the tests of sources write."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jtl.data.sources.registry import Dataset, SourceOptions, find, load
from jtl.data.verification import Verification

RED = (200, 30, 30)
LISTED = "cannot be read:\n  .*odd"
"""The list of unreadable images names the odd one."""


def opened(spec: str, on_bad_image: Any = "error") -> Dataset:
    """A source as a training opens it."""
    return load(spec, verify=Verification(on_bad_image))


def flat(width: int = 6, height: int = 4, mode: str = "RGB", colour: Any = RED) -> Image.Image:
    return Image.new(mode, (width, height), colour)


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(kind: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    options = {"lossless": True} if kind == "WEBP" else {}
    return encode(Image.fromarray(pixels), kind, **options)


def class_folders(root: Path, *classes: str, count: int = 2) -> Path:
    for value, name in enumerate(classes):
        for index in range(count):
            path = root / name / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            flat(colour=(value, index, 0)).save(path)
    return root


def with_odd(root: Path, name: str, data: bytes) -> str:
    """Good class folders, and one odd file in train."""
    class_folders(root / "train", "a", "b")
    class_folders(root / "val", "a", "b")
    (root / "train" / "a" / name).write_bytes(data)
    return f"folder:{root}"


def cut(path: Path, share: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def flipped(path: Path, place: float) -> Path:
    data = bytearray(path.read_bytes())
    start = int(len(data) * place)
    data[start : start + 20] = bytes(255 - value for value in data[start : start + 20])
    path.write_bytes(data)
    return path


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def damaged_png() -> bytes:
    data = bytearray(noise("PNG"))
    data[data.index(b"IDAT") + 400] ^= 0xFF
    return bytes(data)


def grown(root: Path, tree: str | list[str]) -> Path:
    """`train/ants:3 notes.txt` makes three images in a folder, and a file that is no image."""
    image = encode(flat(8, 8), "PNG")
    for word in tree.split() if isinstance(tree, str) else tree:
        place, colon, count = word.partition(":")
        if not colon:
            (root / place).parent.mkdir(parents=True, exist_ok=True)
            (root / place).write_text("no image")
            continue
        (root / place).mkdir(parents=True, exist_ok=True)
        for index in range(int(count)):
            (root / place / f"{place.replace('/', '-')}-{index}.png").write_bytes(image)
    return root


def counts(path: Path, classes: Any = "auto") -> dict[str, dict[str, int]]:
    """The number of images by split and class; only of classes that have any."""
    found = find(f"folder:{path}", SourceOptions(classes=classes))
    assert not found.problems, found.problems
    return {
        name: {
            found.class_names[label]: int((split.labels == label).sum())
            for label in sorted(set(split.labels.tolist()))
        }
        for name, split in found.splits.items()
    }
