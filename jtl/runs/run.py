"""One training: its history and what is written of it, from the first epoch to the summary."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from jtl.config.options import Config
from jtl.data.sources.registry import Dataset
from jtl.distributed import processes
from jtl.runs import data_contents, metrics, metrics_log, report
from jtl.runs.checkpoints import reading
from jtl.runs.checkpoints.contents import TemporaryCheckpoint
from jtl.runs.console_text import is_multilabel, measured
from jtl.runs.evaluation_plots import MOST_CLASSES
from jtl.runs.files import CONFIG, CURVES, SUMMARY, read_json, write_json
from jtl.runs.folder import BEGUN, check_empty, held_folder, new_folder, remove_begun
from jtl.runs.plot_worker import PlotWorker
from jtl.runs.plots import curves_title
from jtl.runs.trackers import Trackers


@dataclasses.dataclass
class Run:
    """One training and the folder it writes; of many processes the first one writes.

    Attributes:
        folder: Where everything is.
        config: The resolved options.
        summary: The keys of `summary.json`; empty until the run is finished.
        history: A line for every epoch that is done.
        resumed_at: The temporary checkpoint that the run goes on from, if it is one.
        resumed: Whether it was begun before this session.
        trackers: What else is told of every epoch and of the result.
    """

    folder: Path
    config: Config
    summary: dict[str, Any] = dataclasses.field(default_factory=dict)
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    resumed_at: TemporaryCheckpoint | None = None
    resumed: bool = False
    trackers: Trackers | None = None

    def open(self, content: Callable[[], dict[str, Any]], dataset: Dataset) -> None:
        """Writes `config.json`, if not there yet; from here on there is something to keep."""
        if processes.is_primary() and not (self.folder / CONFIG).exists():
            data_contents.write(self.folder, dataset)
            started_in = str(Path.cwd())  # What relative paths in it are relative to.
            write_json(self.folder / CONFIG, {**content(), "started_in": started_in})
            (self.folder / BEGUN).unlink(missing_ok=True)

    def extend(self, content: dict[str, Any]) -> None:
        """Notes in `config.json` that this session has added epochs, if it has.

        Args:
            content: As of `open`.
        """
        if not processes.is_primary():
            return
        stored, extended = read_json(self.folder / CONFIG), list(self.config.train.extended)
        if stored["train"].get("extended", []) != extended:
            stored["train"]["extended"] = extended
            write_json(self.folder / CONFIG, {**stored, "phases": content["phases"]})

    def abandon(self) -> None:
        """Removes what was written, if there is no checkpoint to go on from."""
        if processes.is_primary() and not reading.has_any(self.folder):
            remove_begun(self.folder)

    def log(self, line: dict[str, Any]) -> None:
        """Appends an epoch's line to `metrics.jsonl`."""
        self.history.append(line)
        if not processes.is_primary():
            return
        metrics_log.add(self.folder, line)
        if self.trackers is not None:
            self.trackers.log(line)

    def sync(self) -> None:
        """Waits until the epochs' lines are on the disk: a checkpoint is of no use without them."""
        if processes.is_primary():
            metrics_log.sync(self.folder)

    def best_epoch(self, until: int | None = None) -> int:
        """The best epoch by `--metric`; among equals, that of lowest validation loss.

        Args:
            until: The last epoch to look at; default all that are done.
        """
        return metrics.best_line(self.history[:until], self.config.train.metric)["epoch"]

    def improved_epoch(self, min_delta: float) -> int:
        """The last epoch that was better than those before it.

        Args:
            min_delta: By how much the metric must have grown since the last such epoch; 0
                for what `best_epoch` says.
        """
        if not min_delta:
            return self.best_epoch()
        best, at = -math.inf, 0
        for line in self.history:
            score = metrics.score_of(line, self.config.train.metric)
            if score > best + min_delta:
                best, at = score, line["epoch"]
        return at

    def finish(self, summary: dict[str, Any], coming: Iterable[str] = ()) -> None:
        """Writes `summary.json` and `report.md`.

        Args:
            summary: The results.
            coming: Those of `report.PLOTS` that will be drawn, if the run has what they show.
        """
        self.summary = summary
        if not processes.is_primary():
            return
        write_json(self.folder / SUMMARY, self.summary)
        report.write(self.folder, self.summary, self.config, _drawn(self.summary, coming))
        if self.trackers is not None:
            self.trackers.close(self.summary)

    def draw(self, data: str, num_val: int, plot_worker: PlotWorker) -> None:
        """Asks for `curves.png`, once all epochs are in the history."""
        if not processes.is_primary():
            return
        best = self.best_epoch()
        line = self.history[best - 1]
        reached, key = measured("val_map" in line)
        title = curves_title(
            model=self.config.model.model,
            mask=self.config.train.phases or self.config.train.mask,
            data=data,
            accuracy=metrics.rounded(line[key], num_val),
            measured=reached,
        )
        path = self.folder / CURVES
        plot_worker.draw("draw_curves", path, history=self.history, best_epoch=best, title=title)


def _drawn(summary: dict[str, Any], coming: Iterable[str]) -> list[str]:
    """Those of the plots that the validation images give."""
    several = is_multilabel(summary)
    gives = {
        "confusion.png": not several and summary["num_classes"] <= MOST_CLASSES,
        "reliability.png": not several,
        "classes.png": several,
        "mistakes.png": summary["val_accuracy"] < 1,
    }
    return [name for name in coming if gives.get(name, False)]


@contextlib.contextmanager
def claimed_run(
    config: Config, message: Callable[[str], None], *, begun: bool = False
) -> Iterator[Run]:
    """Creates the run's folder now, and removes it again if the run fails before it opens.

    A folder that cannot be written is found out before minutes of work, not after. No other
    process writes it until the `with` block ends.

    Args:
        config: The options.
        message: Where notes go.
        begun: Whether the folder may hold empty folders of checkpoints, which are removed, and
            files of others, which stay.

    Raises:
        UserError: The folder holds a run already, is a file, or cannot be written; or another
            process is writing it.
    """
    folder = config.run.run_dir or Path(processes.broadcast_text(str(new_folder(config))))
    with held_folder(folder, message):
        processes.run_together(lambda: check_empty(folder, begun, message))
        run = Run(folder, config)
        try:
            yield run
        except BaseException:
            run.abandon()
            raise
        if processes.is_primary():
            (folder / BEGUN).unlink(missing_ok=True)
