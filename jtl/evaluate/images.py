"""The images that a run's model is scored on, labelled by the run's classes."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Literal

from jtl.common.errors import UserError
from jtl.common.progress import Display
from jtl.common.text import counted, listed
from jtl.config.data import OnBadImage, with_scheme
from jtl.data import verification
from jtl.data.multilabel import is_multilabel
from jtl.data.sources import registry
from jtl.data.splits import OpenedSource, Split, reordered
from jtl.predict import published
from jtl.predict.classifier import Classifier
from jtl.runs.resume import stored_fingerprint

SplitName = Literal["val", "test"]
"""What a model can be scored on."""


def opened_for(
    classifier: Classifier,
    data: str | None,
    display: Display,
    on_bad_image: OnBadImage | None,
    split: SplitName,
    options: registry.SourceOptions | None,
) -> tuple[registry.Dataset, Split]:
    """The data and the images of the split that a run's model is scored on.

    Args:
        classifier: As `load` gives it.
        data: A data source; default the run's own.
        display: Where progress goes.
        on_bad_image: What is done about unreadable images; default as in the run.
        split: Which images of the source.
        options: How the source is read; default as in the run.

    Raises:
        UserError: As of `jtl.evaluate.evaluation.evaluate_run`.
    """
    config = classifier.config.data
    if data is None and config.data.startswith(published.UNPUBLISHED):
        raise UserError(
            f"the model in '{classifier.folder}' was published without its images. Give images to "
            "score it on with --data."
        )
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
