"""Folders and names that say bands of one thing, which are no classes."""

from __future__ import annotations

from pathlib import Path

import pytest

from jtl.common.errors import UserError
from jtl.data.sources.registry import SourceOptions, find, load
from support.data_files import counts, encode, flat

COUNTED = [str(number) for number in range(5)]
PLACES = ["T32_aux", "T32_bor", "T32_cyt"]


def written(root: Path, folders: list[str], names: list[str]) -> Path:
    for folder in folders:
        (root / folder).mkdir(parents=True)
        for name in names:
            (root / folder / f"{name.format(folder=folder)}.png").write_bytes(
                encode(flat(8, 8), "PNG")
            )
    return root


def refused(root: Path) -> str:
    with pytest.raises(UserError) as caught:
        find(f"folder:{root}")
    return str(caught.value)


BANDS = {
    "bands of Sentinel": (["B02", "B03", "B8A"], COUNTED),
    "bands called after their folders": (["B02", "B03"], ["{folder}_x", "{folder}_y"]),
    "polarizations": (["VV", "VH"], PLACES),
    "near infrared among colours": (["red", "green", "nir"], COUNTED),
    "colours of places": (["red", "green"], PLACES),
    "an image and its depth": (["rgb", "depth"], PLACES),
    "sequences of one patient": (["T1", "T2", "FLAIR"], ["p07", "p12", "p31"]),
    "stains": (["DAPI", "GFP"], COUNTED),
}


@pytest.mark.parametrize("case", BANDS)
def test_folders_of_bands_of_the_same_things(tmp_path: Path, case: str):
    folders, names = BANDS[case]
    told = refused(written(tmp_path, folders, names))
    assert "bands or" in told
    assert "add --classes top" in told
    assert [*counts(tmp_path, "top")["train"]] == sorted(folders)


def test_folders_of_bands_in_a_split(tmp_path: Path):
    root = written(tmp_path, ["train/B02", "train/B03", "val/B02", "val/B03"], COUNTED)
    assert "B02, B03 are called like bands or channels" in refused(root)


CLASSES = {
    "colours with counted images": (["red", "green", "blue"], COUNTED),
    "other names than bands": (["real", "fake"], PLACES),
    "a band and a class": (["B02", "forest"], PLACES),
    "two shots of each": (["cat", "dog"], ["{folder}0_b1", "{folder}0_b2"]),
    "shirts in colours": (["shirt", "coat"], ["{folder}0_red", "{folder}0_blue"]),
    "some with more names": (["cat", "dog"], ["x_B02", "x_B03", "y", "z"]),
    "faces with and without": (["mask", "no_mask"], ["x_{folder}", "y_{folder}"]),
    "other bands of each": (["cat", "dog"], ["x_B02", "x_B03", "y_B04", "z_B05"]),
}


@pytest.mark.parametrize("case", CLASSES)
def test_folders_that_are_classes_all_the_same(tmp_path: Path, case: str):
    folders, names = CLASSES[case]
    assert [*counts(written(tmp_path, folders, names))["train"]] == sorted(folders)


def test_bands_called_alike_with_other_images_are_classes(tmp_path: Path):
    written(tmp_path, ["VV"], PLACES)
    written(tmp_path, ["VH"], ["else", "other", "more"])
    assert counts(tmp_path) == {"train": {"VH": 3, "VV": 3}}


FORMS = ["B02 B03 B04", "b1 b2 b3", "red green blue yellow", "VV VH", "crop depthcrop", "rgb depth"]


@pytest.mark.parametrize("bands", FORMS)
def test_bands_in_the_names_of_the_images(tmp_path: Path, bands: str):
    names = [f"{{folder}}_{place}_{band}" for place in (1, 2) for band in bands.split()]
    told = refused(written(tmp_path, ["crop", "tree"], names))
    assert f"bands of one thing each (crop_1_{min(bands.lower().split())}, " in told
    assert len(counts(tmp_path, "top")["train"]) == 2


COPIES = [
    ["{folder}0", "{folder}0_flip", "{folder}0_rot90", "{folder}0_rot180"],
    ["{folder}0", "aug_7_{folder}0", "aug_8_{folder}0"],
]


@pytest.mark.parametrize("names", COPIES)
def test_altered_copies_are_kept_together_by_what_the_note_says(tmp_path: Path, names: list[str]):
    names = [name.replace("0", number, 1) for number in "234" for name in names]
    written(tmp_path, ["ant", "bee"], names)
    found = find(f"folder:{tmp_path}")
    (note,) = (note for note in found.notes if "altered copies of others by their names" in note)
    rule = note.partition("--group-from ")[2].strip("'")
    data = load(f"folder:{tmp_path}", SourceOptions(group_from=rule))
    assert not any("altered" in note for note in data.notes)
    train, val = (
        {name.rpartition("/")[2].partition(".")[0].removeprefix("aug_7_").removeprefix("aug_8_")[:4]
         for name in split.names}
        for split in (data.train, data.val)
    )  # fmt: skip
    assert not train & val
    assert train | val == {f"{c}{n}" for c in ("ant", "bee") for n in "234"}


def test_names_of_single_images_are_no_copies(tmp_path: Path):
    written(tmp_path, ["ant", "bee"], ["x_flip", "rot_7", "y", "y_2", "r_y2"])
    assert not find(f"folder:{tmp_path}").notes


@pytest.mark.parametrize(("folder", "names"), [("thumbs", COUNTED), ("web", ["owl", "eel"])])
def test_copies_in_a_folder_of_a_class(tmp_path: Path, folder: str, names: list[str]):
    written(tmp_path, ["ant", "bee", f"ant/{folder}"], names)
    told = refused(tmp_path)
    assert f"ant/{folder} holds images of the same names as those in {tmp_path}/ant" in told
    assert counts(tmp_path, "top") == {"train": {"ant": 2 * len(names), "bee": len(names)}}


@pytest.mark.parametrize("names", [COUNTED, ["owl", "fox"]])
def test_other_images_in_a_folder_of_a_class(tmp_path: Path, names: list[str]):
    written(tmp_path, ["ant", "bee"], names)
    written(tmp_path, ["ant/more"], ["7", "8"] if names != COUNTED else COUNTED)
    assert counts(tmp_path)["train"]["bee"] == len(names)


@pytest.mark.parametrize(("ant", "bee"), [("ant", "bee"), ("ant/ant", "bee/bee")])
def test_parts_cut_from_images_in_a_folder_beside_them(tmp_path: Path, ant: str, bee: str):
    """As SIPaKMeD's slides `001.bmp` and cells `CROPPED/001_01.bmp`."""
    written(tmp_path, [ant, bee], ["001", "002"])
    written(tmp_path, [f"{ant}/CROPPED"], ["001_01", "001_02", "002_01"])
    assert f"{ant}/CROPPED holds images named after those in " in refused(tmp_path)
    assert counts(tmp_path, "top") == {"train": {"ant": 5, "bee": 2}}


@pytest.mark.parametrize(("ant", "bee"), [("ant", "bee"), ("ant/ant", "bee/bee")])
def test_images_in_a_folder_beside_those_of_a_class(tmp_path: Path, ant: str, bee: str):
    written(tmp_path, [ant, bee], ["001", "002", "003"])
    written(tmp_path, [f"{ant}/winter", f"{bee}/winter"], ["004"])
    found = find(f"folder:{tmp_path}")
    assert "Images in sub-folders belong to their class: ant, bee." in found.notes
