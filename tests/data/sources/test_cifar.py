"""CIFAR's pickles: what is read, and that nothing in them is run."""

from __future__ import annotations

import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jtl.common.errors import UserError
from jtl.config.data import with_scheme
from jtl.data.sources import plain_pickle
from jtl.data.sources.registry import SourceOptions, find, load
from support.data_files import cut

FINE = [f"fine {n}" for n in range(4)]
COARSE = ["rough", "smooth"]


def old_pickle(held: dict[str, Any]) -> bytes:
    """As Python 2 wrote CIFAR: protocol 2, text as bytes, arrays of numpy.core.multiarray."""
    out = [b"\x80\x02}("]
    for key, value in held.items():
        out += [_text(key.encode()), _old(value)]
    return b"".join([*out, b"u."])


def _text(data: bytes) -> bytes:
    return (
        b"U" + bytes([len(data)]) + data
        if len(data) < 256
        else b"T" + len(data).to_bytes(4, "little") + data
    )


def _int(value: int) -> bytes:
    return b"J" + value.to_bytes(4, "little", signed=True)


def _old(value: Any) -> bytes:
    if isinstance(value, np.ndarray):
        dtype = (b"cnumpy\ndtype\n(" + _text(b"u1") + _int(0) + _int(1) + b"tR(" + _int(3)
                 + _text(b"|") + b"NNN" + _int(-1) + _int(-1) + _int(0) + b"tb")  # fmt: skip
        start = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(" + _int(0) + b"t"
        shape = b"(" + b"".join(map(_int, value.shape)) + b"t"
        state = b"(" + _int(1) + shape + dtype + b"\x89" + _text(value.tobytes()) + b"tb"
        return start + _text(b"b") + b"tR" + state
    if isinstance(value, list):
        return b"](" + b"".join(map(_old, value)) + b"e"
    return _int(value) if isinstance(value, int) else _text(value.encode())


def pixels(count: int, start: int = 0) -> np.ndarray:
    """[N, 3072]: image n has n for red, n + 1 for green, n + 2 for blue, but for one pixel."""
    planes = np.arange(start, start + count)[:, None] + np.arange(3)
    images = np.repeat(planes, 1024, axis=1).astype(np.uint8)
    images[:, 33] = 255  # Red of row 1, column 1.
    return images


def cifar10(root: Path, dumps: Callable[[dict[str, Any]], bytes] = old_pickle) -> Path:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for number in range(6):
        name = f"data_batch_{number}" if number else "test_batch"
        images = pixels(4, 10 * number)
        held = {"batch_label": name, "labels": [0, 1, 1, 0], "data": images,
                "filenames": ["x.png"] * 4}  # fmt: skip
        (folder / name).write_bytes(dumps(held))
    (folder / "batches.meta").write_bytes(dumps({"label_names": ["plane", "car"]}))
    (folder / "readme.html").write_text("x")
    return folder


def cifar100(root: Path) -> Path:
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    for name in ("train", "test"):
        held = {"fine_labels": [3, 1, 0, 2], "coarse_labels": [1, 0, 0, 1], "data": pixels(4)}
        (folder / name).write_bytes(old_pickle(held))
    names = {"fine_label_names": FINE, "coarse_label_names": COARSE}
    (folder / "meta").write_bytes(old_pickle(names))
    return folder


@pytest.mark.parametrize("protocol", [None, 2, 4, 5])
def test_cifar10(tmp_path: Path, protocol: int | None):
    dumps = old_pickle if protocol is None else lambda held: pickle.dumps(held, protocol)
    folder = cifar10(tmp_path, dumps)
    assert with_scheme(str(folder)) == f"cifar:{folder}"
    assert with_scheme(str(tmp_path)) == f"cifar:{tmp_path}"
    found = find(str(tmp_path))
    train, test = found.splits["train"], found.splits["test"]
    assert found.class_names == ("plane", "car")
    assert train.labels.tolist() == [0, 1, 1, 0] * 5
    assert train.names[5] == "data_batch_2[1]"
    image = train.read(np.array([5]), None)[0]
    assert image.shape == (32, 32, 3)
    assert image[0, 0].tolist() == [21, 22, 23]
    assert image[1, 1].tolist() == [255, 22, 23]
    assert test.read(np.array([3]), None)[0, 5, 5].tolist() == [3, 4, 5]
    assert found.left_out == (("files that are no batches", ("readme.html",)),)
    assert found.labels_from == "'labels' of the batches, named by batches.meta"
    assert len(load(str(folder)).train) == 16


def test_cifar100(tmp_path: Path):
    folder = cifar100(tmp_path)
    found = find(str(folder))
    assert found.class_names == tuple(FINE)
    assert found.splits["train"].labels.tolist() == [3, 1, 0, 2]
    rough = find(str(folder), SourceOptions(label_column="coarse_labels"))
    assert rough.class_names == tuple(COARSE)
    assert rough.splits["test"].labels.tolist() == [1, 0, 0, 1]
    assert rough.fingerprint != found.fingerprint
    with pytest.raises(UserError, match=r"no such labels. Did you mean 'coarse_labels'"):
        find(str(folder), SourceOptions(label_column="coarse_label"))


def test_the_archive(tmp_path: Path):
    folder = cifar10(tmp_path / "made")
    archive = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)
    assert with_scheme(str(archive)) == f"cifar:{archive}"
    there, here = find(str(archive)), find(str(folder))
    rows = np.arange(20)
    assert (there.splits["train"].read(rows, None) == here.splits["train"].read(rows, None)).all()
    cut(archive, 0.5)
    with pytest.raises(UserError, match="is not a readable tar archive"):
        find(str(archive))


class Runs:
    """Runs something where it is unpickled."""

    def __init__(self, call: Any, *given: Any):
        self.made = call, given

    def __reduce__(self) -> Any:
        return self.made


EVIL: dict[str, Any] = {
    "a call": lambda path: pickle.dumps({"data": Runs(eval, f"open({str(path)!r}, 'w')")}),
    "a method": lambda path: pickle.dumps({"data": Runs(Path.touch, path)}),
    "the system": lambda path: f"cos\nsystem\n(S'touch {path}'\ntR.".encode(),
    "an instance": lambda path: f"(S'touch {path}'\nios\nsystem\n.".encode(),
    "a dotted name": lambda path: b"\x80\x04\x8c\x05numpy\x8c\x0efromfile.__cls\x93.",
    "NumPy's own": lambda path: f"cnumpy\nload\n(S'{path}'\ntR.".encode(),
    "a codec": lambda path: b"c_codecs\nencode\n(S'x'\nS'zip'\ntR.",
    "an extension": lambda path: b"\x80\x02\x82\x01.",
    "an object elsewhere": lambda path: b"Pabc\n.",
    "huge memo": lambda path: b"\x80\x02r\xff\xff\xff\x7f.",
    "huge text": lambda path: b"\x80\x02T\xff\xff\xff\x7fabc.",
    "objects": lambda path: pickle.dumps({"data": np.array([path], object)}, 2),
    "floats": lambda path: pickle.dumps({"data": np.zeros((2, 3072))}, 2),
    "endless": lambda path: b"\x80\x02" + b"(" * 100,
}


@pytest.mark.parametrize("kind", EVIL)
def test_nothing_is_run(tmp_path: Path, kind: str):
    data = EVIL[kind](tmp_path / "ran")
    with pytest.raises(plain_pickle.NotPlain):
        plain_pickle.load(data)
    folder = cifar10(tmp_path)
    (folder / "data_batch_3").write_bytes(data)
    with pytest.raises(UserError, match=r"data_batch_3 is none of CIFAR's files: .* no code of"):
        find(str(folder))
    assert not (tmp_path / "ran").exists()


def rewrite(folder: Path, name: str, **held: Any) -> None:
    good = {"labels": [0, 1, 1, 0], "data": pixels(4)}
    kept = {key: value for key, value in {**good, **held}.items() if value is not None}
    (folder / name).write_bytes(pickle.dumps(kept, 2))


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a batch is missing": (lambda f: (f / "data_batch_4").unlink(), "lacks data_batch_4. CIFAR-10"),
    "no test": (lambda f: (f / "test_batch").unlink(), "lacks test_batch"),
    "cut off": (
        lambda f: (f / "test_batch").write_bytes((f / "test_batch").read_bytes()[:2000]),
        "test_batch is none of CIFAR's files: it is damaged",
    ),
    "empty": (lambda f: (f / "test_batch").write_bytes(b""), "it is damaged or no pickle"),
    "a list": (lambda f: (f / "test_batch").write_bytes(pickle.dumps([1])), "it holds no dict"),
    "no names": (
        lambda f: (f / "batches.meta").write_bytes(pickle.dumps({"x": 1})),
        "no list 'label_names'",
    ),
    "no pixels": (lambda f: rewrite(f, "test_batch", data=None), "no 'data' of uint8"),
    "other sizes": (
        lambda f: rewrite(f, "test_batch", data=np.zeros((4, 768), np.uint8)),
        "no 'data' of uint8",
    ),
    "no labels": (lambda f: rewrite(f, "data_batch_1", labels=None), "no list 'labels' with"),
    "few labels": (lambda f: rewrite(f, "data_batch_1", labels=[0, 1]), "each of its 4 images"),
    "words": (lambda f: rewrite(f, "data_batch_1", labels=["a"] * 4), "a whole number for each"),
    "out of range": (lambda f: rewrite(f, "data_batch_1", labels=[0, 1, 2, 9]), "out of range"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_refused(tmp_path: Path, case: str):
    spoil, message = BAD[case]
    folder = cifar10(tmp_path)
    spoil(folder)
    with pytest.raises(UserError, match=message):
        find(str(folder))


def test_folders_of_something_else(tmp_path: Path):
    with pytest.raises(UserError, match=r"neither batches.meta nor meta"):
        find(f"cifar:{tmp_path}")
    (tmp_path / "data_batch_1.bin").write_bytes(b"x")
    with pytest.raises(UserError, match="the files for C programs"):
        find(f"cifar:{tmp_path}")
    cifar10(tmp_path)
    cifar100(tmp_path)
    with pytest.raises(UserError, match="several data sets: cifar-10-batches-py, cifar-100-python"):
        find(str(tmp_path))


def test_real_images(tmp_path: Path, shared_data: Callable[[str], Path]):
    folder = cifar10(tmp_path)
    with zipfile.ZipFile(shared_data("cifar10.zip")) as archive:
        names = sorted(name for name in archive.namelist() if name.startswith("cifar10/train/"))
        with archive.open(names[0]) as file:
            image = np.asarray(Image.open(file).convert("RGB"))
    data = np.stack([image.transpose(2, 0, 1).reshape(-1)] * 4)
    rewrite(folder, "data_batch_1", data=data)
    assert (find(str(folder)).splits["train"].read(np.array([2]), None)[0] == image).all()
