"""Whether a run that goes on finds the images it began with: by their contents, not their times."""

from __future__ import annotations

import json
from pathlib import Path

from jtl.common.errors import UserError
from jtl.common.files import replace_text
from jtl.common.text import listed
from jtl.data.sources.registry import Dataset
from jtl.data.verification import DECODED_BYTES

FILE = "data.json"
"""In a run's folder: what each image held when the run began, by the image's name."""
_DIGITS = 16
"""Hexadecimal digits that are kept of a SHA-256: enough to tell that a file has changed."""
_NAMED = 10


def contents_of(dataset: Dataset) -> dict[str, str] | None:
    """What each encoded image of a data set holds, by name.

    Returns:
        The beginning of its SHA-256. None for arrays, and for sets of more than `DECODED_BYTES`,
        which take too long to read only for this.
    """
    splits = [split for split in (dataset.train, dataset.val, dataset.test) if split is not None]
    encoded = [split for split in splits if hasattr(split, "digests")]
    total = sum(getattr(split, "stored_bytes", 0) for split in encoded)
    if len(encoded) < len(splits) or total > DECODED_BYTES:
        return None
    return {
        name: digest[:_DIGITS]
        for split in encoded
        for name, digest in zip(split.names, split.digests(), strict=True)  # pyright: ignore
    }


def write(folder: Path, dataset: Dataset) -> None:
    """Notes the contents of a run's images, where they can be told."""
    if (contents := contents_of(dataset)) is not None:
        replace_text(folder / FILE, json.dumps(contents, ensure_ascii=False, indent=0) + "\n")


def difference(folder: Path, dataset: Dataset) -> str | None:
    """What has become of a run's images since it began.

    Returns:
        A sentence that names the first of those that were added, lost or changed; empty where all
        hold what they held then. None where that is not known.
    """
    try:
        before = json.loads((folder / FILE).read_text(encoding="utf-8"))
        now = contents_of(dataset)
    except (OSError, ValueError, UserError):
        return None
    if now is None or not isinstance(before, dict):
        return None
    kinds = {
        "added": sorted(now.keys() - before.keys()),
        "lost": sorted(before.keys() - now.keys()),
        "changed": sorted(name for name in now.keys() & before.keys() if now[name] != before[name]),
    }
    return "; ".join(
        f"{len(names)} {kind}: {listed(names, _NAMED)}" for kind, names in kinds.items() if names
    )
