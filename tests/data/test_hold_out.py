"""Images that are held out of training images, with and without groups."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jtl.common.errors import UserError
from jtl.config.data import DataConfig
from jtl.config.options import Config
from jtl.data import folds, sampler
from jtl.data.hold_out import _by_images, hold_out, hold_out_test
from jtl.data.sources import registry
from jtl.data.sources.arrays import ArraySplit
from jtl.data.sources.registry import SourceOptions, load
from jtl.train.fit import fit
from support import tiny
from support.data_files import encode, flat

CLASSES = ("ant", "bee", "cow")


def split_of(labels: np.ndarray) -> ArraySplit:
    names = [f"{row:05d}" for row in range(len(labels))]
    images = np.zeros((len(labels), 2, 2, 1), np.uint8)
    return ArraySplit("x (train)", images, labels.astype(np.int32), names)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5])
def test_groups_are_undivided_and_stratified(seed: int, fraction: float):
    """60 patients with 1 to 12 images, most of one class, as in hospitals."""
    random = np.random.default_rng(seed)
    sizes = random.integers(1, 13, 60)
    patients = np.repeat(np.arange(60), sizes)
    own = random.choice(3, 60, p=[0.6, 0.3, 0.1])
    own[:6] = [0, 0, 1, 1, 2, 2]
    split = split_of(np.where(random.random(len(patients)) < 0.9, own[patients], 0))
    groups = {name: f"p{p}" for name, p in zip(split.names, patients, strict=True)}
    train, val, note = hold_out(split, seed, fraction, groups)
    assert not {groups[n] for n in train.names} & {groups[n] for n in val.names}
    assert len(train) + len(val) == len(split)
    assert {*train.labels.tolist()} == {*split.labels.tolist()}
    shares = np.bincount(val.labels, minlength=3) / np.bincount(split.labels, minlength=3)
    assert abs(len(val) / len(split) - fraction) < 0.03
    assert np.abs(shares[:2] - fraction).max() < 0.06  # Of the rare class few patients decide.
    assert " of 60 groups, stratified as well as they allow" in note
    again = hold_out(split, seed, fraction, groups)[1]
    assert again.names == val.names
    others = {tuple(hold_out(split, other, fraction, groups)[1].names) for other in range(5)}
    assert len(others) > 1


def test_groups_of_one_image_are_like_no_groups():
    split = split_of(np.repeat([0, 1], [400, 100]))
    _, val, _ = hold_out(split, 0, 0.2, {name: name for name in split.names})
    assert np.bincount(val.labels).tolist() == [80, 20]


def test_two_large_groups_are_one_for_each_part():
    split = split_of(np.tile([0, 1], 50))
    groups = {name: str(row // 50) for row, name in enumerate(split.names)}
    train, val, _ = hold_out(split, 0, 0.2, groups)
    assert (len(train), len(val)) == (50, 50)


def test_what_cannot_be_held_out():
    split = split_of(np.tile([0, 1], 50))
    groups = dict.fromkeys(split.names, "one")
    with pytest.raises(UserError, match="every class is in a single group"):
        hold_out(split, 0, 0.2, groups)
    with pytest.raises(UserError, match=r"--test-split 0.2: nothing can be held out"):
        hold_out_test(split, 0, 0.2, groups)


def test_test_images_are_others_than_those_of_validation():
    split = split_of(np.repeat([0, 1], [200, 100]))
    rest, test, note = hold_out_test(split, 7, 0.15)
    assert np.bincount(test.labels).tolist() == [30, 15]
    assert note == "Held out 45 of 300 training images for the test (15 %, stratified, seed 7)."
    assert {*rest.names}.isdisjoint(test.names)
    assert {*hold_out(split, 7, 0.15)[1].names} != {*test.names}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """30 images of 10 patients, and a table of them."""
    lines = ["image,label,patient"]
    for row in range(30):
        name = f"p{row // 3}_{row}.png"
        (tmp_path / name).write_bytes(encode(flat(colour=(row, 0, 0)), "PNG"))
        lines.append(f"{name},{CLASSES[row // 3 % 2]},{row // 3}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    return tmp_path


COLUMN = {"group_column": "patient"}
NAMES = {"group_from": "regex:^(?P<group>p[0-9]+)_"}


@pytest.mark.parametrize("options", [COLUMN, NAMES])
def test_tables_and_names_say_groups(root: Path, options: dict[str, str]):
    data = load(f"csv:{root}/labels.csv", SourceOptions(**options), test_fraction=0.2)  # pyright: ignore
    assert data.test is not None
    parts = [{name.split("_")[0] for name in part.names}
             for part in (data.train, data.val, data.test)]  # fmt: skip
    assert sum(map(len, parts)) == len(set.union(*parts)) == 10
    assert all(parts)


def test_folders_have_groups_by_name(tmp_path: Path):
    for row in range(24):
        path = tmp_path / CLASSES[row % 2] / f"day{row // 4}_{row}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encode(flat(colour=(row, 0, 0)), "PNG"))
    data = load(str(tmp_path), SourceOptions(group_from=r"regex:(day\d+)"))
    days = [
        {Path(name).name.split("_")[0] for name in part.names} for part in (data.train, data.val)
    ]
    assert not days[0] & days[1]


def refusal(root: Path, test_fraction: float | None = None, **options: str) -> str:
    with pytest.raises(UserError) as caught:
        load(f"csv:{root}/labels.csv", SourceOptions(**options), test_fraction=test_fraction)  # pyright: ignore
    return str(caught.value)


def test_groups_that_cannot_be_read(root: Path):
    assert "--group-column pat: " in refusal(root, group_column="pat")
    assert "both say the groups" in refusal(root, **COLUMN, **NAMES)
    assert "30 of 30 images have no group in their names" in refusal(root, group_from="regex:(x)_")
    assert "no regular expression" in refusal(root, group_from="regex:(?P<group>[a-")
    table = root / "labels.csv"
    table.write_text(table.read_text().replace("p9_29.png,bee,9", "p9_29.png,bee,"))
    assert "no group for 1 of 30 rows (row 31)" in refusal(root, **COLUMN)
    with pytest.raises(UserError, match="--group-column: no effect on 'digits'"):
        load("digits", SourceOptions(group_column="x"))


def test_splits_that_divide_groups_are_refused(root: Path):
    table = root / "labels.csv"
    head, *lines = table.read_text().split("\n")
    table.write_text("\n".join([f"{head},split", *(f"{line},train" for line in lines[:-1]),
                                f"{lines[-1]},test"]))  # fmt: skip
    assert "1 group in several splits: 9 (in train and test)" in refusal(root, **COLUMN)
    assert "has a test split of its own" in refusal(root, 0.2)


def test_other_groups_are_other_data(root: Path):
    table = root / "labels.csv"
    first = load(f"csv:{table}", SourceOptions(**COLUMN))  # pyright: ignore
    table.write_text(table.read_text().replace("p9_29.png,bee,9", "p9_29.png,bee,8"))
    assert load(f"csv:{table}", SourceOptions(**COLUMN)).fingerprint != first.fingerprint  # pyright: ignore


def test_options_are_kept():
    config = Config(data=DataConfig(data="csv:x.csv", test_split=0.15, **COLUMN))  # pyright: ignore
    assert Config.from_dict(config.to_dict()) == config
    for share in (0.0, 1.0, -0.5):
        with pytest.raises(UserError, match="--test-split must be"):
            Config(data=DataConfig(test_split=share)).check()


def test_a_run_with_groups_goes_on_with_its_split(tiny_data: Path, root: Path, monkeypatch):
    run = root.parent / "run"
    config = tiny.config(tiny_data, run, epochs=3)
    data = DataConfig(f"csv:{root / 'labels.csv'}", test_split=0.2, split_seed=4, **COLUMN)
    config = dataclasses.replace(config, data=data)
    seen: list[list[tuple[str, ...]]] = []
    original = registry.load

    def load_and_note(*args: Any, **options: Any) -> registry.Dataset:
        dataset = original(*args, **options)
        assert dataset.test is not None
        seen.append([tuple(s.names) for s in (dataset.train, dataset.val, dataset.test)])
        return dataset

    monkeypatch.setattr(registry, "load", load_and_note)
    tiny.fit_until(1, config, monkeypatch)
    summary = fit(tiny.resumed(run), tiny.quiet()).summary
    assert seen[0] == seen[1]
    assert summary["num_train"] == len(seen[0][0])
    patients = [{name.split("_")[0] for name in names} for names in seen[0]]
    assert len(set().union(*patients)) == sum(map(len, patients)) == 10


def test_thousands_of_classes_take_one_pass(monkeypatch):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(5000), 3)).astype(np.int32)
    held_out = _by_images(labels, np.random.default_rng(1), 0.34)
    place = folds.assigned(labels, 3, 0)
    order = sampler.balanced_order(labels, 0, 1)
    # As with a pass for each class, which this was before.
    random, expected = np.random.default_rng(1), np.zeros(len(labels), bool)
    for label in range(5000):
        expected[random.permutation(np.flatnonzero(labels == label))[:1]] = True
    np.testing.assert_array_equal(held_out, expected)
    assert (np.bincount(labels[held_out]) == 1).all()
    assert (np.bincount(labels * 3 + place) == 1).all()
    np.testing.assert_array_equal(np.sort(order), np.arange(len(labels)))

    def looked_for(*_: object) -> None:
        raise AssertionError("a pass over all labels for a class")

    monkeypatch.setattr(np, "flatnonzero", looked_for)
    _by_images(labels, np.random.default_rng(1), 0.34)
    folds.assigned(labels, 3, 0)
    sampler.balanced_order(labels, 0, 1)
