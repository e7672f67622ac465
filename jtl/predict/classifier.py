"""The best model of a run, to predict with."""

from __future__ import annotations

import dataclasses
import functools
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jtl.common import garbage_collection, html
from jtl.common.errors import UserError
from jtl.common.paths import as_path
from jtl.common.text import counted, listed
from jtl.common.trees import ParamTree
from jtl.config import checks
from jtl.config.options import Config
from jtl.data import frames
from jtl.data.input_plan import InputPlan
from jtl.distributed.sharding import SINGLE
from jtl.models import ImageClassifier
from jtl.predict import published
from jtl.predict import tta as tta_module
from jtl.predict.inputs import Images, items
from jtl.predict.predictions import (
    TOP,
    Answer,
    Predictions,
    Trust,
    Unreadable,
    classify,
    unreadable_lines,
)
from jtl.runs import familiarity, selective
from jtl.runs.checkpoints import reading
from jtl.runs.checkpoints.model_description import rebuild_model
from jtl.runs.familiarity import Familiarity
from jtl.runs.files import (
    class_titles,
    fitted_temperature,
    fitted_thresholds,
    run_of,
)
from jtl.runs.metrics_log import fitted_penalty
from jtl.runs.resume import stored_config
from jtl.runs.run import Run

_SHOWN_CLASSES = 50
"""Rows of a table in a notebook."""


@dataclasses.dataclass(frozen=True, repr=False)
class Classifier:
    """The best model of a run, ready to use.

    Attributes:
        folder: The run's folder.
        config: The run's options.
        model: The classifier.
        variables: {"params", "batch_stats"} on the device.
        inputs: How images become the network's input.
        class_names: Of the logits, in order.
        epoch: The epoch it is from.
        meta: The checkpoint's description.
        temperature: What logits are divided by before they become probabilities (see
            `--calibrate`); 1 while the run is still training.
        thresholds: Of a classifier for several labels, the probability from which on an image is of
            each class; None of others.
        versions: The versions of each image whose probabilities are averaged (see `with_tta`).
        version_temperature: What logits of each version are divided by; `temperature` is 1 then.
        familiarity: The training images' features, in which new images look for their like; None
            of runs that have none.
    """

    folder: Path
    config: Config
    model: ImageClassifier
    variables: ParamTree
    inputs: InputPlan
    class_names: tuple[str, ...]
    epoch: int
    meta: dict[str, Any]
    temperature: float = 1.0
    thresholds: tuple[float, ...] | None = None
    versions: tuple[tta_module.Version, ...] = ()
    version_temperature: float = 1.0
    familiarity: Familiarity | None = None

    @property
    def class_titles(self) -> dict[str, str]:
        """What classes are called that have numbers for names, such as n01440764: tench."""
        return class_titles(self.folder)

    def __repr__(self) -> str:
        names = listed(self.class_names, 5)
        penalty = fitted_penalty(self.folder)
        fitted = f"epoch {self.epoch}" if penalty is None else f"L-BFGS, L2 penalty {penalty:g}"
        return (
            f"jtl classifier '{self.folder}' ({fitted}): {self.config.model.model}, "
            f"{self.inputs.device.size} pixels\n"
            f"{counted(len(self.class_names), 'class', 'classes')}: {names}\n"
            "predict(images) takes paths, folders, archives, uint8 arrays and Pillow images"
        )

    def _repr_html_(self) -> str:
        rows = [(str(index), name) for index, name in enumerate(self.class_names[:_SHOWN_CLASSES])]
        return f"<p>{html.lines(repr(self))}</p>{html.table(('index', 'class'), rows)}"

    def with_tta(self, tta: str | None) -> Classifier:
        """The same classifier, which averages the probabilities of several versions of each image.

        Args:
            tta: As in `--tta` of `jtl predict`: "flip", "crops" or "flip,crops"; None for the image
                as it is alone.

        Returns:
            One whose logits are those of the average: they need no temperature any more.

        Raises:
            UserError: There is no such way, or the classifier takes images whole and has no crops.
        """
        kinds = tta_module.kinds(tta)
        if not kinds:
            return self
        inputs, versions = tta_module.versions(self.inputs, kinds)
        return dataclasses.replace(
            self,
            inputs=inputs,
            temperature=1.0,
            versions=versions,
            version_temperature=self.temperature,
        )

    def trust(self, abstain: float | str | None = None, flag: str = "abstain") -> tuple[Trust, str]:
        """How far its answers go.

        Args:
            abstain: The probability of the likeliest class below which it is not sure; or
                `error:0.05` for the smallest one that keeps the share of wrong answers on the
                validation images below that. None for never.
            flag: What asks, for messages.

        Returns:
            (that, what the probability comes to on the validation images, in words).

        Raises:
            UserError: The error cannot be had or was not measured, or images may have several
                classes.
        """
        limit = None if self.familiarity is None else self.familiarity.limit
        if abstain is None:
            return Trust(limit=limit), ""
        if self.thresholds is not None:
            raise UserError(
                f"{flag} is for models with one class per image. This one has a threshold for each "
                "class already, and may name none."
            )
        steps = None if self.versions else selective.load(self.folder, self.epoch)
        if self.versions and checks.abstention(flag, str(abstain))[0] == "error":
            raise UserError(
                f"{flag} {abstain} is measured on images as they are, not on several versions of "
                "each. Give a probability, or leave test-time augmentation out."
            )
        threshold, told = selective.resolved(flag, abstain, steps, self.folder)
        return Trust(threshold, limit), told

    def predict(
        self,
        images: Images,
        *,
        top_k: int = TOP,
        tta: str | None = None,
        abstain: float | str | None = None,
    ) -> Predictions:
        """Classifies images, as `jtl predict` does.

        Args:
            images: An image or many: a path of an image, a folder, a zip or a tar; uint8
                pixels [H, W], [H, W, C] or [N, H, W, C] (C = 3 is RGB); a Pillow image;
                or a list of these. They are resized and cropped as for validation.
            top_k: How many classes single predictions name.
            tta: As of `with_tta`; `logits` are then those of the average probabilities.
            abstain: As of `trust`.

        Returns:
            A sequence of `Prediction`, with `labels`, `probabilities` and `logits` of all;
            images that cannot be read are in its `unreadable`, not among these, and a warning
            says so, as of images with several frames or pages.

        Raises:
            UserError: None of the images can be read, something is no image at all, or a folder
                holds none; or as of `trust`.
        """
        classifier = self.with_tta(tta)
        trust, _ = classifier.trust(abstain)
        return predicted(
            self.class_names,
            functools.partial(classify, classifier),
            images,
            top_k,
            classifier.temperature,
            classifier.thresholds,
            trust,
        )


def predicted(
    class_names: Sequence[str],
    classify: Callable[..., Iterator[Answer | Unreadable]],
    images: Images,
    top_k: int,
    temperature: float = 1.0,
    thresholds: Sequence[float] | None = None,
    trust: Trust = Trust(),
) -> Predictions:
    """What a classifier or several say of images; see `Classifier.predict`."""
    if not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 1:
        raise UserError(f"top_k must be a whole number of at least 1, not {top_k!r}.")
    names, rows, distances, unreadable = [], [], [], []
    several: set[str] = set()
    for answer in classify(items(images), several=several):
        if isinstance(answer, Unreadable):
            unreadable.append(answer)
        else:
            names.append(answer.name)
            rows.append(answer.logits)
            distances.append(answer.distance)
    if unreadable:
        told = unreadable_lines(unreadable, len(names) + len(unreadable))
        if not names:
            raise UserError(told)
        warnings.warn(f"{told}\nThey have no prediction; see `.unreadable`.", stacklevel=3)
    if several:
        warnings.warn(frames.told(sorted(several)), stacklevel=3)
    logits = np.stack(rows) if rows else np.zeros((0, len(class_names)), np.float32)
    known = None if None in distances else np.array(distances, np.float32)
    how = temperature, thresholds, known, trust
    return Predictions(class_names, names, logits, unreadable, top_k, *how)


def load(run: str | os.PathLike[str] | Run | Classifier) -> Classifier:
    """Reads a run's best checkpoint; the run may be training meanwhile, which goes on undisturbed.

    Args:
        run: The run's folder, or what `jtl.fit` gave; of a search's folder, its winner is read. Or
            what `jtl publish` wrote: a folder, or `hf:USER/NAME` (`hf:USER/NAME@REVISION`) on the
            Hugging Face hub.

    Raises:
        UserError: This is no path; the folder is no run or has no finished checkpoint yet; or its
            checkpoint or `config.json` is damaged, or of another version of jtl; or the hub has no
            such classifier, or cannot be reached.
    """
    folder = run.folder if isinstance(run, (Run, Classifier)) else as_path(run, "run")
    if str(folder).startswith(published.PREFIX):
        folder = published.fetch(str(folder))
    if published.is_published(folder):
        found: Any = published.read(folder)
        config = found.config
    else:
        folder = run_of(folder)
        found = reading.restore(folder)
        config = stored_config(folder)
    try:
        model, inputs = rebuild_model(found.meta)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"the checkpoint of epoch {found.epoch} in '{folder}' is of another version of jtl "
            f"({type(error).__name__}: {error})."
        ) from error
    garbage_collection.resume()
    return Classifier(
        folder=folder,
        config=config,
        model=model,
        variables=SINGLE.replicate(found.variables),
        inputs=inputs,
        class_names=tuple(found.meta["class_names"]),
        epoch=found.epoch,
        meta=found.meta,
        temperature=fitted_temperature(folder, found.epoch),
        thresholds=fitted_thresholds(folder, found.epoch, len(found.meta["class_names"]))
        if found.meta.get("task") == "multilabel"
        else None,
        familiarity=familiarity.load(folder, found.epoch),
    )
