"""A finished run, put to use: evaluated on data, or asked about pictures."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jtl import checkpoint, metrics
from jtl.cache.features import FeatureCache
from jtl.config import Config
from jtl.data import sources, verification
from jtl.data.pipeline import InputPlan
from jtl.data.splits import Found, reordered, some
from jtl.data.transforms import BadImage, decode
from jtl.data.verification import OnBadImage
from jtl.errors import UserError
from jtl.features import evaluate
from jtl.freeze.split import Tree
from jtl.models import ImageClassifier
from jtl.progress import Display
from jtl.resume import stored_config, stored_fingerprint
from jtl.steps import forward
from jtl.task import rebuild_model


@dataclasses.dataclass(frozen=True)
class Classifier:
    """The best model of a run, ready to use.

    Attributes:
        folder: The run's folder.
        config: The run's options.
        model: The classifier.
        variables: {"params", "batch_stats"} on the device.
        inputs: How pictures become the network's input.
        class_names: Of the logits, in order.
        epoch: The epoch it is from.
        meta: The checkpoint's description.
    """

    folder: Path
    config: Config
    model: ImageClassifier
    variables: Tree
    inputs: InputPlan
    class_names: tuple[str, ...]
    epoch: int
    meta: dict[str, Any]


def load(folder: Path) -> Classifier:
    """Reads a run's best checkpoint.

    Raises:
        UserError: `folder` is no finished run.
    """
    restored = checkpoint.restore(folder)
    config = stored_config(folder)
    model, inputs = rebuild_model(restored.meta)
    return Classifier(
        folder=folder,
        config=config,
        model=model,
        variables=jax.device_put(restored.variables),
        inputs=inputs,
        class_names=tuple(restored.meta["class_names"]),
        epoch=restored.epoch,
        meta=restored.meta,
    )


def evaluate_run(
    classifier: Classifier,
    data: str | None,
    display: Display,
    on_bad_image: OnBadImage | None = None,
) -> dict[str, Any]:
    """Scores a run's model on validation data, by the same programs as in training.

    Args:
        classifier: As `load` gives it.
        data: A data source; default the run's own, split as in training. Its classes may come
            in another order.
        display: Where progress goes.
        on_bad_image: What is done about unreadable pictures; default as in the run.

    Returns:
        {"data", "split", "count", "val_accuracy", "val_loss", "val_macro_f1", "val_classes",
        "epoch"}; of `val_classes` see `jtl.metrics.by_class`.

    Raises:
        UserError: The data have other classes than the run was trained on, or are the run's
            own and have changed since.
    """
    spec = data or classifier.config.data.data
    bad = on_bad_image or classifier.config.data.on_bad_image
    verify = verification.of(bad, display)
    dataset = sources.load(
        spec,
        seed=classifier.config.train.seed,
        # No picture need be looked at to see that the classes are others.
        verify=lambda found: verify(_with_classes_of(classifier, found, spec)),
    )
    for note in dataset.notes:
        display.message(f"note: {note}")
    if data is None and dataset.fingerprint != stored_fingerprint(classifier.folder):
        raise UserError(
            f"the pictures of '{spec}' have changed since the run in '{classifier.folder}' was "
            "trained: validation pictures of today may be training pictures of then. Bring them "
            f"back, or say that they are others with --data {spec}."
        )
    cache = FeatureCache(
        dataset,
        classifier.model,
        classifier.inputs,
        name=classifier.config.model.model,
        stored=classifier.config.data.cache_dtype,
        display=display,
    )
    variables = jax.device_get(classifier.variables)
    arm, [val] = cache.read(classifier.meta["start"], variables, {"val": dataset.val})
    scores, logits = evaluate(
        val,
        classifier.variables,
        model=classifier.model,
        start=arm.start,
        prepare=arm.prepare,
        batch_size=arm.eval_batch,
    )
    classes = metrics.by_class(logits.argmax(-1), val.labels, dataset.class_names)
    return {
        "data": dataset.spec,
        "split": "val",
        "count": len(val),
        "val_accuracy": scores["accuracy"],
        "val_loss": scores["loss"],
        "val_macro_f1": metrics.macro_f1(classes),
        "val_classes": classes,
        "epoch": classifier.epoch,
    }


def _with_classes_of(classifier: Classifier, found: Found, spec: str) -> Found:
    """The data labelled by the run's class names.

    Raises:
        UserError: They are other classes.
    """
    run, data = classifier.class_names, found.class_names
    if sorted(run) == sorted(data):
        return reordered(found, run)
    told = [
        f"'{spec}' has other classes than the run '{classifier.folder}'.",
        f"  the run: {', '.join(run)}",
        f"  the data: {', '.join(data)}",
    ]
    for whose, names in (("run", set(run) - set(data)), ("data", set(data) - set(run))):
        if names:
            told.append(f"  only the {whose}: {some(sorted(names))}")
    told.append("Evaluate on data with the run's classes, or train on these.")
    raise UserError("\n".join(told))


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a classifier says of one picture.

    Attributes:
        name: The picture's path as given.
        classes: (class name, probability), the likeliest first.
    """

    name: str
    classes: tuple[tuple[str, float], ...]


def predict_files(
    classifier: Classifier, paths: list[Path], top_k: int
) -> tuple[list[Prediction], list[str]]:
    """Classifies picture files.

    Args:
        classifier: As `load` gives it.
        paths: Picture files.
        top_k: How many classes to name.

    Returns:
        (a prediction for every readable picture, a line for every unreadable one).
    """
    predictions, unreadable = [], []
    for path in paths:
        try:
            picture = decode(path.read_bytes(), str(path))
        except (OSError, BadImage) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            unreadable.append(reason if isinstance(error, BadImage) else f"{path}: {reason}")
            continue
        logits = forward(
            classifier.variables,
            _as_input(picture, classifier.inputs)[None],
            model=classifier.model,
            prepare=classifier.inputs.device,
        )
        probabilities = np.asarray(jax.nn.softmax(logits[0]))
        order = np.argsort(-probabilities, kind="stable")[:top_k]
        classes = tuple((classifier.class_names[i], float(probabilities[i])) for i in order)
        predictions.append(Prediction(str(path), classes))
    return predictions, unreadable


def _as_input(picture: Any, inputs: InputPlan) -> np.ndarray:
    """A decoded picture as in training; uint8 [H, W, 3]."""
    host = inputs.host_for((picture.height, picture.width))
    return np.asarray(picture) if host is None else host(picture)
