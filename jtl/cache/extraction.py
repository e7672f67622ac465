"""The frozen prefix, run once per image."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import jax
import numpy as np

from jtl.common.trees import ParamTree
from jtl.data.augment import View
from jtl.data.loader import Examples, Images, in_order
from jtl.data.preprocessing import Prepare
from jtl.distributed.sharding import SINGLE, DataSharding
from jtl.models import ImageClassifier
from jtl.models.inference import Metrics, forward, score

PREFIX_BATCH = 32
"""Images per dispatch and device: enough to fill the cores, few enough for the caches."""


def extract(
    examples: Images,
    variables: ParamTree,
    *,
    model: ImageClassifier,
    stop: str,
    prepare: Prepare,
    first: int = 0,
    view: View | None = None,
    origin: int = 0,
    sharding: DataSharding = SINGLE,
) -> Iterator[np.ndarray]:
    """Runs a model up to the unit `stop` over every example, in inference mode.

    Args:
        examples: Images of a split.
        variables: {"params", "batch_stats"} of at least the units before `stop`.
        model: The classifier.
        stop: Path of the unit to stop before.
        prepare: From uint8 batches to the backbone's input.
        first: The example to begin with.
        view: Which random draw of the images is taken; None for them as they are.
        origin: Where in their data set the examples begin, which views are drawn by.
        sharding: Devices of this process, which share the work.

    Yields:
        The outputs [n, ...] of the next `PREFIX_BATCH` examples to a device, in their order; of
        those that are left, at last.
    """
    last = len(examples) - 1
    size = sharding.batch_size(PREFIX_BATCH, len(examples))
    for batch, labels in in_order(examples, size, first, sharding):
        real = int(np.count_nonzero(labels.reshape(size, -1)[:, 0] >= 0))
        if view is not None:
            rows = np.minimum(np.arange(first, first + size, dtype=np.int32), last)
            batch = view(batch, origin + rows, prepare)
            first += real
        output = forward(
            variables,
            batch,
            model=model,
            stop=stop,
            prepare=prepare if view is None else None,
            sharding=sharding,
        )
        yield np.asarray(output)[:real]


def evaluate(
    examples: Examples,
    variables: ParamTree,
    *,
    model: ImageClassifier,
    start: str | None,
    prepare: Callable[[jax.Array], jax.Array] | None,
    batch_size: int,
    sharding: DataSharding = SINGLE,
) -> tuple[dict[str, float], np.ndarray]:
    """Scores a classifier over every example.

    Args:
        examples: Features at `start`, or images.
        variables: {"params", "batch_stats"} of at least the units from `start` on.
        model: The classifier.
        start: Path of the first unit to run; None for the whole chain.
        prepare: From batches to the first unit's input; None where they are that.
        batch_size: Examples per dispatch and device. Results depend on it in the last bits.
        sharding: The devices, on all of which `variables` are.

    Returns:
        ({"loss", "accuracy"}, logits float32 [N, num_classes]).
    """
    total, outputs = Metrics.zero(), []
    size = sharding.batch_size(batch_size, len(examples))
    for batch, labels in in_order(examples, size, sharding=sharding):
        logits = forward(
            variables, batch, model=model, start=start, prepare=prepare, sharding=sharding
        )
        total = total + score(logits, labels)
        outputs.append(logits)
    logits = np.concatenate([np.asarray(jax.device_get(out)) for out in outputs])
    return total.means(), logits[: len(examples)]
