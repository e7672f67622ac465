"""Before training: unreadable images listed or left out, and `python -m jtl.data check`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jtl.cli import app
from jtl.common.errors import UserError
from jtl.data import montage, verification
from jtl.data.command import Options, command
from jtl.data.sources import encoded
from jtl.data.sources.registry import find, load
from jtl.data.verification import Verification
from support import tiny
from support.commands import main
from support.data_files import class_folders, encode, flat, opened, with_odd, written


def damage(root: Path, count: int, folder: str = "train/ash") -> Path:
    """Adds broken PNGs whose headers are fine; only decoding shows it."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    whole = encode(Image.fromarray(pixels), "PNG")
    for index in range(count):
        written(root / folder / f"bad{index:02}.png", whole[:-60])
    return root


@pytest.fixture
def few(tiny_model: str, tmp_path: Path) -> Path:
    tiny.write_weights(tmp_path / "weights")
    return tiny.write_folder(tmp_path / "few", train=4, val=2)


def test_all_bad_images_are_listed_before_training(few: Path, elsewhere: Path, capsys):
    damage(few, 22)
    damage(few, 1, "val/birch")
    options = ["--model", tiny.ENTRY.name, "--weights", few.parent / "weights", "--epochs", 1]
    assert main("train", "--data", f"folder:{few}", *options, "--run-dir", "run") == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"error: 23 of 41 images of {few} (train), {few} (val) cannot be read:"
    assert lines[1].startswith("  train/ash/bad00.png: damaged: ")
    assert lines[20].startswith("  train/ash/bad19.png: ")
    assert lines[21:] == [
        "  ... and 3 more",
        "Replace or remove them, or leave them out with --on-bad-image skip.",
    ]
    assert list(elsewhere.iterdir()) == []


def test_skipped_images_are_told_in_the_summary(few: Path, elsewhere: Path, capsys):
    damage(few, 3)
    damage(few, 1, "val/birch")
    options = ["--model", tiny.ENTRY.name, "--weights", few.parent / "weights", "--epochs", 1]
    options += ["--data", f"folder:{few}", "--on-bad-image", "skip", "--json"]
    assert main("train", *options, "--run-dir", "run") == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["num_train"], summary["num_val"]) == (12, 6)
    (note,) = summary["notes"]
    assert note.startswith("Left out 4 of 22 images, which cannot be read: train/ash/bad00.png: ")
    assert "val/birch/bad00.png: " in note
    # Evaluation leaves out what the run did.
    assert main("evaluate", "run", "--json") == 0
    scores = json.loads(capsys.readouterr().out)
    assert (scores["count"], scores["val_loss"]) == (6, summary["val_loss"])
    assert main("evaluate", "run", "--on-bad-image", "error") == 2
    assert "error: 4 of 22 images of " in capsys.readouterr().err


def test_what_is_left_must_suffice(tmp_path: Path):
    root = class_folders(tmp_path, "a", "b")
    for index in range(2):
        (root / "b" / f"{index}.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"No image of .* \(train\) can be read of: b\. For exam"):
        opened(f"folder:{root}", "skip")


def test_skipping_comes_before_holding_out(tmp_path: Path):
    root = class_folders(tmp_path, "a", "b", count=10)
    for index in range(5):
        (root / "b" / f"{index}.png").write_bytes(b"")
    data = opened(f"folder:{root}", "skip")
    assert np.bincount(data.train.labels).tolist() == [8, 4]
    assert np.bincount(data.val.labels).tolist() == [2, 1]


def counting(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of all images that are decoded from now on."""
    decoded: list[str] = []
    decode = encoded.decode_measured

    def spy(data: bytes, name: str) -> tuple[Image.Image, int]:
        decoded.append(name)
        return decode(data, name)

    monkeypatch.setattr(encoded, "decode_measured", spy)
    monkeypatch.setattr(verification, "WORTH_SECONDS", 0.0)
    return decoded


def test_a_check_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    spec = with_odd(tmp_path / "data", "odd.png", b"")
    decoded = counting(monkeypatch)
    check = Verification("skip", tmp_path / "cache")
    first = load(spec, verify=check)
    assert len(decoded) == 9
    decoded.clear()
    again = load(spec, verify=check)
    assert decoded == ["train/a/odd.png"]  # It might be fine by now.
    assert (again.notes, again.train.names) == (first.notes, first.train.names)
    # With them the size that all share, for which every header would be read.
    monkeypatch.setattr(encoded, "image_size", None)
    assert again.train.native_size() == first.train.native_size() == (4, 6)
    monkeypatch.undo()
    decoded = counting(monkeypatch)
    with pytest.raises(UserError, match=r"1 of 9 images"):
        load(spec, verify=Verification("error", tmp_path / "cache"))
    # Other images are looked at anew.
    decoded.clear()
    flat(colour=(7, 7, 7)).save(tmp_path / "data" / "train" / "a" / "odd.png")
    assert len(load(spec, verify=check).train) == 5
    assert len(decoded) == 9
    for file in (tmp_path / "cache").iterdir():
        file.write_text('{"digest": 3')
    decoded.clear()
    assert len(load(spec, verify=check).train) == 5
    assert len(decoded) == 9


def test_a_image_that_can_be_read_by_now_is_not_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # As after `chmod`, which no fingerprint tells of.
    good = encode(flat(), "PNG")
    spec = with_odd(tmp_path / "data", "odd.png", bytes(len(good)))
    path = tmp_path / "data" / "train" / "a" / "odd.png"
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    counting(monkeypatch)
    check = Verification("skip", tmp_path / "cache")
    before = load(spec, verify=check)
    path.write_bytes(good)
    os.utime(path, ns=times)
    after = load(spec, verify=check)
    assert before.fingerprint == after.fingerprint
    assert (len(before.train), len(after.train)) == (4, 5)


def test_large_sets_are_decoded_only_to_skip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    spec = f"folder:{damage(class_folders(tmp_path / 'd', 'a', 'b', count=4), 1, 'a')}"
    monkeypatch.setattr(verification, "DECODED_BYTES", 0)
    decoded = counting(monkeypatch)
    cache = tmp_path / "cache"
    data = load(spec, verify=Verification("error", cache))
    assert (len(data.train) + len(data.val), decoded) == (9, [])
    data = load(spec, verify=Verification("skip", cache))
    assert (len(data.train) + len(data.val), len(decoded)) == (8, 9)


def check(*arguments: object) -> int:
    try:
        return app.main(Options, command, prog="jtl.data", args=["check", *map(str, arguments)])
    except SystemExit as error:
        return int(error.code or 0)


def test_check_of_good_data(few: Path, tmp_path: Path, capsys):
    assert check(f"folder:{few}", "--montage", tmp_path / "m.png") == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0] == f"folder:{few}: 18 images, 3 classes"
    assert lines[1:3] == [
        "data:     12 training, 6 validation images of 3 classes: ash (6), birch (6), cedar (6)",
        "labels:   from the names of the folders, such as train/ash/0.png = ash, "
        "train/ash/3.png = ash, train/birch/2.png = birch, train/cedar/0.png = cedar, "
        "train/cedar/3.png = cedar",
    ]
    assert lines[4].split() == ["train", "val"]
    assert [line.split() for line in lines[5:8]] == [[name, "4", "2"] for name in tiny.CLASSES]
    assert lines[8].split() == ["all", "classes", "12", "6"]
    assert "width x height in pixels: smallest 8 x 8, median 8 x 8, largest 8 x 8" in lines
    assert lines[-1] == "No problems found (3 warnings)."  # Few images, and tiny ones.
    assert "checking: 18/18 images" in captured.err
    with Image.open(tmp_path / "m.png") as drawn:
        assert drawn.height == 3 * 100 + 4
        # Each row shows its class: images of one colour channel each.
        colours = np.asarray(drawn)[[4 + 100 * row + 48 for row in range(3)], 200 + 48]
    assert colours.argmax(1).tolist() == [0, 1, 2]


def one_class(root: Path) -> None:
    for part in ("train", "val"):
        for name in ("birch", "cedar"):
            (root / part / name).rename(root.parent / f"{part}-{name}")


SPOILS = {
    "unreadable": (lambda r: damage(r, 2), "2 of 20 images cannot be read"),
    "same image in train and val": (
        lambda r: written(r / "val/ash/x.png", (r / "train/ash/0.png").read_bytes()),
        "1 image in both train and val, so accuracy there will look better than it is. For example "
        "train: train/ash/0.png = val: val/ash/x.png",
    ),
    "same pixels in another format": (
        lambda r: Image.open(r / "train/ash/0.png").save(r / "val/ash/x.bmp"),
        "1 image in both train and val",
    ),
    "empty class": (lambda r: (r / "train/fir").mkdir(), "class folders without images: fir"),
    "class of val alone": (
        lambda r: class_folders(r / "val", "fir"),
        "has classes that train does not have: fir",
    ),
    "one class": (one_class, "has only one class, 'ash'"),
}


@pytest.mark.parametrize("case", SPOILS)
def test_what_spoils_a_training(few: Path, capsys, case: str):
    spoil, message = SPOILS[case]
    spoil(few)
    assert check(f"folder:{few}", "--json") == 1
    facts = json.loads(capsys.readouterr().out)
    assert len(facts["problems"]) == 1
    assert message in facts["problems"][0]
    assert check(f"folder:{few}") == 1
    out = capsys.readouterr().out
    assert f"PROBLEM:  {facts['problems'][0]}" in out
    assert "No problems" not in out


def test_warnings_do_not_fail(tmp_path: Path, capsys):
    root = class_folders(tmp_path / "d", "a", "b", "c", count=5)
    class_folders(root, "a", count=50)
    (root / "b" / "same.png").write_bytes((root / "b" / "0.png").read_bytes())
    (root / "c" / "torn.png").write_bytes((root / "b" / "1.png").read_bytes())
    flat(mode="L", colour=3).save(root / "a" / "grey.png")
    flat(mode="RGBA", colour=(1, 2, 3, 4)).save(root / "a" / "alpha.png")
    for index in range(3, 5):
        (root / "c" / f"{index}.png").unlink()
    assert check(f"folder:{root}", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["problems"] == []
    assert facts["counts"]["train"] == {"a": 52, "b": 6, "c": 4}
    assert sorted(map(sorted, facts["duplicates"])) == [
        ["train: b/0.png", "train: b/same.png"],
        ["train: b/1.png", "train: c/torn.png"],
    ]
    told = " ".join(facts["warnings"])
    for text in (
        "2 duplicate images within a split",
        "1 image is in several classes. For example, b/1.png (b) and c/torn.png (c) are identical",
        "1 of 62 images are grey; they are used as grey in all three colours, for example a/gr",
        "1 of 62 images have transparency; they are laid over white, for example a/alpha.png",
        "62 of 62 images are tiny",
        "1 class with fewer than 5 training images: c",
        "out of balance: a has 52 training images, c 4",
    ):
        assert text in told
    assert facts["notes"] == [
        "There is no validation split: jtl train will set aside 20 % of the training images for "
        "validation."
    ]


def test_check_of_arrays(tmp_path: Path, capsys):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 40, 40, 3), np.uint8)
    pixels[11] = pixels[2]
    labels = np.arange(12) % 3
    train = {"x_train": pixels[:9], "y_train": labels[:9]}
    np.savez(tmp_path / "x.npz", **train, x_test=pixels[9:], y_test=labels[9:])
    assert check(f"npz:{tmp_path / 'x.npz'}") == 1
    out = capsys.readouterr().out
    assert "train: x_train[2] = test: x_test[2]" in out
    assert "1 image in both train and test" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digts"], "there is no file or folder 'digts'. Did you mean 'digits'?"),
        (["folder:nowhere"], "There is no file or folder nowhere"),
        (["digits", "--montage", "m.jpg"], "--montage writes a .png file, not 'm.jpg'"),
        (["digits", "--montage", "no/m.png"], "cannot write 'no/m.png': No such file or directory"),
    ],
)
def test_check_refuses(elsewhere: Path, capsys, arguments: list[str], message: str):
    assert check(*arguments) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("error: ")) == ("", 1)
    assert message in captured.err


def test_check_leaves_unreadable_images_out(few: Path, capsys):
    damage(few, 2)
    assert check(few, "--on-bad-image", "skip", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["problems"] == []
    assert "2 of 20 images cannot be read: left out." in facts["warnings"]
    assert len(facts["unreadable"]) == 2
    for image in (few / "val").rglob("*.png"):
        image.write_bytes(b"")
    for image in (few / "train" / "birch").rglob("*.png"):
        image.write_bytes(b"")
    assert check(few, "--on-bad-image", "skip", "--json") == 1
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert problem == "No image can be read of: birch, the val split. Replace these files."


def test_check_knows_the_bit_depth(tmp_path: Path, capsys):
    root = class_folders(tmp_path / "d", "a", "b", count=5)
    Image.fromarray(np.full((4, 6), 4000, np.uint16)).save(root / "a" / "deep.png")
    assert check(root, "--json") == 0
    notes = json.loads(capsys.readouterr().out)["notes"]
    assert any("they are read as images of 12 bits" in note for note in notes)
    assert check(root, "--bit-depth", "16", "--json") == 0
    assert "12 bits" not in capsys.readouterr().out
    assert check(root, "--bit-depth", "10", "--json") == 1
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert problem.startswith("--bit-depth 10: the 16-bit images have values up to 4,000")


def test_montage_of_many_and_broken(tmp_path: Path):
    names = [f"class number {index:03} with a name that is too long" for index in range(60)]
    root = class_folders(tmp_path / "d", *names, count=1)
    damage(root, 1, names[0])
    montage.draw(find(f"folder:{root}"), tmp_path / "m.png")
    with Image.open(tmp_path / "m.png") as drawn:
        assert drawn.height == montage.MOST_CLASSES * 100 + 4
        assert drawn.getpixel((320, 50)) == (255, 255, 255)
        assert drawn.getpixel((310, 89)) == (255, 0, 0)  # crossed out
        assert drawn.getpixel((300, 4)) == (255, 0, 0)  # the frame of the broken one


def test_check_of_real_images(shared_data, capsys):
    assert check(f"folder:{shared_data('ants-bees.zip')}", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["counts"] == {
        "train": {"ants": 123, "bees": 121},
        "val": {"ants": 70, "bees": 83},
    }
    assert (facts["problems"], facts["unreadable"], facts["duplicates"]) == ([], [], [])
    assert check(f"folder:{shared_data('imagenet-sample.zip')}") == 1
    assert "has only one class, 'imagenet-sample'" in capsys.readouterr().out


def test_class_folders_without_any_image(tmp_path, capsys):
    """As a copy of a data set's repository has them: `data/*.parquet`."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x.txt").write_text("none")
    assert check(f"folder:{tmp_path}") == 1
    out = capsys.readouterr().out
    assert "labels:   from the names of the folders\n" in out
    assert "has class folders without images: data." in out


def test_equal_images_with_several_labels(tmp_path: Path, capsys):
    root = class_folders(tmp_path, "x", count=8)
    for index in (1, 2):
        flat(colour=(9, 9, 9)).save(root / "x" / f"{index}.png")
    rows = [f"x/{index}.png,{('ant', 'ant|bee', 'bee')[index % 3]}" for index in range(8)]
    (root / "t.csv").write_text("\n".join(["image,labels", *rows]))
    assert check(f"csv:{root / 't.csv'}", "--task", "multilabel", "--json") == 0
    told = json.loads(capsys.readouterr().out)["warnings"]
    assert (
        "1 image several times with different labels. For example, x/1.png (ant|bee) and x/2.png "
        "(bee) are identical: some labels may be missing."
    ) in told
