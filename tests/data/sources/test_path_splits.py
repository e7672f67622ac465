"""Splits in the folders of images whose labels are in names or tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from jtl.common.errors import UserError
from jtl.data.sources.path_splits import folder_splits
from jtl.data.sources.registry import SourceOptions, find
from support.data_files import encode, flat


def folders(*names: str) -> list[tuple[str, ...]]:
    return [(*name.split("/"), "cat_1.png") for name in names]


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["train", "testA"], ["train", "test"]),
        (["Train", "TestA"], ["train", "test"]),
        (["dogs_vs_cats_train", "dogs_vs_cats_test"], ["train", "test"]),
        (["data/TRAIN", "data/TEST_SIMPLE"], ["train", "test"]),
        (["train", "test_A", "extra"], ["train", "test", None]),
        (["train", "train/freight_train", "train/crash_test"], ["train", "train", "train"]),
        (["freight_train", "crash_test", "car"], [None, None, None]),
        (["freight_train", "car"], [None, None]),
        (["train", "test", "unlabeled"], ["train", "test", "unlabelled"]),
    ],
)
def test_folders(names: list[str], splits: list[str | None]):
    images = folders(*names)
    found = folder_splits(images)
    assert [found.split_of(image) for image in images] == splits
    assert not found.several
    assert [i[-2] for i in images if found.is_beside(i)] == [n for n in names if n == "extra"]


@pytest.mark.parametrize(
    "names",
    [
        ["train", "test", "test2"],
        ["Train", "TestA", "TestB"],
        ["trainA", "trainB", "test"],
        ["train", "dev", "eval"],
        ["training", "validation", "evaluation"],
        ["TRAIN", "TEST", "TEST_SIMPLE"],
    ],
)
def test_several_folders_for_one_split(names: list[str]):
    with pytest.raises(UserError, match=r"/x/data has several folders for the (test|train|val) "):
        folder_splits(folders(*(f"data/{name}" for name in names))).refuse_several("/x")


def write(root: Path, *names: str) -> None:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encode(flat(colour=(number, 0, 0)), "PNG"))


def test_labels_in_names(tmp_path: Path):
    write(tmp_path, *(f"{s}/{c}_1.png" for s in ("train", "testA", "extra") for c in "ab"))
    found = find(f"folder:{tmp_path}", SourceOptions(label_from="name"))
    assert {s: list(split.names) for s, split in found.splits.items()} == {
        "train": ["train/a_1.png", "train/b_1.png"],
        "test": ["testA/a_1.png", "testA/b_1.png"],
    }
    assert "2 images next to the folders of splits ignored: extra." in found.notes
    write(tmp_path, "testB/a_1.png")
    with pytest.raises(UserError, match="several folders for the test split: testA, testB"):
        find(f"folder:{tmp_path}", SourceOptions(label_from="name"))


@pytest.mark.parametrize("others", [("testA",), ("testA", "testB"), ("testA", "extra")])
def test_paths_in_a_table(tmp_path: Path, others: tuple[str, ...]):
    names = [f"{split}/{label}_1.png" for split in ("train", *others) for label in "ab"]
    write(tmp_path, *names)
    rows = "".join(f"{name},{name[-7]}\n" for name in names)
    (tmp_path / "t.csv").write_text(f"file,label\n{rows}")
    with pytest.raises(UserError, match=r"called after splits .*--split-column none"):
        find(f"csv:{tmp_path / 't.csv'}", SourceOptions())


def test_several_values_for_one_split(tmp_path: Path):
    splits = ("train", "Train", "val", "eval")
    names = [f"{split}_{label}_1.png" for split in splits for label in "ab"]
    write(tmp_path, *names)
    rows = [f"{n},{n[-7]},{n.partition('_')[0]}\n" for n in names]
    (tmp_path / "t.csv").write_text("file,label,split\n" + "".join(rows))
    with pytest.raises(UserError, match="several values for the val split: 'eval', 'val'"):
        find(f"csv:{tmp_path / 't.csv'}", SourceOptions())
    (tmp_path / "t.csv").write_text("file,label,split\n" + "".join(rows[:-2]))
    found = find(f"csv:{tmp_path / 't.csv'}", SourceOptions())
    assert {s: len(split.names) for s, split in found.splits.items()} == {"train": 4, "val": 2}
