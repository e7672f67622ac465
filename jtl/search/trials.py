"""The trials of a search, and the file that holds them: a line for every change of one."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import re
import socket
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import psutil

from jtl.common.errors import UserError
from jtl.common.files import replace_bytes
from jtl.runs.lock import is_written_by_another

FILE, FOLDER, LOGITS, LOCK = "trials.jsonl", "trials", "val_logits.npy", ".trials.lock"
COUNTS = ("done", "stopped", "pruned")
"""States of trials that have a model."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """One trial.

    Attributes:
        number: From 1 on; 0 of what was not begun.
        name: For people.
        stage: What it was tried for: `probe`, `backbone`, `size`, `head`, `plan`, `search` or
            `soup`.
        options: Options of `jtl train` that differ from those of all trials.
        state: `running`; `done`; `stopped` at an epoch's end because the time was over; `pruned`,
            because others were better after as many epochs; `failed`; or `not begun`.
        predicted: Seconds that it was predicted to take.
        seconds: That it took.
        epochs: That it trained.
        metric: The best epoch's --metric, the higher the better (so the loss is negative).
        interval: The 95 % interval of that.
        message: Why it failed or was not begun.
        sampled: Its number in Optuna's study, if it was drawn there.
        owner: The host, the number and the start of the process that has it or had it.
    """

    number: int
    name: str
    stage: str
    options: dict[str, Any]
    state: str = "running"
    predicted: float | None = None
    seconds: float | None = None
    epochs: int = 0
    metric: float | None = None
    interval: tuple[float, float] | None = None
    message: str = ""
    sampled: int | None = None
    owner: tuple[str, int, float] | None = None

    @property
    def counts(self) -> bool:
        """Whether it has a model."""
        return self.state in COUNTS and self.metric is not None

    @property
    def folder(self) -> str:
        """Its run's folder within the search's."""
        return f"{FOLDER}/{self.number:03d}-{re.sub(r'[^A-Za-z0-9.]+', '-', self.name).strip('-')}"

    def same(self, options: dict[str, Any]) -> bool:
        """Whether it was trained with these options."""
        return _plain(self.options) == _plain(options)


def _this_process() -> tuple[str, int, float]:
    return socket.gethostname(), os.getpid(), psutil.Process().create_time()


def _plain(options: dict[str, Any]) -> str:
    return json.dumps(options, sort_keys=True)


class Store:
    """The trials of a search's folder, which several processes may share."""

    def __init__(self, folder: Path):
        self.folder = folder

    def read(self) -> list[Trial]:
        """Every trial as it was written last, by number; then what was not begun.

        Raises:
            UserError: The file is damaged.
        """
        path = self.folder / FILE
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        found: dict[Any, Trial] = {}
        for index, line in enumerate(lines):
            try:
                content = json.loads(line)
                pairs = {key: tuple(content[key] or ()) or None for key in ("interval", "owner")}
                trial = Trial(**{**content, **pairs})
            except (ValueError, TypeError, LookupError) as error:
                if index == len(lines) - 1:  # It was being written when the process was killed.
                    break
                raise UserError(f"'{path}' is damaged in line {index + 1}: {error}.") from error
            found[trial.number or _plain(trial.options)] = trial
        # What did not fit may have been begun later, with fewer epochs.
        begun = {(trial.stage, trial.name) for trial in found.values() if trial.number}
        known = [t for t in found.values() if t.number or (t.stage, t.name) not in begun]
        return sorted(known, key=lambda trial: trial.number or 10**9)

    def with_models(self) -> list[Trial]:
        """The trials whose models are there: their folders may have been deleted."""
        return [t for t in self.read() if t.counts and self._logits_of(t).is_file()]

    def _logits_of(self, trial: Trial) -> Path:
        return self.folder / trial.folder / LOGITS

    def find(self, options: dict[str, Any]) -> Trial | None:
        """The trial of these options, if it was begun."""
        return next((t for t in self.read() if t.number and t.same(options)), None)

    def claim(self, trial: Trial) -> Trial | None:
        """Begins a trial, or goes on with it where its process has ended.

        Returns:
            It with its number; None if it is finished, or another process has it, perhaps with
            other epochs, as processes differ in what they expect to fit.
        """
        with self.locked():
            there = self.find(trial.options)
            if there is None and self.begun(trial.stage, trial.name):
                return None
            if there is None:
                number = 1 + max((known.number for known in self.read()), default=0)
                there = dataclasses.replace(trial, number=number)
            elif there.state != "running" or self._is_busy(there):
                return None
            trial = dataclasses.replace(there, owner=_this_process())
            self._append(trial)
            return trial

    def begun(self, stage: str, name: str) -> bool:
        """Whether there is a trial of this name, with any number of epochs."""
        return any(t.number and (t.stage, t.name) == (stage, name) for t in self.read())

    def busy(self, names: Collection[str] | None = None) -> bool:
        """Whether another process trains a trial of one of these names, or any by default."""
        running = [t for t in self.read() if t.state == "running"]
        return any(self._is_busy(t) for t in running if names is None or t.name in names)

    def _is_busy(self, trial: Trial) -> bool:
        """Whether another process trains it, or is about to."""
        if trial.owner is not None:
            host, number, started = trial.owner
            own = _this_process()
            if host == own[0] and number != own[1]:
                with contextlib.suppress(psutil.Error):  # There is no such process any more.
                    if abs(psutil.Process(number).create_time() - started) < 1:
                        return True
        return is_written_by_another(self.folder / trial.folder)

    def write(self, trial: Trial) -> None:
        """Writes what has become of a trial."""
        with self.locked():
            self._append(trial)

    def _append(self, trial: Trial) -> None:
        path = self.folder / FILE
        before = path.read_bytes() if path.is_file() else b""
        if before and not before.endswith(b"\n"):  # Of a process that was killed.
            before = before[: before.rfind(b"\n") + 1]
        line = json.dumps(dataclasses.asdict(trial), ensure_ascii=False) + "\n"
        replace_bytes(path, before + line.encode())

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes from the trials inside the block; it cannot be entered twice."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(self.folder / LOCK):
            yield

    def write_logits(self, trial: Trial, logits: np.ndarray) -> None:
        """Keeps a trial's logits of the validation images."""
        content = io.BytesIO()
        np.save(content, logits.astype(np.float32))
        replace_bytes(self._logits_of(trial), content.getvalue())

    def logits(self, trial: Trial) -> np.ndarray:
        """A trial's logits of the validation images, float32 [N, num_classes]."""
        return np.load(self._logits_of(trial))
