"""Labels in the names of files."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from jtl.common.errors import UserError
from jtl.data.sources.name_rules import rule_of
from jtl.data.sources.registry import SourceOptions, find, load
from jtl.data.sources.stores import ImageFile
from support.data_files import encode, flat

NAMES = {
    "name": {
        "cat.0.jpg": "cat",
        "cat_0.jpg": "cat",
        "yorkshire_terrier_101.jpg": "yorkshire_terrier",
        "Abyssinian (3).png": "Abyssinian",
        "ant-12.jpeg": "ant",
        "été7.jpg": "été",
        "12.jpg": None,
        "cat.jpg": None,
    },
    "first-word": {"cat_on_sofa.jpg": "cat", "dog-3.jpg": "dog", "dog.jpg": "dog"},
    "parent": {"a/b/1.jpg": "b", "1.jpg": None},
    "regex:^(?P<label>[a-z]+)[._-]\\d+": {"cat.0.jpg": "cat", "Cat.0.jpg": None},
    "regex:/([^/]+)/[^/]+/": {"x/ant/images/1.jpg": "ant", "1.jpg": None},
}


@pytest.mark.parametrize("rule", NAMES)
def test_rules(rule: str):
    for name, label in NAMES[rule].items():
        assert rule_of(rule).label_of(ImageFile(tuple(name.split("/")), name, 1, 1)) == label


def images(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encode(flat(colour=(number, 0, 0)), "PNG"))
    return root


def labels(root: Path, rule: str = "name", **options: str) -> dict[str, list[tuple[str, str]]]:
    found = find(f"folder:{root}", SourceOptions(label_from=rule, **options))  # pyright: ignore
    return {
        split: [
            (name, found.class_names[label])
            for name, label in zip(part.names, part.labels.tolist(), strict=True)
        ]
        for split, part in found.splits.items()
    }


def test_dogs_and_cats_as_on_kaggle(tmp_path: Path):
    names = [f"train/train/{label}.{i}.png" for label in ("cat", "dog") for i in range(2)]
    images(tmp_path, *names, "test1/1.png", "test1/2.png")
    assert labels(tmp_path) == {"train": [(name, name[12:15]) for name in names]}
    found = find(f"folder:{tmp_path}", SourceOptions(label_from="name"))
    assert found.labels_from == "the names of the files"
    assert "No test image has a label in its name" in found.notes[0]
    assert found.left_out[0].names == ("test1/1.png", "test1/2.png")


def test_oxford_pets(tmp_path: Path):
    """Masks are left out, and the published split is used."""
    names = [f"images/{label}_{i}.png" for label in ("Bengal", "basset_hound") for i in range(3)]
    images(tmp_path, *names, *(name.replace("images", "annotations/trimaps") for name in names))
    stems = [Path(name).stem for name in names]
    for file, chosen in {"trainval": stems[:2] + stems[3:5], "test": [stems[2], stems[5]]}.items():
        text = "".join(f"{stem} 1 1 1\n" for stem in chosen)
        (tmp_path / f"annotations/{file}.txt").write_text(text)
    found = labels(tmp_path)
    assert {split: len(part) for split, part in found.items()} == {"train": 4, "test": 2}
    assert found["test"] == [(names[2], "Bengal"), (names[5], "basset_hound")]
    assert {s: len(p) for s, p in labels(tmp_path, split_lists="ignore").items()} == {"train": 6}


def test_splits_in_folders_and_archives(tmp_path: Path):
    root = images(tmp_path / "d", "train/a_1.png", "train/b_1.png", "val/x/a_2.png", "test/b_2.png")
    whole = {
        "train": [("train/a_1.png", "a"), ("train/b_1.png", "b")],
        "val": [("val/x/a_2.png", "a")],
        "test": [("test/b_2.png", "b")],
    }
    assert labels(root) == whole
    shutil.make_archive(str(tmp_path / "z"), "zip", root)
    assert labels(tmp_path / "z.zip") == whole


def test_other_rules_are_other_data(tmp_path: Path):
    root = images(tmp_path, *(f"{a}_{b}_{i}.png" for a in "ab" for b in "xy" for i in range(2)))
    found = [load(str(root), SourceOptions(label_from=r)) for r in ("name", "first-word", "name")]
    assert [data.class_names for data in found[:2]] == [("a_x", "a_y", "b_x", "b_y"), ("a", "b")]
    assert found[0].fingerprint == found[2].fingerprint != found[1].fingerprint


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("names", "--label-from names: give name .* Did you mean 'name'"),
        ("^(?P<label>a)", "give name .*or a regular expression"),
        ("regex:(?P<label>[a-z", "no regular expression"),
        ("regex:[a-z]+", "has 0 groups, none called label"),
        ("regex:(a)(b)", "has 2 groups, none called label"),
        ("regex:^(?P<label>dog)", r"2 of 4 images .* no label .*cat_1.png, cat_2.png. Others have "
         "one, such as dog_1.png = dog"),
        ("regex:^(?P<label>x)", r"4 of 4 images .* have no label in their names"),
        ("regex:^(?P<label>x*)", r"4 of 4 images .* have an empty label"),
        ("regex:(?P<label>[0-9]+)(?P<unused>z)?$", r"4 of 4 images .* no label"),
        ("regex:(?P<label>png)", "only 1 class, 'png'"),
        ("parent", r"4 of 4 images .* no label"),
    ],
)  # fmt: skip
def test_rules_that_do_not_fit(tmp_path: Path, rule: str, message: str):
    root = images(tmp_path, "cat_1.png", "cat_2.png", "dog_1.png", "dog_2.png")
    with pytest.raises(UserError, match=message):
        load(str(root), SourceOptions(label_from=rule))


def test_what_says_the_labels_twice_or_not_at_all(tmp_path: Path):
    with pytest.raises(UserError, match="--classes and --label-from both"):
        labels(images(tmp_path, "a_1.png"), classes="top")
    with pytest.raises(UserError, match="--label-from: no effect on 'digits'"):
        find("digits", SourceOptions(label_from="name"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no images"):
        labels(tmp_path / "empty")
    images(tmp_path / "ids", *(f"{chr(97 + i % 26)}{i % 7}x_{i}.png" for i in range(60)))
    with pytest.raises(UserError, match="these may be no classes"):
        labels(tmp_path / "ids")


@pytest.mark.parametrize("folder", ["train/train/", "images/", ""])
def test_a_flat_folder_names_the_option(tmp_path: Path, folder: str):
    images(tmp_path, *(f"{folder}{label}.{i}.png" for label in ("cat", "dog") for i in range(3)))
    with pytest.raises(UserError) as caught:
        find(f"folder:{tmp_path}")
    assert "has no class folders" in str(caught.value)
    assert "cat.0.png = cat" in str(caught.value)
    assert str(caught.value).endswith(f"jtl train --data {tmp_path} --label-from name")
    images(tmp_path / "x", *(f"{folder}IMG_{i}.png" for i in range(6)))
    with pytest.raises(UserError) as caught:
        find(f"folder:{tmp_path / 'x'}")
    assert "--label-from" not in str(caught.value)
    splits = [f"{label}_{split}/{split}{i}.png" for label in "ab" for split in ("train", "test")
              for i in range(4)]  # fmt: skip
    images(tmp_path / "y", *splits)
    with pytest.raises(UserError) as caught:
        find(f"folder:{tmp_path / 'y'}")
    assert "--label-from" not in str(caught.value)
