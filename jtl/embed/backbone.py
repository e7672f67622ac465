"""A network without its head: what it makes of images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jtl import models, weights
from jtl.common.progress import Display
from jtl.common.trees import ParamTree
from jtl.data.input_plan import InputPlan, plan_input
from jtl.distributed.sharding import SINGLE
from jtl.models import ImageClassifier
from jtl.models.inference import forward
from jtl.models.initialization import initialize
from jtl.predict.classifier import load
from jtl.predict.inputs import Item
from jtl.predict.predictions import BATCH, Unreadable, decoded
from jtl.train.setup import Setup


@dataclasses.dataclass(frozen=True, eq=False)
class Backbone:
    """A network up to its head.

    Attributes:
        model: The classifier, of which the head does not run.
        variables: {"params", "batch_stats"}.
        inputs: How images become its input.
    """

    model: ImageClassifier
    variables: ParamTree
    inputs: InputPlan

    @classmethod
    def of_setup(cls, setup: Setup) -> Backbone:
        """The one of a training, before it trains."""
        return cls(setup.model, setup.variables, setup.inputs)

    @classmethod
    def of_run(cls, run: Path) -> Backbone:
        """The one of a run's best model."""
        classifier = load(run)
        return cls(classifier.model, classifier.variables, classifier.inputs)

    @classmethod
    def pretrained(
        cls, name: str, source: str, image_size: int | None, display: Display
    ) -> Backbone:
        """A model with its weights.

        Raises:
            UserError: The weights are not to be had.
        """
        found = None
        if source != "random":
            found = weights.resolve(source, name, progress=display.message)
        conventions = {} if found is None else dict(found.conventions)
        model = models.create(name, num_classes=1, conventions=conventions)
        preprocessing = models.get(name).preprocessing if found is None else found.preprocessing
        inputs = plan_input(None, image_size, preprocessing)
        given = None if found is None else found.variables
        variables = initialize(model, given, size=inputs.device.size, seed=0)
        return cls(model, variables, inputs)

    def features(
        self, items: Sequence[Item], advance: Callable[[int], Any] = lambda n: None
    ) -> list[np.ndarray | Unreadable]:
        """What the head would get of every image, float32 [C], or why there is nothing.

        Args:
            items: The images.
            advance: Told how many more images are done.
        """
        variables = SINGLE.replicate(self.variables)
        found: list[np.ndarray | Unreadable] = []
        for start in range(0, len(items), BATCH):
            part = items[start : start + BATCH]
            images = decoded(part, self.inputs)
            found += self._of_batch(variables, images)
            advance(len(part))
        return found

    def _of_batch(
        self, variables: ParamTree, images: Sequence[np.ndarray | Unreadable]
    ) -> list[np.ndarray | Unreadable]:
        shapes: dict[tuple[int, ...], dict[int, np.ndarray]] = {}
        for row, image in enumerate(images):
            if not isinstance(image, Unreadable):
                shapes.setdefault(image.shape, {})[row] = image
        found = list(images)
        for rows in shapes.values():
            # Filled up to a power of two, so that few programs are compiled.
            count, each = 1 << (len(rows) - 1).bit_length(), list(rows.values())
            same = np.stack(each + each[-1:] * (count - len(each)))
            how: dict[str, Any] = {"model": self.model, "prepare": self.inputs.device}
            values = pooled(np.asarray(forward(variables, same, stop="head", **how)))
            for row, value in zip(rows, values, strict=False):
                found[row] = value
        return found


def pooled(values: np.ndarray) -> np.ndarray:
    """What comes before a head as one vector of each image: float32 [N, C].

    Args:
        values: [N, C], or [N, H, W, C] of heads that pool what they make of every pixel.
    """
    values = np.asarray(values, np.float32)
    return values if values.ndim == 2 else values.mean((1, 2))
