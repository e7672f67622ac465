"""Sources of many files: what is done once for a folder, and not once for a file."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from jtl.data.sources.registry import find


def test_each_folder_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rows = ["image,label"]
    for index in range(300):
        path = tmp_path / "abc"[index % 3] / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
        rows.append(f"{path.relative_to(tmp_path)},{'xy'[index % 2]}")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    listed: Counter[str] = Counter()
    scandir = os.scandir

    def counting(path: Any) -> Any:
        listed[os.path.basename(path)] += 1
        return scandir(path)

    monkeypatch.setattr(os, "scandir", counting)
    find(f"csv:{tmp_path / 't.csv'}")
    assert [listed[name] for name in "abc"] == [1, 1, 1]
