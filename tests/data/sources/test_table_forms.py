"""Tables in the forms of published lists: comments, no head, ids and names of several words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jtl.common.errors import UserError
from jtl.data.sources.registry import SourceOptions, find
from support.data_files import encode, flat

PNG = encode(flat(4, 4), "PNG")
BREEDS = ["Abyssinian_1", "Abyssinian_2", "pug_1", "pug_2"]


def images(root: Path, names: list[str]) -> None:
    root.mkdir(exist_ok=True)
    for name in names:
        (root / f"{name}.png").write_bytes(PNG)


def labels(spec: str, **options: Any) -> dict[str, str]:
    found = find(spec, SourceOptions(**options))
    split = found.splits["train"]
    return {
        name.partition(".")[0]: found.class_names[label]
        for name, label in zip(split.names, split.labels, strict=True)
    }


def refused(spec: str, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        find(spec, SourceOptions(**options))
    return str(caught.value)


PETS = """#Image CLASS-ID SPECIES BREED ID
#ID: 1:37 Class ids
#SPECIES: 1:Cat 2:Dog
#All images with 1st letter large are cat images
Abyssinian_1 1 1 1
Abyssinian_2 1 1 1
pug_1 2 2 1
pug_2 2 2 1
"""


def test_comments_in_the_list_of_pets(tmp_path: Path):
    images(tmp_path / "images", BREEDS)
    (tmp_path / "list.txt").write_text(PETS)
    spec, root = f"csv:{tmp_path / 'list.txt'}", str(tmp_path / "images")
    assert "several columns that could hold the labels: '2', '3'" in refused(spec, image_root=root)
    breeds = dict(zip(BREEDS, "1122", strict=True))
    assert labels(spec, image_root=root, label_column="2") == breeds
    (tmp_path / "list.txt").write_text(PETS.replace("pug_2", "pug_7"))
    assert "row 8 ('pug_7')" in refused(spec, image_root=root, label_column="2")


@pytest.mark.parametrize(
    "head", ["#image,label\n", "# by hand\n# image, label\n", "#image label\n"]
)
def test_comments_that_name_the_columns(tmp_path: Path, head: str):
    images(tmp_path, ["a", "b"])
    separator = "," if "," in head else " "
    (tmp_path / "t.csv").write_text(f"{head}a{separator}ant\nb{separator}bee\n")
    found = find(f"csv:{tmp_path / 't.csv'}", SourceOptions(label_column="label"))
    assert found.class_names == ("ant", "bee")


def test_images_called_like_comments(tmp_path: Path):
    images(tmp_path, ["#1", "#2"])
    (tmp_path / "t.csv").write_text("#1.png,ant\n#2.png,bee\n")
    assert labels(f"csv:{tmp_path / 't.csv'}") == {"#1": "ant", "#2": "bee"}


@pytest.mark.parametrize("separator", [",", " "])
def test_a_first_row_that_leads_to_an_image_is_no_head(tmp_path: Path, separator: str):
    images(tmp_path, BREEDS)
    rows = dict(zip(BREEDS, ["cat", "cat", "dog", "dog"], strict=True))
    text = "\n".join(separator.join(row) for row in rows.items())
    (tmp_path / "t.csv").write_text(text)
    assert labels(f"csv:{tmp_path / 't.csv'}") == rows
    (tmp_path / "t.csv").write_text(f"Abyssinian{separator}kind\n{text}")
    assert labels(f"csv:{tmp_path / 't.csv'}") == rows


def test_names_of_several_words_behind_a_number(tmp_path: Path):
    """As in FGVC-Aircraft's `images_variant_train.txt`."""
    rows = {"0034309": "Cessna 172", "1340192": "DC-9-30", "0056978": "Cessna 208 Caravan"}
    images(tmp_path, [*rows])
    (tmp_path / "t.txt").write_text("\n".join(map(" ".join, rows.items())))
    assert labels(f"csv:{tmp_path / 't.txt'}") == rows
    (tmp_path / "t.txt").write_text("a line\nof words alone\n")
    assert "has only one column" in refused(f"csv:{tmp_path / 't.txt'}")


def ages(root: Path, name: str, values: list[object]) -> str:
    names = [f"{1377 + n}" for n in range(len(values))]
    images(root, names)
    rows = [f"{i},{v},{n % 3 == 0}" for n, (i, v) in enumerate(zip(names, values, strict=True))]
    (root / "t.csv").write_text("\n".join([f"id,{name},male", *rows]))
    return f"csv:{root / 't.csv'}"


MEASURED = {
    "months": ("boneage", [n * 37 % 229 for n in range(40)]),
    "few months": ("months", [n % 25 for n in range(80)]),
    "whole numbers with gaps": ("y7", [n * n for n in range(30)]),
}


@pytest.mark.parametrize("case", MEASURED)
def test_measurements_are_not_proposed_and_said_to_look_so(tmp_path: Path, case: str):
    name, values = MEASURED[case]
    spec = ages(tmp_path, name, [*values])
    told = refused(spec)
    assert f"'{name}' looks like a measurement" in told
    assert told.endswith("--label-column male")
    (note,) = (n for n in find(spec, SourceOptions(label_column=name)).notes if "different" in n)
    assert f"{len({*values})} different numbers" in note
    text = (tmp_path / "t.csv").read_text().splitlines()
    (tmp_path / "t.csv").write_text("\n".join(row.rpartition(",")[0] for row in text))
    assert f"If each number is a class: --label-column '{name}'" in refused(spec)


@pytest.mark.parametrize("name", ["digit", "kind"])
def test_numbers_of_classes_are_no_measurements(tmp_path: Path, name: str):
    values = [n % (10 if name == "digit" else 30) for n in range(90)]
    found = find(ages(tmp_path, name, [*values]), SourceOptions(label_column=name))
    assert len(found.class_names) == len({*values})
    assert not any("different numbers" in note for note in found.notes)


def test_the_table_of_training_images_is_proposed(tmp_path: Path):
    """APTOS: `test.csv` has no labels, and comes first."""
    images(tmp_path / "train_images", ["a", "b"])
    images(tmp_path / "test_images", ["c"])
    (tmp_path / "train.csv").write_text("id_code,diagnosis\na,0\nb,1\n")
    (tmp_path / "test.csv").write_text("id_code\nc\n")
    assert f"--data csv:{tmp_path}/train.csv" in refused(str(tmp_path))
    (tmp_path / "train.csv").unlink()
    assert "csv:" not in refused(str(tmp_path)).replace("csv:FILE", "")
