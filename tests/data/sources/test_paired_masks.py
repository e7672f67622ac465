"""Masks that their pixels or their pairing tell, where names alone do not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from jtl.common.errors import UserError
from jtl.data.sources.registry import find, load
from support.data_files import counts

TWO = {"train": {"a": 4, "b": 4}}


def write(root: Path, pattern: str, numbers: Sequence[int], kind: str = "photo") -> None:
    """Images called by a pattern with a number: photos, masks or palettes of many colours."""
    for number in numbers:
        path = root / pattern.format(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        generator = np.random.default_rng([number, len(pattern)])
        if kind == "mask":
            image = Image.fromarray((generator.random((12, 12)) < 0.4).astype(np.uint8) * 255)
        elif kind == "soft mask":
            image = Image.new("L", (40, 30))
            ImageDraw.Draw(image).ellipse([5, 5, 20 + number, 25], fill=255)
            image = image.filter(ImageFilter.GaussianBlur(1))
        else:
            image = Image.fromarray(generator.integers(0, 256, (12, 12, 3), np.uint8))
        image.save(path)


def classes(root: Path, *names: str) -> None:
    """Photos whose names carry their class."""
    for name in names:
        write(root, f"{name}/{name}{{}}.jpg", range(4))


def left_out(root: Path) -> dict[str, int]:
    found = find(f"folder:{root}")
    load(f"folder:{root}")
    return {left.what: len(left.names) for left in found.left_out}


@pytest.mark.parametrize("ending", ["png", "bmp", "PNG"])
def test_masks_called_like_their_image_but_for_the_ending(tmp_path: Path, ending: str):
    classes(tmp_path, "a", "b")
    write(tmp_path, f"a/a{{}}.{ending}", range(4), "mask")
    assert counts(tmp_path) == TWO
    assert left_out(tmp_path) == {"masks next to their images": 4}
    assert counts(tmp_path, "top") == {"train": {"a": 8, "b": 4}}


@pytest.mark.parametrize(
    "case", ["photos", "one without", "one photo", "all masks", "damaged"]
)  # fmt: skip
def test_images_in_two_kinds_of_files_are_images(tmp_path: Path, case: str):
    classes(tmp_path, "a", "b")
    write(tmp_path, "a/a{}.png", range(4), "photo" if case == "photos" else "mask")
    extra = 0
    if case == "one without":  # It may be a photo whose JPEG is missing.
        write(tmp_path, "a/x{}.png", [1])
        extra = 1
    elif case == "one photo":
        write(tmp_path, "a/a{}.png", [2])
    elif case == "all masks":  # Drawings.
        write(tmp_path, "a/a{}.bmp", range(4), "mask")
        for number in range(4):
            (tmp_path / f"a/a{number}.jpg").unlink()
    elif case == "damaged":
        (tmp_path / "a/a1.png").write_bytes(b"\x89PNG")
    assert counts(tmp_path) == {"train": {"a": 8 + extra, "b": 4}}


@pytest.mark.parametrize("word", ["_lesion", "-roi", "_manual1", ".binary", " OD"])
def test_a_word_behind_the_names_of_masks(tmp_path: Path, word: str):
    classes(tmp_path, "a", "b")
    write(tmp_path, f"a/a{{}}{word}.png", range(4), "mask")
    assert counts(tmp_path) == TWO
    assert left_out(tmp_path) == {"masks next to their images": 4}
    # Images that were turned are images, and so is what only some of them have.
    write(tmp_path, f"a/a{{}}{word}.png", range(4))
    assert counts(tmp_path) == {"train": {"a": 8, "b": 4}}
    write(tmp_path, f"a/a{{}}{word}.png", range(4), "mask")
    (tmp_path / f"a/a2{word}.png").unlink()
    assert counts(tmp_path) == {"train": {"a": 7, "b": 4}}


def without_endings(root: Path, pattern: str) -> None:
    for path in root.glob(pattern):
        path.rename(path.with_suffix(""))


@pytest.mark.parametrize("masks", ["a{}", "a{}_lesion", "a{}.png"])
def test_names_without_an_ending(tmp_path: Path, masks: str):
    classes(tmp_path, "a", "b")
    if masks != "a{}":
        without_endings(tmp_path, "a/*.jpg")
    write(tmp_path, f"a/{masks.removesuffix('.png')}.png", range(4), "mask")
    if not masks.endswith(".png"):
        without_endings(tmp_path, "a/*.png")
    assert counts(tmp_path) == TWO
    assert left_out(tmp_path) == {"masks next to their images": 4}


@pytest.mark.parametrize("masks", ["a{}.png", "a{}_lesion.png", "a{}.jpeg", "a{}-cell.jpg"])
def test_masks_with_soft_edges_or_as_jpeg(tmp_path: Path, masks: str):
    classes(tmp_path, "a", "b")
    write(tmp_path, f"a/{masks}", range(4), "soft mask")
    assert counts(tmp_path) == TWO
    # A grey photo has its values everywhere, not at edges.
    values = np.random.default_rng(0).integers(0, 256, (30, 40), np.uint8)
    Image.fromarray(values).save(tmp_path / "a" / masks.format(2))
    assert counts(tmp_path) == {"train": {"a": 8, "b": 4}}


def test_copies_of_photos_are_no_masks(tmp_path: Path):
    """Dark, bright and grey ones are what augmentation writes beside its originals."""
    classes(tmp_path, "a", "b")
    slope = np.linspace(40, 220, 40)[None] + np.linspace(0, 30, 30)[:, None]
    for number in range(4):
        photo = Image.fromarray((slope + number).astype(np.uint8))
        photo.convert("RGB").save(tmp_path / f"a/a{number}.jpg")
        photo.save(tmp_path / f"a/a{number}_grey.jpg")
    assert counts(tmp_path) == {"train": {"a": 8, "b": 4}}
    for number in range(4):
        photo = Image.fromarray(((slope + number) // 8).astype(np.uint8))
        photo.save(tmp_path / f"a/a{number}_grey.jpg")
    assert counts(tmp_path) == {"train": {"a": 8, "b": 4}}


@pytest.mark.parametrize("word", ["_gt", "_seg", "_groundtruth", " GT", "_mask", "_annotation"])
def test_folders_of_masks_beside_each_class(tmp_path: Path, word: str):
    classes(tmp_path, "a", "b")
    for name in "ab":
        write(tmp_path, f"{name}{word}/{name}{{}}.png", range(4), "mask")
    assert counts(tmp_path) == TWO
    assert left_out(tmp_path) == {"masks next to their images": 8}
    write(tmp_path, f"b{word}/other{{}}.png", [1], "mask")  # It does not pair.
    assert f"b{word}" in counts(tmp_path, "top")["train"]
    if word in ("_mask", "_annotation"):  # Then those of `a` are not sure either.
        with pytest.raises(UserError, match="--classes top"):
            find(f"folder:{tmp_path}")
    else:
        assert f"b{word}" in counts(tmp_path)["train"]


def test_one_folder_of_masks_among_three(tmp_path: Path):
    classes(tmp_path, "face", "cap")
    write(tmp_path, "face_gt/face{}.png", range(4), "mask")
    assert counts(tmp_path) == {"train": {"cap": 4, "face": 4}}
    (tmp_path / "face_gt").rename(tmp_path / "face_mask")
    with pytest.raises(UserError, match=r"face_mask may hold masks .* or it may be a class. If "):
        find(f"folder:{tmp_path}")
    assert counts(tmp_path, "top") == {"train": dict.fromkeys(["cap", "face", "face_mask"], 4)}
    (tmp_path / "face_mask").rename(tmp_path.with_name("elsewhere"))
    assert counts(tmp_path) == {"train": {"cap": 4, "face": 4}}


@pytest.mark.parametrize("name", ["CASIA 2 Groundtruth", "gt", "Ground Truth", "b_masks", "label"])
def test_a_folder_of_masks_beside_the_classes(tmp_path: Path, name: str):
    classes(tmp_path, "a", "b")
    write(tmp_path, f"{name}/b{{}}_gt.png", range(4), "mask")
    assert counts(tmp_path) == TWO
    assert left_out(tmp_path) == {"masks next to their images": 4}
    write(tmp_path, f"{name}/c{{}}.png", [1])  # It is of no image.
    assert counts(tmp_path, "top")["train"][name] == 5
    if name != "b_masks":
        assert counts(tmp_path)["train"][name] == 5


def test_counted_names_do_not_pair_with_classes(tmp_path: Path):
    for name in ("cap", "face", "mask"):
        write(tmp_path, f"{name}/{{}}.jpg", range(4))
    assert counts(tmp_path) == {"train": dict.fromkeys(["cap", "face", "mask"], 4)}


@pytest.mark.parametrize(
    ("images", "masks"), [("{}/Original", "{}/Ground Truth"), ("{0}/{0}", "{0}/{0} GT")]
)
def test_images_and_masks_within_the_class(tmp_path: Path, images: str, masks: str):
    for name in "ab":
        write(tmp_path, f"{images.format(name)}/{{}}.jpg", range(4))
        write(tmp_path, f"{masks.format(name)}/{{}}.png", range(4), "mask")
    assert counts(tmp_path) == TWO
    assert left_out(tmp_path) == {"masks next to their images": 8}


PARTS = ["ROI", "rois", "crops", "cropped", "bbox", "annotations", "ROI images", "lesion_rois"]


@pytest.mark.parametrize("form", ["{}", "{}_roi", "crop-{}", "{}_roi_2"])
@pytest.mark.parametrize("name", PARTS)
def test_a_folder_of_parts_of_the_images_in_all_classes(tmp_path: Path, name: str, form: str):
    """Crops are photographs: their names tell, and the folder's, but not the pixels."""
    for root in (tmp_path, tmp_path / "x" / "train"):
        classes(root, "a", "b")
        for label in "ab":
            write(root, f"{name}/{form.format(label + '{}')}.jpg", range(4))
        assert counts(tmp_path if root == tmp_path else root.parent) == TWO
    (left,) = find(f"folder:{tmp_path / 'x'}").left_out
    assert (left.what, len(left.names)) == ("masks next to their images", 8)


@pytest.mark.parametrize("name", PARTS)
def test_a_folder_called_like_one_of_parts_that_are_of_no_image(tmp_path: Path, name: str):
    classes(tmp_path, "a", "b")
    write(tmp_path, f"{name}/x{{}}.jpg", range(4))
    expected = {"train": {"a": 4, "b": 4, name: 4}}
    assert counts(tmp_path, "top") == expected
    if name in ("crops", "cropped", "lesion_rois"):  # Crops are on fields, too.
        assert counts(tmp_path) == expected
        return
    with pytest.raises(UserError, match=f"{name} hardly is a class. .* say --classes top if it is"):
        find(f"folder:{tmp_path}")


@pytest.mark.parametrize("name", ["all_of_them", "processed", "gradcam"])
def test_a_folder_of_copies_of_the_images_in_all_classes(tmp_path: Path, name: str):
    classes(tmp_path, "a", "b")
    write(tmp_path, f"{name}/a{{}}.jpg", range(3))
    assert counts(tmp_path) == {"train": {"a": 4, "b": 4, name: 3}}  # Called alike by accident.
    write(tmp_path, f"{name}/b{{}}.jpg", range(3))
    with pytest.raises(UserError, match=f"{name} may hold copies, parts or masks .* in a, b; or"):
        find(f"folder:{tmp_path}")
    assert counts(tmp_path, "top") == {"train": {"a": 4, "b": 4, name: 6}}
    write(tmp_path, f"{name}/c{{}}.jpg", [1])
    assert counts(tmp_path) == {"train": {"a": 4, "b": 4, name: 7}}
