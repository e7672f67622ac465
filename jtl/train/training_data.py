"""The images that a run is asked for: read, told, and checked against its options."""

from __future__ import annotations

import numpy as np

from jtl.common.errors import UserError
from jtl.common.progress import Display
from jtl.common.text import counted
from jtl.config.options import Config
from jtl.data import verification
from jtl.data.balance import class_weights
from jtl.data.sources import registry
from jtl.runs import metrics


def load(config: Config, display: Display) -> registry.Dataset:
    """Reads the data set, and says what was understood of it.

    Args:
        config: As `jtl.train.checks.checked` gives it.
        display: Told of splits, classes and doubts.

    Raises:
        UserError: It cannot be read, or an option cannot be used with it.
    """
    dataset = registry.load(
        config.data.data,
        registry.SourceOptions.of(config.data),
        seed=config.split_seed,
        test_fraction=config.data.test_split,
        fold=config.data.fold,
        verify=verification.of(config.data.on_bad_image, display),
        bit_depth=config.data.bit_depth,
    )
    if config.data.bit_depth != "auto" and dataset.bit_depth is None:
        raise UserError(
            f"--bit-depth {config.data.bit_depth}: no effect on '{dataset.spec}', which has no "
            "16-bit images. Leave it out."
        )
    for line in (*dataset.describe().lines(), *(f"note: {note}" for note in dataset.notes)):
        display.message(line)
    if len(dataset.val) < metrics.FEW:
        low, _ = metrics.wilson_interval(1.0, len(dataset.val))
        display.message(
            f"warning: {counted(len(dataset.val), 'validation image')}: too few to choose the best "
            f"model by. Even if all of them are right, the true accuracy may be only {low:.2f} "
            "(95 % interval). Add more validation images."
        )
    if config.train.metric == "auroc" and len(np.unique(dataset.val.labels)) < 2:
        raise UserError(
            "--metric auroc: the validation images are all of one class, and the area under a "
            "ROC curve needs two. Use another metric, or add validation images."
        )
    if dataset.multilabel and not dataset.val.labels.any():
        raise UserError(
            "None of the validation images has a label, so nothing can be chosen by them. Label "
            "some, or add others."
        )
    _check_accumulation(config, len(dataset.train))
    class_weights(config.train.class_weights, dataset.train.labels, dataset.class_names)  # Checked.
    return dataset


def _check_accumulation(config: Config, count: int) -> None:
    batch, times = config.train.batch, config.steps.accumulate
    if times > 1 and batch * times > count:
        raise UserError(
            f"--accumulate {times} with --batch-size {batch} needs {batch * times} images per "
            f"update, but there are only {count} training images. Lower one of them."
        )
