"""The forms in which data sets list the images of their splits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jtl.data.sources.registry import SourceOptions, find, load
from support.data_files import counts, grown
from support.split_lists import IMAGES, SPLIT, TEST, TRAIN, WHOLE, folder, refusal


def flagged(head: str, row: str) -> str:
    """A table in whose rows {0} is 1 for training and {1} for testing."""
    rows = (f"{p}," + row.format(int(p in TRAIN), int(p in TEST)) for p in IMAGES)
    return "\n".join([f"file,{head}", *rows])


FORMS: dict[str, dict[str, str]] = {
    "objects in lines": {
        f"{split}.jsonl": "".join(f'{{"image": "{p}", "label": "{p[:3]}"}}\n' for p in paths)
        for split, paths in {"train": TRAIN, "test": TEST}.items()
    },
    "one file of objects": {
        "metadata.jsonl": "".join(
            json.dumps({"file_name": p, "split": "test" if p in TEST else "train"}) + "\n"
            for p in IMAGES
        )
    },
    "an object in JSON": {
        "split.json": json.dumps({p: "test" if p in TEST else "train" for p in IMAGES})
    },
    "objects in a list": {
        "metadata.json": json.dumps(
            [{"id": i, "file": p, "set": "test" if p in TEST else "train"}
             for i, p in enumerate(IMAGES)]
        )
    },
    "labels in JSON": {
        f"{split}.json": json.dumps({p: p[:3] for p in paths})
        for split, paths in {"train": TRAIN, "test": TEST}.items()
    },
    "no ending": {"train": "\n".join(TRAIN), "lists/test": "\n".join(TEST)},
    "is_test": {"meta.csv": flagged("is_test", "{1}")},
    "is_train": {"meta.csv": flagged("width,is_train", "8,{0}.0")},
    "a column for each": {"data.csv": flagged("train,val,test", "{0},0,{1}")},
    "another head": {"data.csv": "file,mode\n" + "\n".join(
        f"{p},{'testing' if p in TEST else 'training'}" for p in IMAGES)},
    "a list for each class, and one for all": {
        **{f"{split}.txt": "\n".join(paths) for split, paths in (("train", TRAIN), ("test", TEST))},
        **{f"{label}_{split}.txt": "\n".join(p for p in paths if p.startswith(label))
           for split, paths in (("train", TRAIN), ("test", TEST)) for label in ("cat", "dog")},
    },
}  # fmt: skip


@pytest.mark.parametrize("case", FORMS)
def test_forms_of_lists(tmp_path: Path, case: str):
    root = folder(tmp_path, FORMS[case])
    assert counts(root) == SPLIT
    assert set(find(f"folder:{root}").splits["test"].names) == {*TEST}


def test_columns_that_say_no_splits(tmp_path: Path):
    """One of the classes is trains; the others say nothing of training."""
    table = "file,bus,car,train\n" + "\n".join(f"{p},1,0,{i % 2}" for i, p in enumerate(IMAGES))
    assert counts(folder(tmp_path, {"onehot.csv": table})) == WHOLE


def test_a_list_and_a_part_of_it_are_two_lists(tmp_path: Path):
    texts = {"train": TRAIN, "train_1": TRAIN[:9], "test": TEST}
    root = folder(tmp_path, {f"{name}.txt": "\n".join(paths) for name, paths in texts.items()})
    assert "several lists for the train split" in refusal(root)


NEVER_READ = [
    ("train.txt.gz", "test.txt.gz"), ("train.csv.zip", "val.csv.zip"), ("splits.parquet",),
    ("train_idx.npy", "test_idx.npy"),
]  # fmt: skip


@pytest.mark.parametrize("names", NEVER_READ)
def test_lists_of_kinds_that_are_not_read(tmp_path: Path, names: tuple[str, ...]):
    assert names[0] in refusal(folder(tmp_path, dict.fromkeys(names, "\x1f?")))


@pytest.mark.parametrize("ending", [".png", ""])
def test_images_that_are_called_after_their_splits(tmp_path: Path, ending: str):
    root = folder(tmp_path, {})
    for path in IMAGES:
        name = f"{'test' if path in TEST else 'train'}_{Path(path).stem}{ending}"
        (root / path).rename((root / path).with_name(name))
    assert counts(root) == SPLIT
    (told,) = (t for t in load(f"folder:{root}").describe().lines() if t.startswith("splits:"))
    assert told == f"splits:   the names of the images, such as test_cat-15{ending}"
    assert load(f"folder:{root}", SourceOptions(split_lists="ignore")).test is None
    (root / "cat" / f"train_cat-0{ending}").rename(root / "cat" / "cat-0.png")
    told = refusal(root)
    assert "called after splits, such as cat/" in told
    assert "but not cat/cat-0.png. Rename it" in told
    assert load(f"folder:{root}", SourceOptions(split_lists="ignore")).test is None
    for path in sorted((root / "cat").glob("train_*"))[:5]:
        path.rename(path.with_name(path.name.removeprefix("train_")))
    assert counts(root) == WHOLE


def test_splits_before_the_numbers_in_names(tmp_path: Path):
    """FER2013's: `PublicTest_12345.jpg`."""
    grown(tmp_path, "cat:4 dog:4")
    for path in sorted(tmp_path.glob("*/*")):
        number = int(path.stem[-1])
        name = f"Training_{number}" if number < 2 else f"PublicTest_{number}"
        path.rename(path.with_name(f"{name}.png"))
    assert counts(tmp_path) == {"train": {"cat": 2, "dog": 2}, "test": {"cat": 2, "dog": 2}}


def test_images_that_are_called_after_their_classes(tmp_path: Path):
    grown(tmp_path, "rail:3 tube:2")
    for folder_, word in (("rail", "train"), ("tube", "test tube")):
        for path in (tmp_path / folder_).iterdir():
            path.rename(path.with_name(path.name.replace(folder_, word)))
    assert counts(tmp_path) == {"train": {"rail": 3, "tube": 2}}
