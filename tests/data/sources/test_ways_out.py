"""What is offered where folders cannot be read as classes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from jtl.common.errors import UserError
from jtl.data.sources.registry import find
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


def test_anomalies_have_one_class_to_train_on(tmp_path: Path):
    grown(tmp_path, ["train/good:3", "test/good:2", "test/broken:2"])
    problem = str(find(f"folder:{tmp_path}").problems[0])
    assert problem.endswith(
        "With one class to train on, as for finding anomalies, jtl trains nothing."
    )
