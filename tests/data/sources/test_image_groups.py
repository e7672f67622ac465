"""Groups of images, such as patients, that files beside class folders name: told, never used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from jtl.data.sources.registry import SourceOptions, find
from support.data_files import counts, encode, flat
from support.split_lists import refusal

GROUPS = [f"s{number:02}" for number in range(1, 9)]
WHOLE = {"train": {"cat": 16, "dog": 16}}


def folder(root: Path, name: str, text: str, form: str = "{label}_{group}_{shot}.png") -> Path:
    for label in ("cat", "dog"):
        for group in GROUPS:
            for shot in range(2):
                path = root / label / form.format(label=label, group=group, shot=shot)
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (4, 4), (shot, 0, int(group[1:]))).save(path)
    (root / name).write_text(text)
    return root


NAMES = [
    "test_subjects.txt", "train_patients.csv", "val_ids.lst", "test.txt", "testlist.csv",
    "test_videos.json", "cats_dogs_test.txt",
]  # fmt: skip


@pytest.mark.parametrize("form", ["{label}_{group}_{shot}.png", "{shot} of Patient {group}.png"])
@pytest.mark.parametrize("name", NAMES)
def test_one_list_of_groups_alone_is_refused(tmp_path: Path, name: str, form: str):
    """Its images would train or be held out at random, and are published as one part."""
    rows = [group.upper() for group in GROUPS[:3]]
    text = json.dumps(rows) if name.endswith("json") else "\n".join(["id", *rows])
    told = refusal(folder(tmp_path, name, text, form))
    assert name in told
    assert "s01, s02, s03 may be groups of images, in whose names they stand." in told


NO_GROUPS = ["cat\ndog\n", "s10\ns11\ns12\n", "a test\nof nothing\n", "1\n2\n", "png\n"]


@pytest.mark.parametrize("text", [*NO_GROUPS, "\n".join(GROUPS)])
def test_words_that_are_no_groups(tmp_path: Path, text: str):
    """Classes, what is in no name or in all of them, and what may count anything."""
    assert counts(folder(tmp_path, "test_list.txt", text)) == WHOLE


TABLES = {
    "subjects.csv": ("image,subject\n{}", "{label}_{group}_{shot}.png,{group}", "subject"),
    "meta.tsv": ("file\tage\tPatientID\n{}", "{label}_{group}_{shot}.png\t9\t{group}", "PatientID"),
    "cv_folds.csv": ("image,fold\n{}", "{label}_{group}_{shot},{number}", "fold"),
    "videos.txt": ("{}", "{label}_{group}_{shot}.png {group}", "videos"),
}  # fmt: skip


def table(name: str) -> str:
    text, row, _ = TABLES[name]
    rows = [
        row.format(label=label, group=group, shot=shot, number=int(group[1:]) % 3)
        for label in ("cat", "dog") for group in GROUPS for shot in range(2)
    ]  # fmt: skip
    return text.format("\n".join(rows))


@pytest.mark.parametrize("name", TABLES)
def test_a_table_that_groups_images_is_told(tmp_path: Path, name: str):
    root = folder(tmp_path, name, table(name))
    assert counts(root) == WHOLE
    note = f"{name} says the {TABLES[name][2]} of images, which jtl does not use. If jtl holds out"
    assert sum(told.startswith(note) for told in find(f"folder:{root}").notes) == 1
    # Not where the validation images are given.
    rows = "\n".join(f"{label}_{group}_0.png" for label in ("cat", "dog") for group in GROUPS)
    (root / "val.txt").write_text(rows)
    assert not any(note in told for told in find(f"folder:{root}").notes)


def test_columns_of_other_things(tmp_path: Path):
    rows = [f"cat_{group}_0.png,{group},{len(group)}" for group in GROUPS]
    text = "\n".join(["image,patient,age_group", *rows])  # A patient each, and one age.
    unused = "which jtl does not use"
    notes = find(f"folder:{folder(tmp_path, 'meta.csv', text)}").notes
    assert not any(unused in note for note in notes)
    rows = [f"{label}_{group}_0.png,{label}" for label in ("cat", "dog") for group in GROUPS]
    (tmp_path / "meta.csv").write_text("\n".join(["image,group", *rows]))  # Of the classes.
    assert not any(unused in note for note in find(f"folder:{tmp_path}").notes)


NAMED = {
    "patients": ["{c}_pat0{g}_slice{i}", "pat01, pat02, pat03"],
    "frames of videos": ["clip{c}{g}_frame_000{i}", "clipa1, clipa2, clipa3 and 3 more"],
}


@pytest.mark.parametrize("case", NAMED)
def test_groups_in_names_are_told_with_the_rule(tmp_path: Path, case: str):
    form, told = NAMED[case]
    for label in "ab":
        (tmp_path / label).mkdir()
        for group in "123":
            for number in range(3):
                name = form.format(c=label, g=group, i=number)
                (tmp_path / label / f"{name}.png").write_bytes(encode(flat(), "PNG"))
    (note,) = (n for n in find(f"folder:{tmp_path}").notes if "belong together" in n)
    assert f"({told})" in note
    rule = note.partition("--group-from ")[2].strip("'")
    found = find(f"folder:{tmp_path}", SourceOptions(group_from=rule))
    assert len({*found.groups.values()}) == (3 if case == "patients" else 6)
    assert not any("belong together" in n for n in found.notes)


@pytest.mark.parametrize("name", ["{c}{i}", "suitcase {c}{i}", "{c}_slice{i}", "case{c}{i}"])
def test_names_without_groups(tmp_path: Path, name: str):
    for label in "ab":
        (tmp_path / label).mkdir()
        for number in range(4):
            file = tmp_path / label / f"{name.format(c=label, i=number)}.png"
            file.write_bytes(encode(flat(), "PNG"))
    assert not find(f"folder:{tmp_path}").notes
