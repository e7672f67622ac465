"""Class folders with lists of splits beside them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from jtl.common.errors import UserError
from jtl.data.sources.registry import SourceOptions, find, load
from support.data_files import grown

IMAGES = [f"{label}/{label}-{i}.png" for label in ("cat", "dog") for i in range(20)]
TEST = [path for path in IMAGES if path.endswith(("5.png", "7.png"))]
TRAIN = [path for path in IMAGES if path not in TEST]
SPLIT = {"train": {"cat": 16, "dog": 16}, "test": {"cat": 4, "dog": 4}}
WHOLE = {"train": {"cat": 20, "dog": 20}}


def folder(root: Path, texts: Mapping[str, str | bytes]) -> Path:
    grown(root, "cat:20 dog:20")
    for name, text in texts.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


def refusal(root: Path) -> str:
    with pytest.raises(UserError) as caught:
        find(f"folder:{root}")
    assert "--split-lists ignore" in str(caught.value)
    assert load(f"folder:{root}", SourceOptions(split_lists="ignore")).held_out
    return str(caught.value)
