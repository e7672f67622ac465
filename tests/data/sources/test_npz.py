"""NumPy archives: the layouts that are read, and what is refused."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jtl.common.errors import UserError
from support.data_files import cut, flipped, opened, written

X = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8)
Y = np.arange(12) % 3


def save(path: Path, **arrays: Any) -> str:
    np.savez(path, **arrays)
    return f"npz:{path}"


GOOD_ARRAYS: dict[str, dict[str, Any]] = {
    "Keras": {"x_train": X, "y_train": Y, "x_test": X[:5], "y_test": Y[:5]},
    "MedMNIST": {"train_images": X, "train_labels": Y[:, None], "val_images": X, "val_labels": Y},
    "one": {"images": X, "labels": Y.astype(np.uint8), "class_names": np.array(["x", "y", "z"])},
    "grey": {"x_train": X[..., 0], "y_train": Y},
    "grey with an axis": {"x_train": X[..., :1], "y_train": Y},
    "names as bytes": {"x": X, "y": Y, "class_names": np.array([b"x", b"y", b"z"])},
    "other arrays": {"x": X, "y": Y, "weights": X},
    "secret test labels": {"x_train": X, "y_train": Y, "x_test": X, "y_test": 0 * Y - 1},
}


@pytest.mark.parametrize("case", GOOD_ARRAYS)
def test_good_arrays(tmp_path: Path, case: str):
    arrays = GOOD_ARRAYS[case]
    data = opened(save(tmp_path / "x.npz", **arrays))
    assert data.class_names == (tuple("xyz") if "class_names" in arrays else tuple("012"))
    assert (len(data.test) if data.test else 0) == (5 if case == "Keras" else 0)
    assert len(data.val) == (12 if case == "MedMNIST" else 3)
    assert data.train.native_size() == (8, 8)
    images = next(v for k, v in arrays.items() if "x" in k.split("_") or "images" in k)
    images = np.broadcast_to(images if images.ndim == 4 else images[..., None], X.shape)
    for split in {data.train, data.val} if case != "MedMNIST" else {data.train}:
        rows = [int(name.split("[")[1][:-1]) for name in split.names]
        np.testing.assert_array_equal(split.read(np.arange(len(split)), None), images[rows])
        np.testing.assert_array_equal(split.labels, Y[rows])
    told = {"other arrays": "not used: weights", "secret test labels": "has no labels"}
    assert told.get(case, "") in " ".join(data.notes)
    assert data.fingerprint == opened(save(tmp_path / "y.npz", **arrays)).fingerprint
    assert data.fingerprint != opened(save(tmp_path / "z.npz", images=X + 1, labels=Y)).fingerprint


KINDS_OF_LABELS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "float": (Y / 1, ("0", "1", "2")),
    "bool": (Y > 0, ("False", "True")),
    "words": (np.array(["owl", "ant", "bee"])[Y], ("ant", "bee", "owl")),
    "bytes": (np.array([b"owl", b"ant", b"bee"])[Y], ("ant", "bee", "owl")),
}


@pytest.mark.parametrize("kind", KINDS_OF_LABELS)
def test_kinds_of_labels(tmp_path: Path, kind: str):
    labels, class_names = KINDS_OF_LABELS[kind]
    data = opened(save(tmp_path / "x.npz", x=X, y=labels))
    assert data.class_names == class_names
    row = int(data.train.names[0].split("[")[1][:-1])
    value = labels[row].decode() if kind == "bytes" else labels[row]
    assert class_names[data.train.labels[0]] == (f"{value:g}" if kind == "float" else str(value))


BAD_ARRAYS: dict[str, tuple[dict[str, Any], str]] = {
    "float": ({"x": X / 255, "y": Y}, r"x is float64; images must be uint8.*\(x \* 255\)"),
    "int64": ({"x": X.astype(int), "y": Y}, "x is int64; images must be uint8"),
    "objects": ({"x": np.array([X, None], object), "y": Y}, "x is object; images must be uint8"),
    "object labels": ({"x": X, "y": Y.astype(object)}, "y is object; labels must be integers"),
    "one image": ({"x": X[0], "y": Y}, "x has 8 images, y 12 labels"),
    "rank 2": (
        {"x": X.reshape(12, -1), "y": Y},
        r"shape \[12, 192\]; images must be \[N, H, W\]",
    ),
    "rank 5": ({"x": X[None], "y": Y[:1]}, r"images must be \[N, H, W\]"),
    "scalar": ({"x": np.uint8(3), "y": Y}, r"x has the shape \[\]; images must be"),
    "channels first": ({"x": X.transpose(0, 3, 1, 2), "y": Y}, r"channels come last: x.transpose"),
    "alpha": ({"x": np.concatenate([X, X], -1)[..., :4], "y": Y}, r"shape \[12, 8, 8, 4\]"),
    "no images": ({"x": X[:0], "y": Y[:0]}, "there is no image in it"),
    "float labels": (
        {"x": X, "y": Y / 4},
        r"array y are numbers such as 0.25 \(row 1\), no classes: .* no regression",
    ),
    "labels with gaps": ({"x": X, "y": np.where(Y, Y, np.nan)}, r"such as nan \(row 0\)"),
    "empty words": ({"x": X, "y": np.array(["", "a", "b"] * 4)}, "Row 0 of .* has an empty label"),
    "several labels": (
        {"x": X, "y": np.ones((12, 14), int)},
        r"shape \[12, 14\]; labels must be \[N\].*several labels for an image: --task multilabel",
    ),
    "one-hot": ({"x": X, "y": np.eye(3, dtype=int)[Y]}, r"shape \[12, 3\]; labels must be \[N\]"),
    "lengths": ({"x": X, "y": Y[:9]}, "x has 12 images, y 9 labels"),
    "no labels": ({"x": X}, "has x, but no labels for it. Expected x_train and y_train"),
    "labels alone": ({"y": Y}, "has y, but no images for it"),
    "other names": ({"a": X, "b": Y}, "no images and labels to train on. It has: a, b. Expected"),
    "test alone": ({"x_test": X, "y_test": Y}, "no images and labels to train on"),
    "two of one": ({"x": X, "images": X, "y": Y}, "several arrays for one thing: x, images"),
    "from 1": ({"x": X, "y": Y + 1}, "must count from 0 to K - 1 .* 3 different ones from 1 to 3"),
    "gap": ({"x": X, "y": Y * 2}, "must count from 0 to K - 1"),
    "negative": ({"x": X, "y": Y - 1}, "must count from 0 to K - 1"),
    "beyond names": (
        {"x": X, "y": Y, "class_names": np.array(["x", "y"])},
        r"out of range; the classes are 0 to 1:\n  train: 4 of 12, for example 2 at row 2",
    ),
    "beyond train": (
        {"x": X, "y": Y, "x_val": X, "y_val": Y + 1},
        r"out of range; train has labels 0 to 2:\n  val: 4 of 12, for example 3 at row 2",
    ),
    "class of val alone": (
        {"x": X, "y": Y % 2, "x_val": X, "y_val": Y, "class_names": np.array(list("xyz"))},
        "val split of .* has classes that train does not have: z. The classes of train are x, y",
    ),
    "one class": ({"x": X, "y": Y * 0}, "training images of only 1 class, '0'"),
    "names twice": ({"x": X, "y": Y, "class_names": np.array(list("xyx"))}, "have one name: x"),
    "names as objects": (
        {"x": X, "y": Y, "class_names": np.array(list("xyz"), object)},
        r"not a readable \.npz file \(Object arrays cannot be loaded.*without Python objects",
    ),
    "names of numbers": (
        {"x": X, "y": Y, "class_names": Y},
        "must be a vector of strings, not int",
    ),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_bad_arrays(tmp_path: Path, case: str):
    arrays, message = BAD_ARRAYS[case]
    with pytest.raises(UserError, match=message):
        opened(save(tmp_path / "x.npz", **arrays))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, r"There is no file .*x\.npz"),
        (lambda path: path.mkdir(), r"x\.npz is a folder, not a \.npz file"),
        (lambda path: path.write_bytes(b""), "not a readable .npz file"),
        (lambda path: path.write_bytes(b"\x93NUMPY" + bytes(99)), "not a readable .npz file"),
        (lambda path: cut(written(path, zipped_array()), 0.5), "not a readable .npz file"),
        (lambda path: flipped(written(path, zipped_array()), 0.4), "not a readable .npz file"),
    ],
    ids=["missing", "folder", "empty", "npy", "half", "damaged"],
)
def test_bad_npz_files(tmp_path: Path, write: Callable[[Path], Any], message: str):
    write(tmp_path / "x.npz")
    with pytest.raises(UserError, match=message):
        opened(f"npz:{tmp_path / 'x.npz'}")


def zipped_array() -> bytes:
    buffer = io.BytesIO()
    np.savez(
        buffer, x=np.random.default_rng(0).integers(0, 9, (99, 8, 8), np.uint8), y=np.arange(99) % 3
    )
    return buffer.getvalue()
