"""`--folds`: every image validates once, on what the others taught, and features run once."""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jtl.cache import features
from jtl.common.errors import UserError
from jtl.config.options import Config, RunConfig
from jtl.data import folds
from jtl.data.loader import Joined
from jtl.data.sources.arrays import ArraySplit
from jtl.data.sources.registry import SourceOptions, load
from support import tiny
from support.commands import main


def split_of(labels: np.ndarray) -> ArraySplit:
    names = [f"{row:05d}" for row in range(len(labels))]
    return ArraySplit("x (train)", np.zeros((len(labels), 2, 2, 1), np.uint8), labels, names)


def test_folds_are_stratified_and_of_one_size():
    labels = np.repeat([0, 1, 2], [52, 23, 6]).astype(np.int32)
    place = folds.assigned(labels, 5, 0)
    counts = np.stack([np.bincount(labels[place == fold], minlength=3) for fold in range(5)])
    assert (np.ptp(counts, axis=0) <= 1).all()
    assert np.ptp(counts.sum(1)) <= 1
    np.testing.assert_array_equal(place, folds.assigned(labels, 5, 0))
    assert not np.array_equal(place, folds.assigned(labels, 5, 1))


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("grouped", [False, True])
def test_groups_and_several_labels(several: bool, grouped: bool):
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), random.integers(1, 8, 60)) if grouped else None
    count = 240 if groups is None else len(groups)
    if several:
        labels = (random.random((count, 3)) < [0.1, 0.3, 0.6]).astype(np.uint8)
        shares = labels.astype(float)
    else:
        labels = random.choice(3, count, p=[0.6, 0.3, 0.1]).astype(np.int32)
        shares = np.eye(3)[labels]
    place = folds.assigned(labels, 4, 0, groups)
    if groups is not None:
        assert all(len(np.unique(place[groups == group])) == 1 for group in range(60))
    parts = np.stack([shares[place == fold].sum(0) for fold in range(4)]) / shares.sum(0)
    np.testing.assert_allclose(parts, 0.25, atol=0.1)
    np.testing.assert_allclose(np.bincount(place) / count, 0.25, atol=0.06)


def test_every_image_validates_once():
    split = split_of(np.repeat([0, 1], [9, 6]).astype(np.int32))
    seen = []
    for number in (1, 2, 3):
        train, val, parts, note = folds.fold(split, f"{number}/3", 0, ("a", "b"))
        assert not {*train.names} & {*val.names}
        assert list(train.names) == [name for part in parts for name in part.names]
        seen += val.names
        assert note.startswith(f"Fold {number} of 3: 5 of 15 training images held out")
    assert sorted(seen) == sorted(split.names)


@pytest.mark.parametrize(
    ("labels", "groups", "message"),
    [
        ([0] * 6 + [1], None, "each class needs images in at least two.*: b"),
        ([0, 0], None, "there are fewer images. Use fewer folds"),
        ([0, 0, 0, 1, 1], ["p", "q", "r", "s", "s"], "each class needs groups in at least two.*b"),
    ],
)
def test_folds_that_cannot_be_made(labels, groups, message: str):
    split = split_of(np.array(labels, np.int32))
    named = None if groups is None else dict(zip(split.names, groups, strict=True))
    with pytest.raises(UserError, match=f"3 folds cannot be made: {message}"):
        folds.fold(split, "1/3", 0, ("a", "b"), named)


def test_labels_that_share_images_may_need_more_folds():
    # Whichever two of these images share a fold, a label is in it alone.
    labels = np.array([[1, 1, 0], [1, 0, 1], [0, 1, 1]] + [[0, 0, 0]] * 5, np.uint8)
    with pytest.raises(UserError, match=r"2 folds cannot be made: .* or more folds"):
        folds.fold(split_of(labels), "1/2", 0, ("a", "b", "c"))
    folds.fold(split_of(labels), "1/3", 0, ("a", "b", "c"))


SPLITS = {
    "arrays": ("npz:x.npz", "or give training images alone, and the validation images among them"),
    "a column": ("csv:x.csv", "or let its splits be ignored with --split-column none."),
    "folders": ("folder:tiny", "or give training images alone"),
}


@pytest.mark.parametrize("case", SPLITS)
def test_the_way_out_of_own_splits_has_an_effect(case: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = np.zeros((6, 8, 8), np.uint8)
    labels = np.arange(6) % 2
    np.savez("x.npz", x_train=images, y_train=labels, x_val=images, y_val=labels)
    tiny.write_folder(tmp_path / "tiny", 2, 2)
    paths = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.png"))
    rows = [f"{path},{path.parts[2]},{path.parts[1]}" for path in paths]
    (tmp_path / "x.csv").write_text("\n".join(["image,label,split", *rows]))
    spec, message = SPLITS[case]
    with pytest.raises(UserError) as refused:
        load(spec, fold="1/3")
    assert message in str(refused.value)
    assert "--split-lists" not in str(refused.value)
    if case == "a column":
        load(spec, SourceOptions(split_column="none"), fold="1/2")


def test_files_one_after_the_other_are_one_array():
    parts = [np.arange(6).reshape(3, 2), np.zeros((0, 2), int), np.arange(6, 16).reshape(5, 2)]
    joined, whole = Joined(parts), np.concatenate(parts)
    assert len(joined) == 8
    for rows in ([7, 0, 3, 3, 2], [], [1]):
        np.testing.assert_array_equal(joined[np.array(rows, int)], whole[rows])


@pytest.fixture
def data(tiny_model: str, tmp_path: Path) -> Path:
    tiny.write_weights(tmp_path / "weights")
    root = tiny.write_folder(tmp_path / "tiny", train=6, val=0)
    return root / "train"


def test_runs_of_folds(data: Path, tmp_path: Path, monkeypatch, capsys):
    computed = []
    original = features.FeatureCache._rows

    def counting(self, cut, variables, part, first):
        computed.append(len(part.split))
        return original(self, cut, variables, part, first)

    monkeypatch.setattr(features.FeatureCache, "_rows", counting)
    monkeypatch.setenv("JTL_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "runs"
    given = ["--model", "tiny", "--weights", tmp_path / "weights", "--data", data, "--run-dir", out]
    given += ["--solver", "sgd", "--epochs", "1", "--batch-size", "4", "--folds", "3"]
    assert main("train", *given) == 0
    # 18 images in three folds of 6, each computed once for all runs.
    assert computed == [6, 6, 6]
    told = json.loads((out / "folds.json").read_text())
    summaries = [json.loads((Path(run) / "summary.json").read_text()) for run in told["runs"]]
    values = [summary["val_accuracy"] for summary in summaries]
    assert told["folds"] == 3
    assert told["val_accuracy"]["values"] == values
    assert told["val_accuracy"]["mean"] == statistics.fmean(values)
    assert [summary["num_val"] for summary in summaries] == [6, 6, 6]
    shown = capsys.readouterr().out
    assert "3 folds" in shown
    assert "validation accuracy" in shown

    run = out / "fold-2"
    assert main("evaluate", run, "--json") == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["val_accuracy"] == summaries[1]["val_accuracy"]
    assert scores["count"] == 6
    shutil.rmtree(out / "fold-3")
    assert main("train", "--resume", "--folds", "3", "--run-dir", out) == 0
    again = json.loads((out / "folds.json").read_text())
    assert again["val_loss"] == told["val_loss"]
    assert main("train", "--resume", "--folds", "4", "--run-dir", out) == 2
    assert "Resume with --folds 3" in capsys.readouterr().err


def test_folds_of_groups_are_the_same_after_a_resume(data: Path, tmp_path: Path, monkeypatch):
    """Folds that are missing and are made again, without a word on groups."""
    for number, path in enumerate(sorted(data.rglob("*.png"))):
        path.rename(path.with_name(f"p{number // 2}_{number % 2}.png"))
    monkeypatch.setenv("JTL_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "runs"
    seen: list[tuple[set[str], set[str]]] = []
    original = folds.fold

    def noted(*args: Any, **options: Any) -> folds.Fold:
        made = original(*args, **options)
        seen.append((patients(made.train.names), patients(made.val.names)))
        return made

    monkeypatch.setattr(folds, "fold", noted)
    given = ["--model", "tiny", "--weights", tmp_path / "weights", "--data", data]
    given += ["--group-from", "regex:^(?P<group>p[0-9]+)_", "--folds", "3", "--epochs", "1"]
    assert main("train", *given, "--run-dir", out) == 0
    first = list(seen)
    told = json.loads((out / "folds.json").read_text())
    for number in (2, 3):
        shutil.rmtree(out / f"fold-{number}")
    seen.clear()
    assert main("train", "--resume", "--folds", "3", "--run-dir", out) == 0
    assert json.loads((out / "folds.json").read_text())["val_loss"] == told["val_loss"]
    assert all(train.isdisjoint(val) and len(train | val) == 9 for train, val in first)
    assert len({frozenset(val) for _, val in first}) == 3
    assert seen
    assert all(made in first for made in seen)


def patients(names: Iterable[str]) -> set[str]:
    return {name.rpartition("/")[2].split("_")[0] for name in names}


REFUSED = {
    "with a validation split": (("--folds", "3"), "has a validation split of its own"),
    "with seeds": (("--folds", "3", "--seeds", "2"), "cannot be combined"),
    "a fold of folds": (("--folds", "3", "--fold", "1/3"), "--fold is one of --folds"),
    "no fold": (("--fold", "4/3"), "--fold must be a fold and of how many, such as 2/5"),
    "views": (
        ("--folds", "3", "--cache-views", "2", "--augment", "light"),
        "random versions of images are not shared between folds",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(tiny_data: Path, tmp_path: Path, capsys, case: str):
    options, message = REFUSED[case]
    weights = tiny_data.parent / "weights"
    given = ["--model", "tiny", "--weights", weights, "--data", tiny_data]
    assert main("train", *given, "--run-dir", tmp_path / "run", *options) == 2
    assert message in capsys.readouterr().err


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path: Path):
    from jtl.train.folds import fit_folds

    (tmp_path / "x").write_text("")
    for resume, message in (("never", "is not empty"), ("must", "contains no folds to resume")):
        run = RunConfig(tmp_path, resume, folds=3)  # pyright: ignore[reportArgumentType]
        with pytest.raises(UserError, match=message):
            fit_folds(Config(run=run), tiny.quiet())
