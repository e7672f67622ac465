"""The images that every process of a benchmark trains on: a folder of class folders."""

from __future__ import annotations

import dataclasses
import io
import zipfile
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from harness.machine import ROOT

DEFAULT = ROOT.parent / "shared" / "data" / "ants-bees.zip"
SPLITS = ("train", "val")
ALL = 397
"""Images of ants and bees, and as many are generated in their place."""
VAL_SHARE = 153 / 397
CLASSES = ("ants", "bees")


@dataclasses.dataclass(frozen=True)
class Images:
    """A folder with train/CLASS/ and val/CLASS/, and how many images it holds."""

    folder: Path
    source: str
    train: int
    val: int

    @property
    def count(self) -> int:
        """Of both splits."""
        return self.train + self.val


def unpack(archive: Path, folder: Path, images: int) -> Images:
    """Some images of a zip of class folders, evenly chosen from each class of each split.

    Args:
        archive: Holds train/CLASS/IMAGE and val/CLASS/IMAGE, in a folder or not.
        folder: Where they go; new.
        images: How many, roughly; 0 for all.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    with zipfile.ZipFile(archive) as stored:
        for name in sorted(stored.namelist()):
            parts = PurePosixPath(name).parts
            if len(parts) >= 3 and parts[-3] in SPLITS and not name.endswith("/"):
                groups.setdefault((parts[-3], parts[-2]), []).append(name)
        share = images / sum(map(len, groups.values())) if images else 1
        counts: dict[str, int] = dict.fromkeys(SPLITS, 0)
        for (split, label), names in groups.items():
            wanted = min(max(round(share * len(names)), 1), len(names))
            for index in np.linspace(0, len(names) - 1, wanted).round().astype(int):
                target = folder / split / label / PurePosixPath(names[index]).name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(stored.read(names[index]))
            counts[split] += wanted
    if not all(counts.values()):
        raise SystemExit(f"{archive} has no images in train/CLASS/ and val/CLASS/.")
    return Images(folder, archive.name, **counts)


def generate(folder: Path, images: int, side: int = 320, val: int | None = None) -> Images:
    """Smooth random JPEGs of two classes that differ in colour.

    Args:
        folder: Where they go; new.
        images: How many in all.
        side: Height and width in pixels.
        val: How many of them are for validation; default the share of ants and bees.
    """
    rng = np.random.default_rng(0)
    val = max(round(images * VAL_SHARE), 2) if val is None else val
    counts = {"train": images - val, "val": val}
    for split, count in counts.items():
        for index in range(count):
            label = index % len(CLASSES)
            pixels = rng.integers(0, 180, (side // 16, side // 16, 3), np.uint8)
            pixels[..., 2 * label] += 60
            image = Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)
            data = io.BytesIO()
            image.save(data, "JPEG", quality=90)
            target = folder / split / CLASSES[label] / f"{index:05}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data.getvalue())
    return Images(folder, "generated images", **counts)


def prepare(folder: Path, archive: Path | None, images: int) -> Images:
    """Images of the archive; without one, of ants and bees, or generated ones for them.

    Args:
        folder: Where they go; new.
        archive: As for `unpack`; None for the default.
        images: How many, roughly; 0 for all.
    """
    if archive is None and not DEFAULT.is_file():
        return generate(folder, images or ALL)
    return unpack(DEFAULT if archive is None else archive, folder, images)
