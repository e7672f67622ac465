"""The end of a search: the winner, its test accuracy, and what is written of all that."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jtl.common.errors import UserError
from jtl.common.invocation import command
from jtl.common.quantities import format_seconds
from jtl.common.text import counted
from jtl.evaluate.evaluation import evaluate_run
from jtl.predict.classifier import load
from jtl.runs import metrics, report
from jtl.runs.files import SUMMARY, read_json, write_json
from jtl.runs.messages import accuracy_of
from jtl.runs.resume import stored_config
from jtl.search import selection
from jtl.search.engine import Engine
from jtl.train.setup import Setup

FILE = "search.json"


def close(engine: Engine, setup: Setup) -> dict[str, Any]:
    """Chooses, scores on test images and writes `search.json`.

    Raises:
        UserError: No trial has a model.
    """
    trials = engine.store.read()
    counting = [trial for trial in trials if trial.counts]
    if not counting:
        failed = next((t.message for t in trials if t.message), "the time was over before")
        raise UserError(f"no trial could be trained: {failed}")
    metric, labels = engine.base.train.metric, engine.labels
    scored = [
        selection.Scored(engine.store.logits(t), t.metric or 0.0, t.seconds or 0.0)
        for t in counting
    ]
    choice = selection.choose(metric, scored, labels)
    winner, best = counting[choice.index], counting[choice.best]
    folder = engine.folder / winner.folder
    config = stored_config(folder)
    found: dict[str, Any] = {
        "data": setup.dataset.spec,
        "model": config.model.model,
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
        "command": shlex.join(["jtl", "train", *report.arguments(config)]),
        "notes": list(setup.dataset.notes),
    }
    if metric == "accuracy":
        found["corrected_val_accuracy"] = selection.without_bias(scored, labels)
    if setup.dataset.test is not None:
        found["test_accuracy"] = _tested(engine, folder)
    budget = engine.budget
    found = {
        "budget": budget.total,
        "seconds": round(budget.spent, 1),
        **found,
        "trials": [{**dataclasses.asdict(t), "folder": t.folder} for t in trials],
        "options": engine.base.to_dict(),
        "folder": str(engine.folder),
    }
    write_json(engine.folder / FILE, found)
    return read_json(engine.folder / FILE)


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


def print_result(found: dict[str, Any], console: Console) -> None:
    """The trials, the winner, and what its figures are worth."""
    folder = Path(found["folder"])
    metric = found["metric"].replace("_", " ")
    table = Table(title="Trials", title_justify="left", min_width=60)
    table.add_column("", justify="right")
    table.add_column("trained", overflow="fold")
    table.add_column(f"validation {metric}", justify="right")
    table.add_column("time", justify="right")
    for row in ordered(found["trials"]):
        mark = "*" if row["folder"] == found["winner"] else ""
        value = shown(found, row["metric"]) if row["metric"] is not None else row["state"]
        ended = "" if row["state"] in ("done", "failed", "not begun") else f" ({row['state']})"
        seconds = "-" if row["seconds"] is None else format_seconds(row["seconds"])
        number = f"{mark}{row['number']}" if row["number"] else ""
        table.add_row(number, Text(row["name"] + ended), value, seconds)
    console.print(table)
    for line in lines(found):
        console.print(line, soft_wrap=True)
    run = shlex.quote(str(folder / found["winner"]))
    console.print(
        f"Next:\n  {command('evaluate')} {run}\n  {command('predict')} {run} IMAGES...\n"
        f"To train the winner again:\n  {found['command']}",
        soft_wrap=True,
    )


def ordered(trials: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The best first; then those without a result."""
    return sorted(trials, key=lambda t: (t["metric"] is None, -(t["metric"] or 0.0), t["number"]))


def shown(found: dict[str, Any], value: float) -> str:
    """A metric for people, as precisely as it is known."""
    if found["metric"] == "loss":
        return f"{-value:.3f}"
    return metrics.rounded(value, found["num_val"])


def lines(found: dict[str, Any]) -> list[str]:
    """What was found, in sentences."""
    metric = found["metric"].replace("_", " ")
    told = [f"The winner (*) is {found['winner_name']}, in '{found['winner']}'."]
    if found["winner"] != found["best"]:
        told.append(
            f"{found['best_name']} has a higher validation {metric} "
            f"({shown(found, found['best_val_metric'])}), but the difference of "
            f"{100 * found['difference']:.1f} points is within chance (standard error "
            f"{100 * found['standard_error']:.1f} points), and the winner took less time."
        )
    low, high = found["val_interval"]
    tried = sum(1 for row in found["trials"] if row["metric"] is not None)
    images = counted(found["num_val"], "image")
    told.append(
        f"Validation {metric} {shown(found, found['val_metric'])} (95 % interval {low:.3f} to "
        f"{high:.3f}, {images}); it chose among {counted(tried, 'trial')}, so it is optimistic."
    )
    if found["corrected_val_accuracy"] is not None:
        mean, low, high = found["corrected_val_accuracy"]
        told.append(
            f"Without that optimism the validation accuracy would be about {mean:.3f} ({low:.3f} "
            f"to {high:.3f}, from images that were drawn again and again)."
        )
    if found["test_accuracy"] is not None:
        accuracy = accuracy_of(found["test_accuracy"], found["num_test"])
        told.append(f"Test accuracy {accuracy}: from images that chose nothing.")
    else:
        told.append("There are no test images, so no accuracy is free of the choice (--no-test).")
    told.append(f"Took {format_seconds(found['seconds'])} of {format_seconds(found['budget'])}.")
    return told
