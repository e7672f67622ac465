"""A run's model, scored: how good it is on its own images or on others."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jtl.cache.features import FeatureCache
from jtl.cache.sizes import memory_budget
from jtl.common.errors import UserError
from jtl.common.progress import Display, PlainConsole
from jtl.config.data import OnBadImage
from jtl.data.decoded_once import DecodedOnce
from jtl.data.sources import registry
from jtl.data.splits import Split
from jtl.distributed.sharding import sharding_for
from jtl.evaluate.images import SplitName, opened_for
from jtl.models.inference import score
from jtl.predict.classifier import Classifier
from jtl.predict.ensemble import Ensemble
from jtl.predict.tta import averaged
from jtl.runs import metrics, multilabel
from jtl.runs.calibration import calibration
from jtl.runs.evaluation import Evaluation


def evaluate_ensemble(
    ensemble: Ensemble,
    data: str | None,
    display: Display,
    on_bad_image: OnBadImage | None = None,
    split: SplitName = "val",
    options: registry.SourceOptions | None = None,
) -> Evaluation:
    """Scores the average of several models' probabilities; see `evaluate_run`.

    Returns:
        The `epoch` of its scores is None, and `members` tells how many there are.
    """
    silent = Display(PlainConsole(quiet=True))
    members = ensemble.members
    opened = [
        opened_for(member, data, silent if number else display, on_bad_image, split, options)
        for number, member in enumerate(members)
    ]
    labels = opened[0][1].labels
    if any(not np.array_equal(images.labels, labels) for _, images in opened):
        raise UserError(
            f"the members of the ensemble in '{ensemble.folder}' were trained with other splits of "
            "the images. Score the winner alone with --single."
        )
    shared = _shared(members, opened)
    found = [
        _scored(member, dataset, shared or images, split, silent if number else display)
        for number, (member, (dataset, images)) in enumerate(zip(members, opened, strict=True))
    ]
    first, logits = found[0], ensemble.mixed([each.logits for each in found])
    told = first.scores | {
        "epoch": None,
        "members": len(found),
        f"{split}_accuracy": metrics.measure("accuracy", logits, labels),
        f"{split}_loss": -metrics.measure("loss", logits, labels),
        **_of_one_class(split, logits, labels, ensemble.class_names, 1.0),
    }
    return Evaluation(told, logits, opened[0][1])


def _shared(
    members: Sequence[Classifier], opened: Sequence[tuple[registry.Dataset, Split]]
) -> Split | None:
    """The images, to be decoded once for all members that prepare them alike.

    None where the members' images are not the same, by the data they are of and their names.
    """
    (first, images), *others = opened
    for dataset, other in others:
        if dataset.fingerprint != first.fingerprint or other.names != images.names:
            return None
    if len({member.inputs.bit_depth for member in members}) > 1:
        return None
    native = images.native_size()
    transforms = [member.inputs.host_for(native) for member in members]
    return DecodedOnce(images, transforms, memory_budget(None) // 2)


def evaluate_run(
    classifier: Classifier,
    data: str | None,
    display: Display,
    on_bad_image: OnBadImage | None = None,
    split: SplitName = "val",
    options: registry.SourceOptions | None = None,
) -> Evaluation:
    """Scores a run's model, by the same programs as in training.

    Args:
        classifier: As `load` gives it.
        data: A data source; default the run's own, split as in training. Its classes may come
            in another order. Of others without splits all images are scored.
        display: Where progress goes.
        on_bad_image: What is done about unreadable images; default as in the run.
        split: Which images of the source.
        options: How the source is read; default as in the run.

    Raises:
        UserError: The data have other classes than the run was trained on, do not have the split,
            or are the run's own and have changed since.
    """
    opened = opened_for(classifier, data, display, on_bad_image, split, options)
    return _scored(classifier, *opened, split, display)


def _scored(
    classifier: Classifier,
    dataset: registry.Dataset,
    images: Split,
    split: SplitName,
    display: Display,
) -> Evaluation:
    """What a run's model says of images that were opened for it."""
    sharding = sharding_for(jax.device_count())
    cache = FeatureCache(
        dataset,
        classifier.model,
        classifier.inputs,
        name=classifier.config.model.model,
        stored=classifier.config.data.cache_dtype,
        sharding=sharding,
        display=display,
    )
    variables = jax.device_get(classifier.variables)
    if classifier.versions:
        inputs = cache.read(None, variables, {split: images})
        each = [dataclasses.replace(inputs, prepare=version) for version in classifier.versions]
        logits = averaged(
            [one.evaluate(split, sharding.replicate(classifier.variables))[1] for one in each],
            classifier.version_temperature,
            several=classifier.thresholds is not None,
        )
        scores = score(jnp.asarray(logits), jnp.asarray(images.labels)).means()
    else:
        inputs = cache.read(classifier.meta["start"], variables, {split: images})
        scores, logits = inputs.evaluate(split, sharding.replicate(classifier.variables))
    told = {
        "data": dataset.spec,
        "split": split,
        "whole": dataset.whole and split == "val",
        "count": len(images),
        "epoch": classifier.epoch,
        f"{split}_accuracy": scores["accuracy"],
        f"{split}_loss": scores["loss"],
        **_measured(classifier, split, logits, images.labels),
    }
    how = classifier.temperature, classifier.thresholds
    return Evaluation(told, logits, images, *how, dataset)


def _measured(
    classifier: Classifier, split: SplitName, logits: np.ndarray, labels: np.ndarray
) -> dict[str, Any]:
    """The scores of a split beside its loss."""
    names = classifier.class_names
    if classifier.thresholds is not None:
        return multilabel.scores(split, logits, labels, names, classifier.thresholds)
    return _of_one_class(split, logits, labels, names, classifier.temperature)


def _of_one_class(
    split: SplitName,
    logits: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    temperature: float,
) -> dict[str, Any]:
    classes = metrics.by_class(logits.argmax(-1), labels, names)
    return {
        f"{split}_macro_f1": metrics.macro_f1(classes),
        f"{split}_classes": classes,
        f"{split}_calibration": calibration(logits, labels, temperature),
    }
