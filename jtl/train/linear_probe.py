"""A linear probe without steps: a head on a frozen backbone, fitted to the optimum."""

from __future__ import annotations

import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jtl import models
from jtl.cache.features import FeatureCache
from jtl.cache.phase_inputs import PhaseInputs
from jtl.cache.sizes import memory_budget
from jtl.common.errors import UserError
from jtl.common.trees import ParamTree
from jtl.data.loader import Examples, Features, in_order
from jtl.distributed import processes
from jtl.models.inference import forward
from jtl.optim import lbfgs
from jtl.runs import metrics
from jtl.train.setup import Setup


def solve(setup: Setup, inputs: PhaseInputs) -> tuple[dict[str, Any], ParamTree, np.ndarray]:
    """Fits the head on features and chooses the penalty on the validation split.

    Args:
        setup: A run with a linear head and `--solver lbfgs`.
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
    path = _path(setup, train_values, val_values)
    fit = lbfgs.best(path)
    params = {**setup.variables["params"]}
    params["head"] = {"logits": {"kernel": fit.kernel, "bias": fit.bias}}
    variables = {**setup.variables, "params": params}
    # By the program that evaluates the saved run, so that the figures are equal.
    scores, logits = inputs.evaluate("val", setup.sharding.replicate(variables))
    seconds = time.perf_counter() - began
    line = {
        "epoch": 1,
        "mask": setup.plans[0].phase.mask,
        "train_loss": fit.train_loss,
        "train_accuracy": fit.train_accuracy,
        "val_loss": scores["loss"],
        "val_accuracy": scores["accuracy"],
        **metrics.in_line(setup.config.train.metric, logits, setup.dataset.val.labels),
        "l2": fit.l2,
        "path": [_tried(fit, setup.config.train.metric) for fit in path],
        "learning_rate": None,
        "seconds": seconds,
        "images_per_second": len(train) * sum(f.iterations for f in path) / seconds,
    }
    return line, variables, logits


def _tried(fit: lbfgs.Solution, metric: metrics.MetricName) -> dict[str, Any]:
    """What a penalty reached; last, what decides."""
    found = {"l2": fit.l2, "iterations": fit.iterations, "val_accuracy": fit.val_accuracy}
    if metric == "loss":
        return {**found, "val_loss": fit.val_loss}
    return found if metric == "accuracy" else {**found, f"val_{metric}": fit.score}


def _values(examples: Examples, inputs: PhaseInputs) -> jax.Array:
    """Features of a split, as the head takes them."""
    if not (isinstance(examples, Features) and isinstance(examples.values, jax.Array)):
        raise UserError(
            "--solver lbfgs needs the features of all images at once, and they do not fit in "
            "memory. Use --solver sgd, a larger --cache-budget, a smaller --image-size or fewer "
            "images."
        )
    values = examples.values
    if examples.sharding.devices:  # SciPy works on the host; without the rows that fill up.
        values = jnp.asarray(np.asarray(values)[: len(examples)])
    return values if inputs.prepare is None else inputs.prepare(values)


def _path(setup: Setup, train: jax.Array, val: jax.Array) -> list[lbfgs.Solution]:
    """Fits of all penalties, or of the one that was given."""
    penalty, metric = setup.config.train.l2, setup.config.train.metric
    return lbfgs.fit_path(
        (train, jnp.asarray(setup.dataset.train.labels)),
        (val, jnp.asarray(setup.dataset.val.labels)),
        len(setup.dataset.class_names),
        lbfgs.GRID if penalty == "auto" else (float(penalty),),
        setup.class_weights,
        score=None if metric == "accuracy" else functools.partial(metrics.measure, metric),
    )


def accuracies(setup: Setup, cache: FeatureCache, read: PhaseInputs | None) -> dict[str, float]:
    """What a linear probe of the backbone as it was loaded reaches: what fine-tuning must beat.

    Args:
        setup: A training of any mask.
        cache: Its features.
        read: What is read already of the last phase.

    Returns:
        The shares of `val` and, where there is one, `test` that are recognized; nothing where
        the features of all images do not fit in memory, or several processes have them; or where
        images have several classes, of which accuracy says little.
    """
    dataset = setup.dataset
    if dataset.multilabel:
        return {}
    splits = {"train": dataset.train, "val": dataset.val, "test": dataset.test}
    splits = {name: split for name, split in splits.items() if split is not None}
    size = setup.inputs.device.size
    image = jax.ShapeDtypeStruct((1, size, size, 3), setup.inputs.device.dtype)
    outputs = models.output_shape(setup.model, setup.variables, image, "head").size
    count = sum(map(len, splits.values()))
    needed = lbfgs.needed_bytes(count, outputs, len(dataset.class_names))
    if processes.is_distributed() or needed > memory_budget(setup.config.run.cache_budget):
        return {}
    cache.display.message("For comparison: training the classifier alone (a linear probe)")
    values = {name: before_head(setup, cache, read, name) for name in splits}
    if values["train"].ndim > 2:  # The head pools what it makes of every pixel.
        values = {name: value.mean((1, 2)) for name, value in values.items()}
    fit = lbfgs.best(_path(setup, values["train"], values["val"]))
    found = {"val": fit.val_accuracy}
    if dataset.test is not None:
        classes = np.argmax(np.asarray(values["test"]) @ fit.kernel + fit.bias, -1)
        found["test"] = float(np.mean(classes == dataset.test.labels))
    return found


def before_head(
    setup: Setup, cache: FeatureCache, read: PhaseInputs | None, name: str
) -> jax.Array:
    """What the head gets of every image of a split before training, [N, C]."""
    cut, split = setup.plans[0].cut.features_at, {name: getattr(setup.dataset, name)}
    if cut is None or cut == "head" or setup.inputs.augmentation is not None:
        inputs = cache.without_augmentation().read("head", setup.variables, split)
        return _values(inputs.examples[name], inputs)
    inputs = read
    if inputs is None or len(setup.plans) > 1 or name not in inputs.examples:
        inputs = cache.read(cut, setup.variables, split)
    # The frozen part does not run again.
    variables, examples = setup.sharding.replicate(setup.variables), inputs.examples[name]
    batch = setup.sharding.batch_size(inputs.eval_batch, len(examples))
    rows = [
        np.asarray(
            forward(
                variables,
                x,
                model=setup.model,
                start=inputs.start,
                stop="head",
                prepare=inputs.prepare,
                sharding=setup.sharding,
            )
        )
        for x, _ in in_order(examples, batch, sharding=setup.sharding)
    ]
    return jnp.asarray(np.concatenate(rows)[: len(examples)])
