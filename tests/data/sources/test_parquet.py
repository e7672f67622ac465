"""Parquet files: the layouts that are read, and what is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jtl.common.errors import UserError
from jtl.config.data import with_scheme
from jtl.data.sources.registry import SourceOptions, load
from support.data_files import counts, cut, encode, flat, grown, opened, written


def table(
    path: Path,
    labels: Any,
    *,
    names: list[str] | None = None,
    plain: bool = False,
    data: Callable[[int], bytes | None] = lambda i: encode(flat(colour=(i, 0, 0)), "PNG"),
    column: str = "image",
) -> Path:
    encoded = [data(i) for i in range(len(labels))]
    images: Any = encoded if plain else [{"bytes": b, "path": None} for b in encoded]
    kind = pa.binary() if plain else pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    content = pa.table({column: pa.array(images, kind), "label": pa.array(labels)})
    if names is not None:
        features = {column: {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
        content = content.replace_schema_metadata(
            {"huggingface": json.dumps({"info": {"features": features}})}
        )
    pq.write_table(content, path, row_group_size=4)
    return path


def test_parquet_of_hugging_face(tmp_path: Path):
    names = ["owl", "ant", "bee"]
    table(tmp_path / "train-00000-of-00002.parquet", [0, 1, 2] * 4, names=names)
    table(tmp_path / "train-00001-of-00002.parquet", [2, 1, 0] * 4, names=names)
    table(tmp_path / "validation-00000-of-00001.parquet", [1, 1], names=names)
    table(tmp_path / "test-00000-of-00001.parquet", [-1, -1], names=names)
    for spec in (str(tmp_path), f"{tmp_path}/*.parquet", f"{tmp_path}/tr*, {tmp_path}/[vt]*"):
        data = opened(f"parquet:{spec}")
        assert data.class_names == tuple(names)
        assert data.train.labels.tolist() == [0, 1, 2] * 4 + [2, 1, 0] * 4
        reds = data.train.read(np.arange(24), None)[:, 0, 0, 0]
        assert reds.tolist() == list(range(12)) * 2
        assert data.train.names[13] == "train-00001-of-00002.parquet[1]"
        assert (data.val.labels.tolist(), data.test) == ([1, 1], None)
        assert data.train.native_size() == (4, 6)


def test_parquet_of_bytes_and_words(tmp_path: Path):
    for split, labels in (("train", ["bee", "ant"] * 2), ("test", ["ant"])):
        (tmp_path / split).mkdir()
        table(tmp_path / split / "0.parquet", labels, plain=True, column="photo")
    data = opened(f"parquet:{tmp_path}")
    assert data.class_names == ("ant", "bee")
    assert data.test is not None
    assert data.test.labels.tolist() == [0]
    labels = dict(zip(data.train.names, data.train.labels, strict=True))
    labels |= dict(zip(data.val.names, data.val.labels, strict=True))
    assert [labels[f"0.parquet[{row}]"] for row in range(4)] == [1, 0, 1, 0]


def several(root: Path, *files: tuple[str, dict[str, Any]]) -> Path:
    for name, options in files:
        table(root / name, **options)
    return root


TWO_LABELS = {"image": [b"x"], "fine": [1], "rough": [1]}
TWO = {"labels": [0, 1, 0, 1]}
BAD_PARQUET: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda root: root / "no*.parquet", "There are no Parquet files '.*no"),
    "no file": (lambda root: root, "There are no Parquet files"),
    "text": (lambda root: written(root / "x.parquet", b"text"), "not a readable Parquet file"),
    "half": (lambda root: cut(table(root / "x.parquet", [0, 1] * 9), 0.5), "not a readable Parq"),
    "no image": (
        lambda root: [pq.write_table(pa.table({"a": [1]}), root / "x.parquet"), root][1],
        r"has no column that could hold the images.* Its columns are a \(int64\)",
    ),
    "no label": (
        lambda root: [pq.write_table(pa.table({"image": [b"x"]}), root / "x.parquet"), root][1],
        "has no column that could hold the labels",
    ),
    "two labels": (
        lambda root: [pq.write_table(pa.table(TWO_LABELS), root / "x.parquet"), root][1],
        "has more than one column that could hold the labels",
    ),
    "null label": (lambda root: table(root / "x.parquet", [0, None, 1]), "without a label.* row 1"),
    "no rows": (lambda root: table(root / "x.parquet", pa.array([], pa.int64())), "has no rows"),
    "out of range": (
        lambda root: table(root / "x.parquet", [0, 1, 7], names=["x", "y"]),
        r"out of range; the classes are 0 to 1:\n  train: 1 of 3, for example 7 at row 2",
    ),
    "one class": (lambda root: table(root / "x.parquet", [0, 0]), "only 1 class, '0'"),
    "half named": (
        lambda root: several(root, ("train.parquet", TWO), ("more.parquet", TWO)),
        "Some Parquet files name a split and others do not: more.parquet",
    ),
    "test alone": (lambda root: table(root / "test.parquet", [0, 1]), "There is no train split"),
    "two splits": (lambda root: table(root / "train-test.parquet", [0, 1]), "names several splits"),
    "other classes": (
        lambda root: several(
            root,
            ("train-0.parquet", {**TWO, "names": ["x", "y"]}),
            ("train-1.parquet", {**TWO, "names": ["y", "x"]}),
        ),
        "differ in their columns or classes",
    ),
    "paths alone": (
        lambda root: table(root / "x.parquet", [0, 1, 0, 1], data=lambda i: None),
        r"4 of 4 images .*\n  x.parquet\[0\]: the row holds no image's bytes",
    ),
    "text for images": (
        lambda root: table(root / "x.parquet", [0, 1, 0, 1], data=lambda i: b"odd" * i),
        r"4 of 4 images .*\n  x.parquet\[0\]: the file is empty.*\n  x.parquet\[1\]: not an image",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_PARQUET)
def test_bad_parquet(tmp_path: Path, case: str):
    write, message = BAD_PARQUET[case]
    with pytest.raises(UserError, match=message):
        opened(f"parquet:{write(tmp_path)}")


def columns(path: Path, **values: Any) -> str:
    images = pa.array([encode(flat(colour=(i, 0, 0)), "PNG") for i in range(24)], pa.binary())
    pq.write_table(pa.table({"image": images, **values}), path / "x.parquet")
    return f"parquet:{path}"


def test_the_label_column_is_named_not_guessed(tmp_path: Path):
    flags = [i % 3 == 0 for i in range(24)]
    camera = [i % 2 for i in range(24)]
    spec = columns(tmp_path, broken=flags, camera=camera)
    with pytest.raises(UserError, match=r"more than one column .* broken \(bool\), camera"):
        load(spec)
    data = load(spec, SourceOptions(label_column="broken"))
    assert (data.class_names, data.labels_from) == (("False", "True"), "the column 'broken'")
    with pytest.raises(UserError, match=r"--label-column brokn: .* Did you mean 'broken'"):
        load(spec, SourceOptions(label_column="brokn"))
    with pytest.raises(UserError, match=r"--image-column camera: .* has int64 there, not bytes"):
        load(spec, SourceOptions(image_column="camera", label_column="broken"))
    # Beside others the usual name counts, and the only other column if it is no identifier.
    assert load(columns(tmp_path, camera=camera, Label=flags)).labels_from == "the column 'Label'"
    assert load(columns(tmp_path, species=flags)).labels_from == "the column 'species'"
    with pytest.raises(UserError, match="has no column that could hold the labels"):
        load(columns(tmp_path, patient_id=camera))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[i % 2] for i in range(24)], r"'label', are lists \(list<.*several labels for an image"),
        ([i / 8 for i in range(24)], "column 'label' are numbers such as 0.125"),
        ([f"photo {i}" for i in range(24)], "has 24 different values in 24 rows, as identifiers"),
        (pa.array([0] * 24, pa.timestamp("ms")), r"holds timestamp\[ms\]; labels are integers or"),
    ],
    ids=["lists", "floats", "identifiers", "times"],
)
def test_labels_of_other_kinds_are_refused(tmp_path: Path, values: Any, message: str):
    spec = columns(tmp_path, label=values, camera=[i % 2 for i in range(24)])
    with pytest.raises(UserError, match=message):
        load(spec)


def test_labels_of_other_kinds_that_are_classes(tmp_path: Path):
    words = pa.array(["bee", "ant"] * 12).dictionary_encode()
    assert load(columns(tmp_path, label=words)).class_names == ("ant", "bee")
    assert load(columns(tmp_path, label=[0.0, 1.0] * 12)).class_names == ("0", "1")


def test_splits_are_parts_of_names(tmp_path: Path):
    for folder, count in {"partial-train": 8, "partial-validation": 4, "partial-test": 6}.items():
        (tmp_path / folder).mkdir()
        table(tmp_path / folder / "0000.parquet", [0, 1] * (count // 2))
    data = opened(f"parquet:{tmp_path}")
    assert data.test is not None
    assert (len(data.train), len(data.val), len(data.test)) == (8, 4, 6)
    table(tmp_path / "unlabeled-0.parquet", [0, 0])
    ((what, files),) = opened(f"parquet:{tmp_path}").left_out
    assert (what, files) == (
        "files of unlabelled images", (str(tmp_path / "unlabeled-0.parquet"),)
    )  # fmt: skip


def test_parquet_larger_than_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("jtl.data.sources.parquet._MEMORY_SHARE", 1e-12)
    with pytest.raises(UserError, match=r"more than half of the .* GB of memory that are free"):
        opened(f"parquet:{table(tmp_path / 'x.parquet', [0, 1])}")


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match=r"pip install 'jtl\[parquet\]'"):
        load(f"parquet:{tmp_path}")


def test_a_clone_from_the_hub(tmp_path: Path):
    root = tmp_path / "clone"
    (root / "data").mkdir(parents=True)
    (root / ".git").mkdir()
    (root / "README.md").write_text("# Beans")
    (root / "logo.png").write_bytes(encode(flat(), "PNG"))
    table(root / "data" / "train-00000-of-00001.parquet", [0, 1] * 3)
    table(root / "data" / "test-00000-of-00001.parquet", [0, 1])
    data = load(str(root))
    assert data.spec == f"parquet:{root}"
    assert data.test is not None
    assert (len(data.train) + len(data.val), len(data.test)) == (6, 2)
    (root / "logo.png").unlink()
    with pytest.raises(UserError, match=r"clone holds no images, but data/test.*: parquet:"):
        load(f"folder:{root}")


def test_a_table_beside_class_folders_is_no_data_set(tmp_path: Path):
    table(tmp_path / "metadata.parquet", [0, 1])
    grown(tmp_path, "a:2 b:2")
    assert with_scheme(str(tmp_path)) == f"folder:{tmp_path}"
    assert counts(tmp_path) == {"train": {"a": 2, "b": 2}}


def test_several_configurations_are_not_mixed(tmp_path: Path):
    for name in ("full", "small"):
        (tmp_path / name).mkdir()
        table(tmp_path / name / "train-00000-of-00001.parquet", [0, 1] * 3)
    with pytest.raises(UserError, match=r"Several folders have a file train-00000-of"):
        load(str(tmp_path))
    assert len(load(str(tmp_path / "full")).train) == 4


def test_pointers_of_git_lfs(tmp_path: Path):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"
    written(tmp_path / "train.parquet", pointer)
    with pytest.raises(UserError, match=r"train.parquet is a pointer of Git LFS.*git lfs pull"):
        load(str(tmp_path))
    grown(tmp_path / "d", "a:2 b:2")
    written(tmp_path / "d" / "a" / "a-0.png", pointer)
    with pytest.raises(UserError, match=r"a/a-0.png: is a pointer of Git LFS.*git lfs pull"):
        opened(f"folder:{tmp_path / 'd'}")


@pytest.mark.parametrize("image", ["a/0.jfif", "a/0.jp2", "a/0", "data/train/a/0.png"])
def test_a_stray_table_beside_class_folders(tmp_path: Path, image: str):
    for path in (image, image.replace("a/0", "b/0")):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_bytes(b"image")
    (tmp_path / "meta.parquet").write_bytes(b"table")
    assert with_scheme(str(tmp_path)) == f"folder:{tmp_path}"


@pytest.mark.parametrize("other", ["LICENSE", "_SUCCESS", "SHA256SUMS"])
def test_files_without_an_ending_beside_tables(tmp_path: Path, other: str):
    for name in ("en", "de"):
        (tmp_path / name).mkdir()
        (tmp_path / name / other).write_bytes(b"text")
        (tmp_path / name / "train-0.parquet").write_bytes(b"table")
    assert with_scheme(str(tmp_path)) == f"parquet:{tmp_path}"
