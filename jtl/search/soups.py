"""A soup: the average of the weights of trials that trained the same layers.

Such trials began with the same weights, and their average is often better than each of them, at
the cost of one (Wortsman et al. 2022, arXiv 2203.05482).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jtl.common.errors import explain, first_line
from jtl.common.signals import Stop
from jtl.common.trees import ParamTree
from jtl.compare.command import read_history
from jtl.config import walk
from jtl.runs import metrics
from jtl.runs.checkpoints import reading
from jtl.runs.checkpoints.contents import Snapshot
from jtl.runs.checkpoints.saving import Checkpointer
from jtl.runs.files import SUMMARY, read_json, write_json
from jtl.runs.plot_worker import PlotWorker
from jtl.runs.resume import stored_config
from jtl.runs.run import claimed_run
from jtl.search.selection import interval
from jtl.search.trial_loop import Engine
from jtl.search.trials import Trial
from jtl.train.run_records import run_content, summarize
from jtl.train.setup import Setup, feature_cache, prepare_setup

STAGE = "soup"
NEEDED_SECONDS = 6.0
"""What must be left of the time to try one more member and to write the soup."""
LEAST_GAIN = 0.0
"""By how much the metric must grow."""


def families(trials: Sequence[Trial]) -> list[list[Trial]]:
    """Trials whose weights may be averaged: the same backbone, layers, head and input size.

    Returns:
        Those of two and more, the best first, in each and among them.
    """
    found: dict[Any, list[Trial]] = {}
    for trial in sorted(trials, key=lambda t: -(t.metric or 0.0)):
        options = trial.options
        what = options.get("phases") or options.get("mask")
        if trial.epochs and trial.stage != STAGE:
            key = (what, *(options.get(name) for name in ("model", "image_size", "head")))
            found.setdefault(key, []).append(trial)
    return [family for family in found.values() if len(family) > 1]


def cook(engine: Engine, trials: Sequence[Trial]) -> Trial | None:
    """Averages the best family greedily: a member stays if the metric does not fall.

    Returns:
        The trial that the soup is, an ordinary run; None if no soup is better than its best member.
    """
    pots = families(trials)
    if not pots or _late(engine):
        return None
    began, family = engine.budget.spent, pots[0]
    config = stored_config(engine.folder / family[0].folder)
    setup = prepare_setup(config, engine.log)
    start = setup.plans[-1].cut.features_at
    cache = feature_cache(setup, engine.log).without_augmentation()
    trees = [reading.restore(engine.folder / family[0].folder).variables]
    inputs = cache.read(start, trees[0], {"val": setup.dataset.val})
    metric, labels = engine.base.train.metric, engine.labels

    def scored(tree: ParamTree) -> tuple[float, dict[str, float], np.ndarray]:
        scores, logits = inputs.evaluate("val", setup.sharding.replicate(tree))
        return metrics.measure(metric, logits, labels), scores, logits

    members, soup = [family[0]], trees[0]
    best = scored(soup)
    for trial in family[1:]:
        if _late(engine):
            break
        tree = reading.restore(engine.folder / trial.folder).variables
        mixed = average([*trees, tree])
        if (tried := scored(mixed))[0] >= best[0]:
            best, soup = tried, mixed
            members, trees = [*members, trial], [*trees, tree]
    alone = family[0].metric or 0.0
    if len(members) < 2 or best[0] - alone <= LEAST_GAIN:
        return None
    what = family[0].options.get("phases") or family[0].options["mask"]
    row = Trial(
        0,
        f"soup of {len(members)}, {what}",
        STAGE,
        {**family[0].options, "soup": [member.number for member in members]},
    )
    trial = engine.store.claim(row)
    if trial is None:
        return None
    try:
        _write(engine, setup, trial, members, soup, inputs.start, best[1], best[2])
    except Exception as error:  # As of any other trial, it is not the end.
        message = explain(error) or f"{type(error).__name__}: {first_line(error)}"
        engine.store.write(dataclasses.replace(trial, state="failed", message=message))
        return None
    spent = engine.budget.spent - began + sum(member.seconds or 0.0 for member in members)
    trial = dataclasses.replace(
        trial,
        state="done",
        seconds=round(spent, 3),
        epochs=sum(member.epochs for member in members),
        metric=best[0],
        interval=interval(metric, best[2], labels),
    )
    engine.store.write(trial)
    return trial


def average(trees: Sequence[ParamTree]) -> ParamTree:
    """The mean of variables; leaves that are the same in all, such as frozen ones, stay as is."""

    def mean(*leaves: Any) -> np.ndarray:
        arrays = [np.asarray(leaf) for leaf in leaves]
        if all(array.tobytes() == arrays[0].tobytes() for array in arrays[1:]):
            return arrays[0]
        return np.mean([array.astype(np.float64) for array in arrays], 0).astype(arrays[0].dtype)

    return jax.tree.map(mean, *trees)


def _late(engine: Engine) -> bool:
    left = engine.budget.total - engine.budget.spent - engine.budget.closing
    return left < NEEDED_SECONDS


def _write(
    engine: Engine,
    setup: Setup,
    trial: Trial,
    members: Sequence[Trial],
    soup: ParamTree,
    start: str | None,
    scores: dict[str, float],
    logits: np.ndarray,
) -> None:
    """Writes the run of a soup, whose training figures are the means of its members'."""
    folder = engine.folder / trial.folder
    config = walk.replace(setup.config, {"run_dir": folder, "resume": "never"})
    lines = [_best_line(engine.folder / m.folder, config.train.metric) for m in members]
    line = {
        **lines[0],
        **{k: float(np.mean([x[k] for x in lines])) for k in ("train_loss", "train_accuracy")},
        "val_loss": scores["loss"],
        "val_accuracy": scores["accuracy"],
        **metrics.in_line(config.train.metric, logits, engine.labels),
        "epoch": 1,
    }
    with claimed_run(config, engine.log.message) as run:
        run.open(lambda: run_content(setup), setup.dataset)
        run.log(line)
        with Checkpointer(run, setup.meta(), stop=Stop(), sharding=setup.sharding) as saver:
            saver.write(Snapshot(1, soup, {}, start))
        with PlotWorker() as plotter:
            run.draw(setup.dataset.spec, len(setup.dataset.val), plotter)
        measured = {
            "optimizer_bytes": 0,
            "test_accuracy": None,
            "train_seconds": sum(member.seconds or 0.0 for member in members),
            "feature_seconds": 0.0,
            "features_reused": False,
            "probe_accuracies": {},
        }
        best = reading.restore(folder)
        run.finish(summarize(setup, best, run.history, {"val": logits}, measured))
        summary = read_json(folder / SUMMARY)
        write_json(folder / SUMMARY, {**summary, "soup": [member.folder for member in members]})
    engine.store.write_logits(trial, logits)


def _best_line(folder: Path, metric: metrics.MetricName) -> dict[str, Any]:
    return metrics.best_line(read_history(folder), metric)
