"""Near-duplicates across splits: found among frames of one scene, not among unrelated images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from jtl.data import near_duplicates, verification
from jtl.data.sources.arrays import ArraySplit
from jtl.data.sources.registry import find, load
from jtl.data.verification import Verification
from support.commands import main
from support.data_files import class_folders


def scene(seed: int) -> Image.Image:
    """Blotches of several sizes, 160 x 120 pixels."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), np.uint8))
    return coarse.resize((160, 120), Image.Resampling.BICUBIC)


def frame(image: Image.Image, number: int) -> Image.Image:
    """The scene a little later: moved by pixels, a little brighter, with other noise."""
    random = np.random.default_rng(number)
    moved = image.crop((number % 4, number % 3, 150 + number % 4, 115 + number % 3))
    pixels = np.asarray(ImageEnhance.Brightness(moved).enhance(1 + number / 100), np.int16)
    noise = random.integers(-8, 9, pixels.shape)
    return Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8))


def video_folders(root: Path, scenes: dict[str, list[int]], frames: dict[str, range]) -> Path:
    """`scenes` and the numbers of their `frames` by split, in two classes by turns."""
    for split, numbers in scenes.items():
        for number in numbers:
            folder = root / split / ("ab"[number % 2])
            folder.mkdir(parents=True, exist_ok=True)
            for at in frames[split]:
                frame(scene(number), at).save(folder / f"scene{number}-{at}.png")
    return root


def test_the_hash_of_nearly_equal_images(tmp_path: Path):
    def differing(one: Image.Image, other: Image.Image) -> int:
        hashes = map(near_duplicates.perceptual_hash, (one, other))
        return int(np.bitwise_count(np.bitwise_xor(*np.array(list(hashes), np.uint64))))

    image = scene(0)
    assert differing(image, image.resize((80, 60))) <= 4
    assert max(differing(frame(image, 0), frame(image, at)) for at in range(5)) <= 8
    assert min(differing(image, scene(seed)) for seed in range(1, 20)) >= 14
    for nothing in (Image.new("RGB", (64, 64), "red"), image.resize((20, 40))):
        assert near_duplicates.perceptual_hash(nothing) == near_duplicates.UNKNOWN


def test_frames_of_one_video_in_both_splits(tmp_path: Path, capsys):
    both = {"train": range(4), "val": range(4, 6)}
    torn = video_folders(tmp_path / "torn", {"train": [*range(6)], "val": [*range(6)]}, both)
    whole = video_folders(tmp_path / "whole", {"train": [*range(6)], "val": [6, 7, 8]}, both)
    (note,) = load(f"folder:{torn}", verify=Verification()).notes
    assert (
        "validation images are nearly the same as training images (12 of 12 images, such as val/a/"
        in note
    )
    assert load(f"folder:{whole}", verify=Verification()).notes == ()
    assert main("data", "check", torn, "--json") == 0
    warning, _ = json.loads(capsys.readouterr().out)["warnings"]
    assert (
        "Some val images are nearly the same as train images (12 of 12 images, such as val/a"
        in warning
    )
    assert main("data", "check", whole, "--json") == 0
    (few,) = json.loads(capsys.readouterr().out)["warnings"]
    assert few.startswith("6 validation images: too few to choose a model by.")


def test_frames_of_one_video_before_a_part_is_held_out(tmp_path: Path, capsys):
    root = video_folders(tmp_path / "d", {"train": [*range(4)]}, {"train": range(5)}) / "train"
    notes = load(f"folder:{root}", verify=Verification()).notes
    assert (
        "Some validation images are nearly the same as training images (4 of 4 images"
        in " ".join(notes)
    )
    assert main("data", "check", root, "--json") == 0
    warning, few = json.loads(capsys.readouterr().out)["warnings"]
    assert "Some training images are nearly the same (20 of 20 images, such as a/scene0-" in warning
    pairs = warning.partition("such as ")[2].partition(")")[0].split("; ")
    assert len({frozenset(pair.split(" and ")) for pair in pairs}) == len(pairs)
    assert few.startswith("4 validation images: too few")


def test_the_hashes_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    both = {"train": range(2), "val": range(2, 4)}
    root = video_folders(tmp_path / "d", {"train": [0, 1], "val": [0, 1]}, both)
    monkeypatch.setattr(verification, "WORTH_SECONDS", 0.0)
    check = Verification("error", tmp_path / "cache")
    first = load(f"folder:{root}", verify=check)
    monkeypatch.setattr(near_duplicates, "perceptual_hash", None)
    monkeypatch.setattr("jtl.data.sources.encoded.perceptual_hash", None)
    again = load(f"folder:{root}", verify=check)
    assert len(first.notes) == 1
    assert again.notes == first.notes


def test_equal_images_are_told_once(tmp_path: Path, capsys):
    root = video_folders(tmp_path / "d", {"train": [*range(4)]}, {"train": range(1)})
    for file in sorted(root.rglob("*.png")):
        copy = root / "val" / file.parent.name / file.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    assert main("data", "check", root, "--json") == 1
    told = json.loads(capsys.readouterr().out)
    assert len(told["problems"]) == 1
    assert not [w for w in told["warnings"] if "nearly" in w]


def test_many_images_are_compared_by_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    both = {"train": range(4), "val": range(4, 6)}
    root = video_folders(tmp_path / "d", {"train": [*range(4)], "val": [*range(4)]}, both)
    found = find(f"folder:{root}").splits
    for split in found.values():
        split.faults(decode=True)
    monkeypatch.setattr(near_duplicates, "_PAIRS", 4 * len(found["train"]))
    monkeypatch.setattr(near_duplicates, "_LOOKED_AT", 2)
    near = near_duplicates.find(found["val"], found["train"])
    assert near is not None
    assert (near.count, near.total, len(near.examples)) == (8, 8, 2)


def test_images_without_contrast_are_nobodys_duplicates(tmp_path: Path):
    root = class_folders(tmp_path, "train/a", "train/b", "val/a", "val/b", count=3)
    assert not [n for n in load(f"folder:{root}", verify=Verification()).notes if "nearly" in n]


@pytest.mark.parametrize("shape", [(32, 32, 3), (32, 32, 1), (50, 70, 3), (64, 64, 1), (20, 40, 3)])
def test_the_hashes_of_arrays_are_those_of_images(shape: tuple[int, int, int]):
    height, width, colours = shape
    images = np.stack([np.asarray(scene(i).resize((width, height))) for i in range(9)])
    images = np.ascontiguousarray(images[..., :colours])
    images[3] = 7
    split = ArraySplit("x", images, np.zeros(9, np.int32), [*map(str, range(9))])
    opened = [Image.fromarray(i if colours == 3 else i[..., 0]) for i in images]
    expected = [*map(near_duplicates.perceptual_hash, opened)]
    assert split.hashes.tolist() == expected
    assert split.subset(np.array([4, 0])).hashes.tolist() == [expected[4], expected[0]]
    assert (split.hashes[3], len(set(expected))) == (near_duplicates.UNKNOWN, 1 + 8 * (height > 20))


@pytest.mark.parametrize("held_out", [False, True])
def test_frames_of_one_video_in_arrays(tmp_path: Path, capsys, held_out: bool):
    frames = [[frame(scene(number), at).resize((64, 48)) for at in range(5)] for number in range(4)]
    images = np.array([[np.asarray(one) for one in same] for same in frames])
    labels = np.tile(np.arange(4)[:, None] % 2, 5)
    path = tmp_path / "x.npz"
    if held_out:
        np.savez(path, images=images.reshape(20, 48, 64, 3), labels=labels.reshape(-1))
    else:
        train, val = images[:, :4].reshape(16, 48, 64, 3), images[:, 4]
        np.savez(path, x_train=train, y_train=labels[:, :4].reshape(-1), x_val=val,
                 y_val=labels[:, 4])  # fmt: skip
    notes = " ".join(load(f"npz:{path}").notes)
    assert (
        "Some validation images are nearly the same as training images (4 of 4 images, such as "
        in notes
    )
    assert main("data", "check", path, "--json") == 0
    warnings = " ".join(json.loads(capsys.readouterr().out)["warnings"])
    assert "nearly the same" in warnings
    assert ("Some training images are nearly the same (20 of 20" in warnings) == held_out
