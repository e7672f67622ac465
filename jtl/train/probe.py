"""A linear probe without steps: the head of a frozen backbone, fitted to the optimum."""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jtl.cache.inputs import PhaseInputs
from jtl.common.errors import UserError
from jtl.common.trees import ParamTree
from jtl.data.loader import Examples, Features
from jtl.optim import lbfgs
from jtl.train.setup import Task


def solve(task: Task, inputs: PhaseInputs) -> tuple[dict[str, Any], ParamTree, np.ndarray]:
    """Fits the head on features and chooses the penalty on the validation split.

    Args:
        task: A run with a linear head and `--solver lbfgs`.
        inputs: Features of the training and the validation images, [N, C].

    Returns:
        (a line of `metrics.jsonl` with the chosen `l2` and the whole `path` of penalties,
        the whole variables with the fitted head, its logits of the validation images).

    Raises:
        UserError: The features did not fit in memory.
    """
    train, val = inputs.examples["train"], inputs.examples["val"]
    train_values, val_values = _values(train, inputs), _values(val, inputs)
    began = time.perf_counter()
    chosen = task.config.train.l2
    grid = lbfgs.GRID if chosen == "auto" else (float(chosen),)
    path = lbfgs.fit_path(
        (train_values, jnp.asarray(train.labels)),
        (val_values, jnp.asarray(val.labels)),
        len(task.dataset.class_names),
        grid,
        task.class_weights,
    )
    fit = lbfgs.best(path)
    params = {**task.variables["params"]}
    params["head"] = {"logits": {"kernel": fit.kernel, "bias": fit.bias}}
    variables = {**task.variables, "params": params}
    # By the program that evaluates the saved run, so that the figures are equal.
    scores, logits = inputs.evaluate("val", task.layout.put_whole(variables))
    seconds = time.perf_counter() - began
    line = {
        "epoch": 1,
        "mask": task.plans[0].phase.mask,
        "train_loss": fit.train_loss,
        "train_accuracy": fit.train_accuracy,
        "val_loss": scores["loss"],
        "val_accuracy": scores["accuracy"],
        "l2": fit.l2,
        "path": [
            {"l2": f.l2, "iterations": f.iterations, "val_accuracy": f.val_accuracy} for f in path
        ],
        "learning_rate": None,
        "seconds": seconds,
        "images_per_second": len(train) * sum(f.iterations for f in path) / seconds,
    }
    return line, variables, logits


def _values(examples: Examples, inputs: PhaseInputs) -> jax.Array:
    """Features of a split, as the head takes them."""
    if not (isinstance(examples, Features) and isinstance(examples.values, jax.Array)):
        raise UserError(
            "--solver lbfgs works on the features of all images at once, and they do not fit "
            "in memory. Use --solver sgd, a larger --cache-budget, a smaller --image-size or "
            "fewer images."
        )
    values = examples.values
    if examples.layout.devices:  # SciPy works on the host; without the rows that fill up.
        values = jnp.asarray(np.asarray(values)[: len(examples)])
    return values if inputs.prepare is None else inputs.prepare(values)
