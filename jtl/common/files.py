"""Small files that are whole or not there, and places for files."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from jtl.common.errors import UserError


def replace_text(path: Path, text: str) -> None:
    """Writes a file that others see as the old one or the new one, never as a part.

    Args:
        path: The file, in a folder that exists.
        text: Its content, written as UTF-8.

    Raises:
        OSError: It cannot be written; the old one, if there was any, is left as it is.
    """
    # A name of its own: two processes may write the same file.
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def check_folder(option: str, path: Path | None) -> None:
    """Refuses what is there and is no folder, before there is anything to write into it.

    Args:
        option: Its name, for the message.
        path: What was given; None passes.

    Raises:
        UserError: It is a file.
    """
    if path is not None and path.exists() and not path.is_dir():
        raise UserError(f"{option} '{path}' must be a folder, and there is a file of that name.")
