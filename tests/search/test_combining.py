"""Ensembles of trials, and averages of their weights."""

from __future__ import annotations

import itertools
import json
import shutil

import numpy as np
import pytest

import jtl
from jtl.common.errors import UserError
from jtl.config import walk
from jtl.evaluate import command as evaluate
from jtl.predict import command as predict
from jtl.runs.console_text import accuracy_of
from jtl.runs.files import read_json, run_of, write_json
from jtl.search import console_text, ensembles, sampling, session, soups, space
from jtl.search.found import Found
from jtl.search.options import Options
from jtl.search.space import Candidate
from jtl.search.trials import Trial
from support import tiny

COUNT = 300


def members(random: np.random.Generator, labels: np.ndarray, spread: float) -> list[np.ndarray]:
    """Trials that err independently of each other, and one that guesses."""
    right = 2.0 * np.eye(3)[labels]
    noisy = [right + spread * random.normal(size=right.shape) for _ in range(4)]
    return [*noisy, 3.0 * random.normal(size=right.shape)]


def test_an_ensemble_of_independent_trials_gains():
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, COUNT)
    logits = members(random, labels, 2.0)
    found = ensembles.find("accuracy", logits, labels, winner=0)
    assert found.gains
    assert found.metric >= found.honest > (logits[0].argmax(-1) == labels).mean() + 0.05
    assert sum(found.weights) == pytest.approx(1)
    assert sum(weight > 0.1 for weight in found.weights) >= 3
    assert found.weights[-1] < 0.1


def test_an_ensemble_of_copies_gains_nothing():
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, COUNT)
    one = members(random, labels, 2.0)[0]
    found = ensembles.find("macro_f1", [one, one.copy(), one.copy()], labels, winner=1)
    assert not found.gains
    assert found.difference == 0


def test_picking_stops_at_the_best_average():
    labels = np.array([0, 1, 0, 1])
    right, wrong = np.eye(2)[labels], np.eye(2)[1 - labels]
    weights = ensembles.pick("accuracy", np.stack([wrong, right]), labels)
    assert weights.tolist() == [0, 1]


def test_equal_leaves_keep_their_bits():
    frozen = np.float32([0.1, 1e-8, 3.3])
    trees = [{"a": frozen.copy(), "b": np.float32([1, value])} for value in (0, 3, 6)]
    mean = soups.average(trees)
    assert mean["a"].tobytes() == frozen.tobytes()
    assert mean["b"].tolist() == [1, 3]
    assert mean["b"].dtype == np.float32


def test_only_trials_of_the_same_layers_and_size_are_averaged():
    def trial(number: int, metric: float, **options: object) -> Trial:
        epochs = 0 if options["mask"] == "head_only" else 5
        return Trial(number, "", "plan", dict(options), "done", epochs=epochs, metric=metric)

    trials = [
        trial(1, 0.99, mask="head_only"),
        trial(2, 0.98, mask="head_only", image_size=96),
        trial(3, 0.7, mask="full"),
        trial(4, 0.8, mask="full", lr=1.0),
        trial(5, 0.9, mask="full", image_size=96),
        trial(6, 0.6, mask="last_stage"),
        trial(7, 0.75, mask="full", head="mlp"),
        trial(8, 0.75, mask="full", model="resnet18"),
    ]
    assert [[t.number for t in family] for family in soups.families(trials)] == [[4, 3]]


def test_a_soup_is_an_ordinary_run(tiny_data, tmp_path, monkeypatch):
    plan = [
        Candidate(str(lr), "plan", {"mask": "last_stage", "epochs": 2, "lr": lr})
        for lr in (0.003, 0.01)
    ]
    monkeypatch.setattr(sampling, "available", lambda: False)
    monkeypatch.setattr(space, "strategies", lambda **how: plan)
    monkeypatch.setattr(space, "heads", list)
    # Whether the average is better is another question.
    monkeypatch.setattr(soups, "LEAST_GAIN", -1.0)
    monkeypatch.setattr(soups.metrics, "measure", lambda *given: 0.5)
    values = {
        "source": f"folder:{tiny_data}",
        "model": "tiny",
        "weights": str(tiny_data.parent / "weights"),
        "out": tmp_path / "search",
        "test": False,
    }
    options = walk.create(Options, values)
    ticks = itertools.count()
    found = session.run(options, tiny.quiet(), lambda: 0.01 * next(ticks))
    [row] = [t for t in found["trials"] if t["stage"] == "soup"]
    assert sorted(row["options"]["soup"]) == [2, 3]
    folder = tmp_path / "search" / row["folder"]
    run, summary = jtl.load(folder), read_json(folder / "summary.json")
    assert summary["frozen_unchanged"]
    assert sorted(summary["soup"]) == [t["folder"] for t in found["trials"][1:3]]
    leaf = [m.variables["params"]["head"]["logits"]["kernel"] for m in (
        run, *(jtl.load(tmp_path / "search" / t["folder"]) for t in found["trials"][1:3])
    )]  # fmt: skip
    np.testing.assert_allclose(leaf[0], (leaf[1] + leaf[2]) / 2, rtol=1e-6)
    assert (leaf[1] != leaf[2]).any()
    # The figures are those of the saved model.
    scores = Found(found).run(row).evaluate().scores
    assert scores["val_loss"] == summary["val_loss"]


def test_a_search_s_folder_stands_for_its_winner(tmp_path):
    assert run_of(tmp_path) == tmp_path
    (tmp_path / "search.json").write_text('{"seconds": 1}')
    with pytest.raises(UserError, match="has no winner yet"):
        run_of(tmp_path)
    (tmp_path / "search.json").write_text('{"winner": "trials/003-full"}')
    assert run_of(tmp_path) == tmp_path / "trials" / "003-full"


def two_trials(tiny_data, out, monkeypatch, **more):
    """A search of two trials, whose ensemble counts the linear probe thrice."""
    plan = [Candidate("last_stage", "plan", {"mask": "last_stage", "epochs": 2})]
    monkeypatch.setattr(sampling, "available", lambda: False)
    monkeypatch.setattr(space, "strategies", lambda **how: plan)
    monkeypatch.setattr(space, "heads", list)
    # Whether an ensemble is better is another question.
    monkeypatch.setattr(
        ensembles, "find", lambda *given: ensembles.Ensemble((0.75, 0.25), 0.9, 0.9, 0.1, 0.01)
    )
    values = {
        "source": f"folder:{tiny_data}",
        "model": "tiny",
        "weights": str(tiny_data.parent / "weights"),
        "out": out,
    }
    ticks = itertools.count()
    options = walk.create(Options, values | more)
    return session.run(options, tiny.quiet(), lambda: 0.01 * next(ticks))


def test_an_ensemble_that_is_kept_predicts_for_the_search(tiny_data, tmp_path, monkeypatch, capsys):
    out = tmp_path / "search"
    result = two_trials(tiny_data, out, monkeypatch)
    kept = read_json(out / "ensemble.json")
    weights = {member["run"]: member["weight"] for member in kept["members"]}
    assert sorted(weights.values()) == [0.25, 0.75]

    # Probabilities are averaged by the weights, each member's with its own temperature.
    found, images = Found(result), np.arange(5 * 8 * 8 * 3, dtype=np.uint8).reshape(5, 8, 8, 3)
    several = found.predict(images)
    singly = [(jtl.load(out / run).predict(images).probabilities, w) for run, w in weights.items()]
    mean = sum(w * each for each, w in singly)
    np.testing.assert_allclose(several.probabilities, mean, atol=1e-6)
    winner = found.predict(images, single=True)
    np.testing.assert_array_equal(winner.logits, found.winner.classifier().predict(images).logits)
    assert not np.allclose(winner.probabilities, several.probabilities, atol=1e-4)
    assert "2 members" in repr(found.classifier())

    # Both test figures are told; the ensemble's is that of the command.
    assert " ".join(console_text.lines(result)).count("est accuracy") == 2
    evaluate.command(evaluate.Options(run=out, split="test", out=tmp_path / "plots"))
    told = capsys.readouterr().out
    assert "ensemble of 2 trials" in told
    assert f"accuracy {accuracy_of(kept['test_accuracy'], result['num_test'])}" in told
    assert (tmp_path / "plots" / "confusion.png").is_file()

    image = next(tiny_data.rglob("*.png"))
    for single in (False, True):
        predict.command(predict.Options(run=out, images=(image,), single=single, json=True))
        [row] = capsys.readouterr().out.splitlines()
        expected = found.predict(image, single=single)[0].classes
        assert json.loads(row)["classes"] == [[name, pytest.approx(p)] for name, p in expected]
    given = predict.Options(run=out, images=(image,), explain=tmp_path / "explained")
    with pytest.raises(UserError, match="Add --single for its winner"):
        predict.command(given)

    # A search for a single model keeps no ensemble of before.
    two_trials(tiny_data, out, monkeypatch, single=True, resume=True)
    assert not (out / "ensemble.json").exists()
    write_json(out / "ensemble.json", kept)
    # Without a member there is no ensemble.
    shutil.rmtree(out / next(run for run in weights if run != result["winner"]))
    with pytest.raises(UserError, match=r"whose runs are gone: .* with --single"):
        found.predict(images)
    assert found.predict(images, single=True).labels == winner.labels
    (out / "ensemble.json").write_text('{"members": [{"run": "a", "weight": "b"}]}')
    with pytest.raises(UserError, match="is damaged"):
        found.predict(images)
