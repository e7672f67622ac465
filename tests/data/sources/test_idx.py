"""MNIST's files, compressed or not, EMNIST's turned images, and what is refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from jtl.common.errors import UserError
from jtl.config.data import with_scheme
from jtl.data.sources.registry import find, load

IMAGES = np.zeros((6, 5, 4), np.uint8)
IMAGES[:, 0, -1] = 200
IMAGES[:, -1, 0] = range(6)
LABELS = np.array([7, 2, 1, 7, 2, 1], np.uint8)


def encoded(array: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def written(root: Path, form: str = "{split}-{what}-idx{d}-ubyte", packed: bool = False) -> Path:
    root.mkdir(exist_ok=True)
    for split, count in (("train", 6), ("t10k", 3)):
        for what, array in (("images", IMAGES[:count]), ("labels", LABELS[:count])):
            data = encoded(array)
            name = form.format(split=split, what=what, d=array.ndim)
            (root / name).write_bytes(gzip.compress(data) if packed else data)
    return root


def refused(spec: Path | str) -> str:
    with pytest.raises(UserError) as caught:
        find(str(spec))
    return str(caught.value)


FORMS = [
    ("{split}-{what}-idx{d}-ubyte", False),
    ("{split}-{what}-idx{d}-ubyte.gz", True),
    ("{split}-{what}.idx{d}-ubyte", False),
    ("kuzushiji-{split}-{what}-idx{d}-ubyte.gz", True),
]


@pytest.mark.parametrize(("form", "packed"), FORMS)
def test_mnist(tmp_path: Path, form: str, packed: bool):
    (written(tmp_path, form, packed) / "readme.txt").write_text("x")
    assert with_scheme(str(tmp_path)) == f"idx:{tmp_path}"
    found = find(str(tmp_path))
    assert found.class_names == ("1", "2", "7")
    assert {name: split.labels.tolist() for name, split in found.splits.items()} == {
        "train": [2, 1, 0] * 2, "test": [2, 1, 0],
    }  # fmt: skip
    image = found.splits["train"].read(np.array([4]), None)[0]
    assert image.shape == (5, 4, 3)
    assert (image[0, -1].tolist(), image[-1, 0].tolist()) == ([200] * 3, [4] * 3)
    assert [left.names for left in found.left_out] == [("readme.txt",)]
    assert not found.problems
    # As torchvision downloads them.
    (tmp_path / "MNIST").mkdir()
    written(tmp_path / "MNIST" / "raw", form, packed)
    assert find(str(tmp_path / "MNIST")).class_names == found.class_names


def test_packed_files_next_to_what_they_hold_count_once(tmp_path: Path):
    written(written(tmp_path), "{split}-{what}-idx{d}-ubyte.gz", packed=True)
    assert len(find(str(tmp_path)).splits["train"]) == 6


def test_the_sets_of_emnist(tmp_path: Path):
    for name in ("digits", "letters"):
        written(tmp_path, f"emnist-{name}-{{split}}-{{what}}-idx{{d}}-ubyte")
    told = refused(tmp_path)
    assert f"emnist-digits, emnist-letters. Give one of them: idx:{tmp_path}/emnist-" in told
    found = find(f"idx:{tmp_path}/emnist-digits")
    assert "turned upright" in found.notes[0]
    image = found.splits["train"].read(np.array([4]), None)[0]
    assert (image[0, -1].tolist(), image[-1, 0].tolist()) == ([4] * 3, [200] * 3)


TRAIN, TEST = "train-{}-ubyte", "t10k-{}-ubyte"
IMAGE_FILE, LABEL_FILE = TRAIN.format("images-idx3"), TRAIN.format("labels-idx1")
FLOATS = bytes([0, 0, 13, 3]) + encoded(IMAGES)[4:]
DAMAGED: dict[str, tuple[str, bytes | None, str]] = {
    "no labels": (LABEL_FILE, None, "lacks the train labels"),
    "no images": (IMAGE_FILE, None, "lacks the train images"),
    "no test labels": (TEST.format("labels-idx1"), None, "lacks the test labels"),
    "half a file": (IMAGE_FILE, encoded(IMAGES)[:-1], "[6, 5, 4] bytes, and holds 119: it is dam"),
    "more than its size": (IMAGE_FILE, encoded(IMAGES) + b"x", "and holds 121: it is damaged"),
    "text": (IMAGE_FILE, b"nothing", "is no IDX file of bytes with 3"),
    "a page of a web server": (
        LABEL_FILE,
        b"<!DOCTYPE html>" * 9,
        "is no IDX file of bytes with 1",
    ),
    "an empty file": (LABEL_FILE, b"", "is no IDX file of bytes with 1"),
    "half a head": (IMAGE_FILE, encoded(IMAGES)[:10], "is no IDX file of bytes with 3"),
    "floats": (IMAGE_FILE, FLOATS, "is no IDX file of bytes with 3"),
    "labels for images": (IMAGE_FILE, encoded(LABELS), "is no IDX file of bytes with 3"),
    "images for labels": (LABEL_FILE, encoded(IMAGES), "is no IDX file of bytes with 1"),
    "other labels": (LABEL_FILE, encoded(LABELS[:4]), "holds 6 images, and"),
    "no image": (IMAGE_FILE, encoded(IMAGES[:0]), "[0, 5, 4] bytes, and holds 0"),
    "one class": (LABEL_FILE, encoded(LABELS * 0 + 7), "only 1 class, '7'"),
    "half a gzip": (IMAGE_FILE, gzip.compress(encoded(IMAGES))[:-9], "is damaged ("),
    "a gzip of text": (IMAGE_FILE, gzip.compress(b"nothing"), "is no IDX file of bytes with 3"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damage(tmp_path: Path, case: str):
    name, data, told = DAMAGED[case]
    file = written(tmp_path) / name
    file.unlink() if data is None else file.write_bytes(data)
    if case == "one class":
        (tmp_path / TEST.format("images-idx3")).unlink()
        (tmp_path / TEST.format("labels-idx1")).unlink()
    with pytest.raises(UserError) as caught:
        load(f"idx:{tmp_path}")
    assert told in str(caught.value)


def test_places_without_files(tmp_path: Path):
    (tmp_path / "x.txt").write_text("x")
    assert "holds none of MNIST's files" in refused(f"idx:{tmp_path}")
    assert "There is no folder" in refused(f"idx:{tmp_path}/none/x")


def test_one_file_alone(tmp_path: Path):
    written(tmp_path)
    assert "lacks the train labels" in refused(tmp_path / "train-images-idx3-ubyte")
