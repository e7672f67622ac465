"""Names of classes that are written differently, and are the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from jtl.data.class_names import alike_classes, misspelt_classes
from jtl.data.sources.registry import find
from support.data_files import encode, flat

PNG = encode(flat(4, 4), "PNG")

SAME = {
    "yes no Y N": "'Y' and 'yes'; 'N' and 'no'",
    "True 1 False 0 unknown": "'1' and 'True'; '0' and 'False'",
    "pos neg negative": "'neg' and 'negative'",
    "M F male female": "'M' and 'male'; 'F' and 'female'",
    "1 01 2": "'01' and '1'",
    "1 1.0 dog": "'1' and '1.0'",
    "Yes yes no": "'Yes' and 'yes'",
    "red_fox,Red-fox,red fox": "'Red-fox' and 'red fox' and 'red_fox'",
    "t\u2011shirt t-shirt dog": "'t-shirt' and 't\u2011shirt'",
    "'cat' cat dog": "\"'cat'\" and 'cat'",
    "cat\u200b cat dog": "'cat' and 'cat\\u200b'",
    "caf\u00e9 cafe\u0301 tea": "'cafe\u0301' and 'caf\u00e9'",
}


@pytest.mark.parametrize("names", SAME)
def test_names_that_are_the_same(names: str):
    (told,) = alike_classes("x", names.split("," if "," in names else None))
    assert f": {SAME[names]}. " in told


@pytest.mark.parametrize(
    "names",
    ["A a B b", "+1 -1", "1 10 2", "n p s", "0 1 2 y n x a b", "yes no maybe", "- _ \u2013"],
)
def test_names_that_are_not(names: str):
    assert alike_classes("x", names.split()) == []


def test_a_class_of_one_image_may_be_misspelt():
    (note,) = misspelt_classes({"melanoma": 20, "nevus": 20, "melanona": 1})
    assert "'melanona' (1) of 'melanoma' (20)" in note
    assert misspelt_classes({"melanoma": 20, "melanona": 9}) == []
    assert misspelt_classes({"Quercus1": 20, "Quercus2": 1, "cat": 20, "bat": 1}) == []


def test_whole_numbers_of_two_programs_are_the_same_classes(tmp_path: Path):
    rows = ["file,label"]
    for number, label in enumerate(["1", "1.0", "0", "0.0"] * 3):
        (tmp_path / f"{number}.png").write_bytes(PNG)
        rows.append(f"{number}.png,{label}")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    found = find(f"csv:{tmp_path / 't.csv'}")
    assert found.class_names == ("0", "1")
    assert found.problems == ()
