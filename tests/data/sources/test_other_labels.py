"""Folders that are no classes, by what tables say and by what they hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jtl.common.errors import UserError
from jtl.data.sources.registry import find
from support.data_files import counts, grown
from support.split_lists import IMAGES, SPLIT, TEST, folder, refusal

PLACES = {"north": 4, "south": 4, "east": 4, "west": 4}
WHOLE = {"train": dict(sorted(PLACES.items()))}


def places(root: Path, table: str) -> Path:
    grown(root, [f"{name}:{count}" for name, count in PLACES.items()])
    (root / "meta.csv").write_text(table + "\n")
    return root


def rows(row: str, head: str) -> str:
    every = [row.format(place=p, i=i, n=n, sick=("ill", "well")[i % 2], half=n // 2, kind=f"k{n}")
             for n, p in enumerate(PLACES) for i in range(4)]  # fmt: skip
    return "\n".join([head, *dict.fromkeys(every)])


OTHERS = {
    "of each image": rows("{place}-{i}.png,{sick}", "file,label"),
    "of each image by its path": rows("{sick},{place}/{place}-{i}.png", "Diagnosis,path"),
    "of each folder": rows("{place},{n},{half}", "site,age,class"),
}
SAME = {
    "the folders' names": rows("{place}-{i}.png,{place}", "file,label"),
    "numbers of the folders": rows("{place}-{i}.png,{n}", "file,label"),
    "classes within larger ones": rows("{place}-{i}.png,{kind},{half}", "file,species,class"),
    "of other things": rows("{place}-{i}.png,{sick}", "file,weather"),
    "of other images": rows("x{place}-{i}.jpg,{sick}", "file,label"),
    "a measurement": rows("{place}-{i}.png,0.{n}{i}", "file,target"),
    "corners of boxes": rows("{place}-{i}.png,{half},{i}", "file,x,y"),
    "finer ones": rows("{place}-{i}.png,{place} {sick}", "file,class"),
    "one value": rows("{place}-{i}.png,1", "file,label"),
    "no table": "nothing",
    "damaged": '"' + "x" * 200_000,
}


@pytest.mark.parametrize("case", OTHERS)
def test_tables_with_other_labels_than_the_folders(tmp_path: Path, case: str):
    root = places(tmp_path, OTHERS[case])
    with pytest.raises(UserError) as caught:
        find(f"folder:{root}")
    assert "may be no classes: meta.csv gives their images other labels" in str(caught.value)
    assert "If they are the classes, add --classes top." in str(caught.value)
    assert f"--data csv:{root}/meta.csv" in str(caught.value)
    assert counts(root, "top") == WHOLE


def test_a_text_whose_head_names_a_column_of_labels(tmp_path: Path):
    """As DeepFashion's list of categories, of which folders are garments."""
    text = rows("{place}/{place}-{i}.png   {half}{i}", "image_name  category_label").splitlines()
    text = [f"{len(text) - 1}", *(line[:-1] if i else line for i, line in enumerate(text))]
    text = [line.replace("   0", f"   {i % 3}") for i, line in enumerate(text)]
    root = places(tmp_path, "nothing")
    (root / "list_img.txt").write_text("\n".join(text) + "\n")
    with pytest.raises(UserError, match=r"no classes: list_img.txt gives their images other lab"):
        find(f"folder:{root}")
    (root / "list_img.txt").write_text("\n".join(text).replace("category_label", "height") + "\n")
    assert counts(root) == WHOLE


@pytest.mark.parametrize("head", ["class_id", "Finding Label", "category_name"])
def test_a_head_of_several_words(tmp_path: Path, head: str):
    with pytest.raises(UserError, match=r"meta\.csv gives their images other labels"):
        find(f"folder:{places(tmp_path, rows('{place}-{i}.png,{sick}', f'file,{head}'))}")


@pytest.mark.parametrize("case", SAME)
def test_tables_with_the_labels_of_the_folders(tmp_path: Path, case: str):
    assert counts(places(tmp_path, SAME[case])) == WHOLE


def metadata(root: Path, row: str, name: str) -> Path:
    places(root, "nothing")
    records = [
        json.loads(row % {"p": place, "i": i, "s": ("ill", "well")[i % 2]})
        for place, count in PLACES.items()
        for i in range(count)
    ]
    text = json.dumps(records, indent=1)
    if name.endswith("l"):
        text = "\n".join(map(json.dumps, records)) + "\n"
    (root / name).write_text(text)
    return root


OTHER = '{"label": "%(s)s", "file_name": "%(p)s/%(p)s-%(i)s.png"}'


def test_metadata_in_json_is_read_or_refused(tmp_path: Path):
    lines = metadata(tmp_path / "lines", OTHER, "metadata.jsonl")
    assert counts(lines) == {"train": {"ill": 8, "well": 8}}
    whole = metadata(tmp_path / "whole", OTHER, "metadata.json")
    with pytest.raises(
        UserError, match=r"json gives their images other labels \(ill, well\).* top"
    ):
        find(f"folder:{whole}")
    assert counts(lines, "top") == counts(whole, "top") == WHOLE


@pytest.mark.parametrize("name", ["metadata.json", "metadata.jsonl"])
def test_metadata_in_json_with_the_labels_of_the_folders(tmp_path: Path, name: str):
    assert counts(metadata(tmp_path, OTHER.replace("%(s)s", "%(p)s"), name)) == WHOLE


BANDS = ["B01", "B02", "B8A"]


def patches(root: Path, form: str, names: list[str], count: int = 3) -> Path:
    for number in range(count):
        label = f"tree_{'abc'[number]}"
        grown(root, f"{label}:{len(names)}")
        for old, name in zip(sorted((root / label).iterdir()), names, strict=True):
            old.rename(root / label / form.format(label=label, name=name))
    return root


@pytest.mark.parametrize("form", ["{label}_{name}.tif", "{name}.png"])
def test_a_folder_for_each_thing_with_its_bands(tmp_path: Path, form: str):
    root = patches(tmp_path, form, BANDS)
    with pytest.raises(
        UserError, match=r"3 folders in .* called b01, b02, b8a, as if they were ba"
    ):
        find(f"folder:{root}")
    assert [*counts(root, "top")["train"].values()] == [3, 3, 3]


@pytest.mark.parametrize("names", [["0", "1", "2"], ["img_7", "img_8"], ["only"]])
def test_names_that_are_counted_or_alone_are_of_classes(tmp_path: Path, names: list[str]):
    assert len(counts(patches(tmp_path, "{label}_{name}.png", names))["train"]) == 3


def test_folders_with_different_names_are_classes(tmp_path: Path):
    root = patches(tmp_path, "{name}.png", BANDS)
    (root / "tree_a" / "B8A.png").rename(root / "tree_a" / "B9.png")
    assert len(counts(root)["train"]) == 3


def test_a_column_of_which_only_some_words_are_splits(tmp_path: Path):
    word = {True: "holdout", False: "training"}
    table = "\n".join(["file,dataset", *(f"{path},{word[path in TEST]}" for path in IMAGES)])
    told = refusal(folder(tmp_path, {"data.csv": table}))
    assert "data.csv, which has a column 'dataset' of holdout, training, which only in part" in told


def test_a_list_that_begins_with_its_length(tmp_path: Path):
    lines = [f"{path}  {'test' if path in TEST else 'train'}" for path in IMAGES]
    text = "\n".join([str(len(lines)), "image_name  evaluation_status", *lines])
    assert counts(folder(tmp_path, {"list_eval_partition.txt": text})) == SPLIT


def test_a_list_of_the_images_without_labels(tmp_path: Path):
    """GTSRB's Test.csv: its images lie in Test/, and cannot be among those of training."""
    grown(tmp_path, "Train/0:2 Train/1:2 Test:3")
    names = [f"Train/{i}/Train-{i}-{j}.png" for i in (0, 1) for j in (0, 1)]
    (tmp_path / "Train.csv").write_text("\n".join(["Width,Path", *(f"9,{name}" for name in names)]))
    tested = [f"9,Test/Test-{i}.png" for i in range(3)]
    (tmp_path / "Test.csv").write_text("\n".join(["Width,Path", *tested]))
    assert counts(tmp_path) == {"train": {"0": 2, "1": 2}}
