"""Freeze strategies: how each is trained, what its rows say, and which one to take."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import Any

from harness.store import Row

SCRATCH = "scratch"
PHASES = ("lp_ft", "gradual", "freeze_unfreeze")
EPOCHS, SECONDS = "epochs", "seconds"
"""The two budgets: as many epochs for each strategy, or as many seconds."""


def options(strategy: str, epochs: int) -> list[str]:
    """What `python -m jtl.train` is told for a strategy; learning rates are jtl's defaults.

    Args:
        strategy: A mask, phases, or `scratch`.
        epochs: How many.
    """
    if strategy == SCRATCH:
        # The default rate is one for fine-tuning.
        told = ["--mask=full", "--weights=random", "--lr=1e-3", "--head-lr-mult=1"]
    elif strategy.partition(":")[0] in PHASES:
        told = [f"--phases={strategy}"]
    else:
        told = [f"--mask={strategy}"]
    return [*told, f"--epochs={epochs}"]


def masks(strategy: str) -> tuple[str, ...]:
    """The masks whose single steps tell what a strategy costs: the first and the last one."""
    if strategy == SCRATCH:
        return ("full",)
    return ("head_only", "full") if strategy.partition(":")[0] in PHASES else (strategy,)


def counted(epochs: int) -> str:
    """`1 epoch`, `2 epochs`."""
    return f"{epochs} epoch" + ("s" if epochs != 1 else "")


def fewest_epochs(strategy: str, model: str) -> int:
    """No strategy can train with fewer: one for each of its phases."""
    from jtl import models

    name, _, first = strategy.partition(":")
    if name == "gradual":
        # The head, each stage but the first, everything.
        return 1 + len({unit.stage for unit in models.create(model).units()} - {None})
    if name == "freeze_unfreeze":
        return int(first) + 1
    return 2 if name == "lp_ft" else 1


@dataclasses.dataclass(frozen=True)
class Arm:
    """One strategy under one budget: its trainings, one for each seed.

    Attributes:
        strategy: Its name.
        budget: `epochs` or `seconds`.
        rows: By seed; the first was timed from an empty cache folder.
    """

    strategy: str
    budget: str
    rows: tuple[Row, ...]

    @property
    def seconds(self) -> float:
        """Of the whole process that began with an empty cache folder."""
        return self.rows[0]["seconds"]

    @property
    def epochs(self) -> int:
        """That every seed trained."""
        return self.rows[0]["epochs"]

    @property
    def val(self) -> float:
        """Mean of the best epochs' validation accuracies."""
        return statistics.mean(self.values("val_accuracy"))

    def values(self, key: str) -> list[Any]:
        """A figure of every seed."""
        return [row[key] for row in self.rows]

    def reaching(self, accuracy: float) -> tuple[float | None, int]:
        """Seconds until an epoch reaches a validation accuracy, and how many seeds ever do.

        The median over those that do, at the first seed's times; None where not half of them do.
        """
        times = self.rows[0]["at"]
        reached = []
        for row in self.rows:
            first = next((i for i, value in enumerate(row["val"]) if value >= accuracy), None)
            if first is not None:
                reached.append(times[first])
        most = 2 * len(reached) >= len(self.rows)
        return (statistics.median(reached) if reached and most else None), len(reached)


def arms(rows: Sequence[Row], order: Sequence[str]) -> list[Arm]:
    """The trainings by strategy and budget."""
    listed = []
    for budget in (EPOCHS, SECONDS):
        for strategy in order:
            mine = [
                r for r in rows if r["kind"] == "training" and r["strategy"] == strategy
                and r["budget"] == budget
            ]  # fmt: skip
            if mine:
                mine.sort(key=lambda row: row["seed"])
                listed.append(Arm(strategy, budget, tuple(mine)))
    return listed


def fitting(row: Row, seconds: float, fewest: int, most: int) -> int:
    """Epochs that fit in a number of seconds, judged by a training with another number.

    Args:
        row: Of that training.
        seconds: From the process's start to its end.
        fewest: No less than these.
        most: No more than these.
    """
    at = row["at"]
    each = (at[-1] - at[0]) / (len(at) - 1) if len(at) > 1 else at[0]
    # The first epoch compiles, and what comes before and after an epoch stays the same.
    others = row["seconds"] - (at[-1] - at[0])
    return min(max(1 + math.floor((seconds - others) / max(each, 1e-3)), fewest), most)


NOTICEABLE = 0.8
"""What share of the best one's seconds makes it worth to take another."""


def error_of(accuracy: float, count: int) -> float:
    """The standard error of an accuracy that was measured on `count` images."""
    return math.sqrt(max(accuracy * (1 - accuracy), 0.25 / count) / count)


def marks(listed: Sequence[Arm]) -> list[float]:
    """Accuracies to time the way to, where none are given: near the best one, and below it."""
    best = max(arm.val for arm in listed)
    return sorted({math.floor(100 * (best - below)) / 100 for below in (0.01, 0.03, 0.1)})


@dataclasses.dataclass(frozen=True)
class Advice:
    """What to take, and why.

    Attributes:
        arm: The recommended one.
        best: The most accurate one.
        reasons: Sentences.
    """

    arm: Arm
    best: Arm
    reasons: tuple[str, ...]


def advise(listed: Sequence[Arm]) -> Advice:
    """The best one, or a noticeably faster one that is as accurate but for chance.

    Accuracies on a few hundred images differ by chance. Among arms whose mean validation
    accuracy lies within one standard error of the highest, time decides (the rule of Breiman
    et al., Classification and Regression Trees, 1984, for choosing among models), if it is a
    matter of more than a fifth. Test images decide nothing.
    """
    best = max(listed, key=lambda arm: (arm.val, -arm.seconds))
    count = best.rows[0]["num_val"]
    error = error_of(best.val, count)
    good = [arm for arm in listed if arm.val >= best.val - error]
    fastest = min(good, key=lambda arm: arm.seconds)
    arm = fastest if fastest.seconds < NOTICEABLE * best.seconds else best
    reasons = [
        f"Its validation accuracy is {arm.val:.4f} after {arm.seconds:.0f} s, the whole process."
    ]
    if arm is best:
        reasons[0] += " No other strategy measured here is more accurate."
    else:
        reasons.append(
            f"{best.strategy} with {counted(best.epochs)} reaches {best.val:.4f} after "
            f"{best.seconds:.0f} s. The difference of {100 * (best.val - arm.val):.1f} points is "
            f"within the noise (one standard error on {count:,} images: {100 * error:.1f} points), "
            f"and it takes {100 * (best.seconds / arm.seconds - 1):.0f} % longer."
        )
    faster = [other for other in listed if other.seconds < 0.9 * arm.seconds]
    if faster:
        next_best = max(faster, key=lambda other: other.val)
        reasons.append(
            f"Faster, but less accurate: {next_best.strategy} with {counted(next_best.epochs)} "
            f"reaches {next_best.val:.4f} after {next_best.seconds:.0f} s."
        )
    else:
        reasons.append("No other strategy measured here is noticeably faster.")
    return Advice(arm, best, tuple(reasons))
