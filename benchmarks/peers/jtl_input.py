"""jtl's side of an input pipeline: a worker process, whose step is one pass over all images.

python benchmarks/peers/jtl_input.py ARM BATCH SIZE IMAGES FOLDER

Arms: `decode` reads the JPEG files of FOLDER/train/CLASS, resizes their shorter side to
SIZE / 0.875 with antialiased bicubic interpolation and cuts out the SIZE x SIZE pixels in the
middle; `gather` takes IMAGES images of SIZE x SIZE pixels from memory. Both give uint8 batches in
an order that is shuffled anew in every pass, without the incomplete last one.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np

from harness import product, workers

CROP = 0.875
"""Share of the resized shorter side that is cut out, as usual for ImageNet."""


def in_memory(images: int, size: int) -> np.ndarray:
    """Random images, uint8 [N, H, W, 3]."""
    return np.random.default_rng(0).integers(0, 256, (images, size, size, 3), np.uint8)


def files(folder: Path) -> list[str]:
    """The image files."""
    return sorted(map(str, (folder / "train").rglob("*.jpg")))


def main(arm: str, batch: int, size: int, images: int, folder: Path) -> None:
    """Serves the passes of an arm."""

    def prepare() -> workers.Prepared:
        from jtl.data.decoding import HostTransform
        from jtl.data.loader import Images, prefetch
        from jtl.data.sampler import shuffled
        from jtl.data.sources.arrays import ArraySplit
        from jtl.data.sources.registry import find

        if arm == "decode":
            split = find(f"folder:{folder}").splits["train"]
            source = Images(split, HostTransform(size, CROP, "bicubic"), hold=False)
        else:
            labels, names = np.zeros(images, np.int32), [""] * images
            split = ArraySplit("memory", in_memory(images, size), labels, names)
            source = Images(split, None, hold=True)
        epochs = itertools.count(1)

        def one_pass() -> int:
            batches = list(shuffled(len(source), batch, 0, next(epochs)))
            return sum(len(part) for part in prefetch(source, batches))

        return one_pass, told(one_pass())

    workers.serve(prepare, product.of_jax)


def told(seen: int) -> dict[str, int]:
    """What a worker says of itself: how many images a pass gives."""
    return {"images": seen}


def arguments() -> tuple[str, int, int, int, Path]:
    """The command line of every worker of an input pipeline."""
    arm, batch, size, images, folder = sys.argv[1:6]
    return arm, int(batch), int(size), int(images), Path(folder)


if __name__ == "__main__":
    main(*arguments())
