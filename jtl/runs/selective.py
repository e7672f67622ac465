"""What a classifier gains where it may say that it is not sure."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from jtl.common.errors import UserError
from jtl.common.files import replace_text
from jtl.common.text import counted
from jtl.config.checks import abstention

FILE = "selective.json"
"""In a run's folder: how many validation images reach each confidence, and are right."""
_STORED = 2000
"""Steps of it."""
TARGETS = (0.1, 0.05, 0.02, 0.01)
"""Errors whose thresholds exports tell."""
POINTS = 101
"""Of a curve that is drawn."""
LEAST_ANSWERED = 10
"""Images that a threshold by error must leave an answer: of fewer, no error is known."""


def curve(confidence: np.ndarray, right: np.ndarray) -> dict[str, list[float]]:
    """Accuracy by coverage: of the images whose confidence reaches each threshold that matters.

    The risk-coverage curve of selective classification (El-Yaniv and Wiener 2010), with accuracy
    in place of its complement.

    Args:
        confidence: The probability of the likeliest class, float [N].
        right: Whether that is the class, bool [N].

    Returns:
        {"threshold", "coverage", "accuracy"}, from the highest threshold down, up to `POINTS` of
        each; empty without images.
    """
    thresholds, answered, hits = _steps(confidence, right)
    places = np.unique(np.linspace(0, len(thresholds) - 1, POINTS).round().astype(int))
    places = places[: len(thresholds)] if len(thresholds) else places[:0]
    return {
        "threshold": thresholds[places].tolist(),
        "coverage": (answered[places] / max(len(right), 1)).tolist(),
        "accuracy": (hits[places] / np.maximum(answered[places], 1)).tolist(),
    }


@dataclasses.dataclass(frozen=True)
class Steps:
    """What each threshold comes to on the validation images of a run.

    Attributes:
        threshold: Every distinct confidence, from above.
        answered: How many images reach it.
        right: How many of these are right.
        count: All images.
    """

    threshold: tuple[float, ...]
    answered: tuple[int, ...]
    right: tuple[int, ...]
    count: int

    def at(self, threshold: float) -> dict[str, Any]:
        """What a threshold comes to.

        Args:
            threshold: Images of a lower confidence get no answer.

        Returns:
            {"threshold", "coverage", "error", "answered", "count"}; the error is None without
            answers.
        """
        reached = [i for i, value in enumerate(self.threshold) if value >= threshold]
        answered = self.answered[reached[-1]] if reached else 0
        right = self.right[reached[-1]] if reached else 0
        error = (answered - right) / answered if answered else None
        coverage = answered / max(self.count, 1)
        return {
            "threshold": float(threshold), "coverage": coverage, "error": error,
            "answered": answered, "count": self.count,
        }  # fmt: skip

    def for_error(self, error: float) -> dict[str, Any] | None:
        """The smallest threshold whose answers are wrong in no more than a share of the images.

        Args:
            error: That share, from 0 to 1.

        Returns:
            As `at`; None where none does that with at least `LEAST_ANSWERED` answers.
        """
        good = [
            index
            for index, (answered, right) in enumerate(zip(self.answered, self.right, strict=True))
            if answered - right <= error * answered and answered >= LEAST_ANSWERED
        ]
        if not good:
            return None
        last = good[-1]
        if last == len(self.threshold) - 1:  # All of them.
            return self.at(0.0)
        # Between two images, so that rounding to float32 decides nothing.
        return self.at((self.threshold[last] + self.threshold[last + 1]) / 2)


def steps(confidence: np.ndarray, right: np.ndarray) -> Steps:
    """What thresholds come to on images.

    Args:
        confidence: The probability of the likeliest class, float [N].
        right: Whether that is the class, bool [N].
    """
    thresholds, answered, hits = _steps(confidence, right)
    places = np.unique(np.linspace(0, max(len(thresholds) - 1, 0), _STORED).round().astype(int))
    places = places[: len(thresholds)]
    each = (array[places].tolist() for array in (thresholds, answered, hits))
    return Steps(*map(tuple, each), count=len(right))


def save(folder: Path, epoch: int, found: Steps) -> None:
    """Writes it into a run's folder, for the epoch that it was measured of."""
    replace_text(folder / FILE, json.dumps({"epoch": epoch, **dataclasses.asdict(found)}) + "\n")


def load(folder: Path, epoch: int) -> Steps | None:
    """Reads that of an epoch; None where there is none."""
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        if content.pop("epoch") != epoch:
            return None
        count = int(content.pop("count"))
        return Steps(**{name: tuple(values) for name, values in content.items()}, count=count)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def resolved(flag: str, value: str | float, found: Steps | None, run: Path) -> tuple[float, str]:
    """The threshold that `--abstain` asks for, and what it comes to, in words.

    Args:
        flag: What asks.
        value: As `jtl.config.checks.abstention` takes it.
        found: What was measured; None where nothing was.
        run: The run's folder, for messages.

    Raises:
        UserError: The error cannot be had, or nothing was measured.
    """
    kind, share = abstention(flag, str(value))
    if kind == "threshold" and found is None:
        return share, ""
    if found is None:
        raise UserError(
            f"{flag} {value} needs the confidences of the validation images, and '{run}' has none "
            f"for its best epoch. `jtl evaluate {run}` measures them; or give a probability."
        )
    came = found.at(share) if kind == "threshold" else found.for_error(share)
    if came is None:
        raise UserError(
            f"no threshold brings the share of wrong answers to {100 * share:g} % on the "
            f"validation images of '{run}' with at least {LEAST_ANSWERED} answers. Give a larger "
            "error, or a probability."
        )
    return came["threshold"], told(came)


def told(came: dict[str, Any]) -> str:
    """What a threshold comes to, in words."""
    answered = f"{came['answered']:,} of {counted(came['count'], 'validation image')}"
    error = "" if came["error"] is None else f", {100 * came['error']:.1f} % of them wrongly"
    return (
        f"not sure below a probability of {came['threshold']:.3g}: it would answer for {answered} "
        f"({100 * came['coverage']:.0f} %){error}"
    )


def _steps(confidence: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every distinct confidence from above, and how many images reach it, and are right."""
    confidence = np.asarray(confidence, np.float64)
    order = np.argsort(-confidence, kind="stable")
    values, hits = confidence[order], np.cumsum(np.asarray(right, bool)[order])
    last = np.flatnonzero(np.append(np.diff(values) != 0, True)) if len(values) else np.arange(0)
    return values[last], last + 1, hits[last]
