"""Images whose names say that they belong together: told, with the rule that keeps them so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jtl.data.sources.registry import SourceOptions, find, load
from support.data_files import encode, flat

PNG = encode(flat(4, 4), "PNG")


def images(root: Path, names: list[str]) -> str:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(PNG)
    return f"folder:{root}"


def rule(spec: str) -> str:
    (note,) = (n for n in find(spec).notes if "--group-from" in n)
    return note.partition("--group-from ")[2].strip("'")


FORMS = {
    "OASIS": ("OAS1_{g:04}_MR1_mpr-1_{i}", "OAS1_{g:04}"),
    "BIDS": ("sub-OAS3{g:04}_ses-d0001_run-{i}", "sub-OAS3{g:04}"),
    "ADNI": ("ADNI_{g:03}_S_1059_MR_{i}_x", "{g:03}_S_1059"),
    "OCT": ("CNV-{g}016042-{i}", "CNV-{g}016042"),
    "NIH": ("{g:08}_{i:03}", "{g:08}"),
    "tracks of GTSRB": ("{g:05}_{i:05}", "{g:05}"),
    "TCGA": ("TCGA-A1-A{g:03}-01Z_{i}x", "TCGA-A1-A{g:03}"),
    "BreaKHis": ("SOB_B_A-14-22{g}AB-40-{i:03}", "SOB_B_A-14-22{g}AB"),
    "malaria": ("C{g}P61ThinF_IMG_2015_cell_{i}9", "C{g}P61"),
    "slices": ("patient{g}_slice{i}", "patient{g}"),
    "short": ("P{g:02}_view{i}x", "P{g:02}"),
    "sites of a well": ("B{g:02}_s{i}", "B{g:02}"),
    "tiles": ("{g}0253_idx5_x{i}51_y101_class0", "{g}0253_idx5"),
    "frames": ("S{g:03}_004_0000001{i}", "S{g:03}_004"),
    "Roboflow": ("shot{g}_jpg.rf.{i}0abcdef12", "shot{g}_jpg"),
}


@pytest.mark.parametrize("case", FORMS)
def test_names_of_patients_and_tracks(tmp_path: Path, case: str):
    form, group = FORMS[case]
    names = {
        f"{label}/{form.format(g=g, i=i)}.png": group.format(g=g)
        for label, groups in {"a": (1, 2, 3), "b": (4, 5, 6)}.items()
        for g in groups for i in range(3)
    }  # fmt: skip
    spec = images(tmp_path, [*names])
    assert find(spec, SourceOptions(group_from=rule(spec))).groups == names


@pytest.mark.parametrize("sides", ["left right", "L R", "LEFT_CC RIGHT_CC", "OD OS"])
def test_both_sides_of_a_person_also_where_a_table_has_the_labels(tmp_path: Path, sides: str):
    rows = [f"{number}_{side}" for number in range(10, 22) for side in sides.split()][:-3]
    spec = images(tmp_path, [f"{row}.png" for row in rows])
    table = tmp_path / "labels.csv"
    labelled = [f"{row},{'ab'[i % 4 > 1]}" for i, row in enumerate(rows)]
    table.write_text("\n".join(["image,label", *labelled]))
    spec = f"csv:{table}"
    found = find(spec, SourceOptions(group_from=rule(spec)))
    assert found.groups == {f"{row}.png": row.partition("_")[0] for row in rows}
    # Not where the table says groups, or the validation images.
    for column, value in {"pair": "{0}", "split": "{1}"}.items():
        cells = [value.format(i // 2, ("train", "val")[i % 3 == 0]) for i in range(len(rows))]
        lines = [f"{row},{cell}" for row, cell in zip(labelled, cells, strict=True)]
        table.write_text("\n".join([f"image,label,{column}", *lines]))
        asked = SourceOptions(group_column=column if column == "pair" else None)
        assert not any("--group-from" in note for note in find(spec, asked).notes)


ACROSS = {
    "patients": ("patient{g:02}_{i}", "of patient01"),
    "versions by Roboflow": ("shot{g}_jpg.rf.{i}0abcdef12", "of shot1_jpg"),
    "edited": ("IMG_{g}{edited}", "IMG_1-edited.png of train/a/IMG_1.png"),
}


@pytest.mark.parametrize("case", ACROSS)
def test_images_of_one_thing_in_two_splits(tmp_path: Path, case: str):
    form, told = ACROSS[case]
    names = [
        f"{split}/{c}/{form.format(g=g, i=i, edited='-edited' * (split == 'val'))}.png"
        for c, groups in {"a": (1, 2, 3), "b": (4, 5, 6)}.items()
        for g in groups for i, split in enumerate(("train", "train", "val"))
    ]  # fmt: skip
    (note,) = find(images(tmp_path / "torn", names)).notes
    assert "into one split" in note
    assert told in note


def test_images_of_each_thing_in_one_split(tmp_path: Path):
    """Also where numbers begin anew in each split, and `1-edited.png` is a copy of its own."""
    groups = {"train": (1, 2, 4, 5), "val": (3, 6)}
    whole = [
        f"{split}/{'ab'[g > 3]}/patient{g:02}_{i}.png"
        for split, same in groups.items() for g in same for i in range(3)
    ]  # fmt: skip
    copies = [f"{n}{edited}.png" for n in "12" for edited in ("", "-edited")]
    anew = [f"{split}/{c}/{name}" for split in groups for c in "ab" for name in copies]
    for place, names in {"whole": whole, "anew": anew}.items():
        assert not find(images(tmp_path / place, names)).notes


NO_GROUPS = {
    "a number of each": "{c}_{n}",
    "a number of the class": "n0144{c}_{n}",
    "days and times": "IMG_202105{n:02}_1233{n:02}",
    "one each, with a number": "{n}_100",
    "hashes": "108709{n:02}_ee{c}b3a12",
    "ages": "{n}_0_2_20170109150557335",
    "Caltech birds": "Black_Footed_000{n}_7961{n}",
}


@pytest.mark.parametrize("case", NO_GROUPS)
def test_names_of_images_that_are_by_themselves(tmp_path: Path, case: str):
    names = [
        f"{c}/{NO_GROUPS[case].format(c=i, n=10 * i + n)}.png"
        for i, c in enumerate("abc") for n in range(8)
    ]  # fmt: skip
    assert not find(images(tmp_path, names)).notes


def test_sides_that_are_the_classes(tmp_path: Path):
    names = [f"{side}/{number}_{side}.png" for side in ("left", "right") for number in range(9)]
    assert not find(images(tmp_path, names)).notes


COPIES = {
    "Google": ["IMG_{n}", "IMG_{n}-edited"],
    "iPhone": ["IMG_00{n}", "IMG_E00{n}"],
    "Windows": ["{n}", "{n} - Copy", "{n} - Copy (2)"],
    "macOS": ["shot {n}x", "shot {n}x copy", "shot {n}x copy 2"],
    "saved again": ["{n}_a", "{n}_a (1)"],
    "cloud": ["{n}", "{n}(1)"],
}


@pytest.mark.parametrize("case", COPIES)
def test_edited_and_second_copies(tmp_path: Path, case: str):
    names = [[form.format(n=n) for form in COPIES[case]] for n in (2, 3, 4, 5)]
    spec = images(tmp_path, [f"{c}/{c}{n}.png" if case != "iPhone" else f"{c}/{n}.png"
                             for c in "ab" for same in names for n in same])  # fmt: skip
    data = load(spec, SourceOptions(group_from=rule(spec)))
    forms = len(COPIES[case])
    assert len(data.val.names) % forms == 0
    groups = find(spec, SourceOptions(group_from=rule(spec))).groups
    of = {}
    for name, group in groups.items():
        of.setdefault(group, set()).add(name)
    assert {len(same) for same in of.values()} == {forms * (2 if case == "iPhone" else 1)}


def test_downloads_of_one_name_are_other_images(tmp_path: Path):
    names = ["images", *(f"images ({n})" for n in range(1, 9))]
    assert not find(images(tmp_path, [f"{c}/{n}.png" for c in "ab" for n in names])).notes
    busi = [f"benign ({n})" for n in range(9)]
    assert not find(images(tmp_path / "busi", [f"{c}/{n}.png" for c in "ab" for n in busi])).notes


def test_splits_and_labels_in_objects_of_json_lines(tmp_path: Path):
    """As Vertex AI and SageMaker write them."""
    splits = ["training"] * 6 + ["validation"] * 2 + ["test"] * 2
    images(tmp_path, [f"p{n}.png" for n in range(10)])
    rows = [
        {
            "imageGcsUri": f"gs://bucket/p{n}.png",
            "classificationAnnotation": {"displayName": "cat" if n % 2 else "dog"},
            "dataItemResourceLabels": {"aiplatform.googleapis.com/ml_use": split},
        }
        for n, split in enumerate(splits)
    ]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for column in (None, "classificationAnnotation", "classificationAnnotation.displayName"):
        found = find(f"csv:{tmp_path / 'x.jsonl'}", SourceOptions(label_column=column))
        assert found.class_names == ("cat", "dog")
        assert {name: len(split) for name, split in found.splits.items()} == {
            "train": 6, "val": 2, "test": 2,
        }  # fmt: skip
    told = {"class-name": "cat", "confidence": 0.9, "type": "groundtruth/image-classification"}
    rows = [
        {"source-ref": f"s3://b/p{n}.png", "pets": n % 2,
         "pets-metadata": told | {"class-name": "cat" if n % 2 else "dog"}}
        for n in range(10)
    ]  # fmt: skip
    (tmp_path / "out.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert find(f"csv:{tmp_path / 'out.jsonl'}").class_names == ("cat", "dog")
