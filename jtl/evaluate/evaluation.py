"""A run's model, scored: how good it is on its own images or on others."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jtl.cache.features import FeatureCache
from jtl.cache.sizes import memory_budget
from jtl.common.errors import UserError
from jtl.common.progress import Display, PlainConsole
from jtl.common.text import counted, listed
from jtl.config.data import OnBadImage, with_scheme
from jtl.data import verification
from jtl.data.decoded_once import DecodedOnce
from jtl.data.multilabel import is_multilabel
from jtl.data.sources import registry
from jtl.data.splits import OpenedSource, Split, reordered
from jtl.distributed.sharding import sharding_for
from jtl.models.inference import score
from jtl.predict.classifier import Classifier
from jtl.predict.ensemble import Ensemble
from jtl.predict.tta import averaged
from jtl.runs import metrics, multilabel
from jtl.runs.calibration import calibration
from jtl.runs.console_text import SPLITS, accuracy_of
from jtl.runs.resume import stored_fingerprint

SplitName = Literal["val", "test"]
"""What a model can be scored on."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """A run's model, scored.

    Attributes:
        scores: {"data", "split", "whole" (whether all images of the source, which has no splits),
            "count", "epoch"}, and beginning with the split's name "accuracy",
            "loss", "macro_f1", "classes" (see `jtl.runs.metrics.by_class`) and "calibration" (see
            `jtl.runs.calibration`); of several labels what `jtl.runs.multilabel.scores` has.
        logits: float32 [N, num_classes].
        images: What was looked at, its labels by the run's classes.
        temperature: What logits are divided by before they become probabilities.
        thresholds: Of every class, where images may have several labels; else None.
    """

    scores: dict[str, Any]
    logits: np.ndarray
    images: Split
    temperature: float = 1.0
    thresholds: tuple[float, ...] | None = None

    def __repr__(self) -> str:
        scores, split = self.scores, self.scores["split"]
        if self.thresholds is not None:
            mean = scores[f"{split}_map"]
            told = "-" if mean is None else f"{mean:.3f}"  # None where no image has a class.
            return (
                f"evaluation on {scores['data']} ({SPLITS[split]} images)\n"
                f"mAP {told}, loss {scores[f'{split}_loss']:.3f}, "
                f"macro-F1 {scores[f'{split}_macro_f1']:.3f}"
            )
        accuracy = accuracy_of(scores[f"{split}_accuracy"], scores["count"])
        return (
            f"evaluation on {scores['data']} ({SPLITS[split]} images)\n"
            f"accuracy {accuracy}\n"
            f"loss {scores[f'{split}_loss']:.3f}, macro-F1 {scores[f'{split}_macro_f1']:.3f}"
        )


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
        _opened(member, data, silent if number else display, on_bad_image, split, options)
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
    opened = _opened(classifier, data, display, on_bad_image, split, options)
    return _scored(classifier, *opened, split, display)


def _opened(
    classifier: Classifier,
    data: str | None,
    display: Display,
    on_bad_image: OnBadImage | None,
    split: SplitName,
    options: registry.SourceOptions | None,
) -> tuple[registry.Dataset, Split]:
    """The data and the images of the split; see `evaluate_run`."""
    config = classifier.config.data
    own = with_scheme(config.data)
    spec = own if data is None else with_scheme(data)
    bad = on_bad_image or config.on_bad_image
    how = options or registry.options_for(spec, registry.SourceOptions.of(config))
    if spec != own and how.exclude == config.exclude:  # A list of the run's own images.
        how = dataclasses.replace(how, exclude=None)
    verify = verification.of(bad, display)

    def load(whole: bool, how: registry.SourceOptions = how) -> registry.Dataset:
        return registry.load(
            spec,
            how,
            seed=classifier.config.split_seed,
            test_fraction=config.test_split,
            fold=config.fold,
            # No image need be looked at to see that the classes are others.
            verify=lambda found: verify(_with_classes_of(classifier, found, spec)),
            whole=whole,
            bit_depth=classifier.inputs.bit_depth,
        )

    try:
        dataset = load(whole=spec != own)
    except UserError:
        # Groups say how images are divided, which others than the run's need not have.
        ungrouped = dataclasses.replace(how, group_column=None, group_from=None)
        if spec == own or ungrouped == how:
            raise
        dataset = load(True, ungrouped)
    if dataset.whole:
        dataset = _own_by_another_name(classifier, dataset, load, how)
    if spec != own:
        for line in dataset.describe().lines():
            display.message(line)
    for note in dataset.notes:
        display.message(f"note: {note}")
    if data is None and dataset.fingerprint != stored_fingerprint(classifier.folder):
        raise UserError(
            f"the images of '{spec}' have changed since the run in '{classifier.folder}' was "
            "trained: validation images of today may be training images of then. Bring them "
            f"back, or say that they are others with --data {spec}."
        )
    images = getattr(dataset, split)
    if images is None:
        raise UserError(f"'{spec}' has no {split} split. Evaluate on another one with --split.")
    if split == "val" and dataset.held_out and spec != own and dataset.test is not None:
        raise UserError(
            f"'{spec}' has no validation split, only train and test. Score its test images with "
            "--split test, or give the images to score as a source of their own."
        )
    return dataset, images


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
    return Evaluation(told, logits, images, classifier.temperature, classifier.thresholds)


def _own_by_another_name(
    classifier: Classifier,
    whole: registry.Dataset,
    load: Callable[..., registry.Dataset],
    how: registry.SourceOptions,
) -> registry.Dataset:
    """The run's own images, split as in training, if these are they; else all of them."""
    stored, exclude = stored_fingerprint(classifier.folder), classifier.config.data.exclude
    if whole.fingerprint == stored:
        return load(whole=False)
    if exclude is not None and how.exclude is None:
        with contextlib.suppress(UserError):  # Of others, there may be no such images.
            own = load(False, dataclasses.replace(how, exclude=exclude))
            return own if own.fingerprint == stored else whole
    return whole


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


def _with_classes_of(classifier: Classifier, found: OpenedSource, spec: str) -> OpenedSource:
    """The data labelled by the run's class names; they may have only some of them.

    Raises:
        UserError: They have a class that the run does not know.
    """
    if is_multilabel(found.splits["train"].labels) != (classifier.thresholds is not None):
        raise UserError(
            f"The run '{classifier.folder}' has "
            + ("one class" if classifier.thresholds is None else "several labels")
            + f" for each image, '{spec}' "
            + ("one class." if classifier.thresholds is not None else "several labels.")
            + " Evaluate on data of the run's kind."
        )
    run, data = classifier.class_names, found.class_names
    unknown = sorted(set(data) - set(run))
    missing = sorted(set(run) - set(data))
    if not unknown:
        found = reordered(found, run)
        if not missing:
            return found
        note = (
            f"'{spec}' has only {len(data)} of the run's {counted(len(run), 'class', 'classes')}, "
            f"which alone are scored; it lacks {listed(missing)}. An image for which the run "
            "predicts one of these counts as a mistake."
        )
        return dataclasses.replace(found, notes=(*found.notes, note))
    told = [
        f"'{spec}' has other classes than the run '{classifier.folder}'.",
        f"  the run: {listed(run)}",
        f"  the data: {listed(data)}",
    ]
    for whose, names in (("run", missing), ("data", unknown)):
        if names:
            told.append(f"  only the {whose}: {listed(names)}")
    told.append(
        f"The run cannot predict {listed(unknown)}. Evaluate on data with the run's classes or "
        "some of them, or train on these."
    )
    raise UserError("\n".join(told))
