"""Cells that may be several labels or none, in tables of images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jtl.common.errors import UserError
from jtl.config.data import Task
from jtl.data.sources.registry import SourceOptions, find
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


def rows(root: Path, labels: list[object]) -> str:
    """JSON objects, one a line, with a label each."""
    lines = []
    for number in range(2 * len(labels)):
        (root / f"{number}.png").write_bytes(encode(flat(colour=(number, 0, 0)), "PNG"))
        lines.append(json.dumps({"file": f"{number}.png", "label": labels[number % len(labels)]}))
    (root / "rows.jsonl").write_text("\n".join(lines))
    return f"csv:{root / 'rows.jsonl'}"


def test_a_list_of_one_label_is_a_label(tmp_path: Path):
    assert find(table(tmp_path, "labels", ["['D']", "['N']", "['G']"])).class_names == (*"DGN",)
    assert find(table(tmp_path, "label", ["[12]", "[3]"])).class_names == ("12", "3")
    assert find(rows(tmp_path, [["cat"], ["dog"]])).class_names == ("cat", "dog")
    with pytest.raises(UserError, match="several labels for an image"):
        find(rows(tmp_path, [["cat"], ["cat", "dog"]]))


@pytest.mark.parametrize("task", ["auto", "multilabel"])
def test_objects_and_lists_of_flags_are_no_labels(tmp_path: Path, task: Task):
    options = SourceOptions(label_column="label", task=task)
    with pytest.raises(UserError, match=r"holds objects .*'displayName': 'cat'.* --label-column"):
        find(
            table(tmp_path, "label", ["{'displayName': 'cat'}", "{'displayName': 'dog'}"]), options
        )
    objects = [{"displayName": name, "confidence": 1} for name in ("cat", "dog")]
    with pytest.raises(UserError, match=r"no such column.* are file, label.displayName, label.con"):
        find(rows(tmp_path, [*objects]), options)
    spec = table(tmp_path, "label", ['"[0, 0, 1]"', '"[0, 1, 0]"', '"[1, 0, 0]"'])
    with pytest.raises(UserError, match=r"a 0 or 1 for each class, such as .* name the classes"):
        find(spec, options)


def test_the_numbers_of_rows_are_no_labels(tmp_path: Path):
    for name in "abcd":
        (tmp_path / f"{name}.png").write_bytes(encode(flat(), "PNG"))
    rows = "".join(f"{i},{i},{name}.png,{i % 2}\n" for i, name in enumerate("abcd"))
    (tmp_path / "t.csv").write_text("Unnamed: 0.1,Unnamed: 0,image,level\n" + rows)
    assert find(f"csv:{tmp_path / 't.csv'}").class_names == ("0", "1")
