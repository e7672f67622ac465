"""Cells that may be several labels or none, in tables of images."""

from __future__ import annotations

from pathlib import Path

import pytest

from jtl.common.errors import UserError
from jtl.data.sources.registry import find
from support.data_files import encode, flat


def table(root: Path, column: str, labels: list[str]) -> str:
    lines = [f"file,{column}"]
    for number in range(2 * len(labels)):
        (root / f"{number}.png").write_bytes(encode(flat(colour=(number, 0, 0)), "PNG"))
        lines.append(f"{number}.png,{labels[number % len(labels)]}")
    (root / "labels.csv").write_text("\n".join(lines))
    return f"csv:{root / 'labels.csv'}"


SETS = {
    "tags in one order": ("tags", ["clear primary", "clear water primary", "haze primary"]),
    "labels in one order": ("labels", ["clear primary", "clear water primary", "haze primary"]),
    "tags of a fixed number": ("tags", ["clear primary", "haze primary", "clear water",
                                        "haze water"]),
    "labels that stand alone, too": ("label", ["scab", "rust", "scab rust", "rust mould", "mould"]),
}  # fmt: skip
NAMES = {
    "breeds": ("labels", ["yorkshire terrier", "boston terrier", "toy terrier", "toy poodle",
                          "english setter", "irish setter"]),
    "species": ("labels", ["Quercus alba", "Quercus rubra", "Acer rubrum", "Acer"]),
    "diseases of crops": ("labels", ["tomato blight", "potato blight", "tomato rust",
                                     "potato rust"]),
    "an animal and its kinds": ("label", ["cat", "black cat", "white cat"]),
    "one name of two names": ("label", ["mouse", "trap", "mouse trap", "fox"]),
    "tags that are names": ("tags", ["yorkshire terrier", "boston terrier", "poodle"]),
}  # fmt: skip


@pytest.mark.parametrize("case", SETS)
def test_cells_that_are_sets_of_words(tmp_path: Path, case: str):
    with pytest.raises(UserError, match=r"several labels for an image: .* without spaces\.$"):
        find(table(tmp_path, *SETS[case]))


@pytest.mark.parametrize("case", NAMES)
def test_cells_that_are_names_of_several_words(tmp_path: Path, case: str):
    column, labels = NAMES[case]
    assert find(table(tmp_path, column, labels)).class_names == tuple(sorted(labels))


def test_a_country_whose_code_reads_like_a_gap(tmp_path: Path):
    found = find(table(tmp_path, "country", ["DE", "NA", "ZA"]))
    assert found.class_names == ("DE", "NA", "ZA")
    assert "'NA' in the column 'country' is read as a label" in " ".join(found.notes)


@pytest.mark.parametrize("gap", ["NA", "nan", "N/A", "null"])
def test_a_gap_is_said_to_be_one(tmp_path: Path, gap: str):
    with pytest.raises(UserError, match=rf"no label for 2 of 6 rows .*'{gap}' stands for a missi"):
        find(table(tmp_path, "label", ["cat", gap, "dog"]))


def test_an_empty_cell_among_codes_is_no_label(tmp_path: Path):
    with pytest.raises(UserError, match=r"no label for 2 of 8 rows \(row 5, row 9\)\. Fill them"):
        find(table(tmp_path, "label", ["DE", "NA", "ZA", ""]))
