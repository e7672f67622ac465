"""What a classifier says of images: in batches, in order, without those that cannot be read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import jax
import numpy as np

from jtl.common.text import counted, indented
from jtl.common.trees import ParamTree
from jtl.data.batches import in_threads
from jtl.data.image_file import BadImage
from jtl.data.input_plan import InputPlan
from jtl.data.multilabel import DIVIDER
from jtl.distributed.sharding import DataSharding, sharding_for
from jtl.models.inference import forward, forward_with_features
from jtl.predict.inputs import SEVERAL, Item
from jtl.predict.tta import averaged
from jtl.runs import multilabel
from jtl.runs.calibration import probabilities

if TYPE_CHECKING:
    from jtl.predict.classifier import Classifier

BATCH = 32
"""Images per dispatch."""
LISTED = 20
"""Unreadable images that are named in a message."""
TOP = 5
"""How many classes are named by default."""


@dataclasses.dataclass(frozen=True)
class Trust:
    """How far a classifier's answers go.

    Attributes:
        abstain: The probability of the likeliest class below which it is not sure; None for never.
        limit: The distance from the training images above which an image is unusual; None where
            distances are not known.
    """

    abstain: float | None = None
    limit: float | None = None

    def abstains(self, probability: float) -> bool | None:
        """Whether it is not sure, by the probability of the likeliest class; None without limit."""
        return None if self.abstain is None else probability < self.abstain

    def is_unusual(self, distance: float | None) -> bool | None:
        """Whether an image is unlike the training images; None where that is not known."""
        return None if self.limit is None or distance is None else distance > self.limit


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a classifier says of one image.

    Attributes:
        name: The image's path as given, or its place among the arrays given.
        classes: (class name, probability), the likeliest first.
        labels: The classes that the image has, of a classifier for several labels: those whose
            probability is above their threshold, in their order. None of other classifiers.
        abstains: Whether the likeliest class is less probable than `--abstain`; None without that.
        distance: How far the image is from the training images; see `jtl.runs.familiarity`. None
            of runs that have not stored these.
        unusual: Whether that is farther than 95 % of the validation images are.
    """

    name: str
    classes: tuple[tuple[str, float], ...]
    labels: tuple[str, ...] | None = None
    abstains: bool | None = None
    distance: float | None = None
    unusual: bool | None = None

    @property
    def label(self) -> str:
        """The likeliest class."""
        return self.classes[0][0]

    @property
    def probability(self) -> float:
        """The probability of the likeliest class, as the classifier estimates it."""
        return self.classes[0][1]


class Answer(NamedTuple):
    """What a classifier computes of one image.

    Attributes:
        name: As of a `Prediction`.
        logits: float32 [num_classes].
        distance: From the training images; None where these are not stored.
    """

    name: str
    logits: np.ndarray
    distance: float | None = None


@dataclasses.dataclass(frozen=True)
class Unreadable:
    """An image that nothing can be said of.

    Attributes:
        name: As of a `Prediction`.
        reason: Why it cannot be read.
    """

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def unreadable_lines(images: Sequence[Unreadable], count: int) -> str:
    """Which of `count` images could not be read, and why; the first `LISTED` of them."""
    first = f"{len(images)} of {counted(count, 'image')} could not be read:"
    return "\n".join([first, *indented(images, LISTED)])


class Predictions(Sequence[Prediction]):
    """What a classifier says of many images: a `Prediction` for each, and all as arrays.

    Attributes:
        class_names: Of the columns.
        names: Of the rows: the images that could be read, in the order given.
        logits: float32 [N, num_classes].
        unreadable: The images that could not be read.
        temperature: What logits are divided by before they become probabilities.
        thresholds: Of every class, where images may have several: the probability from which on an
            image is of the class. None where each has one.
        distances: How far each image is from the training images, float32 [N]; None where these are
            not stored.
        trust: What decides whether a prediction abstains, and whether an image is unusual.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        names: Sequence[str],
        logits: np.ndarray,
        unreadable: Sequence[Unreadable] = (),
        top_k: int = TOP,
        temperature: float = 1.0,
        thresholds: Sequence[float] | None = None,
        distances: np.ndarray | None = None,
        trust: Trust = Trust(),
    ):
        """Takes what was computed; single predictions name `top_k` classes."""
        self.distances, self.trust = distances, trust
        self.class_names, self.names = tuple(class_names), tuple(names)
        self.logits, self.unreadable = logits, tuple(unreadable)
        self._top_k, self.temperature = top_k, temperature
        self.thresholds = None if thresholds is None else tuple(thresholds)

    @property
    def probabilities(self) -> np.ndarray:
        """The probability of every class, float32 [N, num_classes]."""
        return probabilities(self.logits, self.temperature, several=self.thresholds is not None)

    @property
    def labels(self) -> list[Any]:
        """The likeliest class of every image; a tuple for each where they may have several."""
        if self.thresholds is not None:
            picked = multilabel.chosen(self.logits, self.thresholds)
            return [multilabel.names_of(row, self.class_names) for row in picked]
        return [self.class_names[i] for i in np.argmax(self.logits, -1)]

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> Prediction: ...
    @overload
    def __getitem__(self, index: slice) -> Predictions: ...
    def __getitem__(self, index: int | slice) -> Prediction | Predictions:
        if isinstance(index, slice):
            part = self.names[index], self.logits[index]
            same: dict[str, Any] = {"top_k": self._top_k, "temperature": self.temperature}
            same |= {"thresholds": self.thresholds, "trust": self.trust}
            same["distances"] = None if self.distances is None else self.distances[index]
            return Predictions(self.class_names, *part, **same)
        distance = None if self.distances is None else float(self.distances[index])
        answer = Answer(self.names[index], self.logits[index], distance)
        how = self._top_k, self.temperature, self.thresholds, self.trust
        return likeliest(answer, self.class_names, *how)

    def __repr__(self) -> str:
        lines = [f"  {p.name}: {_text(p)}" for p in self[:TOP]]
        more = [f"  ... and {len(self) - TOP} more"] if len(self) > TOP else []
        bad = f", {len(self.unreadable)} unreadable" if self.unreadable else ""
        return "\n".join([f"{counted(len(self), 'prediction')}{bad}", *lines, *more])


def _text(one: Prediction) -> str:
    if one.labels is not None:
        return DIVIDER.join(one.labels) or "none"
    return f"{one.label} ({one.probability:.1%})"


def likeliest(
    answer: Answer,
    class_names: Sequence[str],
    top_k: int,
    temperature: float = 1.0,
    thresholds: Sequence[float] | None = None,
    trust: Trust = Trust(),
) -> Prediction:
    """The `top_k` likeliest classes of one image.

    With thresholds, all that the image has, too; see `Predictions`.
    """
    logits = answer.logits
    shares = probabilities(logits, temperature, several=thresholds is not None)
    order = np.argsort(-logits, kind="stable")[:top_k]
    labels = None
    if thresholds is not None:
        labels = multilabel.names_of(multilabel.chosen(logits[None], thresholds)[0], class_names)
    classes = tuple((class_names[int(i)], float(shares[i])) for i in order)
    return Prediction(
        answer.name,
        classes,
        labels,
        trust.abstains(classes[0][1]),
        answer.distance,
        trust.is_unusual(answer.distance),
    )


def classify(
    classifier: Classifier,
    items: Sequence[Item],
    advance: Callable[[int], Any] = lambda n: None,
    several: set[str] | None = None,
) -> Iterator[Answer | Unreadable]:
    """Runs a classifier over images, the next batch decoded in the meantime.

    Args:
        classifier: As `jtl.load` gives it.
        items: The images.
        advance: Told how many more images are done.
        several: Gets the names of images that have frames or pages after the first.

    Yields:
        An answer for every image in order, or why there is none.
    """
    sharding = sharding_for(jax.device_count())
    variables = sharding.replicate(classifier.variables)
    size = sharding.batch_size(max(min(BATCH, len(items)), 1), max(len(items), 1))
    batches = [items[start : start + size] for start in range(0, len(items), size)]
    with ThreadPoolExecutor(1, thread_name_prefix="jtl-decode") as pool:
        waiting = pool.submit(decoded, batches[0], classifier.inputs, several) if batches else None
        for number, batch in enumerate(batches, 1):
            assert waiting is not None
            loaded = waiting.result()
            if number < len(batches):
                waiting = pool.submit(decoded, batches[number], classifier.inputs, several)
            found = _computed(classifier, variables, sharding, loaded, size)
            advance(len(batch))
            for row, item in enumerate(batch):
                failure = loaded[row]
                yield failure if isinstance(failure, Unreadable) else Answer(item.name, *found[row])


def decoded(
    batch: Sequence[Item], inputs: InputPlan, several: set[str] | None = None
) -> list[np.ndarray | Unreadable]:
    """The images as in training, uint8 [H, W, 3]; of one size but for small square ones."""

    def work(rows: range) -> list[np.ndarray | Unreadable]:
        return [as_input(batch[row], inputs, several) for row in rows]

    return [image for part in in_threads(work, len(batch)) for image in part]


def as_input(item: Item, inputs: InputPlan, several: set[str] | None) -> np.ndarray | Unreadable:
    """One image as in training, uint8 [H, W, 3], or why it cannot be read; see `decoded`."""
    try:
        shorter = None if inputs.host is None else inputs.host.shorter_side
        image = item.load(inputs.bit_depth, shorter)
        if several is not None and image.info.get(SEVERAL):
            several.add(item.name)
        host = inputs.host_for((image.height, image.width))
        return np.asarray(image) if host is None else host(image)
    except BadImage as error:
        return Unreadable(item.name, str(error).removeprefix(f"{item.name}: "))


def _computed(
    classifier: Classifier,
    variables: ParamTree,
    sharding: DataSharding,
    loaded: Sequence[np.ndarray | Unreadable],
    size: int,
) -> dict[int, tuple[np.ndarray, float | None]]:
    """Logits float32 [num_classes] and distances of the readable images, by place in the batch."""
    shapes: dict[tuple[int, ...], dict[int, np.ndarray]] = {}
    for row, image in enumerate(loaded):
        if not isinstance(image, Unreadable):
            shapes.setdefault(image.shape, {})[row] = image
    found = {}
    for rows in shapes.values():
        full = list(rows.values())
        # Filled up, so that one compiled program serves all batches of a shape.
        images = np.stack(full + full[-1:] * (size - len(full)))
        how: dict[str, Any] = {"model": classifier.model, "sharding": sharding}
        versions = classifier.versions or (classifier.inputs.device,)
        distances: Sequence[float | None] = [None] * size
        each = []
        for prepare in versions:
            if classifier.familiarity is not None and not each:  # Of the first version.
                logits, features = forward_with_features(variables, images, prepare=prepare, **how)
                distances = classifier.familiarity.scores(np.asarray(features)).tolist()
            else:
                logits = forward(variables, images, prepare=prepare, **how)
            each.append(np.asarray(logits))
        logits = each[0]
        if classifier.versions:
            several = classifier.thresholds is not None
            logits = averaged(each, classifier.version_temperature, several=several)
        found |= dict(zip(rows, zip(logits, distances, strict=True), strict=False))
    return found
