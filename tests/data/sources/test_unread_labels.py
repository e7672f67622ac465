"""Boxes beside images of class folders: what they are is told, by what they hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from jtl.common.errors import UserError
from jtl.data.sources.registry import find
from support.data_files import grown

BOXES = {
    "YOLO": ("a/a-{}.txt", "0 0.5 0.5 0.25 1e-3\n3 0.1 0.1 0.25 0.2\n"),
    "LabelMe": ("a/a-{}.json", '{"version": "5", "shapes": [], "imagePath": "a.png"}'),
    "Pascal VOC": ("a/a-{}.xml", "<annotation></annotation>"),
    "VIA": ("regions.json", '{"x.png12": {"filename": "x.png", "size": 12, "regions": []}}'),
    "COCO": ("data.json", '{"images": [{"id": 1}], "annotations": [], "categories": []}'),
}


@pytest.mark.parametrize("kind", BOXES)
def test_boxes_beside_images(tmp_path: Path, kind: str):
    name, text = BOXES[kind]
    grown(tmp_path, "a:12 b:2")
    files = list(dict.fromkeys(name.format(number) for number in range(12)))
    for file in files:
        (tmp_path / file).write_text(text)
    found = find(f"folder:{tmp_path}")
    told = f"{'labels or ' * (kind == 'COCO')}boxes in the format of {kind}"
    assert {left.what: len(left.names) for left in found.left_out} == {told: len(files)}
    assert f"Labels come from the folders; {min(files)}" in found.notes[0]
    assert f"({told}) next to them" in found.notes[0]
    grown(tmp_path / "flat", "images:4")
    (tmp_path / files[0]).rename(tmp_path / "flat" / Path(files[0]).name)
    with pytest.raises(UserError, match="They may hold boxes, of several objects in an image"):
        find(f"folder:{tmp_path / 'flat'}")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "taken in May 2021",
        "1 1 312.0 182.0 1",
        "1 1 0.0 0.0 0",
        "7\n8\n",
        '{"camera": "x"}',
        "\0" * 99,
    ],
)
def test_other_files_are_no_boxes(tmp_path: Path, text: str):
    grown(tmp_path, "a:2 b:2")
    (tmp_path / "a" / "a-0.txt").write_text(text)
    (tmp_path / "a" / "a-0.json").write_text(text)
    assert [left.what for left in find(f"folder:{tmp_path}").left_out] == [
        "files that are no images"
    ]


def test_annotations_of_supervisely(tmp_path: Path):
    grown(tmp_path, "a:2 b:2")
    text = '{"description": "", "tags": [{"name": "cat"}], "size": {}, "objects": []}'
    (tmp_path / "a" / "a-0.png.json").write_text(text)
    told = "Labels come from the folders; a/a-0.png.json (annotations of Supervisely) next to them"
    assert told in find(f"folder:{tmp_path}").notes[0]
    for name in ("a", "b"):
        (tmp_path / name).rename(tmp_path / name.replace("a", "ds0").replace("b", "ds1"))
    with pytest.raises(UserError, match=r"has ds0 \(2\), ds1 \(2\)\. By their names they may be"):
        find(f"folder:{tmp_path}")


def test_tables_of_boxes_are_proposed_last(tmp_path: Path):
    grown(tmp_path, "images:4")
    for name in ("BBox_List.csv", "Data_Entry.csv"):
        (tmp_path / name).write_text("file,label\nimages-0.png,a\n")
    with pytest.raises(UserError, match=r"--data csv:\S+/Data_Entry\.csv"):
        find(f"folder:{tmp_path}")
