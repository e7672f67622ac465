"""`report.html` of a run that has none: of an earlier version, or a trial of a search."""

from __future__ import annotations

from typing import Any

from jtl.predict.classifier import Classifier
from jtl.runs import completion, selective
from jtl.runs.calibration import probabilities
from jtl.runs.evaluation import Evaluation
from jtl.runs.evaluation_files import Draw


def write_page(
    classifier: Classifier, evaluation: Evaluation, summary: dict[str, Any], draw: Draw
) -> None:
    """Writes the page, and the features that `jtl predict` compares images with.

    Args:
        classifier: As `load` gives it.
        evaluation: Of its own validation images.
        summary: As in `summary.json`.
        draw: What draws.
    """
    assert evaluation.dataset is not None
    features = completion.computed(
        evaluation.dataset,
        completion.chosen_rows(evaluation.dataset),
        model=classifier.model,
        variables=classifier.variables,
        inputs=classifier.inputs,
    )
    completion.write_page(
        classifier.folder, evaluation, classifier, summary, features, draw, classifier.epoch
    )


def write_steps(classifier: Classifier, evaluation: Evaluation) -> None:
    """Writes what `--abstain error:` looks up, of the run's own validation images."""
    if evaluation.thresholds is None and not classifier.versions:
        shares = probabilities(evaluation.logits, evaluation.temperature).max(-1)
        right = evaluation.logits.argmax(-1) == evaluation.images.labels
        selective.save(classifier.folder, classifier.epoch, selective.steps(shares, right))
