"""Many images at once: a thread pool, and one error for all images that fail."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from jtl.common.errors import UserError
from jtl.common.text import indented
from jtl.data.image_file import BadImage

_MAX_LISTED = 20

_T = TypeVar("_T")


def read_batch(
    load_one: Callable[[int], np.ndarray],
    indices: np.ndarray,
    *,
    names: Sequence[str],
    size: int | None,
    where: str,
) -> np.ndarray:
    """Decode many images in the thread pool.

    Args:
        load_one: From an image's index to uint8 [H, W, 3]; raises `BadImage`. Called in threads.
        indices: Integers [n], each below `len(names)`; negative ones count from the end.
        names: A name for every image of the split, for messages.
        size: Height and width of every result, or None when the images decide.
        where: What the images belong to, for messages.

    Returns:
        uint8 [n, H, W, 3], in the order of `indices`.

    Raises:
        UserError: All unreadable images of the call together, or images of several sizes
            although `size` is None.
        IndexError: If an index is out of range.
    """
    indices = _checked_indices(indices, len(names))
    # With a known size the threads write into the batch itself: no second copy in memory.
    batch = None if size is None else np.empty((len(indices), size, size, 3), np.uint8)
    images: list[np.ndarray | None] = [None] * (len(indices) if batch is None else 0)

    def load_rows(rows: range) -> list[str]:
        failures = []
        for row in rows:
            try:
                image = load_one(int(indices[row]))
            except BadImage as error:
                failures.append(str(error))
                continue
            if batch is None:
                images[row] = image
            else:
                batch[row] = image
        return failures

    failures = [line for lines in in_threads(load_rows, len(indices)) for line in lines]
    if failures:
        # The last batch of a split is filled up with repeats.
        tried = len(np.unique(indices % len(names)))
        raise unreadable(list(dict.fromkeys(failures)), tried, where)
    return _stack(images, indices, names, where) if batch is None else batch


def in_threads(
    work: Callable[[range], _T], count: int, chunk: int = 64
) -> Generator[_T, None, None]:
    """Run `work` over the ranges that make up `range(count)`, in the thread pool.

    Args:
        work: Called with consecutive ranges, from several threads at once.
        count: Length of the whole range.
        chunk: Largest length of one range. Short batches are cut finer, to occupy all threads.

    Yields:
        The results in order. Closing the iterator early cancels what has not begun.
    """
    chunk = max(1, min(chunk, count // (2 * _THREADS)))
    ranges = [range(start, min(start + chunk, count)) for start in range(0, count, chunk)]
    yield from _POOL.map(work, ranges)


def unreadable(failures: Sequence[str], count: int, where: str) -> UserError:
    """One error about all unreadable images.

    Args:
        failures: A line for each of them.
        count: How many images were tried.
        where: What the images belong to.
    """
    lines = [f"{len(failures)} of {count} images of {where} cannot be read:"]
    lines += indented(failures, _MAX_LISTED)
    lines.append("Replace or remove them, or leave them out with --on-bad-image skip.")
    return UserError("\n".join(lines))


def _threads() -> int:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (usable or 1) + 4  # a few more than cores, to have work while others wait for the disk


_THREADS = _threads()
# One pool for the process: Pillow decodes and resizes without holding the interpreter's lock.
# Threads start with the first use.
_POOL = ThreadPoolExecutor(_THREADS, thread_name_prefix="jtl-decode")


def _checked_indices(indices: np.ndarray, count: int) -> np.ndarray:
    indices = np.asarray(indices)
    if indices.ndim != 1 or (indices.size and indices.dtype.kind not in "iu"):
        raise TypeError(
            f"indices must be a vector of integers, got {indices.dtype} of shape {indices.shape}"
        )
    if indices.size and not (-count <= indices.min() and indices.max() < count):
        raise IndexError(f"indices reach from {indices.min()} to {indices.max()}, of {count}")
    return indices


def _stack(
    images: Sequence[np.ndarray | None], indices: np.ndarray, names: Sequence[str], where: str
) -> np.ndarray:
    arrays = [image for image in images if image is not None]
    if not arrays:
        return np.empty((0, 0, 0, 3), np.uint8)
    for row, array in enumerate(arrays):
        if array.shape != arrays[0].shape:
            (height, width, _), (other_height, other_width, _) = arrays[0].shape, array.shape
            raise UserError(
                f"The images of {where} differ in size: {names[indices[0]]} has {width} x "
                f"{height} pixels, {names[indices[row]]} has {other_width} x {other_height}. "
                "Give an image size to resize them to."
            )
    return np.stack(arrays)
