"""What a run gets once its results have been printed; see `jtl.runs.completion`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import numpy as np

from jtl.cache.phase_inputs import PhaseInputs
from jtl.common.errors import UserError
from jtl.common.progress import Display
from jtl.config.options import Config
from jtl.data.input_plan import InputPlan
from jtl.data.loader import Features
from jtl.distributed import processes
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


def put_off(
    setup: Setup,
    run: Run,
    best: Restored,
    val_logits: np.ndarray,
    inputs: PhaseInputs | None,
    worker: PlotWorker,
    display: Display,
) -> None:
    """Lets the plots, the page and the features be made when the worker's block ends.

    Args:
        setup: What was trained.
        run: The run, with its summary.
        best: The best epoch.
        val_logits: Its logits of the validation images.
        inputs: The features that are in memory, if any.
        worker: Who draws.
        display: Who is told where they cannot be made; the results stand all the same.
    """
    rows, ready = completion.chosen_rows(setup.dataset), None
    if inputs is not None and _holds_pooled_features(setup, inputs):
        # Now: the run's memory may be free when they are needed.
        ready = {
            name: np.asarray(jax.device_get(inputs.examples[name].batch(rows[name])), np.float32)
            for name in rows
        }

    def make_or_tell() -> None:
        try:
            make(setup, run, best, val_logits, rows, ready, worker)
        except UserError as error:  # Images are gone, or the disk is full.
            display.message(f"warning: the run has no {HTML_REPORT}: {error}")

    worker.later(make_or_tell)


def make(
    setup: Setup,
    run: Run,
    best: Restored,
    val_logits: np.ndarray,
    rows: Mapping[str, np.ndarray],
    ready: Mapping[str, np.ndarray] | None,
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
    features = None if ready is None else SomeFeatures(rows, ready)
    if features is None and not processes.is_distributed():
        features = completion.computed(
            setup.dataset, rows, model=setup.model, variables=best.variables, inputs=setup.inputs
        )
    completion.complete(
        run.folder,
        Evaluation(scores, val_logits, val, summary["temperature"], thresholds),
        _Trained(setup.dataset.class_names, run.config, setup.inputs),
        summary,
        features,
        worker.draw,
        best.epoch,
    )


def _holds_pooled_features(setup: Setup, inputs: PhaseInputs) -> bool:
    """Whether what is in memory is what `completion.computed` would give."""
    head = setup.model.head
    if inputs.start != "head" or head is None or setup.sharding.spans_processes:
        return False
    plain = head.pool == "avg" and not head.source_classes and not head.relu_logits
    return plain and all(isinstance(inputs.examples.get(n), Features) for n in ("train", "val"))
