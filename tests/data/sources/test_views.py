"""Folders and names that say bands of one thing, which are no classes."""

from __future__ import annotations

from pathlib import Path

import pytest

from jtl.common.errors import UserError
from jtl.data.sources.registry import find
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


@pytest.mark.parametrize("bands", ["B02 B03 B04", "b1 b2 b3", "red green blue yellow", "VV VH"])
def test_bands_in_the_names_of_the_images(tmp_path: Path, bands: str):
    names = [f"{{folder}}_{place}_{band}" for place in (1, 2) for band in bands.split()]
    told = refused(written(tmp_path, ["crop", "tree"], names))
    assert f"bands of one thing each (crop_1_{min(bands.lower().split())}, " in told
    assert len(counts(tmp_path, "top")["train"]) == 2
