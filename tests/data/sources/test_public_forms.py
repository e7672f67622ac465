"""Forms of public data sets in which splits, labels or copies were not seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jtl.common.errors import UserError
from jtl.data.sources.registry import SourceOptions, find
from support.data_files import counts, encode, flat

PNG = encode(flat(4, 4), "PNG")


def placed(root: Path, names: list[str]) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(PNG)
    return root


def table(root: Path, labels: list[str], head: str = "file,label") -> str:
    placed(root, [f"{number}.png" for number in range(len(labels))])
    rows = [f"{number}.png,{label}" for number, label in enumerate(labels)]
    (root / "t.csv").write_text("\n".join([head, *rows]))
    return f"csv:{root / 't.csv'}"


def refused(spec: str, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        find(spec, SourceOptions(**options))
    return str(caught.value)


@pytest.mark.parametrize(
    ("labels", "mark"),
    [
        (["0", "1", "-1"], "-1"),
        (["ant", "bee", "?"], "?"),
        (["ant", "bee", "To label"], "To label"),
        (["ant", "bee", "#NAME?"], "#NAME?"),
        (["ant", "bee", "n/a"], "n/a"),
    ],
)
def test_what_stands_for_a_missing_label_is_no_class(tmp_path: Path, labels: list[str], mark: str):
    told = refused(table(tmp_path, labels * 4))
    assert "no label for 4 of 12 rows" in told
    assert f"{mark!r} stands for a missing label" in told
    assert "if it is a class, call it otherwise" in told


@pytest.mark.parametrize("labels", [["-1", "1"], ["a", "b", "?"], ["ant", "-1", "bee"]])
def test_such_marks_may_be_classes(tmp_path: Path, labels: list[str]):
    assert find(table(tmp_path, labels * 4)).class_names == tuple(sorted(labels))


def test_numbers_with_spaces_between_them_are_several_labels(tmp_path: Path):
    """As of iMet and of the Human Protein Atlas."""
    spec = table(tmp_path, ["16 0", "7", "7 16"] * 4, "Id,Target")
    told = refused(spec)
    assert "has several labels for an image: 8 of 12 rows" in told
    assert "--task multilabel --label-delimiter ' '" in told
    found = find(spec, SourceOptions(task="multilabel", label_delimiter=" "))
    assert found.class_names == ("0", "16", "7")


@pytest.mark.parametrize(
    ("head", "grouped"), [("Patient Age", False), ("Patient Sex", False), ("Patient ID", True)]
)
def test_what_patients_have_in_common_groups_no_images(tmp_path: Path, head: str, grouped: bool):
    labels = [f"{'ab'[number % 2]},{number // 4}" for number in range(12)]
    notes = find(table(tmp_path, labels, f"file,label,{head}")).notes
    assert any("--group-column" in note for note in notes) == grouped


SIBLINGS = [
    ("fairface_label_train", ["fairface_label_val"]),
    ("a. Training Labels", ["b. Testing Labels"]),
    ("train_subset0", ["train_subset1", "val_subset0", "val_subset1"]),
]


@pytest.mark.parametrize(("train", "others"), SIBLINGS)
def test_tables_of_other_splits_beside_one_are_named(tmp_path: Path, train: str, others: list[str]):
    placed(tmp_path, [f"{number}.png" for number in range(6)])
    for place, name in enumerate([train, *others]):
        rows = [f"{number}.png,{'ab'[number % 2]}" for number in (place, place + 1)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["file,label", *rows]))
    (note,) = find(f"csv:{tmp_path / train}.csv").notes
    left = [f"{name}.csv" for name in others if "train" not in name]
    assert note.startswith(f"{', '.join(left)} next to {train}.csv: not read.")
    assert ("csv:FOLDER" if len(others) > 1 else f"csv:{tmp_path}") in note


def test_a_table_in_the_folder_of_each_split(tmp_path: Path):
    """As Roboflow writes them for images of several classes."""
    for split in ("train", "valid", "test"):
        names = [f"{split}/{split}{n}_jpg.rf.{n:032x}.png" for n in range(4)]
        placed(tmp_path, names)
        rows = [f"{name.partition('/')[2]}, {n % 2}, 1" for n, name in enumerate(names)]
        (tmp_path / split / "_classes.csv").write_text("\n".join(["filename, ant, bee", *rows]))
    assert f"--data csv:{tmp_path} " in refused(str(tmp_path))
    assert "several labels for an image" in refused(f"csv:{tmp_path}")
    found = find(f"csv:{tmp_path}", SourceOptions(task="multilabel"))
    assert {split: len(part) for split, part in found.splits.items()} == {
        "train": 4, "val": 4, "test": 4,
    }  # fmt: skip
    assert found.splits_from == "_classes.csv in the folder of each"


def test_a_name_without_ending_may_be_that_of_an_image_and_of_its_mask(tmp_path: Path):
    spec = table(tmp_path, ["a", "b"] * 2)
    for number in range(4):
        placed(tmp_path, [f"im/{number}x.png", f"im/{number}x.tif"])
    rows = [f"{number}x,{'ab'[number % 2]}" for number in range(4)]
    (tmp_path / "t.csv").write_text("\n".join(["id,label", *rows]))
    assert "may name several images, such as row 2 ('0x'): im/0x.png, im/0x.tif" in refused(spec)


@pytest.mark.parametrize("around", ["Dev", "training_data", "test"])
def test_a_folder_around_the_splits_may_be_called_like_one(tmp_path: Path, around: str):
    names = [f"{around}/{s}/{c}/{s}{n}.png" for s in ("Train", "Test") for c in "ab" for n in "12"]
    assert counts(placed(tmp_path, names)) == {
        "train": {"a": 2, "b": 2}, "test": {"a": 2, "b": 2},
    }  # fmt: skip


def test_one_folder_of_images_called_after_their_classes(tmp_path: Path):
    names = [f"NEU surface/{c}_{n}.png" for c in ("Cr", "In", "PS") for n in range(1, 5)]
    (problem,) = find(f"folder:{placed(tmp_path, names)}").problems
    assert "only one class" in problem
    assert "--label-from name" in problem


NO_CLASSES = [
    "100CANON 101CANON", "100_0001 100_0002", "2021-05-03 2021-05-04", "03.05.2021 04.05.2021",
    "2018 2019", "2019_01 2019_02", "TCGA_CS_4941_19960909 TCGA_CS_4942_19970222",
    "LIDC-IDRI-0001 LIDC-IDRI-0002", "user_01 user_02", "VID_20210503_1412 VID_20210504_1412",
    "40X 100X", "224x224 512x512", "jpg png", "x_100_y_200 x_300_y_200", "annotator1 annotator2",
    "123e4567-e89b-12d3-a456-426614174000 223e4567-e89b-12d3-a456-426614174000",
    "A01 A02 B01", "original augmented", "raw processed", "A-M N-Z", "RGB NIR Depth", "v1 v2",
    "T1 T2 FLAIR", "expert_A expert_B", "loc_1 loc_2", "day 1,day 2", "1-500 501-1000",
    "0 1 2 3 4 5 6 7 8 9 a b c d e f", "r01c02 r01c03", "52.51_13.40 52.52_13.41", "GSM123 GSM124",
    "Jan Feb Mar", "2021-W05 2021-W06", "Camera Screenshots", "Photos from 2020,Photos from 2021",
]  # fmt: skip


@pytest.mark.parametrize("names", NO_CLASSES)
def test_dates_and_the_like_are_hardly_classes(tmp_path: Path, names: str):
    folders = names.split("," if "," in names else None)
    root = placed(tmp_path, [f"{name}/{name}-{n}.png" for name in folders for n in "123"])
    assert "are classes, add --classes top" in refused(str(root))
    assert find(str(root), SourceOptions(classes="top")).class_names == tuple(sorted(folders))


@pytest.mark.parametrize("names", [
    "1901 1902", "20 50 2000", "5x 10x", "abcd1234 efgh5678", "0-2 4-6 8-13", "C01 C02", "A-C B-D",
    "raw cooked", "color sepia", "0 1 a b", "Jan Ann", "day night", "expert novice",
])  # fmt: skip
def test_such_names_may_be_those_of_classes(tmp_path: Path, names: str):
    root = placed(tmp_path, [f"{name}/{name}-{n}.png" for name in names.split() for n in "123"])
    assert find(str(root)).class_names == tuple(sorted(names.split()))


UNUSED = {
    "corrected_label": ("b a b a b b b a", "says other classes than 'label' in 1 of 8 rows"),
    "exclude": ("0 0 1 0 0 1 0 0", "'exclude' (0, 1) is not used: all rows count"),
    "is_duplicate": ("0 0 1 0 0 1 0 0", "'is_duplicate' (0, 1) is not used: all rows count"),
    "kfold": ("1 2 3 1 2 3 1 2", "--group-column kfold"),
    "in_train_set": ("1 1 1 1 1 1 0 0", "--split-column in_train_set"),
    "cohort": ("discovery validation replication other " * 2, "--split-column cohort"),
    "mrn": ("17 17 17 18 18 19 19 19", "--group-column mrn"),
    "source_image": ("x x x y y z z z", "--group-column source_image"),
}


@pytest.mark.parametrize("column", UNUSED)
def test_what_columns_that_are_not_used_may_say(tmp_path: Path, column: str):
    cells, told = UNUSED[column]
    labels = [f"{'ba'[n % 2]},{cell}" for n, cell in enumerate(cells.split())]
    (note,) = find(table(tmp_path, labels, f"file,label,{column}")).notes
    assert told in note


@pytest.mark.parametrize("column", ["width", "area_id", "genus_id", "description"])
def test_other_columns_are_passed_over(tmp_path: Path, column: str):
    cells = {"genus_id": "01" * 4}.get(column, "12345678")
    labels = [f"{'ab'[n % 2]},{cell}" for n, cell in enumerate(cells)]
    assert not find(table(tmp_path, labels, f"file,label,{column}")).notes


def test_a_class_called_unlabeled_says_no_splits(tmp_path: Path):
    """Roboflow adds a column of this name, which is 0 where an image has a label."""
    labels = [f"{n % 2},{1 - n % 2},0" for n in range(8)]
    found = find(table(tmp_path, labels, "filename,ant,bee,Unlabeled"))
    assert not found.splits_from
    assert found.class_names == ("ant", "bee")


def test_a_folder_that_lacks_some_of_its_files_is_refused(tmp_path: Path):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = {"image": [{"bytes": PNG}] * 4, "label": ["a", "b"] * 2}
    for number in (0, 2):
        parquet.write_table(pa.table(rows), tmp_path / f"train-{number:05}-of-00003.parquet")
    told = refused(f"parquet:{tmp_path}")
    assert "lacks 1 of 3 files, going by their names: train-00001-of-00003.parquet" in told
    assert len(find(f"parquet:{tmp_path}/train-*.parquet").splits["train"]) == 8


def test_arrays_beside_nothing_else_are_named(tmp_path: Path):
    (tmp_path / "bloodmnist.npz").write_bytes(b"PK")
    told = refused(f"folder:{tmp_path}")
    assert "npz:FILE" in told
    assert "does not read" not in told


def coco(names: list[str], labels: list[str]) -> str:
    """As of iWildCam: a category for each image, and no boxes."""
    categories = sorted({*labels})
    return json.dumps({
        "info": {"version": "x" * 2_000},
        "images": [{"id": n, "file_name": name} for n, name in enumerate(names)],
        "annotations": [
            {"id": n, "image_id": n, "category_id": categories.index(label)}
            for n, label in enumerate(labels)
        ],
        "categories": [{"id": n, "name": name} for n, name in enumerate(categories)],
    })  # fmt: skip


@pytest.mark.parametrize("info", [True, False])
def test_places_of_camera_traps_are_no_classes(tmp_path: Path, info: bool):
    names = [f"images/ridge{place}/{place}{n}.png" for place in range(3) for n in range(4)]
    placed(tmp_path, names)
    text = coco([name.removeprefix("images/") for name in names], ["deer", "empty"] * 6)
    if not info:
        text = text.replace("x" * 2_000, "")
    (tmp_path / "annotations.json").write_text(text)
    told = refused(str(tmp_path))
    assert "annotations.json gives their images other labels (deer, empty)" in told
    # Folders that are the categories are classes.
    (tmp_path / "annotations.json").write_text(coco(names, [name.split("/")[1] for name in names]))
    assert find(str(tmp_path)).class_names == ("ridge0", "ridge1", "ridge2")


def test_a_workbook_may_say_other_labels(tmp_path: Path):
    placed(tmp_path, [f"{place}/{place}{n}.png" for place in ("Alpine", "Forest") for n in "123"])
    (tmp_path / "records.xlsx").write_bytes(b"PK")
    assert any("save them as CSV, and jtl compares" in note for note in find(str(tmp_path)).notes)
