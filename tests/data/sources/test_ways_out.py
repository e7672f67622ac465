"""What is offered where folders cannot be read as classes."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from jtl.common.errors import UserError
from jtl.data.sources.registry import find, load
from support.data_files import counts, grown


def test_a_copy_of_all_classes_beside_them(tmp_path: Path):
    grown(tmp_path, ["no:2", "yes:3", "copy/no:2", "copy/yes:3"])
    with pytest.raises(UserError, match=r"Move copy elsewhere; or, .*: folder:") as caught:
        find(f"folder:{tmp_path}")
    whole = {"train": {"no": 2, "yes": 3}}
    assert counts(Path(str(caught.value).rpartition("folder:")[2])) == whole
    shutil.rmtree(tmp_path / "copy")
    assert counts(tmp_path) == whole


def test_archives_without_images_are_to_be_unpacked(tmp_path: Path):
    grown(tmp_path, ["data/train.zip", "data/test.tar.gz"])
    with pytest.raises(UserError, match=r"no images, but archives: data/test.tar.gz, .* Unpack"):
        find(f"folder:{tmp_path}")


def test_an_archive_beside_the_classes_is_noted(tmp_path: Path):
    grown(tmp_path, ["a:2", "b:3", "c.zip"])
    (note,) = find(f"folder:{tmp_path}").notes
    assert note == "Archives are not read: c.zip. Unpack them if they hold images of a class."


@pytest.mark.parametrize("name", ["train_label.xml", "images/list_info.xml"])
def test_lists_in_xml_are_no_boxes(tmp_path: Path, name: str):
    """VeRi's name the vehicle in each whole image."""
    with pytest.raises(UserError) as caught:
        find(f"folder:{grown(tmp_path, ['images:4', name])}")
    assert f"Their labels may be in {name}. jtl does not read labels from" in str(caught.value)
    grown(tmp_path / "x", ["a:2", "b:2", name])
    assert ("lists in XML", (name,)) in find(f"folder:{tmp_path / 'x'}").left_out


@pytest.mark.parametrize("test", ["bbox_test/0002:2 bbox_test/0004:2", "val/x:2 val/y:2 val/z:1"])
def test_other_classes_than_those_of_training(tmp_path: Path, test: str):
    """Other persons, as in MARS, or new classes with few images each, as in miniImageNet."""
    grown(tmp_path, f"bbox_train/0001:2 bbox_train/0003:3 {test}")
    (problem,) = find(f"folder:{tmp_path}").problems
    assert "None of its classes is one of train, as in data for re-identification" in problem
    (way,) = re.findall(r"--data (folder:\S+)", problem)
    assert load(way).class_names == ("0001", "0003")
    grown(tmp_path, f"{test.partition('/')[0]}/0001:2")
    assert "Rename or remove these folders" in find(f"folder:{tmp_path}").problems[0]


@pytest.mark.parametrize("ending", ["npy", "mp4"])
def test_class_folders_of_other_files(tmp_path: Path, ending: str):
    (problem, *_) = find(f"folder:{grown(tmp_path, [f'a/x.{ending}', f'b/y.{ending}'])}").problems
    assert f"They hold other files, such as a/x.{ending}, b/y.{ending}: jtl reads images" in problem


def test_a_split_and_a_class_in_one_name(tmp_path: Path):
    with pytest.raises(UserError, match="If the name train_cats says a split and a class, put"):
        find(f"folder:{grown(tmp_path, 'train_cats:2 train_dogs:2 val_cats:1 val_dogs:1')}")


@pytest.mark.parametrize("name", ["labels/train/0.txt", "result.json", "project-1-at-2026.json"])
def test_labels_of_annotation_programs(tmp_path: Path, name: str):
    with pytest.raises(UserError, match=f"Their labels may be in {name}. "):
        find(f"folder:{grown(tmp_path, ['images/train:4', name])}")


def test_anomalies_have_one_class_to_train_on(tmp_path: Path):
    grown(tmp_path, ["train/good:3", "test/good:2", "test/broken:2"])
    problem = str(find(f"folder:{tmp_path}").problems[0])
    assert problem.endswith(
        "With one class to train on, as for finding anomalies, jtl trains nothing."
    )
