"""Where jtl keeps what it can make again, and names that the storage libraries take literally."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from jtl.common.errors import UserError
from jtl.common.text import type_of

FEATURES, PROGRAMS, WEIGHTS, CHECKED = "features", "programs", "weights", "checked"
"""Folders below the cache folder: features, compiled programs, weights, checks of images."""
REMOTE, MEASURED = "remote", "measured"
"""Others: copies of data at addresses, and how fast this machine was found to be."""


def as_path(given: object, what: str) -> Path:
    """A path that a Python program gives.

    Args:
        given: The path, as text or as an object.
        what: What it is, for messages.

    Raises:
        UserError: It is something else.
    """
    if not isinstance(given, (str, os.PathLike)) or isinstance(os.fspath(given), bytes):
        raise UserError(f"{what} is {type_of(given)}. Give a path.")
    return Path(given)


def cache_dir() -> Path:
    """Where jtl keeps what it can make again: JTL_CACHE, or the platform's cache folder.

    Raises:
        UserError: It would be below a home folder that is not known.
    """
    if chosen := os.environ.get("JTL_CACHE"):
        folder, said = Path(os.path.expanduser(chosen)), f"JTL_CACHE is '{chosen}'"
    else:
        import platformdirs

        said = "this user has no home folder"
        try:
            folder = platformdirs.user_cache_path("jtl")
        except RuntimeError:  # As of `Path.home`.
            folder = Path("~")
    if str(folder).startswith("~"):
        raise UserError(
            f"there is no place for the cache: {said}. Set JTL_CACHE to a folder that you can "
            "write to."
        )
    return folder


# Orbax looks for files by wildcards, and TensorStore takes paths as parts of URLs.
_SPECIAL = re.compile(r"[\[\]*?\\$%#{}|<>\"'^`]")


@contextlib.contextmanager
def plain_path(folder: Path) -> Iterator[Path]:
    """The folder itself, or a link to it whose own path has no special characters.

    Args:
        folder: An absolute path; made, where it would be reached by a link.

    Raises:
        OSError: The folder or the link cannot be made.
    """
    if not _SPECIAL.search(str(folder)):
        yield folder
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="jtl-") as place:
        link = Path(place, folder.name if not _SPECIAL.search(folder.name) else "folder")
        link.symlink_to(folder, target_is_directory=True)
        yield link
