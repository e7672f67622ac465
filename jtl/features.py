"""The frozen prefix, run once per picture."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jtl.data.pipeline import Examples, Features, in_order
from jtl.data.preprocess import Prepare
from jtl.freeze.split import Tree
from jtl.models import ImageClassifier
from jtl.steps import Metrics, forward, score

PREFIX_BATCH = 32
"""Pictures per dispatch: enough to fill the cores, few enough to stay near the caches."""


def extract(
    examples: Examples,
    variables: Tree,
    *,
    model: ImageClassifier,
    stop: str,
    prepare: Prepare,
    progress: Callable[[int], None] = lambda _: None,
) -> Features:
    """Runs a model up to the unit `stop` over every example, in inference mode.

    Args:
        examples: Pictures of a split.
        variables: {"params", "batch_stats"} of at least the units before `stop`.
        model: The classifier.
        stop: Path of the unit to stop before.
        prepare: From uint8 batches to the backbone's input.
        progress: Told the number of examples of every batch that is done.

    Returns:
        The outputs, on the device, in the order of the examples.
    """
    outputs = []
    for batch, labels in in_order(examples, PREFIX_BATCH):
        output = forward(variables, batch, model=model, stop=stop, prepare=prepare)
        real = int(np.count_nonzero(labels >= 0))
        outputs.append(np.asarray(output)[:real])
        progress(real)
    return Features(jnp.asarray(np.concatenate(outputs)), examples.labels)


def evaluate(
    examples: Examples,
    variables: Tree,
    *,
    model: ImageClassifier,
    start: str | None,
    prepare: Prepare | None,
    batch_size: int,
) -> tuple[dict[str, float], np.ndarray]:
    """Scores a classifier over every example.

    Args:
        examples: Features at `start`, or pictures.
        variables: {"params", "batch_stats"} of at least the units from `start` on.
        model: The classifier.
        start: Path of the first unit to run; None for the whole chain.
        prepare: From uint8 batches to the backbone's input; None for features.
        batch_size: Examples per dispatch. Results depend on it in the last bits.

    Returns:
        ({"loss", "accuracy"}, logits float32 [N, num_classes]).
    """
    total, outputs = Metrics.zero(), []
    for batch, labels in in_order(examples, batch_size):
        logits = forward(variables, batch, model=model, start=start, prepare=prepare)
        total = total + score(logits, labels)
        outputs.append(logits)
    logits = np.concatenate([np.asarray(jax.device_get(out)) for out in outputs])
    return total.means(), logits[: len(examples)]
