"""Lists of splits beside class folders: published test images never train without being asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jtl.common.errors import UserError
from jtl.config.data import DataConfig
from jtl.config.options import Config
from jtl.data.sources.registry import SourceOptions, find, load
from support.commands import main
from support.data_files import counts, grown

SPLIT = {"train": {"a": 2, "b": 2}, "val": {"a": 1}, "test": {"a": 1, "b": 1}}
ROWS = {
    "train": ["a/a-0.png", "a/a-1.png", "b/b-1.png", "b/b-2.png"],
    "val": ["a/a-2.png"],
    "test": ["a/a-3.png", "b/b-0.png"],
}
"""Of a:4 b:3; what the images are called in folders that are called a and b."""


def table(head: str, row: str) -> str:
    rows = [row.format(path=p, name=p[2:], split=s) for s, paths in ROWS.items() for p in paths]
    return "\n".join([head, *rows]) + "\n"


def rows(row: str, head: str = "") -> dict[str, str]:
    """The text of a list for each split."""
    return {
        split: head + "".join(row.format(path=p, stem=p[:-4], name=p[2:]) + "\n" for p in paths)
        for split, paths in ROWS.items()
    }


def files(pattern: str, texts: dict[str, str]) -> dict[str, str]:
    return {pattern.format(split): text for split, text in texts.items()}


JSON = {split: json.dumps({"x": [p[:-4] for p in paths]}) for split, paths in ROWS.items()}
IMAGES = [path for paths in ROWS.values() for path in paths]
LISTS: dict[str, dict[str, str]] = {
    "Food-101": files("meta/{}.txt", rows("{stem}")) | files("meta/{}.json", JSON),
    "Food-101, JSON alone": files("meta/{}.json", JSON),
    "names alone": files("{}.txt", rows("{name}")),
    "DTD, one of ten": files("labels/{}1.txt", rows("{path}")),
    "paths from elsewhere": files("{}_list.txt", rows("/data/images/{path}")),
    "back slashes": {
        f"{split}.txt": text.replace("/", "\\") for split, text in rows("{path}").items()
    },
    "path and number": files("lists/{}.lst", rows("{path} 7")),
    "Kaggle's tables": files("{}.csv", rows("{name},3", "image,label\n")),
    "Excel's separator": files("{}.csv", rows("1;{path};a", "no;file;class\n")),
    "a column": {"metadata.csv": table("file,label,split", "{path},x,{split}")},
    "a column before": {"all.tsv": table("id\tsubset\tfile", "1\t{split}\t{name}")},
    "keys": {"split_zhou.json": json.dumps({s: [[p, 0] for p in ps] for s, ps in ROWS.items()})},
    "trainval besides": {
        **files("{}.txt", rows("{path}")),
        "trainval.txt": "\n".join(ROWS["train"] + ROWS["val"]),
    },
}


def folder(root: Path, lists: dict[str, str], tree: str = "images/a:4 images/b:3") -> Path:
    grown(root, tree)
    for path in sorted(root.rglob("*.png")):
        path.rename(path.with_name(path.name.removeprefix("images-")))
    for name, text in lists.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize("case", LISTS)
def test_lists_divide_the_images(tmp_path: Path, case: str):
    assert counts(folder(tmp_path, LISTS[case])) == SPLIT
    found = find(f"folder:{tmp_path}")
    for split, paths in ROWS.items():
        assert found.splits[split].names == tuple(f"images/{path}" for path in paths)
    assert found.labels_from == "the names of the folders"
    (told,) = (t for t in load(f"folder:{tmp_path}").describe().lines() if "splits:" in t)
    assert told.startswith("splits:   ")
    assert any(name in told for name in LISTS[case])
    whole = find(f"folder:{tmp_path}", SourceOptions(split_lists="ignore"))
    assert [len(split) for split in whole.splits.values()] == [7]
    assert whole.fingerprint != found.fingerprint


def test_the_lists_of_cub(tmp_path: Path):
    cub = "".join(f"{i} {path}\n" for i, path in enumerate(IMAGES, 1))
    told = "".join(f"{i} {int(path in ROWS['train'])}\n" for i, path in enumerate(IMAGES, 1))
    folder(tmp_path, {"images.txt": cub, "train_test_split.txt": told, "classes.txt": "1 a\n2 b"})
    assert counts(tmp_path) == {"train": {"a": 2, "b": 2}, "test": {"a": 2, "b": 1}}


def test_trainval_and_test(tmp_path: Path):
    both = "\n".join(ROWS["train"] + ROWS["val"])
    folder(tmp_path, {"trainval.txt": both, "test.txt": "\n".join(ROWS["test"])})
    assert counts(tmp_path) == {"train": {"a": 3, "b": 2}, "test": {"a": 1, "b": 1}}


def test_what_no_list_names(tmp_path: Path):
    folder(tmp_path, {"train.txt": "\n".join([*ROWS["train"], "gone/x.png"])})
    assert counts(tmp_path) == {"train": {"a": 2, "b": 2}}
    left = {what: len(names) for what, names in find(f"folder:{tmp_path}").left_out}
    assert left == {"images in no list of a split": 3}
    (tmp_path / "train.txt").rename(tmp_path / "testing_list.txt")
    assert counts(tmp_path) == {"train": {"a": 2, "b": 1}, "test": {"a": 2, "b": 2}}


REFUSED = {
    "ten splits": (
        files("labels/{}1.txt", rows("{path}"))
        | {"labels/train2.txt": "b/b-0.png\na/a-0.png"},
        "several lists for the train split: labels/train1.txt, labels/train2.txt. Keep one",
    ),
    "contradiction": (
        {"train.txt": "\n".join(IMAGES), "test.txt": "a/a-0.png"},
        "contradict one another: images/a/a-0.png is in test.txt and train.txt. Correct them",
    ),
    "few": ({"train.txt": "a/a-0.png"}, "name only 1 of 7 images, and not images/a/a-1.png"),
    "MATLAB": (
        {"lists/train_list.mat": "?", "lists/test_list.mat": "?", "lists/file_list.mat": "?"},
        "but lists/test_list.mat, lists/train_list.mat, which by their names list the images",
    ),
    "numbers": ({"train.txt": "5\n7\n", "test.txt": "1\n"}, "finds no image by these"),
    "one file": ({"train_test_split.txt": "1 0\n2 1\n"}, "finds no image by this"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_lists_that_are_doubtful(tmp_path: Path, case: str):
    lists, text = REFUSED[case]
    with pytest.raises(UserError) as caught:
        find(f"folder:{folder(tmp_path, lists)}")
    assert text in str(caught.value)
    assert "--split-lists ignore. Or move the images into train/CLASS/" in str(caught.value)
    found = load(f"folder:{tmp_path}", SourceOptions(split_lists="ignore"))
    assert found.held_out


OTHERS = {
    "readme.txt": "no list",
    "test.txt": "nothing of it",
    "labels.csv": "file,label\na/a-0.png,a\n",
    "train_log.txt": "epoch 1",
    "sample_submission.csv": "id,label\na-0,a\n",
    "folds.csv": "file,fold\na/a-0.png,1\n",
}


def test_other_files_are_no_lists(tmp_path: Path):
    assert counts(folder(tmp_path, OTHERS)) == {"train": {"a": 4, "b": 3}}


def test_folders_come_before_lists(tmp_path: Path):
    tree = "train/a:2 train/b:2 test/a:1 test/b:1"
    folder(tmp_path, {"train.txt": "train-a-0.png", "test.txt": "train-b-0.png"}, tree)
    assert counts(tmp_path) == {"train": {"a": 2, "b": 2}, "test": {"a": 1, "b": 1}}


def test_runs_from_before_lists_were_read_keep_their_splits():
    for data, expected in {"folder:x": "ignore", "digits": "read", "npz:x.npz": "read"}.items():
        stored = Config(data=DataConfig(data=data)).to_dict()
        assert Config.from_dict(stored).data.split_lists == "read"
        del stored["data"]["split_lists"]
        assert Config.from_dict(stored).data.split_lists == expected


def test_check_and_evaluation_have_the_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder(tmp_path, REFUSED["MATLAB"][0])
    assert main("data", "check", tmp_path) == 2
    assert "--split-lists ignore" in capsys.readouterr().err
    main("data", "check", tmp_path, "--split-lists", "ignore")
    assert "7 training images of 2 classes" in capsys.readouterr().out
    assert main("evaluate", "--help") == 0
    assert "--split-lists" in capsys.readouterr().out


def test_numbers_name_no_images(tmp_path: Path):
    """Rows of a log count epochs, and Kaggle's identifiers may be anything."""
    root = folder(tmp_path, {"val_accuracy.csv": "1,0.1\n2,0.4\n", "test_times.txt": "0 0.3\n"})
    for number, path in enumerate(sorted(root.rglob("*.png"))):
        path.rename(path.with_name(f"{number}.png"))
    assert counts(tmp_path).keys() == {"train"}


def test_a_list_of_images_that_were_converted(tmp_path: Path):
    folder(
        tmp_path, {k: v.replace(".png", ".jpg") for k, v in files("{}.txt", rows("{path}")).items()}
    )
    assert counts(tmp_path) == SPLIT


def test_a_list_of_other_images_is_refused(tmp_path: Path):
    folder(tmp_path, {"test.txt": "\n".join([*ROWS["train"], "b/x.png", "b/y.png"])})
    with pytest.raises(UserError, match=r"'test.txt' lists images that are not there.*b/x.png"):
        find(f"folder:{tmp_path}")


def test_a_validation_list_that_leaves_nothing_to_train_on(tmp_path: Path):
    texts = dict.fromkeys(("trainval.txt", "val.txt"), "\n".join(IMAGES))
    folder(tmp_path, texts)
    with pytest.raises(UserError, match="contradict one another"):
        find(f"folder:{tmp_path}")


def test_rows_without_a_split_are_left_out(tmp_path: Path):
    text = table("file,label,split", "{path},x,{split}").replace("b/b-0.png,x,test", "b/b-0.png,x,")
    folder(tmp_path, {"metadata.csv": text})
    assert counts(tmp_path)["test"] == {"a": 1}


def test_two_keys_for_one_split_are_refused(tmp_path: Path):
    keys = {"train": ROWS["train"], "test": ROWS["test"], "test_hard": ROWS["val"]}
    folder(tmp_path, {"splits.json": json.dumps(keys)})
    with pytest.raises(UserError, match="several lists for the test split, such as 'test_hard'"):
        find(f"folder:{tmp_path}")


def test_trainval_without_train(tmp_path: Path):
    both = "\n".join(ROWS["train"] + ROWS["val"])
    rest = {f"{split}.txt": "\n".join(ROWS[split]) for split in ("val", "test")}
    folder(tmp_path, {"trainval.txt": both, **rest})
    assert counts(tmp_path) == SPLIT


def test_what_cannot_be_read_is_no_list(tmp_path: Path):
    folder(tmp_path, {"deep.json": "[" * 200_000 + "]" * 200_000})
    (tmp_path / "notes.txt").symlink_to(tmp_path / "nowhere")
    assert counts(tmp_path).keys() == {"train"}
