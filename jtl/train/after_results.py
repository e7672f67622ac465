"""What a run gets once its results have been printed; see `jtl.runs.completion`."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from jtl.cache.phase_inputs import PhaseInputs
from jtl.cache.pooled import pooled_from
from jtl.common.errors import UserError
from jtl.common.progress import Display
from jtl.config.options import Config
from jtl.data.input_plan import InputPlan
from jtl.data.loader import Features
from jtl.distributed import processes
from jtl.models.heads import HeadSpec
from jtl.models.inference import feature_end
from jtl.runs import completion, multilabel
from jtl.runs.checkpoints.contents import Restored
from jtl.runs.completion import SomeFeatures
from jtl.runs.evaluation import Evaluation
from jtl.runs.files import HTML_REPORT
from jtl.runs.plot_worker import PlotWorker
from jtl.runs.run import Run
from jtl.train.setup import Setup


@dataclasses.dataclass(frozen=True)
class _Trained:
    """As `jtl.runs.evaluation_files.Scored`."""

    class_names: tuple[str, ...]
    config: Config
    inputs: InputPlan


LONGEST_PASS = 0.3
"""A pass over images that are not at hand, as a share of those that training passed over: with its
backward pass a step takes three times as long."""


def at_hand(setup: Setup, best: Restored, inputs: PhaseInputs | None) -> SomeFeatures | None:
    """Pooled features of some images by what the last phase kept of its frozen layers.

    Args:
        setup: What was trained.
        best: The best epoch.
        inputs: Of the last phase, if any.

    Returns:
        None where only a pass over the images could tell.
    """
    if inputs is None or inputs.start is None or setup.sharding.spans_processes:
        return None
    if best.epoch < setup.plans[-1].first_epoch:  # Other layers may have been frozen then.
        return None
    rows, kept = completion.chosen_rows(setup.dataset), inputs.examples
    examples = {name: found for name in rows if isinstance(found := kept.get(name), Features)}
    if set(examples) != set(rows):
        return None
    if inputs.start == "head":
        if not _is_plain(setup.model.head):
            return None
        batches = {name: examples[name].batch(rows[name]) for name in rows}
        values = {
            name: np.asarray(jax.device_get(batch), np.float32) for name, batch in batches.items()
        }
        return SomeFeatures(rows, values)
    paths = [unit.path for unit in setup.model.units()]
    if paths.index(inputs.start) >= paths.index(feature_end(setup.model)):
        return None
    values = {
        name: pooled_from(
            examples[name],
            rows[name],
            model=setup.model,
            variables=best.variables,
            start=inputs.start,
            prepare=inputs.prepare,
        )
        for name in rows
    }
    return SomeFeatures(rows, values)


def put_off(
    setup: Setup,
    run: Run,
    best: Restored,
    val_logits: np.ndarray,
    features: SomeFeatures | None,
    worker: PlotWorker,
    display: Display,
) -> None:
    """Lets the plots, the page and the features be made when the worker's block ends.

    Args:
        setup: What was trained.
        run: The run, with its summary.
        best: The best epoch.
        val_logits: Its logits of the validation images.
        features: As `at_hand` gives them.
        worker: Who draws.
        display: Who is told where they cannot be made; the results stand all the same.
    """

    def make_or_tell() -> None:
        try:
            make(setup, run, best, val_logits, features, worker)
        except UserError as error:  # Images are gone, or the disk is full.
            display.message(f"warning: the run has no {HTML_REPORT}: {error}")

    worker.later(make_or_tell)


def make(
    setup: Setup,
    run: Run,
    best: Restored,
    val_logits: np.ndarray,
    features: SomeFeatures | None,
    worker: PlotWorker,
) -> None:
    """Makes them now; see `put_off`."""
    summary, val = run.summary, setup.dataset.val
    scores = {"split": "val", "data": setup.dataset.spec, "count": len(val)} | {
        key: value for key, value in summary.items() if key.startswith("val_")
    }
    thresholds = summary.get("thresholds")
    if thresholds is None and setup.dataset.multilabel:
        thresholds = [multilabel.HALF] * len(setup.dataset.class_names)
    if features is None and not processes.is_distributed():
        rows = completion.chosen_rows(setup.dataset)
        passed = len(run.history) * len(setup.dataset.train)
        if sum(map(len, rows.values())) <= LONGEST_PASS * passed:
            how: dict[str, Any] = dict(model=setup.model, inputs=setup.inputs)
            features = completion.computed(setup.dataset, rows, variables=best.variables, **how)
    completion.complete(
        run.folder,
        Evaluation(scores, val_logits, val, summary["temperature"], thresholds),
        _Trained(setup.dataset.class_names, run.config, setup.inputs),
        summary,
        features,
        worker.draw,
        best.epoch,
    )


def _is_plain(head: HeadSpec | None) -> bool:
    """Whether a head's input is what `pooled_features` gives."""
    if head is None:
        return False
    return head.pool == "avg" and not head.source_classes and not head.relu_logits
