"""Where jtl keeps what it can make again, and names that the storage libraries take literally."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

FEATURES, PROGRAMS, WEIGHTS, CHECKED = "features", "programs", "weights", "checked"
"""Folders below the cache folder: features, compiled programs, weights, checks of images."""


def cache_dir() -> Path:
    """Where jtl keeps what it can make again: JTL_CACHE, or the platform's cache folder."""
    if chosen := os.environ.get("JTL_CACHE"):
        return Path(chosen).expanduser()
    import platformdirs

    return platformdirs.user_cache_path("jtl")


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
