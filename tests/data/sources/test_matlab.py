"""MATLAB files of images and labels: SVHN, others alike, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io

from jtl.common.errors import UserError
from jtl.config.data import with_scheme
from jtl.data.sources.registry import find, load
from support.data_files import cut

DIGITS = np.array([10, 1, 2, 10, 1, 2])


def mat(path: Path, **arrays: Any) -> Path:
    scipy.io.savemat(path, arrays)
    return path


def images(count: int = 6, channels: int = 3) -> np.ndarray:
    """[32, 32, C, N]: image n is n, its top right corner 200."""
    array = np.broadcast_to(np.arange(count, dtype=np.uint8), (32, 32, channels, count)).copy()
    array[0, -1] = 200
    return array


def test_svhn(tmp_path: Path):
    for split, count in (("train", 6), ("test", 3), ("extra", 6)):
        path = tmp_path / f"{split}_32x32.mat"
        mat(path, X=images(count), y=DIGITS[:count, None].astype(np.uint8))
    assert with_scheme(str(tmp_path)) == f"mat:{tmp_path}"
    found = find(str(tmp_path))
    assert found.class_names == ("0", "1", "2")
    assert found.splits["train"].labels.tolist() == [0, 1, 2] * 2
    image = found.splits["train"].read(np.array([4]), None)[0]
    assert (image[0, -1].tolist(), image[-1, 0].tolist()) == ([200] * 3, [4] * 3)
    assert found.splits["test"].names[2] == "test_32x32.mat[2]"
    assert "in which 10 is the digit 0" in found.labels_from
    assert "extra_32x32.mat is not used" in found.notes[0]
    assert [left.what for left in found.left_out] == ["additional images"]
    alone = str(tmp_path / "train_32x32.mat")
    assert with_scheme(alone) == f"mat:{alone}"
    assert [*find(alone).splits] == ["train"]


def test_other_names_and_axes(tmp_path: Path):
    grey = np.ascontiguousarray(images(channels=1)[:, :, 0].transpose(2, 0, 1))
    found = find(f"mat:{mat(tmp_path / 'a.mat', faces=grey, who=DIGITS, more='text')}")
    assert found.class_names == ("1", "2", "10")
    assert found.splits["train"].read(np.array([4]), None)[0, -1, 0].tolist() == [4] * 3
    colour = np.ascontiguousarray(images().transpose(3, 0, 1, 2))
    found = find(f"mat:{mat(tmp_path / 'b.mat', x=colour, y=DIGITS.astype(float))}")
    assert found.splits["train"].read(np.array([4]), None)[0, 0, -1].tolist() == [200] * 3


def test_version_7_3(tmp_path: Path):
    with h5py.File(tmp_path / "x.mat", "w", userblock_size=512) as file:
        file["X"], file["y"] = images().T, DIGITS[None].astype(float)
    found = find(f"mat:{tmp_path / 'x.mat'}")
    image = found.splits["train"].read(np.array([4]), None)[0]
    assert (image[0, -1].tolist(), image[-1, 0].tolist()) == ([200] * 3, [4] * 3)


def nan(count: int) -> np.ndarray:
    return np.full(count, np.nan)


X = images()
BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut off": (lambda path: cut(mat(path, X=X, y=DIGITS), 0.5), "not a readable MATLAB file"),
    "empty": (lambda path: path.write_bytes(b""), "not a readable MATLAB file"),
    "text": (lambda path: path.write_text("text" * 99), "not a readable MATLAB file"),
    "no HDF5": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" * 99), "not a readable MATLAB"),
    "no images": (
        lambda path: mat(path, y=DIGITS),
        r"no array that could be the images. .*y \(int",
    ),
    "floats": (lambda path: mat(path, X=X / 255, y=DIGITS), "no array that could be the images"),
    "two images": (
        lambda path: mat(path, X=X, Z=X, y=DIGITS),
        "several arrays that could be the i",
    ),
    "no labels": (
        lambda path: mat(path, X=X, a="text"),
        "no array that could be the labels of its",
    ),
    "few labels": (lambda path: mat(path, X=X, y=DIGITS[:5]), "no array that could be the labels"),
    "two labels": (
        lambda path: mat(path, X=X, y=DIGITS, z=DIGITS),
        "several arrays that could be the labels",
    ),
    "no classes": (lambda path: mat(path, X=X, y=DIGITS + 0.5), "numbers such as 10.5"),
    "no numbers": (lambda path: mat(path, X=X, y=nan(6)), "numbers such as nan"),
    "channels": (
        lambda path: mat(path, X=images(channels=7), y=DIGITS),
        r"have the shape \[32, 32, 7, 6\]",
    ),
    "one class": (lambda path: mat(path, X=X, y=DIGITS * 0 + 3), "only 1 class, '3'"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_refused(tmp_path: Path, case: str):
    make, message = BAD[case]
    make(tmp_path / "x.mat")
    with pytest.raises(UserError, match=message):
        load(f"mat:{tmp_path / 'x.mat'}")


def test_without_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UserError, match="There are no MATLAB files"):
        find(f"mat:{tmp_path}")
    monkeypatch.setattr("jtl.data.sources.matlab._MEMORY_SHARE", 1e-12)
    with pytest.raises(UserError, match="GB of memory are free"):
        find(f"mat:{mat(tmp_path / 'x.mat', X=X, y=DIGITS)}")
