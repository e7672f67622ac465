"""Whether the winner gains by averaging each image with its mirror image (`--tta flip`)."""

from __future__ import annotations

from typing import Any

from jtl.evaluate.evaluation import evaluate_run
from jtl.predict.classifier import load
from jtl.runs import metrics
from jtl.search import selection
from jtl.search.trial_loop import Engine
from jtl.search.trials import Trial
from jtl.train import flops

START_SECONDS = 6.0
"""To load the winner and compile two versions of it."""


def measure(engine: Engine, winner: Trial) -> dict[str, Any] | None:
    """What the validation metric becomes; None where the time is too short.

    Returns:
        {"tta", "val_metric", "difference" and its "standard_error", both being measured on the same
        images, and "kept" (whether it gains more than that)}.
    """
    classifier = load(engine.folder / winner.folder)
    size = classifier.inputs.device.size
    each = flops.count(classifier.model, classifier.variables, size, lambda _: False).forward
    budget, labels, rate = engine.budget, engine.labels, engine.cost.forward_rate
    left = budget.total - budget.spent - budget.closing
    if rate is None or START_SECONDS + 2 * each * len(labels) / rate > left:
        return None
    metric = engine.base.train.metric
    plain = engine.store.logits(winner) / classifier.temperature
    averaged = evaluate_run(classifier.with_tta("flip"), None, engine.log).logits
    value = metrics.measure(metric, averaged, labels)
    difference = value - metrics.measure(metric, plain, labels)
    error = selection.paired_error(metric, averaged, plain, labels)
    return {
        "tta": "flip",
        "val_metric": value,
        "difference": difference,
        "standard_error": error,
        "kept": difference > error,
    }
