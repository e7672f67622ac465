"""Folders that would train on something else than meant: refused with the way out, or left out."""

from __future__ import annotations

import re
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from jtl.common.errors import UserError
from jtl.data.sources import segmentations
from jtl.data.sources.part_names import numbered_parts
from jtl.data.sources.registry import SourceOptions, find, load
from jtl.data.sources.stores import ImageFile, Tree
from support.data_files import counts, grown

AB = {"a": 2, "b": 3}
PARTS = {
    "HAM10000_images_part_1": "HAM10000_images_part_2",
    "images_001": "images_012",
    "batch1": "batch2",
    "fold_3": "fold_4",
    "part-0": "part-1",
    "part_A": "part_B",
    "part1of2": "part2of2",
    "New folder": "New folder (2)",
    "Images": "images2",
    "DATA 1": "data 2",
    "Picture A": "Picture B",
    "patient00042": "patient11111",
    "Week1_22123": "Week2_24121",
    "seq-01": "seq-02",
    "Base11": "Base12",
}
CLASSES = [
    ("class_0", "class_1"), ("n01440764", "n01443537"), ("s1", "s40"), ("0", "1"), ("A", "a"),
    ("grade1", "grade2"), ("Sample001", "Sample002"), ("001.frame", "002.desk"), ("a", "b"),
    ("cat_images", "dog_images"), ("images_cat", "images_dog"), ("c0", "c9"), ("folder", "file"),
]  # fmt: skip


@pytest.mark.parametrize("one", PARTS)
def test_parts_of_one_data_set_are_no_classes(tmp_path: Path, one: str):
    other = PARTS[one]
    assert numbered_parts([one, other, "cat"]) == sorted([one, other])
    grown(tmp_path, [f"{one}:2", f"{other}:3", "metadata.csv"])
    with pytest.raises(UserError) as caught:
        find(f"folder:{tmp_path}")
    text = str(caught.value)
    assert (
        "may be classes, or parts of one data set. If they are classes, add --classes top." in text
    )
    assert "If they are parts, put the images of each class into a folder named after" in text
    assert "Their labels may be in metadata.csv." in text
    assert sorted(counts(tmp_path, "top")["train"].values()) == [2, 3]


@pytest.mark.parametrize("names", CLASSES)
def test_numbered_classes_are_classes(tmp_path: Path, names: tuple[str, str]):
    assert numbered_parts(names) == []
    grown(tmp_path, [f"{name}:2" for name in names])
    assert counts(tmp_path) == {"train": dict.fromkeys(sorted(names), 2)}


def test_parts_with_classes_in_them(tmp_path: Path):
    grown(tmp_path, ["batch1/a:2", "batch1/b:2", "batch2/a:2", "batch2/b:2"])
    for level in ("auto", "leaf"):
        with pytest.raises(UserError, match="merge them into one folder with one folder for each"):
            counts(tmp_path, level)
    grown(tmp_path / "x", ["part1/a:2", "part2/b:2"])
    assert counts(tmp_path / "x", "leaf") == {"train": {"a": 2, "b": 2}}


def test_one_part_among_classes_and_parts_in_a_split(tmp_path: Path):
    with pytest.raises(UserError, match=r"has batch_2 \(2\). By their names they may"):
        find(f"folder:{grown(tmp_path / 'one', ['cat:2', 'dog:2', 'batch_2:2'])}")
    with pytest.raises(UserError, match=r"train has images_1 \(2\), images_2 \(2\). By"):
        find(f"folder:{grown(tmp_path / 'two', ['train/images_1:2', 'train/images_2:2'])}")


def masks_of(*names: str) -> list[str]:
    """Which of these images are masks."""
    images = [ImageFile(tuple(name.split("/")), None, 1, 0) for name in sorted(names)]
    folders = {image.parts[:n] for image in images for n in range(len(image.parts))}
    whole = Tree(images, folders, [], [])
    found = segmentations.find(whole)
    tree, masks = segmentations.without(whole, found.masks), found.masks
    assert not found.doubtful
    assert sorted([*masks, *(image.name for image in tree.images)]) == sorted(names)
    assert {image.parts[:-1] for image in tree.images} <= tree.folders
    return masks


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("benign (1).png", "benign (1)_mask.png"),
        ("benign (1).png", "benign (1)_mask_1.png"),
        ("x.jpg", "x_seg.png"),
        ("x.jpg", "x_Segmentation.PNG"),
        ("X.JPG", "x-label.png"),
        ("x.jpg", "x_gt.bmp"),
        ("x.jpg", "x.mask.0.png"),
        ("x.jpg", "mask_x.png"),
        ("x.jpg", "x_gt_mask.png"),
        ("x.jpg", "masks/x.png"),
        ("x.jpg", "masks/x_mask.png"),
    ],
)
def test_masks_beside_their_images(image: str, mask: str):
    assert masks_of(f"a/{image}", f"a/{mask}", "b/y.png") == [f"a/{mask}"]


def test_a_folder_of_masks_beside_the_folder_of_a_class():
    images = ["benign/1.png", "benign/2.png", "normal/3.png"]
    masks = ["benign_masks/1.png", "benign_masks/2.png"]
    assert masks_of(*images, *masks) == masks
    # Faces with and without a mask: of other images.
    assert masks_of("face/1.png", "face/2.png", "face_mask/1.png", "face_mask/9.png") == []


def test_classes_whose_names_are_like_those_of_masks():
    images = [f"{name}/{n}.png" for name in ("face", "face_mask", "cap") for n in range(3)]
    assert masks_of(*images) == []
    bottles = [f"{name}/{n}.png" for name in ("bottle", "bottle label", "can") for n in range(2)]
    assert masks_of(*bottles) == []
    # Few among many: of some other meaning.
    assert masks_of(*(f"a/{n}.png" for n in range(9)), "a/mask_0.png") == []


def found_in(names: list[str]) -> segmentations.Found:
    images = [ImageFile(tuple(name.split("/")), None, 1, 0) for name in names]
    folders = {image.parts[:n] for image in images for n in range(len(image.parts))}
    return segmentations.find(Tree(images, folders, [], []))


@pytest.mark.parametrize("word", ["masks", "labels", "contours", "annotations"])
@pytest.mark.parametrize("stem", ["face", "img_{}", "{}"])
def test_a_folder_like_one_of_masks_may_be_the_second_class(word: str, stem: str):
    numbers = range(4)
    names = [
        f"{folder}/{stem.format(n)}_{n}.png" for folder in ("face", f"face_{word}") for n in numbers
    ]
    found = found_in(names)
    assert (found.masks, len(found.kept)) == ([], 4)
    third = [f"cap/c{n}.png" for n in numbers]
    assert len(found_in([*names, *third]).masks) == 4
    # Where the third has such names too, they may have been counted.
    third = [name.replace("face/", "cap/") for name in names if name.startswith("face/")]
    doubtful = found_in([*names, *third])
    assert "but so have those in cap, so it may be a class" in doubtful.doubtful
    # But if all classes have them, they belong together.
    both = [name.replace("face", "cap", 1) for name in names]
    assert (len(found_in([*names, *both]).masks), found_in([*names, *both]).doubtful) == (8, "")


@pytest.mark.parametrize("form", ["mask_{}", "label_{}", "{}_label", "photo_{}_anno"])
def test_names_that_may_be_counted(form: str):
    base = "photo_{}" if "photo" in form else "{}"

    def of(images: int, others: int) -> segmentations.Found:
        names = [f"a/{base.format(n)}.png" for n in range(images)]
        return found_in([*names, *(f"a/{form.format(n)}.png" for n in range(others))])

    assert (len(of(8, 8).masks), of(8, 8).doubtful) == (8, "")
    assert "8 images next to them have" not in of(8, 8).doubtful
    assert (of(8, 3).masks, len(of(8, 3).kept), of(8, 3).doubtful) == ([], 3, "")
    assert "may be masks or annotations of other images, whose names" in of(8, 4).doubtful
    sure = found_in([*(f"a/{n}.png" for n in range(20)), "a/7_mask.png", "a/x.png", "a/x_seg.png"])
    assert (sure.masks, sure.kept) == (["a/7_mask.png", "a/x_seg.png"], [])


def test_what_is_doubtful_about_masks_is_refused(tmp_path: Path):
    grown(tmp_path, ["a:4", "b:3"])
    for number in range(4):
        (tmp_path / "a" / f"a-{number}.png").rename(tmp_path / "a" / f"{number}.png")
    for number in range(2):
        shutil.copy(tmp_path / "a/0.png", tmp_path / "a" / f"mask_{number}.png")
    with pytest.raises(UserError, match=r"mask_0.png, .* move them elsewhere. If not, add --cl"):
        find(f"folder:{tmp_path}")
    assert counts(tmp_path, "top") == {"train": {"a": 6, "b": 3}}


RETRIEVAL = "as data for re-identification or retrieval have"
QUERIES = {
    "bounding_box_train:3 bounding_box_test:3 query:2 gt_bbox:3 gt_query:2": RETRIEVAL,
    "bounding_box_train:3 query:2": RETRIEVAL,
    "image_train:3 image_test:3 image_query:2": RETRIEVAL,
    "x/train:3 x/gallery:3 x/query:2": RETRIEVAL,
    "gallery:3 query:2": "query hardly is a class",
    "bounding_box_train:3 bounding_box_test:3": "has no class folders",
    "train/01:2 train/07:2 query/03:2 gallery/03:2": "whose queries show other classes than",
}


@pytest.mark.parametrize("tree", QUERIES)
def test_data_for_retrieval(tmp_path: Path, tree: str):
    with pytest.raises(UserError) as caught:
        find(f"folder:{grown(tmp_path, tree)}")
    assert QUERIES[tree] in str(caught.value)


def test_identities_in_folders_are_classes(tmp_path: Path):
    tree = "bounding_box_train/0002:2 bounding_box_train/0007:3 bounding_box_test:3 query:2"
    assert counts(grown(tmp_path, tree)) == {"train": {"0002": 2, "0007": 3}}


def test_a_word_for_annotations_ends_the_name_of_a_class(tmp_path: Path):
    names = ["photos", "paintings", "white label", "red label"]
    grown(tmp_path, [f"{name}:2" for name in names])
    assert counts(tmp_path) == {"train": dict.fromkeys(sorted(names), 2)}


@pytest.mark.parametrize(
    "names",
    [("june", "june_aug"), ("hard", "hard copy"), ("disc", "disc_a"), ("Part 3001", "Part 3002")],
)
def test_classes_whose_names_are_like_those_of_copies_and_parts(tmp_path: Path, names):
    grown(tmp_path, [f"{name}:2" for name in names])
    assert counts(tmp_path) == {"train": dict.fromkeys(names, 2)}


def test_names_like_masks_without_an_image_are_images():
    assert masks_of("a/x_mask.png", "a/y.png", "b/1_seg.png", "b/2_seg.png") == []
    assert masks_of("with_mask/1.png", "with_mask/1_mask.png", "no_mask/2.png") == []
    assert masks_of("mask/1.png", "mask/2.png", "no_mask/1.png") == []
    assert masks_of("a/unmask.png", "a/un.png", "a/xmask.png", "a/x.png") == []


def test_masks_are_counted_and_named(tmp_path: Path):
    grown(tmp_path, ["a:2", "b:3"])
    for image in [*tmp_path.rglob("*.png")]:
        shutil.copy(image, image.with_name(f"{image.stem}_mask.png"))
    assert counts(tmp_path) == {"train": AB}
    found = find(f"folder:{tmp_path}")
    note = "5 images left out as masks or parts of others, for example a/a-0_mask.png."
    assert f"{note} To keep them: --classes top." in found.notes
    assert counts(tmp_path, "top") == {"train": {"a": 4, "b": 6}}
    (note,) = find(f"folder:{tmp_path}", SourceOptions(classes="top")).notes
    assert note.startswith("5 images may be masks of others by their names, and are kept")
    (left,) = found.left_out
    assert (left.what, len(left.names)) == ("masks next to their images", 5)
    assert (
        "masks next to their images: 5 (a/a-0_mask.png, "
        in load(f"folder:{tmp_path}").describe().lines()[2]
    )


@pytest.mark.parametrize("names", [("Cat", "cat"), ("cat", "cat "), ("polar  bear", "polar bear")])
def test_classes_that_differ_only_in_how_they_are_written(tmp_path: Path, names: tuple[str, str]):
    grown(tmp_path, [f"train/{name}:2" for name in (*names, "dog")])
    if len([*(tmp_path / "train").iterdir()]) < 3:
        pytest.skip("this file system has one folder for both")
    told = " and ".join(map(repr, sorted(names)))
    with pytest.raises(
        UserError, match=f"only in case, spaces, signs or Unicode form: {told}. Make them"
    ):
        load(f"folder:{tmp_path}")
    path = tmp_path / "labels.npz"
    images = np.zeros((6, 8, 8, 3), np.uint8)
    np.savez(path, images=images, labels=np.array([*names, "dog"] * 2))
    with pytest.raises(UserError, match=f"Unicode form: {told}. Make them one class, or"):
        load(f"npz:{path}")


@pytest.mark.parametrize("copy", [
    "cats - Copy", "Copy of cats", "cats (1)", "cats_augmented", "cats_aug", "flipped_cats",
])  # fmt: skip
def test_copies_of_a_class_are_no_classes(tmp_path: Path, copy: str):
    grown(tmp_path, [f"{name}:2" for name in ("cats", "dogs", copy)])
    with pytest.raises(UserError, match=f"look like copies of others: '{re.escape(copy)}' of 'cat"):
        load(f"folder:{tmp_path}")
    for options, whole in ((SourceOptions(classes="top"), False), (SourceOptions(), True)):
        assert len(load(f"folder:{tmp_path}", options, whole=whole).class_names) == 3
    np.savez(tmp_path / "x.npz", images=np.zeros((6, 8, 8, 3), np.uint8), labels=["cats", copy] * 3)
    assert find(f"npz:{tmp_path / 'x.npz'}").problems == ()
    (tmp_path / "cats").rename(tmp_path / "birds")
    assert len(load(f"folder:{tmp_path}").class_names) == 3


def test_two_forms_of_unicode(tmp_path: Path):
    names = [unicodedata.normalize(form, "\u00e9t\u00e9") for form in ("NFC", "NFD")]
    grown(tmp_path / "d", [f"{name}:2" for name in (*names, "tea")])
    if len([*(tmp_path / "d").iterdir()]) < 3:
        pytest.skip("this file system has one folder for both")
    shutil.make_archive(str(tmp_path / "d"), "zip", tmp_path / "d")
    shutil.make_archive(str(tmp_path / "d"), "tar", tmp_path / "d")
    for place in ("d", "d.zip", "d.tar"):
        with pytest.raises(
            UserError, match="has two folders '\u00e9t\u00e9', whose names look the same"
        ):
            find(f"folder:{tmp_path / place}")
    shutil.rmtree(tmp_path / "d" / names[0])
    assert counts(tmp_path / "d") == {"train": {"\u00e9t\u00e9": 2, "tea": 2}}


def test_letters_may_differ_in_case(tmp_path: Path):
    assert counts(grown(tmp_path, ["A:2", "a:3"])) == {"train": {"A": 2, "a": 3}}


LABEL_FILES = {
    "train/_annotations.coco.json": "They may hold boxes, of several objects in an image",
    "train/_classes.csv": "may name several classes for an image: if so, add --task multilabel",
    "metadata.jsonl": "To read labels from a table: --data csv:",
    "imagelabels.mat": "jtl does not read labels from such files: sort",
    "annotations/x.xml": "jtl classifies whole images",
    "labels.h5": "read as npz:FILE",
    "list_attr_labels.txt": "sort the images into class folders",
}


@pytest.mark.parametrize("name", LABEL_FILES)
def test_files_of_labels_are_named(tmp_path: Path, name: str):
    for tree in ("train:4", "images:4", ".:4"):
        root = grown(tmp_path / tree[:1].strip("."), [tree, name])
        with pytest.raises(UserError) as caught:
            find(f"folder:{root}")
        assert f"Their labels may be in {name}. " in str(caught.value), tree
        assert LABEL_FILES[name] in str(caught.value)
        shutil.rmtree(root)
    name = name.removeprefix("train/")
    grown(tmp_path / "d", ["a:2", "b:2", name])
    found = find(f"folder:{tmp_path / 'd'}")
    told = re.sub(r" \((labels or )?boxes [^)]*\)", "", "\n".join(found.notes))
    assert f"Labels come from the folders; {name} next to them is not read." in told
    assert (name,) in [left.names for left in found.left_out]


@pytest.mark.parametrize("masks", ["cat/masks", "cat_masks"])
@pytest.mark.parametrize("file", ["readme.txt", "labels.json", "more/readme.txt"])
def test_a_folder_of_masks_with_another_file_in_it(tmp_path: Path, masks: str, file: str):
    grown(tmp_path, ["cat:2", "dog:3"])
    shutil.copytree(tmp_path / "cat", tmp_path / masks)
    (tmp_path / masks / file).parent.mkdir(exist_ok=True)
    (tmp_path / masks / file).touch()
    assert counts(tmp_path) == {"train": {"cat": 2, "dog": 3}}
    assert f"{masks}/{file}" in str(find(f"folder:{tmp_path}").left_out)
