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


ROWS = ["000001.png -1  1 -1", "000002.png  1 -1 -1", "000003.png  1  1  1"]


@pytest.mark.parametrize("head", ["Bald Male Young", "image Bald Male Young"])
def test_a_list_that_says_how_many_rows_follow(tmp_path: Path, head: str):
    """CelebA's and DeepFashion's."""
    images(tmp_path, ["000001", "000002", "000003"])
    (tmp_path / "t.txt").write_text("\n".join(["3", head, *ROWS, ""]))
    spec = f"csv:{tmp_path / 't.txt'}"
    assert labels(spec, label_column="Bald") == {"000001": "-1", "000002": "1", "000003": "1"}
    assert "its columns 'Bald', 'Male', 'Young' hold 1, 0, -1" in refused(spec)
    (tmp_path / "000003.png").unlink()
    assert "row 5 ('000003.png')" in refused(spec, label_column="Bald")
    (tmp_path / "t.txt").write_text("\n".join(["7", head, *ROWS]))
    assert "has only one column ('7')" in refused(spec)


def test_the_row_of_types_of_ecotaxa(tmp_path: Path):
    images(tmp_path, ["a", "b"])
    (tmp_path / "t.tsv").write_text(
        "img_file_name\timg_rank\tobject_id\tobject_annotation_category\n[t]\t[f]\t[t]\t[t]\n"
        "a.png\t0\to1\tcopepod\nb.png\t1\to2\tdetritus\n"
    )
    assert labels(f"csv:{tmp_path / 't.tsv'}") == {"a": "copepod", "b": "detritus"}


def test_objects_in_the_cells_of_a_text(tmp_path: Path):
    """VIA's table and Labelbox's."""
    images(tmp_path, ["a", "b"])
    head = "filename,file_attributes,region_count,region_attributes"
    rows = [f'{n}.png,"{{""class"":""{c}""}}",0,"{{}}"' for n, c in (("a", "ant"), ("b", "bee"))]
    (tmp_path / "t.csv").write_text("\n".join([head, *rows]))
    found = {"a": "ant", "b": "bee"}
    for column in (None, "file_attributes", "file_attributes.class"):
        assert labels(f"csv:{tmp_path / 't.csv'}", label_column=column) == found


def test_labels_that_images_do_not_have(tmp_path: Path):
    """Open Images lists what people saw not to be in an image, too."""
    images(tmp_path, ["a", "b"])
    head = "ImageID,Source,LabelName,Confidence"
    rows = [f"{n},verification,{c},{int((n == 'a') == (c == 'cat'))}"
            for n in "ab" for c in ("cat", "dog")]  # fmt: skip
    (tmp_path / "t.csv").write_text("\n".join([head, *rows]))
    spec, asked = f"csv:{tmp_path / 't.csv'}", {"label_column": "LabelName", "task": "multilabel"}
    assert "'Confidence' of" in (told := refused(spec, **asked))
    assert "is 0 in 2 of 4 rows" in told
    (tmp_path / "t.csv").write_text("\n".join([head, *(r for r in rows if r.endswith("1"))]))
    found = find(spec, SourceOptions(label_column="LabelName", task="multilabel"))
    assert found.splits["train"].labels.tolist() == [[1, 0], [0, 1]]


def test_corners_are_no_labels(tmp_path: Path):
    images(tmp_path, ["a", "b"])
    text = "patientId,x,y,width,height,Target\na,,,,,0\nb,2,3,4,5,1\nb,7,8,9,6,1\n"
    (tmp_path / "t.csv").write_text(text)
    assert labels(f"csv:{tmp_path / 't.csv'}") == {"a": "0", "b": "1"}


def test_paths_that_start_at_the_root_of_images(tmp_path: Path):
    """Places365's `/a/airfield/1.jpg`, below `data`."""
    images(tmp_path / "data", [])
    for name in ("airfield", "bakery"):
        (tmp_path / "data" / name[0]).mkdir()
        images(tmp_path / "data" / name[0] / name, ["1"])
    (tmp_path / "t.txt").write_text("/a/airfield/1.png 0\n/b/bakery/1.png 1\n")
    spec, root = f"csv:{tmp_path / 't.txt'}", str(tmp_path / "data")
    assert labels(spec, image_root=root) == {"a/airfield/1": "0", "b/bakery/1": "1"}
    assert f"start at {root}." in " ".join(find(spec, SourceOptions(image_root=root)).notes)


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


def test_the_other_folder_is_named_where_there_is_no_train(tmp_path: Path):
    for name in ("data_256/a", "data_256/b", "val_256/a", "val_256/b"):
        (tmp_path / name).mkdir(parents=True)
        images(tmp_path / name, ["1"])
    told = refused(str(tmp_path))
    assert f"call it train, or give it alone ({tmp_path}/data_256). To score" in told
