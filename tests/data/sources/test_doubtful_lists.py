"""Files that by their names are lists of splits: read, refused, or no lists by what they hold."""

from __future__ import annotations

import json
import os
import random
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from jtl.data.sources import stores
from jtl.data.sources.registry import find, load
from support.commands import main
from support.data_files import counts, grown
from support.split_lists import IMAGES, SPLIT, TEST, TRAIN, WHOLE, folder, refusal

DAMAGED = {
    "empty": b"",
    "of blanks": b" \n\n",
    "no text": bytes(range(256)) * 9,
    "compressed": b"\x1f\x8b\x08\0\0\0\0\0" + random.Random(0).randbytes(600),
}


@pytest.mark.parametrize("how", [*DAMAGED, "link", "pipe", "folder gone", "no permission"])
@pytest.mark.parametrize("name", ["test.txt", "lists/cars_test.csv", "val_list.lst", "split.json"])
def test_a_list_that_cannot_be_read_is_refused(
    tmp_path: Path, name: str, how: str, monkeypatch: pytest.MonkeyPatch
):
    def refusing(path: str, mode: str) -> Any:
        if path.endswith(name):
            raise PermissionError(13, "Permission denied", path)
        return open(path, mode)

    for besides in ({}, {"train.txt": "\n".join(TRAIN)}):
        root = folder(tmp_path / str(len(besides)), besides)
        place = root / name
        place.parent.mkdir(exist_ok=True)
        if how in DAMAGED:
            place.write_bytes(DAMAGED[how])
        elif how == "pipe":
            os.mkfifo(place)
        elif how == "no permission":  # The superuser is refused nothing.
            place.write_text("\n".join(TEST))
            monkeypatch.setattr(stores, "open", refusing, raising=False)
        else:
            place.symlink_to(tmp_path / ("nowhere" if how == "link" else "gone/test.txt"))
        text = refusal(root)
        assert f"{name} " in text
        assert "cannot be read" in text


def test_damaged_json_is_refused(tmp_path: Path):
    whole = json.dumps({"train": TRAIN, "test": TEST})
    assert counts(folder(tmp_path / "x", {"split_zhou.json": whole})) == SPLIT
    for cut in range(1, 6):
        root = folder(tmp_path / str(cut), {"splits.json": whole[: len(whole) * cut // 6]})
        assert "splits.json is damaged (" in refusal(root)


def test_a_list_with_a_line_that_never_ends_is_refused(tmp_path: Path):
    root = folder(tmp_path, {"test.csv": 'file,label\n"' + "x" * 200_000})
    assert "test.csv" not in counts(root)  # It names no image at all, so that it is none.
    root = folder(tmp_path / "b", {"test.csv": "cat/cat-1.png,1\n" * 5 + '"' + "x" * 200_000})
    assert "test.csv is damaged (field larger" in refusal(root)


def test_an_unreadable_list_in_an_archive(tmp_path: Path):
    root = folder(tmp_path / "d", {"train.txt": "\n".join(TRAIN), "test.txt": "\n".join(TEST)})
    for kind in ("zip", "gztar"):
        assert counts(Path(shutil.make_archive(str(tmp_path / "d"), kind, root))) == SPLIT
    packed = tmp_path / "d.zip"
    data = bytearray(packed.read_bytes())
    with zipfile.ZipFile(packed) as archive:
        start = archive.getinfo("test.txt").header_offset
    data[start + 45] ^= 255
    packed.write_bytes(data)
    assert "test.txt " in refusal(packed)


@pytest.mark.parametrize("ending", ["txt", "lst", "list", "flist"])
def test_long_lists_in_a_compressed_archive(tmp_path: Path, ending: str):
    root = folder(tmp_path / "d", {f"test_list.{ending}": "\n".join(TEST)})
    (root / f"train_list.{ending}").write_text("\n".join(f"{path} {0:0>40}" for path in TRAIN))
    assert counts(Path(shutil.make_archive(str(tmp_path / "d"), "xztar", root))) == SPLIT


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_lists_as_windows_writes_them(tmp_path: Path, encoding: str):
    texts = {"train.txt": "\r\n".join(TRAIN), "test.txt": "\r\n".join(TEST)}
    root = folder(tmp_path, {name: text.encode(encoding) for name, text in texts.items()})
    assert counts(root) == SPLIT


def test_what_divides_the_images_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder(tmp_path, {"meta/train.txt": "\n".join(TRAIN), "meta/test.txt": "\n".join(TEST)})
    line = "splits:   train from meta/train.txt, test from meta/test.txt\n"
    main("data", "check", tmp_path)
    assert line in (out := capsys.readouterr().out), out
    assert line.rstrip() in load(f"folder:{tmp_path}").describe().lines()  # As training prints.
    main("data", "check", tmp_path, "--split-lists", "ignore")
    assert "splits:" not in capsys.readouterr().out


MISSING = {
    "rows": lambda rows: {"test.txt": "\n".join(rows)},
    "a table of one split": lambda rows: {"test.csv": "file\n" + "\n".join(rows)},
    "a column": lambda rows: {"meta.csv": "file,split\n" + "".join(f"{r},test\n" for r in rows)},
    "JSON": lambda rows: {"test.json": json.dumps(rows)},
    "keys": lambda rows: {"splits.json": json.dumps({"train": TRAIN, "test": rows})},
    "CUB": lambda rows: {
        "images.txt": "".join(f"{i} {row}\n" for i, row in enumerate(rows)),
        "train_test_split.txt": "".join(f"{i} 0\n" for i in range(len(rows))),
    },
}


@pytest.mark.parametrize("case", MISSING)
@pytest.mark.parametrize("count", [1, 2])
def test_rows_without_an_image_are_counted_and_named(tmp_path: Path, case: str, count: int):
    gone = [f"cat/gone-{i}.png" for i in range(count)]
    rows = [*IMAGES[:30], *gone]
    if case == "keys":
        rows = [*TEST, gone[0]]
    root = folder(tmp_path, MISSING[case](rows))
    (note,) = (note for note in find(f"folder:{root}").notes if "no image that is there" in note)
    assert gone[0] in note
    assert note.startswith("1 row of" if len(rows) - len({*rows} & {*IMAGES}) == 1 else "2 rows of")
    whole = folder(tmp_path / "x", MISSING[case]([row for row in rows if row not in gone]))
    assert not any("no image that is there" in note for note in find(f"folder:{whole}").notes)


def test_a_list_of_none_of_the_images_is_refused(tmp_path: Path):
    root = folder(tmp_path, {"test.txt": "\n".join(f"bird/bird-{i}.png" for i in range(9))})
    assert "'test.txt' lists images that are not there" in refusal(root)
    root = folder(tmp_path / "json", {"test.json": json.dumps(["bird/0.png", "bird/1.png"])})
    assert "'test.json' lists images that are not there" in refusal(root)


NO_LISTS: dict[str, str] = {
    "test_times.csv": "".join(f"{Path(path).stem},0.0\n" for path in IMAGES),
    "val_scores.txt": "\n".join(f"{path} 0.25" for path in IMAGES),
    "banana_split.txt": "two bananas\nice cream\nchocolate\n",
    "notes_on_training.txt": "the cat sat\non the mat\n",
    "test.txt": "a test of nothing",
    "pixels_test.csv": "label,pixels\n" + "3," + ",".join(["255"] * 784) + "\n",
}


def test_settings_are_no_lists(tmp_path: Path):
    names = ("train.json", "test.json", "train.yaml", "test.yaml", "train.py", "train.log")
    root = folder(tmp_path, dict.fromkeys(names, '{"lr": 0.1, "name": "cat-1"}'))
    assert counts(root) == WHOLE
    (root / "train.json").write_text("[1, 2]")
    (root / "test.json").write_text("[3, 4]")
    assert "finds no image by these" in refusal(root)


@pytest.mark.parametrize("name", NO_LISTS)
def test_what_files_hold_decides_besides_their_names(tmp_path: Path, name: str):
    root = folder(tmp_path, {name: NO_LISTS[name]})
    assert counts(root) == WHOLE
    assert name in str(find(f"folder:{root}").left_out)


def workbook(path: Path, cells: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(f'<si><t xml:space="preserve">{cell}</t></si>' for cell in cells)
    with zipfile.ZipFile(path, "w") as book:
        book.writestr("xl/sharedStrings.xml", f"<sst>{text}</sst>")


def test_workbooks(tmp_path: Path):
    for split in ("train", "test"):
        workbook(folder(tmp_path, {}) / f"COVID_{split}.xlsx", ["patient", "age", "cough"])
    assert counts(tmp_path) == WHOLE
    workbook(tmp_path / "COVID_train.xlsx", ["file", *TRAIN])
    assert "but COVID_train.xlsx, which names images" in (text := refusal(tmp_path))
    assert "Save it as .csv." in text


@pytest.mark.parametrize("name", ["test_cars.csv", "train_7_birds.txt", "my_split.txt"])
def test_a_list_of_an_unclear_split_is_refused(tmp_path: Path, name: str):
    root = folder(tmp_path, {name: "\n".join(TEST)})
    assert f"but {name}, which names images" in refusal(root)
    other = name.replace("test", "train") if "test" in name else name.replace("train", "test")
    if other != name:
        (root / other).write_text("\n".join(TRAIN))
        assert sorted(len(s) for s in find(f"folder:{root}").splits.values()) == [8, 32]


def test_a_column_of_splits_without_a_head(tmp_path: Path):
    rows = [f"{path} {'test' if path in TEST else 'train'}" for path in IMAGES]
    assert counts(folder(tmp_path, {"split.txt": "\n".join(rows)})) == SPLIT
    # Of paths with a split in them it is the name that counts.
    rows = [f"test/{path}" for path in TEST] + [f"train/{path}" for path in TEST[:1]]
    root = folder(tmp_path / "paths", {"test.txt": "\n".join(rows)})
    assert counts(root) == SPLIT


def test_names_with_blanks_before_a_label(tmp_path: Path):
    root = folder(tmp_path, {})
    for path in IMAGES:
        (root / path).rename(root / path.replace("-", " ("))
    texts = {"train": TRAIN, "test": TEST}
    for split, paths in texts.items():
        text = "".join(f"{path.replace('-', ' (')} {path[:3] == 'cat':d}\n" for path in paths)
        (root / f"{split}.txt").write_text(text)
    assert counts(root) == SPLIT


def test_trainval_in_two_words(tmp_path: Path):
    folder(tmp_path, {"train_val_list.txt": "\n".join(TRAIN), "test_list.txt": "\n".join(TEST)})
    assert counts(tmp_path) == SPLIT


def test_a_list_among_files_of_images(tmp_path: Path):
    folder(tmp_path, {f"{i}.txt": "0 0.5 0.5" for i in range(70)})
    for split, paths in {"train": TRAIN, "test": TEST}.items():
        (tmp_path / f"{split}.txt").write_text("\n".join(paths))
    assert counts(tmp_path) == SPLIT


def test_lists_too_many_in_one_json_are_named(tmp_path: Path):
    keys = {"train": TRAIN, "test": TEST[:4], "test_hard": TEST[4:]}
    root = folder(tmp_path, {"lists/splits.json": json.dumps(keys)})
    assert "'lists/splits.json' has several lists for the test split" in refusal(root)


def test_of_long_files_the_beginning_decides(tmp_path: Path):
    """Pixels in a table, and boxes or features in JSON, are not read to the end."""
    row = ",".join(["17"] * 784) + "\n"
    vectors = json.dumps([[0.5] * 512] * 20)
    read: list[int] = []
    texts = {"pixels_test.csv": row * 6000, "test.json": vectors * 600, "test.csv": row * 6000}
    folder(tmp_path, texts)

    def counted(store: stores.FolderStore, file: stores.ImageFile, limit: int = -1) -> bytes:
        data = original(store, file, limit)
        read.append(len(data))
        return data

    original = stores.FolderStore.read
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stores.FolderStore, "read", counted)
        assert counts(tmp_path) == WHOLE
    assert sum(read) < 2**18, read


UNCLEAR = {
    "codes": ("file,partition\n{}", "{path},{code}", "a column 'partition' of 0, 2, and no word"),
    "patients": ("patient,split\n{}", "P{code}x,{split}", "says splits, and of no image"),
}


@pytest.mark.parametrize("case", UNCLEAR)
def test_tables_that_say_splits_in_an_unclear_way(tmp_path: Path, case: str):
    table, row, message = UNCLEAR[case]
    rows = (row.format(path=p, code=2 * (p in TEST), split=("train", "test")[p in TEST])
            for p in IMAGES)  # fmt: skip
    root = folder(tmp_path, {"meta.csv": table.format("\n".join(rows))})
    assert message in refusal(root)


@pytest.mark.parametrize("digits", [3, 5, 12])
def test_numbers_with_zeros_before_them_are_names(tmp_path: Path, digits: int):
    root = folder(tmp_path, {})
    numbers = {path: f"{i:0{digits}}" for i, path in enumerate(IMAGES)}
    for path, number in numbers.items():
        (root / path).rename((root / path).with_name(f"{number}.png"))
    (root / "test.txt").write_text("\n".join(numbers[path] for path in TEST))
    assert counts(root) == SPLIT


def test_an_unreadable_list_beside_a_folder_for_training(tmp_path: Path):
    folder(tmp_path / "train", {})
    (tmp_path / "val.txt").write_text("")
    assert "val.txt is empty" in refusal(tmp_path)


GROUPS = [
    "{}_videos.txt", "{}_patients.csv", "{}_subjects.csv", "{}-sequences.lst", "{}list_clips.txt",
"{}_participants.tsv", "person_ids_{}.json",
]  # fmt: skip


@pytest.mark.parametrize("name", GROUPS)
def test_lists_of_groups_of_images_are_refused(tmp_path: Path, name: str):
    rows = {"train": ["clip1", "clip2", "clip3"], "test": ["clip4", "clip5"]}
    text = json.dumps if name.endswith("json") else "\n".join
    files = {name.format(split): text(rows[split]) for split in rows}
    root = folder(tmp_path, files)
    told = refusal(root)
    assert all(file in told for file in files)
    assert "finds no image by these" in told


UNREAD = {
    "splits.yaml": "train:\n- clip1\n- clip2\ntest:\n- clip3\n",
    "split.yml": "train: [clip1, clip2]\ntest: [clip3]\n",
    "split.ini": "[test]\na = cat/cat-5.png\nb = cat/cat-7.png\n",
    "split.toml": 'test = ["cat/cat-5.png", "cat/cat-7.png"]\n',
    "split.h5": b"\x89HDF\r\n\x1a\n" + bytes(99),
    "splits.pt": b"PK\3\4" + bytes(99),
    "{}.yaml": "- cat/cat-5.png\n- cat/cat-7.png\n",
    "{}_subjects.yaml": "- s1\n- s2\n",
    "{}.ods": b"PK\3\4" + bytes(99),
}


@pytest.mark.parametrize("name", UNREAD)
def test_lists_in_a_form_that_is_not_read_are_refused(tmp_path: Path, name: str):
    files = {name.format(split): UNREAD[name] for split in ("train", "test")}
    told = refusal(folder(tmp_path, files))
    assert all(file in told for file in files)
    assert "jtl does not read such files: it reads text, CSV and JSON" in told


def test_one_list_of_images_in_a_form_that_is_not_read(tmp_path: Path):
    root = folder(tmp_path / "list", {"test.yaml": "- cat/cat-5.png\n- cat/cat-7.png\n"})
    assert "test.yaml, which names images and may list those of a split" in refusal(root)
    settings = "train_size: 0.8\ntest_size: 0.2\nseed: 7\n"
    assert counts(folder(tmp_path / "settings", {"split.yaml": settings})) == WHOLE


def test_lists_for_every_class_that_name_no_image_alone(tmp_path: Path):
    """Of `0001` in `cat_test.txt` the file's name says the class, which jtl does not read."""
    grown(tmp_path, "cat:4 dog:4")
    for path in [*tmp_path.rglob("*.png")]:
        path.rename(path.with_name(f"000{path.stem[-1]}.png"))
    files = [f"{label}_{split}.txt" for label in ("cat", "dog") for split in ("train", "test")]
    for name in files:
        (tmp_path / name).write_text("0000\n0001\n" if "train" in name else "0002\n0003\n")
    assert all(name in refusal(tmp_path) for name in files)
    for name in files:  # `bird` is no class.
        (tmp_path / name).rename(tmp_path / name.replace("cat", "bird").replace("dog", "fish"))
    assert counts(tmp_path) == {"train": {"cat": 4, "dog": 4}}
