"""Hugging Face's metadata.csv inside an archive of images: found as in a folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jtl.common.errors import UserError
from jtl.data.sources.registry import find
from support.data_files import cut, encode, flat, opened

ROWS = {"0.png": "ant", "1.png": "bee", "in/2.png": "ant", "in/3.png": "bee"}
CSV = "\n".join(["file_name,label", *(f"{name},{label}" for name, label in ROWS.items())])
LINES = "\n".join(json.dumps({"file_name": n, "label": label}) for n, label in ROWS.items())
FORMS = {"zip": ".zip", "tar": ".tar", "gztar": ".tar.gz"}


def grown(root: Path, text: str = CSV, name: str = "metadata.csv", start: int = 0) -> Path:
    for number, path in enumerate(ROWS):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(encode(flat(colour=(start + number, 0, 0)), "PNG"))
    (root / name).write_text(text)
    return root


def packed(root: Path, form: str = "zip") -> Path:
    return Path(shutil.make_archive(str(root), form, root))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("folder", ["", "photos"])
@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_one_table(tmp_path: Path, form: str, folder: str, name: str):
    root = tmp_path / "x"
    grown(root / folder, CSV if name.endswith("csv") else LINES, name)
    data, there = opened(str(packed(root, form))), find(str(root / folder))
    assert data.class_names == ("ant", "bee") == there.class_names
    splits = [split for split in (data.train, data.val) if split is not None]
    labels = {name: data.class_names[label] for split in splits
              for name, label in zip(split.names, split.labels, strict=True)}  # fmt: skip
    assert labels == {str(Path(folder, name)): label for name, label in ROWS.items()}
    assert data.labels_from == f"the column 'label' of {name} (images: 'file_name')"
    assert [*tmp_path.iterdir()].count(root) == 1


@pytest.mark.parametrize("form", FORMS)
def test_a_table_for_each_split(tmp_path: Path, form: str):
    """Images of one name in both are told apart by their folders."""
    root = tmp_path / "x"
    grown(root / "photos" / "train")
    grown(root / "photos" / "test", start=100)
    data = opened(str(packed(root, form)))
    assert data.test is not None
    assert (len(data.train) + len(data.val), len(data.test)) == (4, 4)
    assert data.test.names[0] == "photos/test/0.png"
    assert data.test.read(np.array([0, 3]), None)[:, 0, 0, 0].tolist() == [100, 103]


def test_test_images_without_labels(tmp_path: Path):
    root = tmp_path / "x"
    grown(root / "train")
    grown(root / "test", "\n".join(["file_name,label", *(f"{name}," for name in ROWS)]))
    data = opened(str(packed(root)))
    assert data.test is None
    assert "test/metadata.csv" in " ".join(data.notes)


def test_class_folders_count_more(tmp_path: Path):
    for label in "ab":
        grown(tmp_path / "x" / label)
    shutil.move(tmp_path / "x/a/metadata.csv", tmp_path / "x/metadata.csv")
    (tmp_path / "x/b/metadata.csv").unlink()
    assert find(str(packed(tmp_path / "x"))).labels_from == "the names of the folders"


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a missing image": (
        lambda root: grown(root, CSV + "\n7.png,ant"),
        r"row 6 \('7.png'\). They were",
    ),
    "no label": (
        lambda root: grown(root, CSV.replace("ant", "")),
        "metadata.csv, column 'label': no",
    ),
    "a second label": (
        lambda root: grown(root, CSV + "\n0.png,bee"),
        "0.png is 'ant' in row 2 and",
    ),
    "no rows": (lambda root: grown(root, "file_name,label"), "has only one class, 'in'"),
    "no columns": (lambda root: grown(root, "0.png,ant\n1.png,bee"), "has only one class, 'in'"),
    "another column": (
        lambda root: grown(root, CSV.replace("file_name", "img")),
        "has only one class, 'in'",
    ),
    "labels alone": (lambda root: grown(root, "label\nant\nbee"), "has only one class, 'in'"),
    "no text": (lambda root: cut(grown(root) / "metadata.csv", 0), "has only one class, 'in'"),
    "a workbook": (lambda root: grown(root, "PK\3\4" * 9), "has only one class, 'in'"),
    "one class": (lambda root: grown(root, CSV.replace("bee", "ant")), "only 1 class"),
    "paths that say splits": (
        lambda root: (
            shutil.move(grown(root / "train"), root / "x")
            and [
                grown(root / "test"),
                shutil.move(root / "x", root / "train"),
                (root / "test/metadata.csv").unlink(),
                (root / "train/metadata.csv").unlink(),
                (root / "metadata.csv").write_text(
                    "file_name,label\n"
                    + "\n".join(f"{s}/{n},{c}" for s in ("train", "test") for n, c in ROWS.items())
                ),
            ]
        ),
        "are called after splits",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_refused(tmp_path: Path, case: str):
    make, message = BAD[case]
    make(tmp_path / "x")
    with pytest.raises(UserError, match=message) as caught:
        opened(str(packed(tmp_path / "x")))
    assert "jtl-" not in str(caught.value)  # The scratch folder.
