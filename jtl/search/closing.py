"""The end of a search: the winner, its test accuracy, and what is written of all that."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

from jtl.common.errors import UserError
from jtl.evaluate.evaluation import evaluate_ensemble, evaluate_run
from jtl.predict.classifier import load
from jtl.predict.ensemble import load_members
from jtl.runs import report, report_contents
from jtl.runs.files import ENSEMBLE, SEARCH, SUMMARY, fitted_temperature, read_json, write_json
from jtl.runs.resume import stored_config
from jtl.search import ensembles, mirrored, more_images, page, selection, soups
from jtl.search.backbones import Backbones
from jtl.search.trial_loop import Engine
from jtl.search.trials import Trial
from jtl.train.setup import Setup

NOTICEABLE_SHARE = 0.03
"""Of the budget: what a trial must save to win over a better one within chance."""
TOLERANCE = 1.05
"""The share of the budget up to which an ensemble is scored on the test images."""
CURVE_SECONDS = 2.0
"""What must be left of the time for the learning curve."""


def close(
    engine: Engine, setup: Setup, compared: Backbones, *, single: bool = False
) -> dict[str, Any]:
    """Chooses, scores on test images and writes `search.json` and the page.

    Args:
        engine: What has trained the trials.
        setup: A linear probe of the same data, with the backbone that the plan went on with.
        compared: The backbones that the search had.
        single: Whether trials are not combined.

    Raises:
        UserError: No trial has a model.
    """
    trials = engine.store.read()
    counting = engine.store.with_models()
    if not counting:
        failed = next((t.message for t in trials if t.message), "the time was over before")
        raise UserError(f"no trial could be trained: {failed}")
    if not single and (soup := soups.cook(engine, counting)) is not None:
        trials, counting = [*trials, soup], [*counting, soup]
    metric, labels = engine.base.train.metric, engine.labels
    alone = _seconds_alone(engine, counting, trials)
    scored = [
        selection.Scored(engine.store.logits(t), t.metric or 0.0, alone[t.number]) for t in counting
    ]
    least = NOTICEABLE_SHARE * engine.budget.total
    choice = selection.choose(metric, scored, labels, least)
    winner, best = counting[choice.index], counting[choice.best]
    folder = engine.folder / winner.folder
    config = stored_config(folder)
    found: dict[str, Any] = {
        "data": setup.dataset.spec,
        "model": config.model.model,
        **compared.as_json(),
        "metric": metric,
        "num_val": len(labels),
        "num_test": 0 if setup.dataset.test is None else len(setup.dataset.test),
        "winner": winner.folder,
        "winner_name": winner.name,
        "val_metric": winner.metric,
        "val_interval": winner.interval,
        "best": best.folder,
        "best_name": best.name,
        "best_val_metric": best.metric,
        "difference": choice.difference,
        "standard_error": choice.error,
        "corrected_val_accuracy": None,
        "test_accuracy": None,
        "command": shlex.join(["jtl", "train", *report_contents.arguments(config)]),
        "notes": list(setup.dataset.notes),
    }
    found["variations_too_slow"] = engine.too_slow
    if engine.budget.total - engine.budget.spent > CURVE_SECONDS:
        found["learning_curve"] = more_images.learning_curve(setup, engine.log)
    if metric == "accuracy":
        found["corrected_val_accuracy"] = selection.without_bias(scored, labels)
    found["ensemble"] = None
    (engine.folder / ENSEMBLE).unlink(missing_ok=True)  # Of a session before.
    if not single and len(counting) > 1:
        found["ensemble"] = _ensemble(engine, counting, winner)
    found["tta"] = mirrored.measure(engine, winner)
    budget = engine.budget
    if setup.dataset.test is not None:
        began = budget.spent
        found["test_accuracy"] = _tested(engine, folder)
        if found["ensemble"] is not None and found["ensemble"]["kept"]:
            each = budget.spent - began
            found["ensemble"]["test_accuracy"] = _ensemble_tested(engine, each)
            write_json(engine.folder / ENSEMBLE, found["ensemble"])
    found = {
        "budget": budget.total,
        "seconds": round(budget.spent, 1),
        **found,
        "trials": [
            {**dataclasses.asdict(t), "folder": t.folder, "alone": alone.get(t.number)}
            for t in trials
        ],
        "options": engine.base.to_dict(),
        "folder": str(engine.folder),
    }
    write_json(engine.folder / SEARCH, found)
    page.write(engine.folder, found)
    return read_json(engine.folder / SEARCH)


def _seconds_alone(engine: Engine, counting: list[Trial], trials: list[Trial]) -> dict[int, float]:
    """`_alone` of each; those of a session before stay, so that it does not change its mind."""
    path = engine.folder / SEARCH
    before = read_json(path).get("trials", ()) if path.is_file() else ()
    known = {row["number"]: row["alone"] for row in before if row.get("alone") is not None}
    return {t.number: known.get(t.number) or _alone(engine, t, trials) for t in counting}


def _alone(engine: Engine, trial: Trial, trials: list[Trial]) -> float:
    """Seconds that a trial is predicted to take if nothing is there of the others.

    Later trials find features and compiled programs of earlier ones, so what they took says little
    of what they cost.
    """
    if members := trial.options.get("soup"):
        return sum(_alone(engine, other, trials) for other in trials if other.number in members)
    work, _ = engine.workload.of(trial.options, alone=True)
    return round(engine.cost.seconds(work, trial.epochs, alone=True), 3)


def _tested(engine: Engine, folder: Path) -> float:
    """The accuracy of a run's best epoch on the test images, which goes into its summary, too."""
    summary = read_json(folder / SUMMARY)
    if summary["test_accuracy"] is None:
        scores = evaluate_run(load(folder), None, engine.log, split="test").scores
        kept = ("accuracy", "macro_f1", "classes", "calibration")
        summary |= {f"test_{key}": scores[f"test_{key}"] for key in kept}
        write_json(folder / SUMMARY, summary)
        report.write(folder, summary, stored_config(folder))
    return summary["test_accuracy"]


def _ensemble_tested(engine: Engine, each: float) -> float | None:
    """The accuracy of the ensemble on the test images; None if the time is too short for it.

    Args:
        engine: Whose folder holds the ensemble.
        each: Seconds that scoring the winner took.
    """
    ensemble = load_members(engine.folder)
    if each * len(ensemble.members) > TOLERANCE * engine.budget.total - engine.budget.spent:
        return None
    scores = evaluate_ensemble(ensemble, None, engine.log, split="test").scores
    return scores["test_accuracy"]


def _ensemble(engine: Engine, trials: list[Trial], winner: Trial) -> dict[str, Any]:
    """The best ensemble of the trials; `ensemble.json` where it is better beyond chance."""
    best = sorted(trials, key=lambda t: -(t.metric or 0.0))[: ensembles.MOST_TRIALS]
    best += [] if winner in best else [winner]
    logits = [
        engine.store.logits(t)
        / fitted_temperature(engine.folder / t.folder, _epoch(engine.folder / t.folder))
        for t in best
    ]
    metric = engine.base.train.metric
    ensemble = ensembles.find(metric, logits, engine.labels, best.index(winner))
    told = {
        "members": [
            {"run": trial.folder, "weight": weight}
            for trial, weight in zip(best, ensemble.weights, strict=True)
            if weight
        ],
        "val_metric": ensemble.metric,
        "cross_fitted_val_metric": ensemble.honest,
        "difference": ensemble.difference,
        "standard_error": ensemble.error,
        "kept": ensemble.gains,
    }
    if ensemble.gains:
        write_json(engine.folder / ENSEMBLE, told)
    return told


def _epoch(folder: Path) -> int:
    return read_json(folder / SUMMARY)["best_epoch"]
