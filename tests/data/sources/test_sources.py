"""Data sets by name: digits, folders and archives of class folders."""

from __future__ import annotations

import os
import re
import sys
import unicodedata
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jtl.common.errors import UserError
from jtl.data.decoding import HostTransform
from jtl.data.sources import archives, stores
from jtl.data.sources.arrays import ArraySplit
from jtl.data.sources.registry import Dataset, find, load
from jtl.data.splits import reordered
from support.paths import SHARED_DATA


def shared(name: str) -> str:
    if not (SHARED_DATA / name).exists():
        pytest.skip(f"{name} is not in ../shared/data")
    return f"folder:{SHARED_DATA / name}"


def image(path: Path, value: int = 0, size: tuple[int, int] = (6, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 0, 0)).save(path)


def class_folders(root: Path, **counts: int) -> Path:
    """`class_folders(root / "train", ants=3)` writes three images of ants."""
    for value, (name, count) in enumerate(counts.items()):
        for index in range(count):
            image(root / name / f"{index:02}.png", value=10 * value + index)
    return root


def zipped(root: Path, prefix: str = "") -> Path:
    path = root.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*")):
            if file.is_file():
                archive.write(file, prefix + file.relative_to(root).as_posix())
    return path


def open_folder(path: Path, **options) -> Dataset:
    return load(f"folder:{path}", **options)


# digits


def test_digits():
    from sklearn.datasets import load_digits

    data = load("digits")
    assert data.spec == "digits"
    assert data.class_names == tuple("0123456789")
    assert (len(data.train), len(data.val), data.test) == (1438, 359, None)
    assert data.notes == (
        "No validation split found: held out 359 of 1,797 training images (20 %, stratified, "
        "seed 0).",
    )
    assert data.train.native_size() == (8, 8)
    assert data.train.check() == []
    source: Any = load_digits()
    for split in (data.train, data.val):
        pixels = split.read(np.arange(len(split)), None)
        assert (pixels.shape, pixels.dtype) == ((len(split), 8, 8, 3), np.uint8)
        assert split.labels.dtype == np.int32
        origin = np.array([int(name) for name in split.names])
        np.testing.assert_array_equal(split.labels, source.target[origin])
        expected = np.vectorize(lambda value: round(value * 255 / 16))(source.images[origin])
        for channel in range(3):
            np.testing.assert_array_equal(pixels[..., channel], expected)
    assert sorted(int(n) for n in (*data.train.names, *data.val.names)) == list(range(1797))


def test_digits_resized_equal_the_transform():
    split = load("digits").val
    transform = HostTransform(16, 0.875, "bicubic")
    native = split.read(np.array([5, 3]), None)
    resized = split.read(np.array([5, 3]), transform)
    np.testing.assert_array_equal(resized, [transform(Image.fromarray(p)) for p in native])


def test_digits_without_scikit_learn(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UserError, match=re.escape("Install it with: pip install 'jtl[demo]'")):
        load("digits")


def test_fingerprint_of_digits_is_stable():
    data = load("digits")
    assert re.fullmatch("[0-9a-f]{64}", data.fingerprint)
    assert load("digits", seed=1, val_fraction=0.5).fingerprint == data.fingerprint


def test_reading_does_not_hand_out_the_data_itself():
    split = load("digits").val
    before = split.read(np.arange(3), None)
    split.read(np.arange(3), None)[:] = 77
    np.testing.assert_array_equal(split.read(np.arange(3), None), before)
    assert split.read(np.array([], np.int64), None).shape == (0, 8, 8, 3)


# holding out


def test_held_out_part_is_stratified_seeded_and_disjoint(tmp_path: Path):
    class_folders(tmp_path, a=10, b=5, c=2, d=1)
    data = open_folder(tmp_path)
    assert np.bincount(data.train.labels).tolist() == [8, 4, 1, 1]
    assert np.bincount(data.val.labels, minlength=4).tolist() == [2, 1, 1, 0]
    assert not set(data.train.names) & set(data.val.names)
    assert len({*data.train.names, *data.val.names}) == 18
    assert data.notes == (
        "No validation split found: held out 4 of 18 training images (20 %, stratified, seed 0).",
        "1 of 4 classes has no validation images: d.",
    )
    for split in (data.train, data.val):
        folders = [name.split("/")[0] for name in split.names]
        assert folders == [data.class_names[label] for label in split.labels]
        values = split.read(np.arange(len(split)), None)[:, 0, 0, 0]
        assert values.tolist() == [
            10 * label + int(name[2:4])
            for label, name in zip(split.labels.tolist(), split.names, strict=True)
        ]


def test_seed_and_fraction_choose_what_is_held_out(tmp_path: Path):
    class_folders(tmp_path, a=40, b=40)
    names = [open_folder(tmp_path, seed=seed).val.names for seed in (0, 0, 1)]
    assert names[0] == names[1] != names[2]
    half = open_folder(tmp_path, val_fraction=0.5)
    assert np.bincount(half.val.labels).tolist() == [20, 20]
    assert "(50 %, stratified, seed 0)" in half.notes[0]
    most = open_folder(tmp_path, val_fraction=0.999)
    assert np.bincount(most.train.labels).tolist() == [1, 1]


def test_nothing_to_hold_out(tmp_path: Path):
    class_folders(tmp_path, a=1, b=1)
    with pytest.raises(UserError, match=r"every class has a single image.*or a validation split"):
        open_folder(tmp_path)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_impossible_fraction(fraction: float):
    with pytest.raises(UserError, match=r"val_fraction .* give a share between 0 and 1"):
        load("digits", val_fraction=fraction)


def test_impossible_seed():
    with pytest.raises(UserError, match="Seed -1 is not possible"):
        load("digits", seed=-1)


def test_classes_in_another_order(tmp_path: Path):
    found = find(f"folder:{class_folders(tmp_path, a=1, b=2, c=3)}")
    other = reordered(found, ("c", "a", "b"))
    assert other.class_names == ("c", "a", "b")
    assert found.splits["train"].labels.tolist() == [0, 1, 1, 2, 2, 2]
    train = other.splits["train"]
    assert train.labels.tolist() == [1, 2, 2, 0, 0, 0]
    assert train.names == found.splits["train"].names
    digits = find("digits")
    turned = reordered(digits, digits.class_names[::-1]).splits["train"]
    np.testing.assert_array_equal(turned.labels, 9 - digits.splits["train"].labels)
    rows = np.arange(5)
    np.testing.assert_array_equal(turned.read(rows, None), digits.splits["train"].read(rows, None))


# layouts


@pytest.mark.parametrize("archive", [False, True])
@pytest.mark.parametrize("top", ["", "flowers/"])
@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "val", "test"),
        ("training", "valid", "testing"),
        ("Train", "Validation", "TEST"),
        ("train", "eval", "test"),
        ("train", "dev", "test"),
    ],
)
def test_names_of_splits(tmp_path: Path, archive: bool, top: str, train: str, val: str, test: str):
    root = tmp_path / "data"
    class_folders(root / top / train, bees=3, ants=2)
    class_folders(root / top / val, ants=1, bees=1)
    class_folders(root / top / test, ants=1)
    data = open_folder(zipped(root) if archive else root)
    assert data.class_names == ("ants", "bees")
    assert data.train.names == (
        f"{top}{train}/ants/00.png", f"{top}{train}/ants/01.png", f"{top}{train}/bees/00.png",
        f"{top}{train}/bees/01.png", f"{top}{train}/bees/02.png",
    )  # fmt: skip
    assert data.train.labels.tolist() == [0, 0, 1, 1, 1]
    assert data.val.labels.tolist() == [0, 1]
    assert data.test is not None
    assert data.test.names == (f"{top}{test}/ants/00.png",)
    assert data.notes == ("1 of 2 classes has no test images: bees.",)


def test_test_split_is_never_held_out(tmp_path: Path):
    class_folders(tmp_path / "train", a=10, b=10)
    class_folders(tmp_path / "test", a=5, b=5)
    data = open_folder(tmp_path)
    assert (len(data.train), len(data.val)) == (16, 4)
    assert all(name.startswith("train/") for name in data.val.names)
    assert data.test is not None
    assert len(data.test) == 10


def test_enclosing_folder_of_plain_class_folders(tmp_path: Path):
    class_folders(tmp_path / "flowers", rose=2, tulip=2)
    assert open_folder(tmp_path).class_names == ("rose", "tulip")


def test_nested_images_belong_to_their_class_folder(tmp_path: Path):
    class_folders(tmp_path, a=2, b=2)
    image(tmp_path / "a" / "more" / "deep" / "x.png")
    data = open_folder(tmp_path)
    assert np.bincount(data.train.labels).sum() + np.bincount(data.val.labels).sum() == 5
    assert "a/more/deep/x.png" in {*data.train.names, *data.val.names}


def test_what_is_ignored(tmp_path: Path):
    class_folders(tmp_path / "train", a=2, b=2)
    class_folders(tmp_path / "val", a=1, b=1)
    for name in ("notes.txt", ".DS_Store", "Thumbs.db", ".hidden.png"):
        (tmp_path / "train" / "a" / name).write_bytes(b"x")
    (tmp_path / "train" / "b" / "clip.mp4").write_bytes(bytes(99))
    (tmp_path / "__MACOSX" / "train" / "c").mkdir(parents=True)
    (tmp_path / "__MACOSX" / "train" / "c" / "._x.png").write_bytes(b"x")
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir()
    image(tmp_path / "train" / "stray.png")
    class_folders(tmp_path / "annotations", a=1)
    data = open_folder(tmp_path)
    assert data.class_names == ("a", "b")
    assert len(data.train) == 4
    assert data.notes == (
        "Folders next to train are ignored: annotations.",
        "1 image outside the class folders ignored, for example train/stray.png.",
    )


@pytest.mark.parametrize(
    "extension", ["jpg", "JPEG", "png", "bmp", "gif", "webp", "tif", "TIFF", "ppm"]
)
def test_extensions(tmp_path: Path, extension: str):
    class_folders(tmp_path, a=2, b=1)
    image(tmp_path / "b" / f"x.{extension}")
    names = {name for split in (open_folder(tmp_path),) for name in split.train.names}
    names |= set(open_folder(tmp_path).val.names)
    assert f"b/x.{extension}" in names


def test_unlabelled_test_folder_is_noted(tmp_path: Path):
    class_folders(tmp_path / "train", a=3, b=3)
    image(tmp_path / "test" / "1.png")
    data = open_folder(tmp_path)
    assert data.test is None
    assert data.notes[0] == "test has no class folders: it is not used for testing."


def layout_error(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        open_folder(path)
    return str(caught.value)


def test_class_that_train_does_not_have(tmp_path: Path):
    class_folders(tmp_path / "train", a=2, b=2)
    class_folders(tmp_path / "val", a=1, zebra=1)
    assert layout_error(tmp_path) == (
        f"{tmp_path}/val has classes that train does not have: zebra. "
        "The classes of train are a, b. Rename or remove these folders."
    )


def test_empty_class_folder(tmp_path: Path):
    class_folders(tmp_path / "train", a=2, b=2)
    (tmp_path / "train" / "c").mkdir()
    (tmp_path / "train" / "c" / "readme.txt").write_text("later")
    message = (
        f"{tmp_path}/train has class folders without images: c. They hold other files, such as "
        "train/c/readme.txt: jtl reads images. Fill or remove them."
    )
    assert layout_error(tmp_path) == message


def test_empty_class_folder_in_an_archive(tmp_path: Path):
    class_folders(tmp_path / "d", a=2, b=2)
    path = zipped(tmp_path / "d")
    with zipfile.ZipFile(path, "a") as archive:
        archive.mkdir("c")
    assert "without images: c." in layout_error(path)


def test_single_class(tmp_path: Path):
    class_folders(tmp_path, cats=3)
    assert "has only one class, 'cats'; a classifier needs at least two" in layout_error(tmp_path)


def test_no_class_folders(tmp_path: Path):
    image(tmp_path / "x.png")
    assert f"{tmp_path} has no class folders: it holds 1 image. Put the images" in layout_error(
        tmp_path
    )


def test_empty_val_folder(tmp_path: Path):
    class_folders(tmp_path / "train", a=2, b=2)
    (tmp_path / "val").mkdir()
    assert f"{tmp_path}/val has no class folders and no images." in layout_error(tmp_path)


def test_val_without_train(tmp_path: Path):
    class_folders(tmp_path / "val", a=2, b=2)
    class_folders(tmp_path / "test", a=2, b=2)
    assert "has val/, test/ but no train/. Expected" in layout_error(tmp_path)


def test_two_folders_for_one_split(tmp_path: Path):
    class_folders(tmp_path / "train", a=2, b=2)
    class_folders(tmp_path / "val", a=2, b=2)
    class_folders(tmp_path / "dev", a=2, b=2)
    assert "several folders for the val split: dev, val. Keep or" in layout_error(tmp_path)


def test_many_classes_are_not_all_listed(tmp_path: Path):
    class_folders(tmp_path / "train", a=1, b=1)
    class_folders(tmp_path / "val", **{f"c{index:02}": 1 for index in range(15)})
    assert "c00, c01, c02, c03, c04, c05, c06, c07, c08, c09 and 5 more." in layout_error(tmp_path)


# names, links and permissions


@pytest.mark.parametrize("archive", [False, True])
def test_unicode_names(tmp_path: Path, archive: bool):
    root = tmp_path / "d"
    composed = unicodedata.normalize("NFC", "café")
    class_folders(root / "train", **{composed: 2, "蜂": 2})
    class_folders(root / "val", **{unicodedata.normalize("NFD", "café"): 1})
    data = open_folder(zipped(root) if archive else root)
    assert data.class_names == (composed, "蜂")
    assert data.val.labels.tolist() == [0]
    assert data.val.read(np.array([0]), None).shape == (1, 4, 6, 3)


def test_names_that_are_not_unicode_are_printable(tmp_path: Path):
    class_folders(tmp_path, a=2, b=2)
    os.rename(tmp_path / "a" / "00.png", os.fsencode(tmp_path / "a") + b"/\xff.png")
    data = open_folder(tmp_path)
    assert r"a/\xff.png" in {*data.train.names, *data.val.names}
    for split in (data.train, data.val):
        assert len(split.read(np.arange(len(split)), None)) == len(split)


def test_links_are_followed_but_loops_are_not(tmp_path: Path):
    class_folders(tmp_path / "real", a=3)
    class_folders(tmp_path / "data", b=3)
    (tmp_path / "data" / "a").symlink_to(tmp_path / "real" / "a")
    (tmp_path / "real" / "a" / "back").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "b" / "self").symlink_to(tmp_path / "data" / "b")
    data = open_folder(tmp_path / "data")
    assert data.class_names == ("a", "b")
    assert len(data.train) + len(data.val) == 6


def test_broken_link_is_reported_when_read(tmp_path: Path):
    class_folders(tmp_path / "train", a=1, b=1)
    class_folders(tmp_path / "val", a=1, b=1)
    (tmp_path / "train" / "a" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    assert open_folder(tmp_path).train.check() == ["train/a/gone.png: No such file or directory"]


def test_pipe_does_not_hang(tmp_path: Path):
    class_folders(tmp_path, a=2, b=2)
    os.mkfifo(tmp_path / "a" / "pipe.png")
    data = open_folder(tmp_path)
    assert len(data.train) + len(data.val) == 4


def test_unreadable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class_folders(tmp_path, a=2, b=2)
    scandir = os.scandir

    def forbid(path: str):
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(stores.os, "scandir", forbid)
    assert f"Cannot read {tmp_path / 'b'}: Permission denied. Check" in layout_error(tmp_path)


def test_unreadable_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = zipped(class_folders(tmp_path / "d", a=2, b=2))

    def forbid(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(archives.zipfile, "ZipFile", forbid)
    assert f"Cannot read {path}: Permission denied" in layout_error(path)


# archives


def test_archive_reads_like_the_folder(tmp_path: Path):
    root = class_folders(tmp_path / "d", a=30, b=20)
    from_folder, from_zip = open_folder(root), open_folder(zipped(root))
    assert from_folder.train.names == from_zip.train.names
    indices = np.arange(len(from_zip.train))
    for transform in (None, HostTransform(4, 1.0, "bilinear")):
        np.testing.assert_array_equal(
            from_folder.train.read(indices, transform), from_zip.train.read(indices, transform)
        )


@pytest.mark.parametrize(
    "member", ["/etc/a/x.png", "../a/x.png", "train/../../x.png", "C:/a/x.png", "..\\x.png"]
)
def test_archive_members_outside_of_it(tmp_path: Path, member: str):
    path = zipped(class_folders(tmp_path / "d", a=2, b=2))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(member, b"x")
    assert "has paths that lead out of it (1, for example" in layout_error(path)


def test_backslashes_in_archives_separate_folders(tmp_path: Path):
    class_folders(tmp_path / "d", a=1, b=1)
    path = tmp_path / "windows.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("train/a", "train/b", "val/a", "val/b"):
            data = (tmp_path / "d" / name[-1] / "00.png").read_bytes()
            archive.writestr(name.replace("/", "\\") + "\\x.png", data)
    data = open_folder(path)
    assert data.train.names == ("train/a/x.png", "train/b/x.png")
    assert data.train.read(np.arange(2), None)[:, 0, 0, 0].tolist() == [0, 10]


def test_encrypted_archive(tmp_path: Path):
    path = zipped(class_folders(tmp_path / "d", a=2, b=2))
    data = bytearray(path.read_bytes())
    start = data.index(b"PK\x01\x02")
    data[start + 8] |= 1  # the flags of the first entry in the table of contents
    path.write_bytes(data)
    assert "has encrypted members (1, for example 'a/00.png')" in layout_error(path)


@pytest.mark.parametrize("part", [0.0, 0.5, 0.99])
def test_damaged_archive(tmp_path: Path, part: float):
    path = zipped(class_folders(tmp_path / "d", a=2, b=2))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    assert f"{path} is not a readable zip archive (" in layout_error(path)


def test_damaged_table_of_contents_never_ends_in_another_error(tmp_path: Path):
    whole = np.frombuffer(zipped(class_folders(tmp_path / "d", a=2, b=2)).read_bytes(), np.uint8)
    start = whole.tobytes().index(b"PK\x01\x02")
    random = np.random.default_rng(0)
    path = tmp_path / "x.zip"
    refused = 0
    for _ in range(150):
        data = whole.copy()
        data[random.integers(start, len(data), 4)] = random.integers(0, 256, 4)
        path.write_bytes(data.tobytes())
        try:
            split = open_folder(path).train
            split.check()
            split.read(np.arange(len(split)), None)
        except UserError:
            refused += 1
    assert refused > 50


def test_damaged_member_is_reported_by_name(tmp_path: Path):
    class_folders(tmp_path / "d" / "train", a=2, b=2)
    class_folders(tmp_path / "d" / "val", a=1, b=1)
    path = zipped(tmp_path / "d")
    data = bytearray(path.read_bytes())
    data[data.index(b"train/a/01.png") + 14 + 50] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"train/a/01\.png: Bad CRC-32 for file"):
        open_folder(path).train.read(np.arange(4), None)


# unreadable images and sizes


def broken_train(root: Path, count: int) -> Dataset:
    class_folders(root / "train", a=2, b=count)
    class_folders(root / "val", a=1, b=1)
    for index in range(count):
        (root / "train" / "b" / f"{index:02}.png").write_bytes(b"" if index % 2 else b"text")
    return open_folder(root)


def test_unreadable_images_are_reported_together(tmp_path: Path):
    data = broken_train(tmp_path, count=25)
    with pytest.raises(UserError) as caught:
        data.train.read(np.arange(27), HostTransform(4, 1.0, "bilinear"))
    lines = str(caught.value).splitlines()
    assert lines[0] == f"25 of 27 images of {tmp_path} (train) cannot be read:"
    assert lines[1].startswith("  train/b/00.png: not an image, or damaged")
    assert lines[2] == "  train/b/01.png: the file is empty (0 bytes)"
    assert lines[-2:] == [
        "  ... and 5 more",
        "Replace or remove them, or leave them out with --on-bad-image skip.",
    ]
    assert len(lines) == 23
    good = data.train.read(np.array([1, 0]), None)
    assert good[:, 0, 0, 0].tolist() == [1, 0]


def test_check_names_every_bad_file(tmp_path: Path):
    data = broken_train(tmp_path, count=25)
    lines = data.train.check()
    assert [line.split(":")[0] for line in lines] == [f"train/b/{i:02}.png" for i in range(25)]
    assert data.val.check() == []
    with pytest.raises(UserError, match="25 of 27 images"):
        data.train.native_size()


def test_check_reads_all_headers_even_after_native_size(tmp_path: Path):
    class_folders(tmp_path / "train", a=400, b=1)
    class_folders(tmp_path / "val", a=1, b=1)
    image(tmp_path / "train" / "a" / "000.png", size=(9, 9))
    (tmp_path / "train" / "b" / "00.png").write_bytes(b"")
    split = open_folder(tmp_path).train
    assert split.native_size() is None
    assert split.check() == ["train/b/00.png: the file is empty (0 bytes)"]


def test_native_size(tmp_path: Path):
    class_folders(tmp_path / "train", a=3, b=3)
    class_folders(tmp_path / "val", a=1, b=1)
    image(tmp_path / "val" / "b" / "00.png", size=(6, 5))
    data = open_folder(tmp_path)
    assert data.train.native_size() == (4, 6)
    assert data.val.native_size() is None
    with pytest.raises(
        UserError,
        match=r"val/a/00.png has 6 x 4 pixels, val/b/00.png has 6 x 5. Give an image size",
    ):
        data.val.read(np.arange(2), None)
    assert data.val.read(np.arange(2), HostTransform(3, 1.0, "bicubic")).shape == (2, 3, 3, 3)


def test_native_size_minds_the_orientation(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (6, 4)).save(tmp_path / name / "turned.jpg", exif=exif)
        Image.new("RGB", (4, 6)).save(tmp_path / name / "upright.jpg")
    data = open_folder(tmp_path, val_fraction=0.5)
    assert data.train.native_size() == data.val.native_size() == (6, 4)


def test_headers_beyond_the_first_bytes_are_read(tmp_path: Path):
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        kinds: dict[str, dict[str, Any]] = {
            "jpg": {"icc_profile": bytes(200_000)},
            "png": {},
            "webp": {"lossless": True},
            "tif": {},
            "bmp": {},
        }
        for kind, options in kinds.items():
            path = tmp_path / name / f"x.{kind}"
            Image.fromarray(noise).save(path, **options)
            assert path.stat().st_size > 65536
    data = open_folder(tmp_path)
    assert data.train.native_size() == (200, 300)
    assert data.train.check() == data.val.check() == []


def test_too_elongated_image_is_named(tmp_path: Path):
    class_folders(tmp_path / "train", a=1, b=1)
    class_folders(tmp_path / "val", a=1, b=1)
    image(tmp_path / "train" / "a" / "long.png", size=(20000, 1))
    with pytest.raises(UserError, match=r"train/a/long\.png: 20000 x 1 pixels is too elongated"):
        open_folder(tmp_path).train.read(np.arange(3), HostTransform(224, 0.875, "bicubic"))
    split = ArraySplit("x", np.zeros((1, 1, 20000, 3), np.uint8), np.zeros(1, np.int32), ["0"])
    with pytest.raises(UserError, match="0: 20000 x 1 pixels is too elongated"):
        split.read(np.arange(1), HostTransform(224, 0.875, "bicubic"))


# fingerprints


@pytest.mark.parametrize("archive", [False, True])
def test_fingerprint_follows_the_images(tmp_path: Path, archive: bool):
    root = class_folders(tmp_path / "d", a=3, b=3)
    image(root / "a" / "00.bmp", value=100)

    def fingerprint() -> str:
        return open_folder(zipped(root) if archive else root).fingerprint

    first = fingerprint()
    assert fingerprint() == first
    (root / "readme.txt").write_text("no image")
    assert fingerprint() == first
    size = (root / "a" / "00.bmp").stat().st_size
    image(root / "a" / "00.bmp", value=200)
    assert (root / "a" / "00.bmp").stat().st_size == size  # so that the size tells nothing
    changed = fingerprint()
    assert changed != first
    (root / "a" / "00.bmp").rename(root / "a" / "99.bmp")
    assert fingerprint() not in (first, changed)


# specs


AVAILABLE = """ Give one of these:
  'my-images' (a folder with one folder per class, or a zip or tar of one)
  'tfds:cifar10' (a data set that TensorFlow Datasets has prepared)
  'npz:mnist.npz' (NumPy arrays of images and labels)
  'parquet:data/*.parquet' (files with encoded images, as used on the Hugging Face Hub)
  'datasets:saved' (a folder that Hugging Face's save_to_disk wrote)
  'wds:train-{000..012}.tar' (tar files of WebDataset)
  'cifar:cifar-10-python.tar.gz' (the files of CIFAR-10 or CIFAR-100 for Python)
  'mat:train_32x32.mat' (MATLAB files of images and labels, as of SVHN)
  'idx:MNIST/raw' (MNIST's files, and those of Fashion-MNIST, KMNIST and EMNIST)
  'csv:labels.csv' (a table of image files and their labels)
  'digits' (1,797 handwritten digits from scikit-learn)"""


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("digts", "there is no file or folder 'digts'. Did you mean 'digits'?"),
        ("my-imags", "there is no file or folder 'my-imags'. Did you mean 'my-images'?"),
        ("my-images/trian", "there is no file or folder 'my-images/trian'. Did you mean "
         "'my-images/train'?"),
        ("foldr:/x", "there is no kind of source 'foldr'. Did you mean 'folder:/x'?"),
        ("zip:x.zip", "there is no kind of source 'zip'."),
        ("", "there is no file or folder ''."),
    ],
)  # fmt: skip
def test_unknown_source(spec: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "my-images" / "train").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        load(spec)
    assert str(caught.value) == message + AVAILABLE


def test_plain_path_is_a_folder(tmp_path: Path):
    assert load(str(class_folders(tmp_path, a=2, b=2))).spec == f"folder:{tmp_path}"


@pytest.mark.parametrize("scheme", ["folder", "tfds", "npz", "parquet"])
def test_source_without_a_name(scheme: str):
    for spec in (f"{scheme}:", scheme):
        with pytest.raises(UserError, match=f"'{spec}' lacks a name. Write it like '{scheme}:"):
            load(spec)


def test_digits_have_no_path():
    with pytest.raises(UserError, match="'digits' takes nothing after its name, not 'x'"):
        load("digits:x")


def test_missing_path(tmp_path: Path):
    class_folders(tmp_path / "flowers", a=1)
    message = layout_error(tmp_path / "flower")
    assert message.startswith(f"There is no file or folder {tmp_path}/flower. Did you mean 'flowe")
    assert "There is no file" in layout_error(tmp_path / "not" / "there")
    assert "File name too long" in layout_error(tmp_path / ("x" * 300))


def test_file_that_is_no_archive(tmp_path: Path):
    (tmp_path / "x.csv").write_text("a,b")
    assert "x.csv is neither a folder nor a zip or tar archive" in layout_error(tmp_path / "x.csv")


def test_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class_folders(tmp_path / "flowers", a=2, b=2)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load("folder:~/flowers").class_names == ("a", "b")


# real data


def test_ants_and_bees():
    data = load(shared("ants-bees.zip"))
    assert data.class_names == ("ants", "bees")
    assert np.bincount(data.train.labels).tolist() == [123, 121]
    assert np.bincount(data.val.labels).tolist() == [70, 83]
    assert (data.test, data.notes) == (None, ())
    assert data.train.names[0] == "ants-bees/train/ants/0013035.jpg"
    assert data.train.native_size() is None
    assert data.train.check() == data.val.check() == []
    batch = data.train.read(np.array([243, 0, 7]), HostTransform(64, 0.875, "bicubic"))
    assert (batch.shape, batch.dtype) == ((3, 64, 64, 3), np.uint8)
    assert batch.std() > 20


def test_cifar10():
    data = load(shared("cifar10.zip"))
    assert " ".join(data.class_names) == (
        "airplane automobile bird cat deer dog frog horse ship truck"
    )
    assert np.bincount(data.train.labels).tolist() == [4000] * 10
    assert np.bincount(data.val.labels).tolist() == [1000] * 10
    assert data.test is not None
    assert np.bincount(data.test.labels).tolist() == [1000] * 10
    assert data.notes == (
        "No validation split found: held out 10,000 of 50,000 training images (20 %, stratified, "
        "seed 0).",
    )
    assert data.test.native_size() == (32, 32)
    assert data.val.read(np.arange(0, 10000, 500), None).shape == (20, 32, 32, 3)


def test_flat_archive_of_images():
    path = shared("imagenet-sample.zip")
    with pytest.raises(UserError, match="has only one class, 'imagenet-sample'"):
        load(path)
