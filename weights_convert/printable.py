"""Text from files and file names, made fit for terminals, messages and documents."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from jtl.common import text as common_text


def shown(text: object, limit: int = 120) -> str:
    """`text` as one line without control characters, and not too long."""
    clean = "".join(c if c.isprintable() else "\ufffd" for c in str(text)[: limit + 1])
    return clean if len(clean) <= limit else clean[: limit - 3] + "..."


def file_name(path: Path) -> str:
    """The last part of `path`; what is not UTF-8 in it is replaced."""
    return shown(os.fsencode(path.name).decode("utf-8", "replace"), 255)


def listed(names: Iterable[object], limit: int = 8) -> str:
    """The first `limit` of `names` and the number of the others."""
    return common_text.listed((shown(name, 60) for name in names), limit) or "none"


def is_text(text: str) -> bool:
    """Whether `text` can be written to a UTF-8 file; JSON and pickles permit half characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
