"""The ensemble of a search: several classifiers whose probabilities are averaged."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jtl.common.errors import UserError
from jtl.common.paths import as_path
from jtl.common.text import counted, listed
from jtl.config import checks
from jtl.predict.classifier import Classifier, load, predicted
from jtl.predict.inputs import Images, Item
from jtl.predict.predictions import (
    TOP,
    Answer,
    Predictions,
    Trust,
    Unreadable,
    classify,
    probabilities,
)
from jtl.runs.files import CONFIG, ENSEMBLE, SEARCH, read_json, run_of

_LEAST = 1e-12
"""The lowest probability whose logarithm is taken."""


@dataclasses.dataclass(frozen=True, repr=False)
class Ensemble:
    """Classifiers that predict together.

    Attributes:
        folder: The search's folder.
        members: The classifiers, each of which prepares images as it was trained.
        weights: Of each one's probabilities, adding up to 1.
    """

    folder: Path
    members: tuple[Classifier, ...]
    weights: tuple[float, ...]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the probabilities, in order."""
        return self.members[0].class_names

    @property
    def class_titles(self) -> dict[str, str]:
        """As of a `Classifier`."""
        return self.members[0].class_titles

    def __repr__(self) -> str:
        members = [
            f"  {weight:.2f} {member.folder.name}"
            for member, weight in zip(self.members, self.weights, strict=True)
        ]
        classes = counted(len(self.class_names), "class", "classes")
        return "\n".join(
            [
                f"jtl ensemble '{self.folder}': {counted(len(members), 'member')}, with weights",
                *members,
                f"{classes}: {listed(self.class_names, 5)}",
                "predict(images) takes paths, folders, archives, uint8 arrays and Pillow images",
            ]
        )

    def with_tta(self, tta: str | None) -> Ensemble:
        """The same ensemble, whose members average versions of each image; see `Classifier`."""
        members = tuple(member.with_tta(tta) for member in self.members)
        return dataclasses.replace(self, members=members)

    def trust(self, abstain: float | str | None = None, flag: str = "abstain") -> tuple[Trust, str]:
        """How far its answers go; see `Classifier.trust`. Only a probability can be asked for."""
        if abstain is not None and checks.abstention(flag, str(abstain))[0] == "error":
            raise UserError(
                f"{flag} {abstain} is measured for single models, and the search in "
                f"'{self.folder}' keeps an ensemble. Give a probability, or use its winner alone "
                "(--single)."
            )
        return Trust(None if abstain is None else float(abstain)), ""

    def predict(
        self,
        images: Images,
        *,
        top_k: int = TOP,
        tta: str | None = None,
        abstain: float | str | None = None,
    ) -> Predictions:
        """Classifies images; see `Classifier.predict`.

        The `logits` are logarithms of the average probabilities.
        """
        trust, _ = self.trust(abstain)
        classify = self.with_tta(tta).classify
        return predicted(self.class_names, classify, images, top_k, trust=trust)

    def classify(
        self,
        items: Sequence[Item],
        advance: Callable[[int], Any] = lambda n: None,
        several: set[str] | None = None,
    ) -> Iterator[Answer | Unreadable]:
        """As `jtl.predict.predictions.classify`; the logits are those of `mixed`."""
        answers = [
            classify(member, items, advance if member is self.members[-1] else _nothing, several)
            for member in self.members
        ]
        for row in zip(*answers, strict=True):
            failed = next((answer for answer in row if isinstance(answer, Unreadable)), None)
            if failed is not None:
                yield failed
            else:
                yield Answer(row[0][0], self.mixed([answer[1] for answer in row]))

    def mixed(self, logits: Sequence[np.ndarray]) -> np.ndarray:
        """Logarithms of the average probabilities, float32.

        Args:
            logits: Of each member, float [..., num_classes].
        """
        mean = sum(
            weight * probabilities(of_member, member.temperature).astype(np.float64)
            for member, weight, of_member in zip(self.members, self.weights, logits, strict=True)
        )
        return np.log(np.maximum(mean, _LEAST)).astype(np.float32)


def _nothing(done: int) -> None:
    """Shows no progress."""


def load_all(run: str | os.PathLike[str], *, single: bool = False) -> Classifier | Ensemble:
    """Reads a run's classifier; of a search that keeps an ensemble, that.

    Args:
        run: The folder of a run or of a search.
        single: Whether a search's winner is read alone.

    Raises:
        UserError: As of `load`; a member of the ensemble is missing; or `ensemble.json` is damaged.
    """
    folder = as_path(run, "run")
    if single or not has_ensemble(folder):
        return load(folder)
    run_of(folder)  # Or the search is not finished.
    return load_members(folder)


def load_members(folder: Path) -> Ensemble:
    """Reads the ensemble in a search's folder.

    Raises:
        UserError: A member is missing or cannot be read, or `ensemble.json` is damaged.
    """
    path = folder / ENSEMBLE
    try:
        listed_members = [
            (str(member["run"]), float(member["weight"])) for member in read_json(path)["members"]
        ]
        if not listed_members or not all(weight > 0 for _, weight in listed_members):
            raise ValueError("it has no members, or weights that are not positive")
    except (LookupError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"'{path}' is damaged ({error}). --single uses the winner alone."
        ) from error
    missing = [name for name, _ in listed_members if not (folder / name / CONFIG).is_file()]
    if missing:
        raise UserError(
            f"the ensemble in '{path}' has members whose runs are gone: {listed(missing)}. Bring "
            "them back, or use the winner alone with --single."
        )
    members = tuple(load(folder / name) for name, _ in listed_members)
    names = members[0].class_names
    if any(member.class_names != names for member in members):
        raise UserError(f"the members in '{path}' have different classes.")
    total = sum(weight for _, weight in listed_members)
    return Ensemble(folder, members, tuple(weight / total for _, weight in listed_members))


def has_ensemble(folder: Path) -> bool:
    """Whether a folder is a search's that keeps an ensemble."""
    of_search = (folder / SEARCH).is_file() and not (folder / CONFIG).exists()
    return of_search and (folder / ENSEMBLE).is_file()
