"""`jtl compare RUN RUN...`: runs side by side."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Annotated, Any

from jtl.common.errors import UserError
from jtl.common.output import print_json
from jtl.common.text import counted
from jtl.config import checks, walk
from jtl.runs import metrics, metrics_log
from jtl.runs.files import CONFIG, METRICS, SUMMARY, missing_run, read_json


@dataclasses.dataclass(frozen=True)
class Options:
    """Compares runs: options, results and learning curves side by side.

    For example:
      jtl compare runs/a runs/b
      jtl compare runs/* --out comparison.png

    The best run comes first, by the runs' --metric (by accuracy if they have different ones).
    Accuracy and loss are those of each run's best epoch on its validation images. Only options that
    differ between runs are listed.

    Attributes:
        runs: Folders that `jtl train` wrote, finished or still training.
        out: Plot each epoch's validation loss and accuracy, or the runs' --metric, to this .png
            file. Default: no plot.
        json: Print JSON on stdout instead of a table.
    """

    runs: Annotated[tuple[Path, ...], walk.Metavar("RUN")]
    out: Annotated[Path | None, checks.png] = None
    json: bool = False


@dataclasses.dataclass(frozen=True)
class Compared:
    """One run among others.

    Attributes:
        run: Its folder as given.
        finished: Whether it has a summary.
        epochs: That are done; 1 of a run that L-BFGS fitted.
        l2: The penalty of a run that L-BFGS fitted, None of others.
        best_epoch: By the run's --metric; among equals, of lowest loss.
        metric: The run's --metric.
        val_metric: What it is in the best epoch.
        val_accuracy: Of the best epoch.
        val_loss: Of the best epoch.
        val_macro_f1: Of the finished run; None before, unless it is the metric.
        test_accuracy: Of the finished run, None without a test split.
        num_val: Validation images of the finished run, None before.
        seconds: Of training.
        options: All, by the name of the flag without dashes.
    """

    run: str
    finished: bool
    epochs: int
    l2: float | None
    best_epoch: int
    metric: metrics.MetricName
    val_metric: float
    val_accuracy: float
    val_loss: float
    val_macro_f1: float | None
    test_accuracy: float | None
    num_val: int | None
    seconds: float
    options: dict[str, Any]


def command(options: Options) -> None:
    """Reads the runs; prints and draws.

    Raises:
        UserError: A folder is no run or has no finished epoch, or --out cannot be written.
    """
    folders = list({folder.resolve(): folder for folder in reversed(options.runs)}.values())[::-1]
    histories = {folder: read_history(folder) for folder in folders}
    found = [compared(folder, histories[folder]) for folder in folders]
    chosen_by = {run.metric for run in found}
    found.sort(key=lambda run: (-_score(run, alike=len(chosen_by) == 1), run.val_loss))
    if options.out is not None:
        by = found[0].metric if len(chosen_by) == 1 and found[0].metric != "loss" else "accuracy"
        _draw(options.out, [(run.run, histories[Path(run.run)]) for run in found], by)
    different = differing(found)
    if options.json:
        print_json({"runs": [dataclasses.asdict(run) for run in found], "different": different})
        return
    from jtl.common.progress import PlainConsole
    from jtl.compare import tables

    console = PlainConsole()
    console.print(tables.results_table(found))
    if different:
        console.print(*tables.options_tables(found, different))
    if len(folders) < len(options.runs):
        console.print("A run that was given more than once is listed once.")
    if any(run.l2 is not None for run in found):
        console.print(
            "L2: the penalty of a head that L-BFGS fitted. Such a head is computed directly, "
            "without epochs or a learning rate."
        )
    if (chance := _within_chance(found)) is not None:
        console.print(chance)
    if len(chosen_by) > 1:
        console.print(
            "These runs chose their best epochs by different metrics "
            f"({', '.join(sorted(chosen_by))}); the order here is by accuracy."
        )
    if len({run.options.get("data") for run in found}) > 1:
        console.print("These runs used different data, so their accuracies are not comparable.")
    if options.out is not None:
        console.print(f"Saved the learning curves to '{options.out}'.", soft_wrap=True)


def compared(folder: Path, history: list[dict[str, Any]]) -> Compared:
    """What is to be said of the run in `folder`."""
    options = _options(folder)
    metric = options.get("metric", "accuracy")
    best = metrics.best_line(history, metric)
    summary = read_json(folder / SUMMARY) if (folder / SUMMARY).is_file() else {}
    return Compared(
        run=str(folder),
        finished=bool(summary),
        epochs=len(history),
        l2=history[0].get("l2"),
        best_epoch=best["epoch"],
        metric=metric,
        val_metric=best[f"val_{metric}"],
        val_accuracy=best["val_accuracy"],
        val_loss=best["val_loss"],
        val_macro_f1=summary.get("val_macro_f1", best.get("val_macro_f1")),
        test_accuracy=summary.get("test_accuracy"),
        num_val=summary.get("num_val"),
        seconds=summary.get("train_seconds", history[-1].get("elapsed", math.nan)),
        options=options,
    )


def _within_chance(runs: list[Compared]) -> str | None:
    """How far accuracies must be apart to mean something; None if the images are not known."""
    count = runs[0].num_val
    if len(runs) < 2 or not count or any(run.num_val != count for run in runs):
        return None
    low, high = metrics.wilson_interval(max(run.val_accuracy for run in runs), count)
    # Half an interval is two standard errors of one accuracy; a difference has more.
    points = max(100 * (high - low) / 2 * math.sqrt(2), 1)
    return (
        f"{counted(count, 'validation image')}: differences below about "
        f"{counted(round(points), 'point')} may be chance."
    )


def _score(run: Compared, *, alike: bool) -> float:
    """What runs are ordered by, the higher the better."""
    if not alike:
        return run.val_accuracy
    return -run.val_loss if run.metric == "loss" else run.val_metric


def differing(runs: list[Compared]) -> list[str]:
    """The options that are not the same in all runs, in the order of the configuration."""
    names = dict.fromkeys(name for run in runs for name in run.options)
    return [
        name
        for name in names
        if len({json.dumps(run.options.get(name), sort_keys=True) for run in runs}) > 1
    ]


def read_history(folder: Path) -> list[dict[str, Any]]:
    """A line for every epoch of a run that is done.

    Raises:
        UserError: The folder is no run, or no epoch is done.
    """
    if (message := missing_run(folder)) is not None:
        raise UserError(message)
    if not (folder / CONFIG).is_file():
        raise UserError(
            f"'{folder}' is not a run: it has no {CONFIG}. Name folders that `jtl train` wrote."
        )
    history = []
    try:
        for line in metrics_log.lines(folder):
            history.append(line)
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        if not history:  # The last line of a run that goes on may be half there.
            raise UserError(f"'{folder / METRICS}' cannot be read: {error}.") from error
    if not history:
        raise UserError(f"'{folder}' has not finished its first epoch yet.")
    return history


def _options(folder: Path) -> dict[str, Any]:
    stored = read_json(folder / CONFIG)
    groups = [group for name, group in stored.items() if isinstance(group, dict) and name != "run"]
    return {name: value for group in groups for name, value in group.items()}


def _draw(path: Path, runs: list[tuple[str, list[dict[str, Any]]]], metric: str) -> None:
    from jtl.runs import plots  # Matplotlib takes long to import.

    try:
        plots.draw_comparison(path, runs=runs, metric=metric)
    except OSError as error:
        raise UserError(
            f"cannot write --out '{path}': {error.strerror}. Choose another file."
        ) from error
