"""A run's folder: what it holds, and that it holds either a run or nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import math
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jtl.common.errors import UserError
from jtl.common.files import append_text
from jtl.config.defaults import filled
from jtl.config.options import Config
from jtl.distributed import processes
from jtl.runs import checkpoint, midway, report
from jtl.runs.files import CONFIG, CURVES, METRICS, SUMMARY, read_json, write_json
from jtl.runs.plot_worker import Painter
from jtl.runs.plots import curves_title
from jtl.runs.summary import phase_told, summarize, taken
from jtl.runs.trackers import LEFTOVERS, Sinks
from jtl.train.setup import Task

PROFILE = "profile"
"""Folder of traces."""


@dataclasses.dataclass
class Run:
    """One training and the folder it writes; of many processes the first one writes.

    Attributes:
        folder: Where everything is.
        config: The resolved options.
        summary: The keys of `summary.json`; empty until the run is finished.
        history: A line for every epoch that is done.
        resumed_at: The place within the next epoch that the run goes on from, if it is one.
        sinks: What else is told of every epoch and of the result.
    """

    folder: Path
    config: Config
    summary: dict[str, Any] = dataclasses.field(default_factory=dict)
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    resumed_at: midway.Place | None = None
    sinks: Sinks | None = None

    def open(self, task: Task) -> None:
        """Writes `config.json`, if not there yet; from here on there is something to keep."""
        if not processes.first() or (self.folder / CONFIG).exists():
            return
        stored = {
            **filled(task.config).to_dict(),
            "phases": [phase_told(task, plan) for plan in task.plans],
            **taken(task),
        }
        write_json(self.folder / CONFIG, stored)

    def abandon(self) -> None:
        """Removes what was written, if there is no checkpoint to go on from."""
        if not processes.first():
            return
        if checkpoint.saved_epochs(self.folder) or midway.is_kept(self.folder):
            return
        # What a write has left that failed, as on a full disk.
        for name in (checkpoint.FOLDER, midway.FOLDER, PROFILE, *LEFTOVERS):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for name in (CONFIG, METRICS, *LEFTOVERS):
            with contextlib.suppress(IsADirectoryError):
                (self.folder / name).unlink(missing_ok=True)

    def log(self, line: dict[str, Any]) -> None:
        """Appends an epoch's line to `metrics.jsonl`."""
        self.history.append(line)
        if not processes.first():
            return
        append_text(self.folder / METRICS, json.dumps(line) + "\n")
        if self.sinks is not None:
            self.sinks.log(line)

    def best_epoch(self, until: int | None = None) -> int:
        """The epoch of highest validation accuracy; among equals, of lowest loss.

        Args:
            until: The last epoch to look at; default all that are done.
        """
        best = max(
            self.history[:until], key=lambda e: (e["val_accuracy"], -e["val_loss"], -e["epoch"])
        )
        return best["epoch"]

    def improved_epoch(self, min_delta: float) -> int:
        """The last epoch that was better than those before it.

        Args:
            min_delta: By how much validation accuracy must have grown since the last such epoch; 0
                for what `best_epoch` says.
        """
        if not min_delta:
            return self.best_epoch()
        best, at = -math.inf, 0
        for line in self.history:
            if line["val_accuracy"] > best + min_delta:
                best, at = line["val_accuracy"], line["epoch"]
        return at

    def check_same(self, task: Task) -> None:
        """Makes sure that a run goes on with what it began with.

        Raises:
            UserError: Data, classes, weights or a rules file are not those of the run.
        """
        stored = read_json(self.folder / CONFIG)
        now = taken(task)
        stored["rules"] = [phase.get("rules") for phase in stored.get("phases", ())]
        now["rules"] = [plan.phase.rules for plan in task.plans]
        changed = [key for key, value in now.items() if stored.get(key) != value]
        if changed:
            told = "\n".join(f"  {key}: {stored.get(key)} then, {now[key]} now" for key in changed)
            raise UserError(
                f"'{self.folder}' cannot be resumed: what it was trained on has changed.\n{told}\n"
                "Bring it back, or start a new run."
            )

    def finish(
        self,
        task: Task,
        best: checkpoint.Restored,
        logits: dict[str, np.ndarray],
        **measured: Any,
    ) -> None:
        """Writes `summary.json` and `report.md`.

        Args:
            task: The run's fixed parts.
            best: The best checkpoint as it was read back from disk.
            logits: What its model says of the images of "val" and, if there is one, "test",
                each [N, num_classes].
            measured: `optimizer_bytes`, `test_accuracy`, `train_seconds`, `feature_seconds`,
                `features_reused`.
        """
        self.summary = summarize(task, best, self.history, logits, measured)
        if not processes.first():
            return
        write_json(self.folder / SUMMARY, self.summary)
        report.write(self.folder, self.summary, self.config)
        if self.sinks is not None:
            self.sinks.close(self.summary)

    def draw(self, task: Task, painter: Painter) -> None:
        """Asks for `curves.png`, once all epochs are in the history."""
        if not processes.first():
            return
        best = self.best_epoch()
        title = curves_title(
            model=task.config.model.model,
            mask=task.config.train.phases or task.config.train.mask,
            data=task.dataset.spec,
            accuracy=self.history[best - 1]["val_accuracy"],
        )
        path = self.folder / CURVES
        painter.draw("draw_curves", path, history=self.history, best_epoch=best, title=title)


@contextlib.contextmanager
def claimed_run(config: Config) -> Iterator[Run]:
    """Creates the run's folder now, and removes it again if the run fails before it opens.

    A folder that cannot be written is found out before minutes of work, not after.

    Raises:
        UserError: The folder holds a run already, is a file, or cannot be written.
    """
    folder = config.run.run_dir or Path(processes.text_of_first(str(new_folder(config))))
    missing = processes.together(lambda: _claim(folder) if processes.first() else [])
    run = Run(folder, config)
    try:
        yield run
    except BaseException:
        run.abandon()
        raise
    finally:
        _remove_empty(missing)


def _claim(folder: Path) -> list[Path]:
    """Makes an empty folder; it and its parents as far as they were not there.

    Raises:
        UserError: As of `claimed_run`.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(
            f"--run-dir '{folder}' is not empty. Give a new folder, or remove this one if it "
            "is of no use any more."
        )
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Permission bits do not tell all (read-only mounts, quotas, root): only writing does.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        _remove_empty(missing)
        raise UserError(
            f"cannot write the run's folder '{folder}': {error.strerror}. Choose another with "
            "--run-dir."
        ) from error
    return missing


def _remove_empty(folders: list[Path]) -> None:
    """Removes the folders that hold nothing, given from the innermost outwards."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def new_folder(config: Config) -> Path:
    """runs/<data>-<model>-<mask>-<time>, numbered if two start in the same second."""
    scheme, _, rest = config.data.data.partition(":")
    data = _for_paths(Path(rest.partition(":")[0]).stem).strip("_") or scheme
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    mask = _for_paths(config.train.mask)
    name = f"{data}-{config.model.model}-{mask}-{now}"
    folder, number = Path("runs", name), 1
    while folder.exists():
        number += 1
        folder = Path("runs", f"{name}-{number}")
    return folder


def _for_paths(text: str) -> str:
    """Shortened, and without what rules and patterns of files hold and paths should not."""
    return re.sub(r"[^\w.=-]+", "_", text)[:40]
