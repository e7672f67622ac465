"""Several labels for each image: how tables, arrays and Parquet files say them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jtl.common.errors import UserError
from jtl.data.hold_out import hold_out
from jtl.data.multilabel import class_counts, joined
from jtl.data.sources.arrays import ArraySplit
from jtl.data.sources.in_memory import as_source
from jtl.data.sources.label_sets import sets_of
from jtl.data.sources.registry import SourceOptions, find, load
from jtl.data.splits import OpenedSource, reordered
from jtl.data.survey import survey
from support.commands import main
from support.data_files import encode, flat

SEVERAL = SourceOptions(task="multilabel")
READ = {"a": {"ant", "bee"}, "b": {"bee"}, "c": set(), "d": {"ant", "cow"}}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for value, name in enumerate("abcd"):
        (tmp_path / f"{name}.png").write_bytes(encode(flat(colour=(60 * value, 0, 0)), "PNG"))
    return tmp_path


def sets(found: OpenedSource, split: str = "train") -> dict[str, set[str]]:
    """{stem of an image: its classes}."""
    images = found.splits[split]
    assert images.labels.dtype == np.uint8
    assert images.labels.shape == (len(images), len(found.class_names))
    names = np.array(found.class_names)
    return {
        Path(name).stem: {*names[row > 0].tolist()}
        for name, row in zip(images.names, images.labels, strict=True)
    }


def cells(divider: str) -> str:
    return "".join(f"{name}.png,{divider.join(sorted(READ[name]))}\n" for name in "abcd")


TABLES = {
    "pipes": ("image,label\n" + cells("|"), {}),
    "semicolons": ("image,tags\n" + cells(";"), {}),
    "quoted commas": (
        'image,label\na.png,"ant, bee"\nb.png,bee\nc.png,\nd.png,"cow,ant"\n', {},
    ),
    "spaces": ("image,tags\n" + cells(" "), {"label_delimiter": " "}),
    "slashes": ("image,tags\n" + cells("/"), {"label_delimiter": "/"}),
    "missing": ("image,label\n" + cells("|").replace("c.png,", "c.png,NaN"), {}),
    "a list in a cell": (
        "image,label\na.png,\"['ant', 'bee']\"\nb.png,['bee']\nc.png,[]\n"
        "d.png,\"['cow', 'ant']\"\n",
        {},
    ),
    "columns": ("image,ant,bee,cow\na.png,1,1,0\nb.png,0,1,0\nc.png,0,0,0\nd.png,1.0,0,1\n", {}),
    "a row for each label": (
        "image,label\na.png,ant\na.png,bee\nb.png,bee\nc.png,\nd.png,cow\nd.png,ant\n", {},
    ),
    "said twice": ("image,label\n" + cells("|").replace("ant|bee", "bee|ant| bee |"), {}),
}  # fmt: skip


@pytest.mark.parametrize("form", TABLES)
def test_tables(root: Path, form: str):
    text, options = TABLES[form]
    (root / "labels.csv").write_text(text)
    found = find(f"csv:{root / 'labels.csv'}", SourceOptions(task="multilabel", **options))
    assert found.class_names == ("ant", "bee", "cow")
    assert sets(found) == READ
    assert not found.problems


def test_lists_of_json(root: Path):
    rows = [{"file_name": f"{name}.png", "labels": sorted(READ[name])} for name in "abcd"]
    (root / "labels.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert sets(find(f"csv:{root / 'labels.jsonl'}", SEVERAL)) == READ


def test_numbers_as_pandas_writes_them(root: Path):
    (root / "t.csv").write_text("image,label\na.png,1.0|2.0\nb.png,2.0\nc.png,\nd.png,10.0\n")
    found = find(f"csv:{root / 't.csv'}", SEVERAL)
    assert found.class_names == ("1", "10", "2")


def test_a_separator_within_names_does_not_divide(root: Path):
    (root / "t.csv").write_text(
        'image,label\na.png,"crane, Grus|owl"\nb.png,owl\nc.png,"crane, Grus"\nd.png,owl\n'
    )
    assert find(f"csv:{root / 't.csv'}", SEVERAL).class_names == ("crane, Grus", "owl")


def test_unlabelled_test_rows_are_not_used(root: Path):
    text = "image,label,split\na.png,ant|bee,train\nb.png,bee,train\nc.png,,test\nd.png,,test\n"
    (root / "t.csv").write_text(text)
    found = find(f"csv:{root / 't.csv'}", SEVERAL)
    assert {*found.splits} == {"train"}
    assert "not used for testing" in found.notes[0]


def test_the_labels_are_part_of_the_fingerprint(root: Path):
    (root / "t.csv").write_text(TABLES["pipes"][0])
    before = find(f"csv:{root / 't.csv'}", SEVERAL).fingerprint
    (root / "t.csv").write_text(TABLES["pipes"][0].replace("ant|bee", "ant"))
    assert find(f"csv:{root / 't.csv'}", SEVERAL).fingerprint != before


REFUSED = {
    "one label each": ("image,label\na.png,ant\nb.png,bee\n", {}, "no image of .* several labels"),
    "spaces": ("image,tags\na.png,ant bee\nb.png,bee\n", {}, "--label-delimiter ' '"),
    "two dividers": (
        "image,label\na.png,ant|bee\nb.png,ant;bee\nc.png,bee;ant\nd.png,ant\nd.png,bee\n",
        {}, r"labels may be divided by '\|', ';'",
    ),
    "no labels": ("image,label\na.png,\nb.png,\n", {}, "is empty: there are no labels"),
    "only zeros": ("image,p,q\na.png,0,0\nb.png,0,0\n", {}, "no row has a 1"),
    "a delimiter of columns": (
        "image,p,q\na.png,1,0\nb.png,0,1\n", {"label_delimiter": "|"}, "are columns of 0 and 1",
    ),
    "a delimiter without the task": (
        "image,label\na.png,ant|bee\n", {"label_delimiter": "|", "task": "auto"},
        "no effect without --task multilabel",
    ),
    "a delimiter of nothing": ("image,label\na.png,x\n", {"label_delimiter": ""}, "not be empty"),
    "several splits": (
        "image,label,split\na.png,ant,train\na.png,bee,test\nb.png,ant|bee,train\n", {},
        "different splits in several rows",
    ),
    "one class": ("image,label\na.png,ant\nb.png,ant\n", {"label_delimiter": "|"}, "only 1 class"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_tables(root: Path, case: str):
    text, options, message = REFUSED[case]
    (root / "t.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        load(f"csv:{root / 't.csv'}", SourceOptions(**{"task": "multilabel", **options}))


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_images_to_evaluate_may_have_one_label_each(root: Path, form: str):
    (root / "t.csv").write_text("image,label\na.png,ant\nb.png,bee\nc.png,\n")
    source = f"csv:{root / 't.csv'}"
    if form == "parquet":
        image = {"bytes": (root / "a.png").read_bytes(), "path": "a.png"}
        columns = {"image": [image] * 3, "label": ["ant", "bee", None]}
        pq.write_table(pa.table(columns), root / "t.parquet")
        source = f"parquet:{root / 't.parquet'}"
    found = load(source, SEVERAL, whole=True)
    assert found.class_names == ("ant", "bee")
    np.testing.assert_array_equal(found.val.labels, [[1, 0], [0, 1], [0, 0]])
    with pytest.raises(UserError, match=r"no image of .* several labels.*say --label-delimiter"):
        load(source, SEVERAL)


def test_classes_in_one_cell_are_read_as_they_were_written():
    rows = [("ant", "bee"), ("a|b", "c"), ("[x]",), ("a|b",), (), ("[x]", 'ü"')]
    cells = [joined(row) for row in rows]
    assert cells[:2] == ["ant|bee", '["a|b", "c"]']
    assert sets_of(cells, "here", None, lambda _: False) == [tuple(sorted(row)) for row in rows]


def test_a_check_counts_images_not_labels(root: Path, capsys):
    (root / "t.csv").write_text(TABLES["pipes"][0])
    assert main("data", "check", f"csv:{root / 't.csv'}", "--task", "multilabel") in (0, 1)
    told = capsys.readouterr().out
    assert "t.csv: 4 images, 3 classes" in told
    [total] = [line for line in told.splitlines() if line.startswith("all classes")]
    assert total.split()[-1] == "4"


SINGLE = {
    "cells": "image,label\na.png,ant|bee\nb.png,bee\n",
    "columns": "image,p,q\na.png,1,1\nb.png,0,1\n",
    "no column": "image,p,q\na.png,0,0\nb.png,0,1\n",
    "rows": "image,label\na.png,ant\na.png,bee\nb.png,bee\n",
}


@pytest.mark.parametrize("case", SINGLE)
def test_what_is_no_single_label_names_the_task(root: Path, case: str):
    (root / "t.csv").write_text(SINGLE[case])
    with pytest.raises(UserError, match="--task multilabel"):
        find(f"csv:{root / 't.csv'}")


def arrays(path: Path, labels: Any, **more: Any) -> str:
    images = np.zeros((len(labels), 4, 4), np.uint8)
    np.savez(path, x_train=images, y_train=labels, **more)
    return f"npz:{path}"


@pytest.mark.parametrize("dtype", [np.uint8, bool, np.float32, np.int64])
def test_arrays(tmp_path: Path, dtype: Any):
    labels = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]])
    secret = {"x_test": np.zeros((2, 4, 4), np.uint8), "y_test": np.full((2, 3), -1)}
    found = find(arrays(tmp_path / "x.npz", labels.astype(dtype), **secret), SEVERAL)
    np.testing.assert_array_equal(found.splits["train"].labels, labels)
    assert found.splits["train"].labels.dtype == np.uint8
    assert found.class_names == ("0", "1", "2")
    assert {*found.splits} == {"train"}
    assert "has no labels" in found.notes[0]


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        (np.array([0, 1, 2]), None, r"must be 0 or 1, \[N, K\]"),
        (np.array([[0, 2], [1, 0], [1, 1]]), None, "1 of 3 rows are not, the first being row 0"),
        (np.array([[0.5, 0], [1, 0], [1, 1]]), None, "must be 0 or 1"),
        (np.array([[0, 1], [1, 0], [1, 1]]), ["a", "b", "c"], "different numbers of classes"),
        (np.array([["a", "b"]] * 3), None, r"must be 0 or 1, \[N, K\]"),
    ],
)
def test_refused_arrays(tmp_path: Path, labels: np.ndarray, names: Any, message: str):
    more = {} if names is None else {"class_names": np.array(names)}
    with pytest.raises(UserError, match=message):
        find(arrays(tmp_path / "x.npz", labels, **more), SEVERAL)


PARQUET: dict[str, Any] = {
    "names": [["ant", "bee"], ["bee"], [], ["cow", "ant"]],
    "none": [["ant", "bee"], ["bee"], None, ["cow", "ant"]],
    "numbers": [[0, 1], [1], [], [2, 0]],
    "flags": [[1, 1, 0], [0, 1, 0], [0, 0, 0], [1, 0, 1]],
    "text": ["ant|bee", "bee", None, "cow|ant"],
}


@pytest.mark.parametrize("form", PARQUET)
def test_parquet(tmp_path: Path, form: str):
    images = [encode(flat(colour=(60 * i, 0, 0)), "PNG") for i in range(4)]
    content = pa.table({"image": images, "label": PARQUET[form]})
    named = form in ("numbers", "flags")
    if named:
        feature = {"_type": "ClassLabel", "names": ["ant", "bee", "cow"]}
        features = {"label": {"_type": "List", "feature": feature}}
        metadata = json.dumps({"info": {"features": features}})
        content = content.replace_schema_metadata({"huggingface": metadata})
    pq.write_table(content, tmp_path / "train.parquet")
    found = find(f"parquet:{tmp_path / 'train.parquet'}", SEVERAL)
    assert found.class_names == ("ant", "bee", "cow")
    names = np.array(found.class_names)
    read = [{*names[row > 0].tolist()} for row in found.splits["train"].labels]
    assert read == list(READ.values())


def test_parquet_without_such_a_class(tmp_path: Path):
    feature = {"_type": "ClassLabel", "names": ["ant", "bee"]}
    metadata = json.dumps({"info": {"features": {"label": {"feature": feature}}}})
    content = pa.table({"image": [b"x"] * 2, "label": [[0, 2], [1]]})
    pq.write_table(
        content.replace_schema_metadata({"huggingface": metadata}), tmp_path / "x.parquet"
    )
    with pytest.raises(UserError, match="out of range; the classes are 0 to 1, but 1 labels"):
        find(f"parquet:{tmp_path / 'x.parquet'}", SEVERAL)


def drawn(count: int, seed: int) -> ArraySplit:
    random = np.random.default_rng(seed)
    labels = (random.random((count, 6)) < [0.02, 0.05, 0.1, 0.3, 0.5, 0.8]).astype(np.uint8)
    images = np.zeros((count, 2, 2, 1), np.uint8)
    return ArraySplit("x", images, labels, [f"{row:04d}" for row in range(count)])


@pytest.mark.parametrize("grouped", [False, True])
def test_held_out_images_have_their_share_of_every_class(grouped: bool):
    split = drawn(300, 1)
    groups = {name: name[:3] for name in split.names} if grouped else None
    train, val, note = hold_out(split, 0, 0.2, groups)
    assert "stratified" in note
    assert not {*train.names} & {*val.names}
    assert len(train) + len(val) == 300
    total, held = (class_counts(part.labels, 6) for part in (split, val))
    assert (held > 0).all()
    assert (held < total).all()
    np.testing.assert_allclose(held / total, 0.2, atol=0.12)
    assert abs(len(val) / 300 - 0.2) < 0.05
    if groups:
        assert not {groups[name] for name in train.names} & {groups[name] for name in val.names}


def test_the_only_image_of_a_class_stays_in_train():
    labels = np.array([[1, 0], [0, 1], [0, 1], [0, 1]], np.uint8)
    split = ArraySplit("x", np.zeros((4, 2, 2, 1), np.uint8), labels, list("abcd"))
    train, val, _ = hold_out(split, 0, 0.5)
    assert "a" in train.names
    assert len(val) == 2


def test_arrays_in_memory(root: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("JTL_CACHE", str(tmp_path / "cache"))
    images, labels = np.zeros((3, 4, 4), np.uint8), np.array([[1, 0], [0, 0], [1, 1]])
    spec = as_source((images, labels))
    np.testing.assert_array_equal(find(spec, SEVERAL).splits["train"].labels, labels)
    with pytest.raises(UserError, match="--task multilabel"):
        find(spec)
    with pytest.raises(UserError, match="write a table of them"):
        as_source(([root / f"{name}.png" for name in "abc"], labels))


def test_classes_in_another_order(tmp_path: Path):
    labels = np.array([[1, 0], [0, 0], [1, 1]])
    found = find(arrays(tmp_path / "x.npz", labels, class_names=np.array(["ant", "bee"])), SEVERAL)
    other = reordered(found, ("bee", "cow", "ant"))
    assert sets(other) == sets(found)
    assert other.splits["train"].labels.shape == (3, 3)


def test_check_counts_every_class(root: Path, tmp_path: Path, capsys):
    (root / "t.csv").write_text(TABLES["pipes"][0])
    options = ["--task", "multilabel", "--montage", tmp_path / "m.png"]
    assert main("data", "check", f"csv:{root / 't.csv'}", *options) == 0
    told = capsys.readouterr().out
    assert "ant (2), bee (2), cow (1)" in told
    assert "a.png = ant|bee" in told
    assert "c.png = none" in told
    found = find(f"csv:{root / 't.csv'}", SEVERAL)
    assert survey("x", found, lambda n: None).counts == {"train": [2, 2, 1]}
