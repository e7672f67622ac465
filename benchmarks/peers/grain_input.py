"""Grain's side of an input pipeline; see peers/jtl_input.py.

`decode` runs jtl's own decoding and resizing in Grain's threads, so that the difference is what
carries the images, not what makes them.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from harness import machine, product, workers
from peers.jtl_input import CROP, arguments, files, in_memory, told


def main(arm: str, batch: int, size: int, images: int, folder: Path) -> None:
    """Serves the passes of an arm."""

    def prepare() -> workers.Prepared:
        import grain

        from jtl.data.decoding import HostTransform, decode

        host = HostTransform(size, CROP, "bicubic")
        if arm == "decode":
            dataset = grain.MapDataset.source(files(folder))
        else:
            array: Any = in_memory(images, size)  # Which Grain takes for a sequence of its rows.
            dataset = grain.MapDataset.source(array)
        epochs = itertools.count(1)

        def one_pass() -> int:
            shuffled = dataset.shuffle(seed=next(epochs))
            if arm == "decode":
                shuffled = shuffled.map(lambda path: host(decode(Path(path).read_bytes(), path)))
            batches = shuffled.batch(batch, drop_remainder=True)
            threads = machine.cores() + 4  # As jtl has.
            options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
            return sum(len(part) for part in batches.to_iter_dataset(options))

        return one_pass, told(one_pass())

    workers.serve(prepare, product.of_jax)


if __name__ == "__main__":
    main(*arguments())
