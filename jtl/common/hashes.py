"""SHA-256 of the files of a folder, to tell a damaged checkpoint before anything reads it.

Orbax would not notice a flipped bit in an array, and where it does notice damage, its reads
that are still open go on to complain on stderr after the error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path


def of_files(folder: Path, part: str = ".") -> dict[str, str]:
    """SHA-256 (hex) of every file below `folder/part`, by its path below `folder`, with slashes."""
    files = sorted(path for path in (folder / part).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256(path) for path in files}


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def damage(folder: Path, files: Mapping[str, str]) -> str | None:
    """What is wrong with the first file that is not as it was, or None if all are.

    Args:
        folder: Where the files are.
        files: As `of_files` gave it when they were written.
    """
    for name, expected in files.items():
        try:
            changed = sha256(folder / name) != expected
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
        if changed:
            return f"{name} has changed since it was written"
    return None
