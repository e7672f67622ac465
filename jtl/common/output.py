"""Results on standard output."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Any


def print_json(value: Any, indent: int | None = 2) -> None:
    """Prints JSON on stdout that stays JSON in every locale; dataclasses as objects."""
    unicode = (sys.stdout.encoding or "utf-8").lower().startswith("utf")
    text = json.dumps(value, indent=indent, ensure_ascii=not unicode, default=dataclasses.asdict)
    # JSON lets these stand, which terminals take for commands.
    print(text.translate({code: f"\\u{code:04x}" for code in range(127, 160)}))
