"""Whole searches of the tiny network, by a clock that counts how often it is asked."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil

import numpy as np
import pytest
from PIL import Image

import jtl
from jtl.cli import app
from jtl.common.errors import UserError
from jtl.config import walk
from jtl.models import registry
from jtl.runs.files import read_json
from jtl.search import backbones, mirrored, planning, sampling, session, space
from jtl.search.options import Options, SearchConfig
from jtl.search.space import Candidate
from support import tiny
from support.commands import python
from support.paths import TESTS


def searched(data, out, *more: object, step: float = 0.05):
    """A search whose clock goes on by `step` seconds whenever it is asked."""
    given = [f"folder:{data}", "--model", "tiny", "--weights", data.parent / "weights"]
    options = app.parsed(Options, [*map(str, [*given, "--out", out, *more])], "jtl search")
    ticks = itertools.count()
    return session.run(options, tiny.quiet(), lambda: step * next(ticks))


@pytest.fixture
def planned(monkeypatch):
    """No variations, and a short plan."""
    monkeypatch.setattr(sampling, "available", lambda: False)
    monkeypatch.setattr(space, "STRATEGIES", ("last_stage",))
    monkeypatch.setattr(mirrored, "measure", lambda engine, winner: None)


def test_a_search_leaves_runs_and_a_result(tiny_data, tmp_path, planned):
    found = searched(tiny_data, tmp_path / "search", "--budget", "10m")
    assert found == read_json(tmp_path / "search" / "search.json")
    names = [t["name"] for t in found["trials"]]
    assert names == ["head_only", "head_only, head mlp", "last_stage"]
    assert [t["state"] for t in found["trials"]] == ["done"] * 3
    winner = tmp_path / "search" / found["winner"]
    summary = read_json(winner / "summary.json")
    assert found["val_metric"] == summary["val_accuracy"]
    assert all(t["alone"] > 0 for t in found["trials"])
    # A part was held out for the test, and scored once: no other trial knows it.
    assert found["num_test"] > 0
    assert found["test_accuracy"] == summary["test_accuracy"]
    for trial in found["trials"]:
        other = read_json(tmp_path / "search" / trial["folder"] / "summary.json")
        assert (other["test_accuracy"] is None) == (trial["folder"] != found["winner"])
        assert other["probe_val_accuracy"] is None
        logits = np.load(tmp_path / "search" / trial["folder"] / "val_logits.npy")
        assert logits.shape == (found["num_val"], 3)
    assert "--test-split 0.15" in found["command"]
    assert "Held out" in found["notes"][0]
    page = (tmp_path / "search" / "search.md").read_text()
    assert f"    {found['command']}\n" in page
    assert "## What each choice gained" in page
    whole = (tmp_path / "search" / "search.html").read_text()
    assert '<img src="data:image/png;base64,' in whole
    assert f'<a href="{found["winner"]}">' in whole
    with Image.open(tmp_path / "search" / "search.png") as plot:
        assert plot.size[0] > 600
    assert [row["share"] for row in found["learning_curve"]] == [0.25, 0.5, 1.0]

    # What is finished stays, and more time makes it longer.
    before = [
        read_json(tmp_path / "search" / t["folder"] / "summary.json") for t in found["trials"]
    ]
    given = ["--resume", "--out", str(tmp_path / "search"), "--budget", "1h"]
    ticks = itertools.count()
    options = app.parsed(Options, given, "jtl search")
    again = session.run(options, tiny.quiet(), lambda: next(ticks))
    assert again["trials"] == found["trials"]
    assert again["budget"] == 3600
    assert again["seconds"] > found["seconds"]
    after = [read_json(tmp_path / "search" / t["folder"] / "summary.json") for t in found["trials"]]
    assert after == before
    # Whose folder is deleted stays in the table, but cannot win.
    shutil.rmtree(tmp_path / "search" / found["winner"])
    third = session.run(options, tiny.quiet(), lambda: next(ticks))
    assert third["winner"] != found["winner"]
    assert len(third["trials"]) == len(found["trials"])
    with pytest.raises(UserError, match=r"different ones:\n  --metric loss \(the search has acc"):
        searched(tiny_data, tmp_path / "search", "--resume", "--metric", "loss")
    with pytest.raises(UserError, match=r"contains a search. Add --resume"):
        searched(tiny_data, tmp_path / "search")


def test_a_backbone_that_is_chosen_once(tiny_data, tmp_path, planned, monkeypatch):
    asked: list[str] = []
    monkeypatch.setattr(session, "with_model", lambda config, display: chosen(config, asked))
    monkeypatch.setattr(space, "heads", list)
    monkeypatch.setattr(space, "STRATEGIES", ())
    given = {"source": f"folder:{tiny_data}", "out": tmp_path / "search", "budget": "10m"}
    for resume in (False, True):
        ticks = itertools.count()
        options = walk.create(Options, {**given, "model": "auto:fast", "resume": resume})
        found = session.run(options, tiny.quiet(), lambda ticks=ticks: 0.05 * next(ticks))
        assert found["model"] == "tiny"
        assert "--model tiny" in found["command"]
    assert asked == ["auto:fast"]


def chosen(config, asked):
    asked.append(config.model.model)
    return walk.replace(config, {"model": "tiny", "weights": "random"})


def test_all_images_choose_without_a_test(tiny_data, tmp_path, planned):
    out = tmp_path / "search"
    found = searched(tiny_data, out, "--budget", "30s", "--no-test", "--metric", "macro_f1", step=2)
    assert (found["num_test"], found["test_accuracy"]) == (0, None)
    assert found["trials"][0]["state"] == "done"
    assert "not begun" in [t["state"] for t in found["trials"]]
    assert found["corrected_val_accuracy"] is None


def test_a_probe_that_does_not_fit_is_announced(tiny_data, tmp_path, planned, monkeypatch):
    said: list[str] = []
    # A machine that takes a second for ten thousand operations.
    monkeypatch.setattr(planning, "SLOW_RATE", 1e4)
    monkeypatch.setattr(session.Workload, "measured_rate", lambda workload: 1e4)
    monkeypatch.setattr(tiny.Display, "message", lambda display, text: said.append(text))
    found = searched(tiny_data, tmp_path / "search", "--budget", "30s", "--no-test")
    [warning] = [text for text in said if text.startswith("warning: the linear probe")]
    assert "is predicted to take " in warning
    assert found["trials"][0]["state"] == "done"


@pytest.fixture
def second(monkeypatch):
    """Another backbone than `tiny`, with the same layers, whose weights cannot be had."""
    entry = dataclasses.replace(tiny.ENTRY, name="tiny2", default_weights="package:tiny2")
    monkeypatch.setitem(registry.ENTRIES, "tiny2", entry)


def test_several_backbones_begin_and_the_best_goes_on(
    tiny_data, tmp_path, planned, second, monkeypatch
):
    said: list[str] = []
    monkeypatch.setattr(tiny.Display, "message", lambda display, text: said.append(text))
    measured = planning.reached

    def reached(engine, first, name):
        assert measured(engine, first, name) > 0
        return float(name == "tiny2")

    monkeypatch.setattr(planning, "reached", reached)
    short = Candidate("last_stage", "plan", {"mask": "last_stage", "epochs": 1})
    probe = {"mask": "head_only", "solver": "lbfgs", "class_weights": "balanced"}
    monkeypatch.setattr(space, "strategies", lambda **how: [short])
    monkeypatch.setattr(space, "heads", lambda: [Candidate("balanced", "head", probe)])
    out = tmp_path / "search"
    given = [f"folder:{tiny_data}", "--models", "tiny,tiny2", "--weights", "random", "--no-test"]
    options = app.parsed(Options, [*given, "--out", str(out)], "jtl search")
    ticks = itertools.count()
    found = session.run(options, tiny.quiet(), lambda: 0.05 * next(ticks))
    assert [(t["name"], t["stage"]) for t in found["trials"]] == [
        ("head_only", "probe"),
        ("head_only, model tiny2", "backbone"),
        ("last_stage, model tiny2", "plan"),
        ("last_stage", "plan"),
        ("balanced, model tiny2", "head"),
    ]
    assert {t["state"] for t in found["trials"]} == {"done"}
    stored = [json.loads((out / t["folder"] / "config.json").read_text()) for t in found["trials"]]
    models = ["tiny", "tiny2", "tiny2", "tiny", "tiny2"]
    assert [config["model"]["model"] for config in stored] == models
    assert "Of 2 backbones tiny2 is the best so far; the search goes on with it" in said
    page = (out / "search.md").read_text()
    assert "| backbone | tiny" in page
    # It goes on with the same ones, which may be named again.
    again = app.parsed(Options, [*given, "--out", str(out), "--resume"], "jtl search")
    assert session.run(again, tiny.quiet(), lambda: 1.0)["trials"] == found["trials"]
    other = app.parsed(Options, ["--out", str(out), "--resume", "--models", "tiny"], "jtl search")
    with pytest.raises(UserError, match=r"compares tiny, tiny2. Leave it out to continue"):
        session.run(other, tiny.quiet(), lambda: 1.0)


def test_backbones_without_weights_are_left_out(second, monkeypatch):
    options = walk.create(Options, {"source": "digits", "models": ("tiny2", "efficientnet_lite0")})
    resolve = backbones.weights.resolve

    def known(spec, model, **how):
        return None if model == "efficientnet_lite0" else resolve(spec, model, **how)

    monkeypatch.setattr(backbones.weights, "resolve", known)
    found = backbones.find(options, options.base(), 60.0, tiny.quiet())
    assert found.names == ("efficientnet_lite0",)
    assert "package:tiny2" in found.left_out["tiny2"]
    monkeypatch.setattr(backbones.weights, "resolve", resolve)
    only = dataclasses.replace(options, search=SearchConfig(models=("tiny2", "tiny2")))
    assert backbones.find(only, only.base(), 60.0, tiny.quiet()).names == ("tiny2",)
    # A single one is told by what reads its weights; of several none can be had here.
    entry = dataclasses.replace(tiny.ENTRY, name="tiny3", default_weights="package:tiny3")
    monkeypatch.setitem(registry.ENTRIES, "tiny3", entry)
    none = dataclasses.replace(options, search=SearchConfig(models=("tiny2", "tiny3")))
    with pytest.raises(UserError, match=r"no weights can be had .*\n  tiny2: "):
        backbones.find(none, none.base(), 60.0, tiny.quiet())


def test_in_a_long_search_backbones_that_are_here_are_compared(monkeypatch):
    asked = []

    def resolve(spec, model, **how):
        asked.append(model)
        if model != "efficientnet_lite1":
            raise UserError("not here")

    monkeypatch.setattr(backbones.weights, "resolve", resolve)
    options = walk.create(Options, {"source": "digits"})

    def find(given: Options, seconds: float) -> backbones.Backbones:
        return backbones.find(given, given.base(), seconds, tiny.quiet())

    assert find(options, 1199.0).names == ("efficientnet_lite0",)
    assert not asked
    found = find(options, 1200.0)
    assert (found.names, found.left_out) == (("efficientnet_lite0", "efficientnet_lite1"), {})
    # Of no backbone are default weights asked for that would be downloaded.
    assert "resnet18" not in asked
    for named in ({"model": "resnet18"}, {"weights": "random"}, {"truncate_at": "stage3"}):
        given = walk.create(Options, {"source": "digits", **named})
        assert find(given, 1200.0).names == (given.model.model,)


def test_from_python(tiny_data, tmp_path):
    given = {"model": "tiny", "weights": str(tiny_data.parent / "weights"), "test": False}
    out = tmp_path / "search"
    found = jtl.search(tiny_data, budget="1s", out=out, display=tiny.quiet(), **given)
    assert found.winner.folder == out / "trials" / "001-head-only"
    assert found.winner.summary["mask"] == "head_only"
    assert [t["state"] for t in found.trials].count("done") == 1
    assert "The winner is head_only" in repr(found)
    assert "head_only" in found._repr_html_()
    assert jtl.load(out).folder == found.winner.folder
    with pytest.raises(UserError, match=r"there is no option budgets. Did you mean 'budget'"):
        jtl.search(tiny_data, budgets="1s")


@pytest.mark.process
def test_a_search_that_is_killed_goes_on(tiny_data, tmp_path):
    out = tmp_path / "search"
    options = [f"folder:{tiny_data}", "--model", "tiny", "--weights", tiny_data.parent / "weights"]
    # In the second trial after its first epoch; then after two more.
    done = python(TESTS / "support" / "tiny_search.py", "1,2", *options, "--out", out)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (out / "trials.jsonl").read_text().splitlines()]
    states = [(line["number"], line["state"]) for line in lines]
    # Every session claims what it goes on with; what is finished is not trained again.
    assert states == [(1, "running"), (1, "done"), *[(2, "running")] * 3, (2, "done")]
    history = (out / "trials" / "002-last-stage" / "metrics.jsonl").read_text().splitlines()
    epochs = [json.loads(line)["epoch"] for line in history]
    assert epochs == list(range(1, 11))
    found = read_json(out / "search.json")
    assert [t["state"] for t in found["trials"]] == ["done", "done"]
    assert (out / "search.md").is_file()


def test_a_folder_of_others_is_left_alone(tiny_data, tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match="is not empty, and contains no search"):
        searched(tiny_data, tmp_path)
    options = app.parsed(Options, ["x", "--resume"], "jtl search")
    with pytest.raises(UserError, match="--resume needs --out"):
        session.run(options, tiny.quiet(), lambda: 0.0)
    given = ["--resume", "--out", str(tmp_path / "nothing")]
    with pytest.raises(UserError, match=r"--resume: there is no search in '.*nothing'"):
        session.run(app.parsed(Options, given, "jtl search"), tiny.quiet(), lambda: 0.0)


def test_a_search_is_not_continued_with_other_images_or_less_time(
    tiny_data, tmp_path, planned, monkeypatch
):
    monkeypatch.setattr(space, "STRATEGIES", ())
    data, out = tmp_path / "images", tmp_path / "search"
    shutil.copytree(tiny_data, data)
    weights = str(tiny_data.parent / "weights")
    values = {"source": f"folder:{data}", "model": "tiny", "weights": weights, "out": out}
    options = walk.create(Options, {**values, "test": False})
    session.run(options, tiny.quiet(), lambda: 1.0)
    before = (out / "search.json").read_bytes()
    for budget, told in (
        ("1s", r"--budget 1s: the search has taken 1\.0 s already"),
        ("10m", None),
    ):
        if told is None:
            next(data.rglob("*.png")).unlink()
            told = r"images of '.*images' have changed since the search in '.*search' began"
        again = walk.create(Options, {"resume": True, "out": out, "budget": budget})
        with pytest.raises(UserError, match=told):
            session.run(again, tiny.quiet(), lambda: 1.0)
        assert (out / "search.json").read_bytes() == before


def test_a_folder_that_cannot_be_written_is_told(tiny_data, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write to the search's folder .* with --out"):
        searched(tiny_data, tmp_path / "file" / "search")
