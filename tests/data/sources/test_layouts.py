"""Trees of folders as public data sets have them: read rightly, or refused with the way out."""

from __future__ import annotations

import random
import shutil
import zipfile
from pathlib import Path

import pytest
from PIL import features

from jtl.common.errors import UserError
from jtl.data.sources.registry import SourceOptions, find, load
from support.data_files import counts, encode, flat, grown
from support.paths import SHARED_DATA

PNG = encode(flat(8, 8), "PNG")
AVIF = "avif" in features.modules and features.check("avif") is True
"""From Pillow 11.3 on."""


AB, BA = {"a": 2, "b": 3}, {"a": 1, "b": 1}
READ: dict[str, tuple[str, dict[str, dict[str, int]]]] = {
    "words beside": (
        "training_set/a:2 training_set/b:3 test_set/a:1 test_set/b:1",
        {"train": AB, "test": BA},
    ),
    "Intel's, folders doubled": (
        "seg_train/seg_train/a:2 seg_train/seg_train/b:3 seg_test/seg_test/a:1 "
        "seg_test/seg_test/b:1 seg_pred/seg_pred:5",
        {"train": AB, "test": BA},
    ),
    "camel case and numbers": (
        "TrainImages2017/a:2 TrainImages2017/b:3 ValImages2017/a:1 ValImages2017/b:1",
        {"train": AB, "val": BA},
    ),
    "partial": (
        "x/partial-train/a:2 x/partial-train/b:3 x/partial-validation/a:1 x/partial-validation/b:1",
        {"train": AB, "val": BA},
    ),
    "a class called train in train": (
        "train/train:2 train/bus:3 val/train:1 val/bus:1",
        {"train": {"bus": 3, "train": 2}, "val": {"bus": 1, "train": 1}},
    ),
    "a class called train": ("train:2 bus:3 car:4", {"train": {"bus": 3, "car": 4, "train": 2}}),
    "a class called valid": ("valid:2 invalid:3", {"train": {"invalid": 3, "valid": 2}}),
    "split words in classes": (
        "freight_train:2 tram:3",
        {"train": {"freight_train": 2, "tram": 3}},
    ),
    "splits within classes": (
        "a/train:2 a/test:1 b/train:3 b/test:1",
        {"train": AB, "test": BA},
    ),
    "Tiny ImageNet's images/": (
        "train/a/images:2 train/a/a_boxes.txt train/b/images:3",
        {"train": AB},
    ),
    "letters above": (
        "a/airfield:2 a/alley:2 b/bakery:1",
        {"train": {"airfield": 2, "alley": 2, "bakery": 1}},
    ),
    "masks next to images": ("a/images:2 a/masks:2 b/images:3 b/masks:3", {"train": AB}),
    "masks next to the classes": ("images/a:2 images/b:3 masks/a:2 masks/b:3", {"train": AB}),
    "kinds of masks next to images": (
        "a/images:2 a/infection_masks:2 b/images:3 b/lung_masks:3",
        {"train": AB},
    ),
    "masks as a class": ("mask:2 no_mask:3", {"train": {"mask": 2, "no_mask": 3}}),
    "annotations without images": ("a:2 b:3 annotations/a.xml", {"train": AB}),
    "two folders around": ("x/y/a:2 x/y/b:3 x/readme.md", {"train": AB}),
    "a stray image above": ("x/a:2 x/b:3 .:1", {"train": AB}),
    "unlabelled next to classes": ("a:2 b:3 unlabeled:9", {"train": AB}),
    "not labelled next to classes": ("a:2 b:3 no_label:9 not_labeled:2", {"train": AB}),
    "unlabelled in a split": ("train/a:2 train/b:3 train/no_label:9", {"train": AB}),
    "waste bins": ("a:2 b:3 #recycle:2 @Recycle:1 lost+found:3", {"train": AB}),
    "an empty class in val": (
        "train/a:2 train/b:3 val/a:1 val/b:0",
        {"train": AB, "val": {"a": 1}},
    ),
    "doubled, test without labels": (
        "asl_train/asl_train/a:2 asl_train/asl_train/b:3 asl_test/asl_test:4",
        {"train": AB},
    ),
    "Stanford Dogs, annotations without ending": (
        "Images/a:2 Images/b:3 Annotation/a/a_1 Annotation/b/b_1",
        {"train": AB},
    ),
    "train and validation in one folder": (
        "Train_and_Validation_Set/a:2 Train_and_Validation_Set/b:3 Test_Set/a:1 Test_Set/b:1",
        {"train": AB, "test": BA},
    ),
    "Fruits-360": (
        "Training/a:2 Training/b:3 Test/a:1 Test/b:1 test-multiple_fruits:4 papers/x.pdf",
        {"train": AB, "test": BA},
    ),
    "GTSRB": ("Train/0:2 Train/1:3 Test:3 Meta:2 Train.csv Test.csv", {"train": {"0": 2, "1": 3}}),
    "a class of train named like its split": (
        "train/crash_test:2 train/b:3 test/crash_test:1",
        {"train": {"b": 3, "crash_test": 2}, "test": {"crash_test": 1}},
    ),
    "stress_test beside": ("train/a:2 train/b:3 stress_test:3", {"train": AB}),
}  # fmt: skip


@pytest.mark.parametrize("case", READ)
def test_layouts_that_are_read(tmp_path: Path, case: str):
    tree, expected = READ[case]
    assert counts(grown(tmp_path, tree)) == expected


REFUSED: dict[str, tuple[str, str]] = {
    "labels in a table": (
        "train_images:4 test_images:2 train.csv",
        "train_images has no class folders: its 4 images lie side by side. Their labels may be in "
        "train.csv",
    ),
    "labels in file names": ("train/train:4 test1/test1:4", "no class folders"),
    "variants above classes": (
        "color/rust:2 color/fine:2 grey/rust:2 grey/fine:2",
        "--classes top   2 classes, with the number of their images: color (4), grey (4)\n"
        "  --classes leaf  4 classes: color/fine (2), color/rust (2), grey/fine (2), grey/rust (2)",
    ),
    "nested next to flat": ("insects/ants:2 insects/bees:2 other:3", "--classes leaf  3 classes"),
    "nested in train": (
        "train/cats/siam:2 train/cats/manx:2 train/dogs/pug:2",
        "--classes top   2",
    ),
    "strays next to sub-folders": (
        "cats/siam:20 cats/manx:20 cats:2 dogs:9",
        "--classes leaf  3 classes",
    ),
    "Oxford Pets, labels in file names": (
        "images:5 annotations/trimaps:5 annotations/list.txt",
        "has no class folders",
    ),
    "Office-31": (
        "amazon/images/bike:2 amazon/images/mug:2 dslr/images/bike:2 dslr/images/mug:2",
        "as if each were a data set of its own. To use one of them: folder:",
    ),
    "several data sets": (
        "one/train/a:2 one/train/b:2 two/train/a:2 two/train/b:2",
        "several data sets, each with splits of its own: one, two. Give one of them: folder:",
    ),
    "several trains": ("train_1/a:2 train_2/a:2 val/a:1", "several folders for the train split"),
    "train next to something nested": (
        "train/steam:2 train/diesel:2 bus/city:2",
        "not clear whether train is a split or a class. If these are classes, put all",
    ),
    "a vehicle": ("train:2 plane:2", "If these are classes, put all class folders into one folder"),
    "train next to one flat": ("train:2 extra:2", "has no class folders"),
    "a class called test": ("a:2 b:2 test:2", "has test/ but no train/"),
    "images among classes": ("a:2 b:2 images:2", "images hardly is a class"),
    "val without classes or list": (
        "train/a:2 train/b:2 val:2",
        "val has no class folders, and no list next to it names a class of train for every image. "
        "Sort its images into class folders, add a list with the file name and the class of every "
        "image, or move the folder elsewhere: jtl then holds out a part of train.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_layouts_that_are_refused(tmp_path: Path, case: str):
    tree, message = REFUSED[case]
    with pytest.raises(UserError) as caught:
        find(f"folder:{grown(tmp_path, tree)}")
    assert message in str(caught.value)


WORDS = (
    "train", "test", "val", "valid", "a", "b", "cats", "images", "masks", "seg_train", "x_test",
    "pred", "unlabeled", "data", "Train2", "train_images", "annotations", "0", "dev", "c",
)  # fmt: skip


def test_no_image_is_lost_without_a_word(tmp_path: Path):
    outcomes = {"read": 0, "problems": 0, "refused": 0}
    for seed in range(250):
        draw, root = random.Random(seed), tmp_path / str(seed)
        root.mkdir()
        for _ in range(draw.randint(1, 7)):
            place = root.joinpath(*draw.choices(WORDS, k=draw.randint(0, 3)))
            place.mkdir(parents=True, exist_ok=True)
            for _ in range(draw.randint(0, 3)):
                (place / f"{draw.randint(0, 99)}.png").write_bytes(PNG[:40])
        classes = draw.choice(["auto", "auto", "top", "leaf"])
        try:
            found = find(f"folder:{root}", SourceOptions(classes=classes))
        except UserError:
            outcomes["refused"] += 1
            continue
        outcomes["problems" if found.problems else "read"] += 1
        used = [name for split in found.splits.values() for name in split.names]
        left = {n for part in found.left_out for n in part.names if n.endswith(".png")}
        assert len(used) == len(set(used)), seed
        assert len(used) + len(left) == len(list(root.rglob("*.png"))), seed
    assert min(outcomes.values()) > 3, outcomes


def test_the_level_of_classes_can_be_said(tmp_path: Path):
    grown(tmp_path, "insects/ants:2 insects/bees:3 other:4 more/other/images:1")
    assert counts(tmp_path, "top") == {"train": {"insects": 5, "more": 1, "other": 4}}
    leaf = {"insects/ants": 2, "insects/bees": 3, "more/other": 1, "other": 4}
    assert counts(tmp_path, "leaf") == {"train": leaf}
    shutil.rmtree(tmp_path / "more")
    assert counts(tmp_path, "leaf") == {"train": {"ants": 2, "bees": 3, "other": 4}}
    with pytest.raises(UserError, match="--classes: no effect on 'digits'"):
        load("digits", SourceOptions(classes="leaf"))


def test_leaves_of_all_splits_are_read_alike(tmp_path: Path):
    grown(tmp_path, "train/x/a:2 train/y/b:3 val/x/a:1 val/y/b:1")
    assert counts(tmp_path, "leaf") == {"train": AB, "val": BA}


LISTS = {
    "Tiny ImageNet": ("val/val_annotations.txt", "val-0.png\ta\t0\t9\nval-1.png\tb\t0\t9\n"),
    "Kaggle": ("LOC_val_solution.csv", "ImageId,PredictionString\nval-0,a 1 2 3 4\nval-1,b 1 2\n"),
    "spaces": ("val.txt", "val/val-0.png a\nval/val-1.png b\n"),
}


@pytest.mark.parametrize("case", LISTS)
def test_a_flat_val_with_a_list(tmp_path: Path, case: str):
    name, text = LISTS[case]
    grown(tmp_path, "train/a:2 train/b:3 val:2")
    (tmp_path / name).write_text(text)
    assert counts(tmp_path) == {"train": AB, "val": BA}
    found = find(f"folder:{tmp_path}")
    assert f"The labels of val are read from {name}." in found.notes
    (tmp_path / name).write_text(text.replace("1", "0"))  # Of one image twice, of the other none.
    with pytest.raises(UserError, match="no list next to it names a class"):
        find(f"folder:{tmp_path}")
    (tmp_path / name).write_text(text.replace("-1", "-x").replace("-0", "-1").replace("-x", "-0"))
    turned = find(f"folder:{tmp_path}")
    assert turned.splits["val"].names == found.splits["val"].names[::-1]
    assert turned.fingerprint != found.fingerprint


def test_a_list_that_cannot_be_read_is_none(tmp_path: Path):
    grown(tmp_path, "train/a:2 train/b:2 val:2")
    (tmp_path / "val" / "labels.txt").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no list next to it names a class of train"):
        find(f"folder:{tmp_path}")


def test_imagenets_flat_val_says_where_its_list_is(tmp_path: Path):
    grown(tmp_path, "train/n01440764:2 train/n02102040:3 val:0")
    (tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG").write_bytes(PNG)
    (tmp_path / "ILSVRC2012_validation_ground_truth.txt").write_text("490\n")
    with pytest.raises(UserError, match=r"the list is LOC_val_solution.csv .* valprep.sh sorts"):
        find(f"folder:{tmp_path}")


def test_a_form_for_predictions_is_no_list_of_labels(tmp_path: Path):
    grown(tmp_path, "train/a:2 train/b:3 val:2")
    (tmp_path / "sample_submission.csv").write_text("id,label\nval-0,a\nval-1,a\n")
    with pytest.raises(UserError, match="no list next to it names a class"):
        find(f"folder:{tmp_path}")


def test_a_list_of_numbers_is_not_guessed(tmp_path: Path):
    grown(tmp_path, "train/a:2 train/b:3 val:2")
    (tmp_path / "val.txt").write_text("val-0.png 0\nval-1.png 1\n")
    with pytest.raises(UserError, match="no list next to it names a class of train for every"):
        find(f"folder:{tmp_path}")


def test_what_is_left_out_is_counted(tmp_path: Path):
    grown(tmp_path, "train/a:2 train/b:3 train/.cache/x:2 test:4 labels.csv read.me Thumbs.db")
    found = find(f"folder:{tmp_path}")
    assert {what: len(names) for what, names in found.left_out} == {
        "images without labels": 4,
        "hidden and system files": 3,
        "tables": 1,
        "files that are no images": 1,
    }
    assert "labels.csv next to them is not read" in " ".join(found.notes)
    description = load(f"folder:{tmp_path}").describe()
    assert description.lines()[0] == (
        "data:     3 training, 2 validation (held out) images of 2 classes: a (2), b (3)"
    )
    assert "tables: 1 (labels.csv)" in description.lines()[2]


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.usefixtures("without_heif")
def test_content_decides_over_endings(tmp_path: Path, kind: str):
    root = grown(tmp_path / "d", "a:2 b:2")
    for name, data in {
        "x.jfif": encode(flat(), "JPEG"), "none": PNG, "y.JPG_large": encode(flat(), "JPEG"),
        "z.heic": b"\0\0\0\x18ftypheic", "w.dat": encode(flat(), "WEBP"), "film.mp4": bytes(64),
        "u.tga": encode(flat(), "TGA"), "t.PCX": encode(flat(), "PCX"),
        **({"v.avif": encode(flat(), "AVIF")} if AVIF else {}),
    }.items():  # fmt: skip
        (root / "a" / name).write_bytes(data)
    if kind == "zip":
        shutil.make_archive(str(root), "zip", root)
        root = root.with_suffix(".zip")
    found = find(f"folder:{root}")
    train = found.splits["train"]
    assert len(train) == 11 + AVIF
    (fault,) = train.faults(decode=True).values()
    assert fault.startswith("a/z.heic: a HEIC image, which cannot be read here: install pillow-h")
    assert [left.names for left in found.left_out] == [("a/film.mp4",)]


@pytest.mark.usefixtures("without_heif")
def test_layouts_of_reports(tmp_path: Path):
    cases = SHARED_DATA.parent / "cases" / "layouts.zip"
    if not cases.exists():
        pytest.skip("layouts.zip is not in ../shared/cases")
    with zipfile.ZipFile(cases) as archive:
        archive.extractall(tmp_path)
    ants_and_bees = {"ants": 16, "bees": 16}
    assert counts(tmp_path / "unlabelled-test") == {"train": ants_and_bees}
    assert counts(tmp_path / "odd-endings") == {"train": {"ants": 20, "bees": 27}}
    faults = find(f"folder:{tmp_path / 'odd-endings'}").splits["train"].faults(decode=True)
    assert len(faults) == 4
    assert all("phone" in fault and "HEIC" in fault for fault in faults.values())
    junk = find(f"folder:{tmp_path / 'junk-files'}")
    assert [len(split) for split in junk.splits.values()] == [48, 20]
    assert [(what, len(names)) for what, names in junk.left_out] == [("hidden and system files", 7)]
    parts = find(f"parquet:{tmp_path / 'parquet-partial-splits'}").splits
    assert {name: len(split) for name, split in parts.items()} == {"train": 28, "val": 8, "test": 8}
    for spec, message in {
        "folder:split-named-folders-with-csv": "train_images has no class folders.*train.csv",
        "folder:classes-one-level-down": "--classes top   3 classes",
        "parquet:parquet-list-label": "'labels', are lists .*several labels for an image",
        "parquet:parquet-float-label": r"age \(float\), device \(int64\). Name it: --label-col",
    }.items():
        kind, _, name = spec.partition(":")
        with pytest.raises(UserError, match=message):
            find(f"{kind}:{tmp_path / name}")
