"""Trials of `python -m jtl.train`, kept one a line, and compared factor by factor."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class Keyed:
    """What a result is of: a dataclass whose fields tell it from others."""

    @property
    def key(self) -> str:
        """All fields, as text."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)


@dataclasses.dataclass(frozen=True)
class Trial(Keyed):
    """One training.

    Attributes:
        data: Name of the data set.
        model: Backbone.
        size: Pixels.
        options: Flags of `python -m jtl.train` without dashes, and their values.
        seed: Of everything but the validation split.
    """

    data: str
    model: str
    size: int
    options: tuple[tuple[str, str], ...]
    seed: int

    def flags(self, spec: str) -> list[str]:
        """The command line; `spec` is what `--data` takes."""
        given = dict(self.options) | {
            "data": spec,
            "model": self.model,
            "image-size": str(self.size),
            "seed": str(self.seed),
            "split-seed": "0",
        }
        return [word for name, value in given.items() for word in (f"--{name}", value)]


def options_of(text: str) -> tuple[tuple[str, str], ...]:
    """`mask=full lr=3e-4` as the options of a trial, in a fixed order."""
    return tuple(sorted((name, value) for name, _, value in map(_parted, text.split())))


def _parted(word: str) -> tuple[str, str, str]:
    return word.partition("=")


class Results:
    """The trials of a `.jsonl` file. A line is written when its trial has ended."""

    def __init__(self, path: Path):
        self._path = path
        self.rows: list[dict[str, Any]] = []
        if path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                self.rows.append(json.loads(line))

    def find(self, trial: Keyed) -> dict[str, Any] | None:
        """The result of a trial that has ended."""
        return next((row for row in self.rows if row["trial"] == trial.key), None)

    def add(self, trial: Keyed, **figures: Any) -> None:
        """Appends a result."""
        row = {"trial": trial.key, **figures}
        self.rows.append(row)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def by_arm(
    results: Results, arms: Mapping[str, str], trials: Iterable[Trial]
) -> dict[str, dict[str, list[float]]]:
    """Test accuracies of all seeds, {arm: {data set: [accuracy]}}, of trials that have ended."""
    found: dict[str, dict[str, list[float]]] = {arm: {} for arm in arms}
    names = {options_of(options): arm for arm, options in arms.items()}
    for trial in trials:
        row = results.find(trial)
        if row is not None and trial.options in names:
            listed = found[names[trial.options]].setdefault(trial.data, [])
            listed.append(row["test_accuracy"])
    return found


def mean_and_range(values: Sequence[float]) -> str:
    """`0.860 (0.855-0.865)`; a dash for none."""
    if not values:
        return "-"
    told = f"{statistics.fmean(values):.3f}"
    return told if len(values) == 1 else f"{told} ({min(values):.3f}-{max(values):.3f})"
