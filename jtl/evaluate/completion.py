"""`report.html` with what a training leaves out to end soon: t-SNE, and a pass for features."""

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
    rows = completion.chosen_rows(evaluation.dataset)
    if classifier.familiarity is not None:
        del rows["train"]
    features = completion.computed(
        evaluation.dataset,
        rows,
        model=classifier.model,
        variables=classifier.variables,
        inputs=classifier.inputs,
    )
    how = summary, features, draw, classifier.epoch
    completion.write_page(classifier.folder, evaluation, classifier, *how, neighbours=True)


def write_steps(classifier: Classifier, evaluation: Evaluation) -> None:
    """Writes what `--abstain error:` looks up, of the run's own validation images."""
    if evaluation.thresholds is None and not classifier.versions:
        shares = probabilities(evaluation.logits, evaluation.temperature).max(-1)
        right = evaluation.logits.argmax(-1) == evaluation.images.labels
        selective.save(classifier.folder, classifier.epoch, selective.steps(shares, right))
