"""Whole searches of the tiny network, by a clock that counts how often it is asked."""

from __future__ import annotations

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
from jtl.runs.files import read_json
from jtl.search import sampling, session, space
from jtl.search.options import Options
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


def test_a_search_leaves_runs_and_a_result(tiny_data, tmp_path, planned):
    found = searched(tiny_data, tmp_path / "search", "--budget", "10m")
    assert found == read_json(tmp_path / "search" / "search.json")
    names = [t["name"] for t in found["trials"]]
    assert names == ["head_only", "head_only, head mlp", "last_stage"]
    assert [t["state"] for t in found["trials"]] == ["done"] * 3
    winner = tmp_path / "search" / found["winner"]
    summary = read_json(winner / "summary.json")
    assert found["val_metric"] == summary["val_accuracy"]
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
    monkeypatch.setattr(session, "SLOW_RATE", 1e4)
    monkeypatch.setattr(session.Workload, "measured_rate", lambda workload: 1e4)
    monkeypatch.setattr(tiny.Display, "message", lambda display, text: said.append(text))
    found = searched(tiny_data, tmp_path / "search", "--budget", "30s", "--no-test")
    [warning] = [text for text in said if text.startswith("warning: the linear probe")]
    assert "is predicted to take " in warning
    assert found["trials"][0]["state"] == "done"


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
