"""Images without labels, as they are given to a classifier: files, folders, archives, arrays."""

from __future__ import annotations

import functools
import glob
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from jtl.common.errors import UserError
from jtl.common.paths import as_path
from jtl.common.text import type_of
from jtl.data import frames
from jtl.data.decoding import BITS, as_decoded, decode
from jtl.data.image_file import FORMATS, BadImage, read_file
from jtl.data.sources.archives import is_archive, open_store

Images = str | os.PathLike[str] | np.ndarray | Image.Image | Iterable[Any]
"""An image or many: a path (of an image, a folder, a zip or tar), uint8 pixels [H, W],
[H, W, C] or [N, H, W, C] (C = 3 is RGB), a Pillow image, or a list of any of these."""

_ALLOWED = "Give a path, uint8 pixels [H, W, 3] or [N, H, W, 3], a Pillow image, or a list of these"

SEVERAL = "jtl_several"
"""In the `info` of an image that an item gives: whether it is the first of several in a file."""


class Item(NamedTuple):
    """An image that is not decoded yet.

    Attributes:
        name: What it is called in results and messages.
        load: Gives it upright, in RGB; raises `BadImage`, naming it, if that is impossible. Takes
            `bit_depth` and `shorter_side` as `decode` does. May be called in a thread.
    """

    name: str
    load: Callable[..., Image.Image]


def items(images: Images) -> list[Item]:
    """What `images` names, in order; the files of folders and archives sorted by path.

    Of folders every file is an item, also what turns out to be no image, a pipe or a device, so
    that none is missing among the results in silence; only hidden files and what systems leave
    behind are not.

    Raises:
        UserError: An archive cannot be read, a folder or an archive holds no image, or
            something is no image at all. A file that is missing or damaged is an item that
            does not load.
    """
    return list(_items(images, "image"))


def of_bytes(data: bytes, name: str) -> Item:
    """The image that a file's contents are, such as an upload."""
    return Item(name, functools.partial(_decoded, lambda: data, name))


def _items(images: Any, name: str) -> Iterator[Item]:
    if isinstance(images, str):
        yield from _at_path(images)
    elif isinstance(images, os.PathLike):
        yield from _at_path(os.fspath(as_path(images, name)))
    elif isinstance(images, Image.Image):
        yield Item(name, functools.partial(_opened, images, name))
    elif hasattr(images, "__array__"):
        yield from _of_array(np.asarray(images), name)
    elif isinstance(images, Iterable) and not isinstance(images, bytes | Mapping):
        for index, image in enumerate(images):
            yield from _items(image, f"{name} {index}")
    else:
        raise UserError(f"{name} is {type_of(images)}. {_ALLOWED}.")


def _of_array(pixels: np.ndarray, name: str) -> Iterator[Item]:
    if pixels.dtype != np.uint8:
        advice = ""
        if pixels.dtype.kind == "f":
            advice = " Of values from 0 to 1: (images * 255).round().astype('uint8')."
        raise UserError(f"{name} is an array of {pixels.dtype}, not of uint8.{advice}")
    if pixels.ndim == 4:
        for index, pixel_rows in enumerate(pixels):
            yield from _of_array(pixel_rows, f"{name} {index}")
        return
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if 0 in pixels.shape or not (
        pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))
    ):
        raise UserError(f"{name} is an array of shape {list(pixels.shape)}. {_ALLOWED}.")
    yield Item(name, functools.partial(_opened, Image.fromarray(pixels), name))


def _at_path(path: str) -> Iterator[Item]:
    if not path:
        raise UserError("the path of an image is empty. Name the image, or leave it out.")
    place = Path(os.path.expanduser(path))  # Names that begin with ~ stay as they are.
    if glob.has_magic(path) and not os.path.lexists(place):  # A pattern, quoted for the shell.
        matches = sorted(glob.glob(str(place), recursive=True))
        if not matches:
            raise UserError(f"no file matches '{path}'.")
        for match in matches:
            yield from _at_path(match)
        return
    # A file named outright is taken for an image whatever its name ends in.
    if not place.is_dir() and not is_archive(place):
        yield Item(path, functools.partial(_decoded, functools.partial(read_file, place), path))
        return
    store = open_store(place)
    tree = store.tree()
    if not tree.images:
        others = len(tree.others) + len(tree.special)
        raise UserError(
            f"there is no image in '{path}', and {others} other files. Images are known "
            f"by their content: {', '.join(FORMATS)}."
        )
    for file in sorted([*tree.images, *tree.others, *tree.special], key=lambda file: file.parts):
        name = os.path.join(path, *file.parts)
        yield Item(name, functools.partial(_decoded, functools.partial(store.read, file), name))


def _opened(
    image: Image.Image, name: str, bit_depth: int = BITS, shorter_side: int | None = None
) -> Image.Image:
    del shorter_side  # It has its pixels already.
    return _noting(as_decoded(image, name, bit_depth), frames.is_first_of_several(image))


def _decoded(
    read: Callable[[], bytes], name: str, bit_depth: int = BITS, shorter_side: int | None = None
) -> Image.Image:
    try:
        data = read()
    except Exception as error:  # A damaged archive provokes many kinds.
        reason = error.strerror if isinstance(error, OSError) else None
        raise BadImage(f"{name}: {reason or error or type(error).__name__}") from error
    return _noting(decode(data, name, bit_depth, shorter_side), frames.has_more(data))


def _noting(image: Image.Image, several: bool) -> Image.Image:
    if several:
        image = image.copy()  # It may be the caller's.
        image.info[SEVERAL] = True
    return image
