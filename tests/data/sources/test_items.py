"""Folders that are called like single things, and hold a few images each."""

from __future__ import annotations

from pathlib import Path

import pytest

from jtl.data.sources.registry import SourceOptions, find
from support.data_files import encode, flat

PNG = encode(flat(4, 4), "PNG")


def folders(root: Path, form: str, count: int, names: list[str], first: int = 1) -> str:
    for number in range(first, first + count):
        folder = root / form.format(number)
        folder.mkdir(parents=True)
        for name in names:
            (folder / f"{name.format(number)}.png").write_bytes(PNG)
    return f"folder:{root}"


def notes(spec: str, **options: str) -> list[str]:
    found = find(spec, SourceOptions(**options))  # type: ignore[arg-type]
    return [note for note in found.notes if "single things" in note]


ITEMS = {
    "KolektorSDD": ("kos{:02}", 12, [f"Part{n}" for n in range(8)]),
    "numbers": ("{:03}", 10, [f"{n}" for n in range(5)]),
    "one image each": ("{:04}", 9, ["img"]),
    "patients": ("P{:02}", 3, [f"IM{{}}_{n}7" for n in range(6)]),
    "subjects": ("sub{:03}", 4, ["a{}", "b7{}"]),
    "products": ("item_{:04}", 4, ["7", "9{}"]),
}


@pytest.mark.parametrize("case", ITEMS)
def test_single_things(tmp_path: Path, case: str):
    form, count, names = ITEMS[case]
    spec = folders(tmp_path, form, count, names)
    (note,) = notes(spec)
    assert f"The {count} folders in {tmp_path} may be single things" in note
    assert f"({form.format(1)}, {form.format(2)}, {form.format(3)}" in note
    assert not notes(spec, classes="top")


CLASSES = {
    "digits": ("{}", 9, ["0", "1"]),
    "more images than folders": ("{:02}", 8, [f"{n}" for n in range(9)]),
    "monkeys": ("n{}", 9, ["1", "2"]),
    "drivers": ("c{}", 9, ["1", "2"]),
    "numbered classes": ("class_{:02}", 20, ["1", "2"]),
    "images with names of their own": ("{:05}", 12, ["7{}a", "{}7b"]),
    "few": ("{:02}", 5, ["1", "2"]),
    "letters": ("B{}", 2, ["1", "2", "3"]),
}


@pytest.mark.parametrize("case", CLASSES)
def test_classes(tmp_path: Path, case: str):
    form, count, names = CLASSES[case]
    spec = folders(tmp_path, form, count, names)
    assert len(find(spec).class_names) == count
    assert not notes(spec)


def test_folders_in_splits_are_classes(tmp_path: Path):
    for split in ("train", "val"):
        folders(tmp_path / split, "P{:02}", 9, ["1", "2"])
    assert not notes(f"folder:{tmp_path}")
