"""Several seeds, and the search for a learning rate."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from jtl.train import lr_finder, run_series
from support.commands import main

pytestmark = pytest.mark.slow


def options(data, *more):
    weights = data.parent / "weights"
    given = ["--model", "tiny", "--weights", weights, "--data", f"folder:{data}"]
    return [*given, "--batch-size", 4, "--lr", 0.05, *more]


@pytest.fixture
def unsplit(tiny_data, tmp_path):
    """Images without a validation folder."""
    folder = tmp_path / "unsplit"
    shutil.copytree(tiny_data / "train", folder / "tiny")
    shutil.copytree(tiny_data.parent / "weights", folder / "weights")
    return folder / "tiny"


def test_seeds_share_split_and_features_and_differ(unsplit, tmp_path, capsys):
    folder = tmp_path / "runs"
    command = options(unsplit, "--epochs", 2, "--run-dir", folder, "--seed", 3)
    assert main("train", *command, "--seeds", 3, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((folder / "seeds.json").read_text())
    assert told["seeds"] == [3, 4, 5]
    runs = [folder / f"seed-{seed}" for seed in (3, 4, 5)]
    summaries = [json.loads((run / "summary.json").read_text()) for run in runs]
    assert [s["seed"] for s in summaries] == [3, 4, 5]
    losses = [s["val_loss"] for s in summaries]
    assert len(set(losses)) == 3
    figures = told["val_loss"]
    assert (figures["median"], figures["min"], figures["max"]) == (
        sorted(losses)[1],
        min(losses),
        max(losses),
    )
    assert figures["std"] == pytest.approx(np.std(losses, ddof=1))
    assert told["test_accuracy"] is None
    # One split, that of the first seed: what frozen layers gave is not computed again.
    assert [s["features_reused"] for s in summaries] == [False, True, True]
    alone = tmp_path / "alone"
    assert main("train", *options(unsplit, "--epochs", 2, "--run-dir", alone, "--seed", 3)) == 0
    assert json.loads((alone / "summary.json").read_text())["val_loss"] == losses[0]

    # As if stopped after the first: what is there stays, the rest is as before.
    shutil.rmtree(runs[1])
    (folder / "seeds.json").unlink()
    before = (runs[0] / "summary.json").stat().st_mtime_ns
    again = ["--seeds", 3, "--seed", 3, "--run-dir", folder]
    capsys.readouterr()
    assert main("train", *again, "--resume", "--json") == 0
    resumed = json.loads(capsys.readouterr().out)
    assert resumed["val_loss"] == told["val_loss"]
    assert (runs[0] / "summary.json").stat().st_mtime_ns == before
    assert main("train", *again) == 2
    assert "is not empty" in capsys.readouterr().err
    assert main("train", *again, "--resume") == 0
    assert "standard deviation" in capsys.readouterr().out


def test_spread():
    shown = ("median", "min", "max", "std")
    assert run_series.spread([1.0, None], shown) is None
    assert run_series.spread([1.0, 4.0, 2.0], shown) == {
        "values": [1.0, 4.0, 2.0],
        "median": 2.0,
        "min": 1.0,
        "max": 4.0,
        "std": pytest.approx(1.5275252316519468),
    }


@pytest.mark.parametrize("mask", ["head_only", "full"])
def test_find_lr(tiny_data, tmp_path, capsys, mask):
    folder = tmp_path / "found"
    command = options(tiny_data, "--mask", mask, "--run-dir", folder, "--find-lr")
    assert main("train", *command, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert {path.name for path in folder.iterdir()} == {"lr_finder.png", "lr_finder.json"}
    with Image.open(folder / "lr_finder.png") as image:
        assert image.size[0] > 500
    assert len(found["rates"]) == len(found["losses"]) == len(found["smoothed"]) > 20
    # A head of zeros knows nothing: the first loss is that of chance.
    assert found["losses"][0] == pytest.approx(np.log(3), rel=1e-4)
    assert 1e-5 < found["suggested_lr"] < 3
    assert min(found["smoothed"]) < 0.9 * found["smoothed"][0]


def test_find_lr_prints_what_to_do(tiny_data, tmp_path, capsys):
    command = options(tiny_data, "--run-dir", tmp_path / "found", "--find-lr")
    assert main("train", *command) == 0
    out = capsys.readouterr().out
    assert out.startswith("suggested: --lr ")
    assert "lr_finder.png" in out


def test_the_suggestion_is_where_the_loss_falls_fastest():
    rates = np.geomspace(1e-6, 1.0, 61)
    # Falls by the logarithm of the rate, fastest at 1e-3, and rises again from 1e-1 on.
    place = np.log10(rates)
    losses = 2 - 1 / (1 + np.exp(-4 * (place + 3))) + np.where(place > -1, 5 * (place + 1), 0)
    suggested = lr_finder.suggest(rates, lr_finder.smooth([float(x) for x in losses]))
    assert suggested == pytest.approx(1e-3, rel=0.3)
    assert lr_finder.suggest(rates, [1.0] * 61) is None
    assert lr_finder.suggest(rates, [1.0 + x for x in range(61)]) is None


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--seeds", 0], "--seeds must be at least 1"),
        (["--seeds", 2, "--dry-run"], "--dry-run and --seeds cannot be combined"),
        (["--find-lr", "--resume"], "--find-lr is for a new training"),
        (["--dry-run", "--resume"], "--dry-run is for a new training"),
        (["--find-lr", "--solver", "lbfgs", "--mask", "head_only"], "no learning rate"),
        (["--seeds", 2, "--resume"], "--resume needs --run-dir, the folder of the seeds"),
        (["--seeds", 2, "--seed", 2**31 - 1], "--seeds with --seed"),
    ],
)
def test_refusals(flags, told, elsewhere, capsys):
    assert main("train", *flags) == 2
    assert told in capsys.readouterr().err
    assert list(elsewhere.iterdir()) == []
