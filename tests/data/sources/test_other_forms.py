"""Tables and splits in other forms and languages: read, or refused with what they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jtl.common.errors import UserError
from jtl.data.sources.names import split_in, words_of
from jtl.data.sources.part_names import numbered_parts
from jtl.data.sources.registry import SourceOptions, find
from support.data_files import counts, encode, flat, grown

LABELS = {f"pics/{number}.png": "ab"[number % 2] for number in range(4)}
ROWS = [{"file_name": path, "label": label} for path, label in LABELS.items()]
COCO = {
    "images": [{"id": 1, "file_name": "0.png"}],
    "annotations": [{"image_id": 1, "category_id": 1}],
    "categories": [{"id": 1, "name": "a"}],
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number, path in enumerate(LABELS):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(encode(flat(colour=(number, 0, 0)), "PNG"))
    return tmp_path


def refused(spec: str, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        find(spec, SourceOptions(**options))
    return str(caught.value)


@pytest.mark.parametrize("indent", [None, 1])
def test_a_list_of_objects_in_json_is_a_table(root: Path, indent: int | None):
    (root / "x.json").write_text(json.dumps(ROWS, indent=indent))
    found = find(f"csv:{root / 'x.json'}")
    names = dict(zip(found.splits["train"].names, found.splits["train"].labels, strict=True))
    assert {name: found.class_names[label] for name, label in names.items()} == LABELS


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize(
    ("held", "told"),
    [
        (COCO, "holds labels or boxes in the format of COCO, and no table"),
        (LABELS, "is one JSON object"),
    ],
)
def test_one_object_in_json_is_no_table(root: Path, held: Any, told: str, indent: int | None):
    (root / "x.json").write_text(json.dumps(held, indent=indent))
    message = refused(f"csv:{root / 'x.json'}")
    assert told in message
    assert "JSON objects, one a line or in a list, such as" in message
    assert "csv:FILE" in refused(str(root / "x.json"))


def test_lines_of_objects_may_have_columns_called_like_those_of_boxes(root: Path):
    rows = [{"filename": row["file_name"], "regions": 3, "label": row["label"]} for row in ROWS]
    (root / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert find(f"csv:{root / 'x.jsonl'}").class_names == ("a", "b")


def test_arrays_of_matlab_are_named(tmp_path: Path):
    file = tmp_path / "train_32x32.mat"
    file.write_bytes(b"MATLAB 5.0 MAT-file".ljust(128) + bytes(99))
    for spec in (f"folder:{tmp_path}", f"folder:{file}", f"npz:{file}", f"csv:{file}"):
        told = refused(spec)
        assert "SVHN" in told
        assert "mat:F" in told
        assert "sort the images" not in told


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("data.mdb", "LMDB holds images as each program"),
        ("train.rec", "MXNet's RecordIO: read it with mxnet.recordio"),
        ("x.tfrecord", "If TensorFlow Datasets has written these records: tfds:"),
        ("train-00000.tfrecord-00000-of-00002", "If TensorFlow Datasets has written"),
        ("data-00000-of-00001.arrow", "datasets:FOLDER"),
        ("x.h5", "Arrays can be saved with numpy.savez"),
    ],
)
def test_records_that_hold_images_are_named(tmp_path: Path, name: str, told: str):
    (tmp_path / name).write_bytes(bytes(99))
    assert told in refused(f"folder:{tmp_path}")


def test_lists_of_images_and_labels_by_split(root: Path):
    (root / "labels").mkdir()
    rows = [f"{path.removeprefix('pics/')} {label}" for path, label in LABELS.items()]
    for split, part in (("train", rows[:2]), ("val", rows[2:3]), ("test", rows[3:])):
        (root / "labels" / f"{split}.txt").write_text("\n".join(part))
    found = find(f"csv:{root / 'labels'}", SourceOptions(image_root=str(root / "pics")))
    assert {split: len(part) for split, part in found.splits.items()} == {
        "train": 2, "val": 1, "test": 1
    }  # fmt: skip
    alone = find(f"csv:{root / 'labels/train.txt'}", SourceOptions(image_root=str(root / "pics")))
    assert f"To use them: csv:{root / 'labels'}" in " ".join(alone.notes)


def test_where_the_paths_of_a_table_start_is_said(root: Path):
    for folder in ("labels", "more"):
        (root / folder).mkdir()
    (root / "pics").rename(root / "more" / "pics")
    lines = "\n".join(f"{path} {label}" for path, label in LABELS.items())
    (root / "labels" / "x.txt").write_text(lines)
    told = refused(f"csv:{root / 'labels/x.txt'}")
    assert f"They are there from another folder: --image-root {root / 'more'}" in told
    found = find(f"csv:{root / 'labels/x.txt'}", SourceOptions(image_root=str(root / "more")))
    assert found.class_names == ("a", "b")


def test_parquet_files_of_paths_are_tables(root: Path):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {"image_path": [*LABELS], "label": [*LABELS.values()]}
    (root / "data").mkdir()
    parquet.write_table(pa.table(columns), root / "data" / "train.parquet")
    told = refused(f"parquet:{root / 'data'}")
    assert f"holds paths of image files: --data csv:{root / 'data/train.parquet'}" in told
    numbers = {"image": np.zeros(4), "label": np.arange(4)}
    parquet.write_table(pa.table(numbers), root / "data" / "train.parquet")
    assert "no column that could hold the images" in refused(f"parquet:{root / 'data'}")


SPLITS = [
    ("entrenamiento", "validación", "prueba"),
    ("Entraînement", "validation", "essai"),
    ("treino", "validacao", "teste"),
    ("Addestramento", "convalida", "prova"),
    ("Trainingsdaten", "Validierungsdaten", "Testdaten"),
]


@pytest.mark.parametrize("names", SPLITS)
def test_splits_in_other_languages(tmp_path: Path, names: tuple[str, str, str]):
    train, val, test = names
    grown(tmp_path, [f"{n}/{c}:{k}" for n, k in ((train, 3), (val, 2), (test, 1)) for c in "ab"])
    assert {split: sum(n.values()) for split, n in counts(tmp_path).items()} == {
        "train": 6, "val": 4, "test": 2
    }  # fmt: skip
    rows = [f"{train}/a/{train}-a-{n}.png,x,{names[n % 3]}" for n in range(3)]
    rows += [f"{train}/b/{train}-b-{n}.png,y,{names[n % 3]}" for n in range(3)]
    (tmp_path / "t.csv").write_text("\n".join(["file,label,set", *rows]))
    assert [*find(f"csv:{tmp_path / 't.csv'}").splits] == ["train", "val", "test"]


def test_accents_do_not_divide_words():
    assert words_of("Année_d'entraînement2") == ["annee", "d", "entrainement", "2"]
    assert split_in("démo_entraînement") == ("train", False)
    assert words_of("学習") == ["学習"]


STUDIO = [{"id": 1, "annotations": [{"result": []}], "data": {"image": "/upload/0.png"}}]


def test_exports_of_label_studio(root: Path):
    (root / "x.json").write_text(json.dumps(STUDIO))
    assert "Export them as CSV or as JSON-MIN" in refused(f"csv:{root / 'x.json'}")
    head = ("annotation_id", "annotator", "choice", "created_at", "id", "image", "lead_time")
    rows = [
        (number, 7, label, f"2024-01-0{number}", number + 100, f"/data/upload/{path}", 1.5)
        for number, (path, label) in enumerate(LABELS.items(), 1)
    ]
    (root / "x.json").write_text(json.dumps([dict(zip(head, row, strict=True)) for row in rows]))
    assert find(f"csv:{root / 'x.json'}").class_names == ("a", "b")


def test_findings_in_columns_are_several_labels(root: Path):
    """CheXpert's: 1 for yes, 0 for no, -1 for uncertain, nothing for not mentioned."""
    marks = [("1.0", ""), ("", "-1.0"), ("0.0", "1.0"), ("1.0", "1.0")]
    rows = [f"{p},F,{','.join(m)}" for p, m in zip(LABELS, marks, strict=True)]
    (root / "x.csv").write_text("\n".join(["Path,Sex,No Finding,Edema", *rows]))
    told = refused(f"csv:{root / 'x.csv'}")
    assert "several labels for an image: its columns 'No Finding', 'Edema' hold 1, 0, -1" in told


def test_rows_of_several_words_between_spaces(root: Path):
    rows = [f"{path} {label}{' c' * (label == 'b')}" for path, label in LABELS.items()]
    (root / "x.txt").write_text("\n".join(rows))
    assert "has 2 to 3 words in a row, between spaces" in refused(f"csv:{root / 'x.txt'}")


def test_labels_of_validation_images_far_above_them(tmp_path: Path):
    """ImageNet's from Kaggle, where an image may have several boxes."""
    top = "ILSVRC/Data/CLS-LOC"
    grown(tmp_path, [f"{top}/train/n01:2", f"{top}/train/n02:2", f"{top}/val:2", f"{top}/test:1"])
    name = f"{top}/val".replace("/", "-")
    rows = [f"{name}-0,n02 1 2 3 4 n02 5 6 7 8 ", f"{name}-1,n01 1 2 3 4 "]
    (tmp_path / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *rows]))
    assert counts(tmp_path)["val"] == {"n01": 1, "n02": 1}


def test_groups_that_have_numbers_within_their_names(tmp_path: Path):
    grown(tmp_path, "patient_004_node_4:2 patient_009_node_1:2")
    assert "they may be classes, or parts" in refused(f"folder:{tmp_path}")
    assert numbered_parts(["week 1 seedlings", "week 2 seedlings"]) == []


def test_files_of_office_programs_and_of_webdataset(tmp_path: Path):
    grown(tmp_path / "a", "ant:2 bee:2")
    (tmp_path / "a" / "ant" / "~$x.jpg").write_bytes(b"x")
    assert counts(tmp_path / "a") == {"train": {"ant": 2, "bee": 2}}
    grown(tmp_path / "b", "x:2 x/0.cls x/1.cls")
    told = refused(f"folder:{tmp_path / 'b/x'}")
    assert "Their labels may be in 0.cls, 1.cls. If they come from tar files of WebDataset" in told
    assert "jtl does not read" not in told


@pytest.mark.parametrize("form", ["{}/{}.png", "pics/{}_{}.png", "data/{}_images/x{}.png"])
def test_splits_in_the_paths_of_a_table(tmp_path: Path, form: str):
    paths = [form.format(split, n) for split in ("train", "test") for n in range(4)]
    for number, path in enumerate(paths):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(encode(flat(colour=(number, 0, 0)), "PNG"))
    rows = [f"{path},{'ab'[n % 2]}" for n, path in enumerate(paths)]
    (tmp_path / "x.csv").write_text("\n".join(["file,label", *rows]))
    told = refused(f"csv:{tmp_path / 'x.csv'}")
    assert f"are called after splits ({paths[0]}, {paths[4]}), and it has no column" in told
    found = find(f"csv:{tmp_path / 'x.csv'}", SourceOptions(split_column="none"))
    assert len(found.splits["train"]) == 8
    rows = [row for row in rows if "test" not in row]
    (tmp_path / "x.csv").write_text("\n".join(["file,label", *rows]))
    assert len(find(f"csv:{tmp_path / 'x.csv'}").splits["train"]) == 4


@pytest.mark.parametrize("head", ["xmin,ymin,xmax,ymax", "Roi.X1,Roi.Y1,Roi.X2,Roi.Y2", "bbox"])
def test_columns_of_boxes_are_named(root: Path, head: str):
    width = head.count(",") + 1
    rows = [f"{path},{label}{',1' * width}" for path, label in LABELS.items()]
    (root / "x.csv").write_text("\n".join([f"file,label,{head}", *rows]))
    told = f"The columns {', '.join(map(repr, head.split(',')))} may say a part of each image"
    assert told in " ".join(find(f"csv:{root / 'x.csv'}").notes)
