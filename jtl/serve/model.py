"""A run's best model as a server uses it: inputs, batches of fixed sizes, answers."""

from __future__ import annotations

import functools
import io
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from jtl.data.input_plan import InputPlan
from jtl.data.preprocessing import Prepare
from jtl.distributed.sharding import sharding_for
from jtl.models.inference import forward, forward_with_features
from jtl.predict.classifier import Classifier
from jtl.predict.ensemble import Ensemble
from jtl.predict.explain import grad_cam
from jtl.predict.inputs import Item
from jtl.predict.predictions import (
    Answer,
    Prediction,
    Unreadable,
    as_input,
    likeliest,
    probabilities,
)
from jtl.runs import multilabel

Inputs = tuple[np.ndarray, ...]
"""An image as the model takes it: [H, W, 3], one array for each distinct input plan."""

_SHOWN = 384
"""Pixels of an explanation's sides, or a few more."""
_COLOURED = 0.65
"""The share of the colour where most spoke for the class."""


class Computed(NamedTuple):
    """What the networks give for an image.

    Attributes:
        logits: float32 [num_classes].
        distance: From the training images; None where these are not stored.
    """

    logits: np.ndarray
    distance: float | None


class ServedModel:
    """A classifier, or an ensemble, whose programs are compiled for batches of fixed sizes.

    Attributes:
        name: What it is called.
        class_names: Of the logits, in order.
        sizes: Of batches: the powers of two up to the largest one, times the devices.
        trust: How far its answers go.
        comes_to: What `--abstain` comes to on the validation images, in words.
        first: The classifier, or the first member of the ensemble.
    """

    def __init__(
        self,
        classifier: Classifier | Ensemble,
        name: str,
        max_batch: int = 32,
        abstain: float | str | None = None,
    ):
        """Takes what `jtl.predict.ensemble.load_all` gives.

        Raises:
            UserError: It is to abstain, and cannot; see `Classifier.trust`.
        """
        self._ensemble = classifier if isinstance(classifier, Ensemble) else None
        self._members = classifier.members if isinstance(classifier, Ensemble) else (classifier,)
        self.first, self.name = self._members[0], name
        self.trust, self.comes_to = classifier.trust(abstain, "--abstain")
        self.class_names = classifier.class_names
        self._sharding = sharding_for(jax.device_count())
        count = self._sharding.count
        self.sizes = tuple(count * 2**power for power in range(max_batch.bit_length()))
        self._variables = [self._sharding.replicate(each.variables) for each in self._members]
        self._plans: tuple[InputPlan, ...] = tuple({each.inputs: None for each in self._members})
        self._explaining = threading.Lock()

    @property
    def thresholds(self) -> tuple[float, ...] | None:
        """Where images may have several classes, the probability from which on each one is."""
        return self.first.thresholds if self._ensemble is None else None

    @property
    def explains(self) -> bool:
        """Whether it can show which regions led to a prediction; an ensemble cannot."""
        return self._ensemble is None

    @property
    def about(self) -> dict[str, Any]:
        """What people want to know about it, as JSON."""
        config = self.first.config
        return {
            "name": self.name,
            "classes": list(self.class_names),
            "task": "multiclass" if self.thresholds is None else "multilabel",
            "thresholds": None if self.thresholds is None else list(self.thresholds),
            "abstain": self.trust.abstain,
            "usual_distance": self.trust.limit,
            "explains": self.explains,
            "backbone": config.model.model if self._ensemble is None else "ensemble",
            "members": len(self._members),
            "image_size": self._plans[0].device.size,
        }

    def programs(self) -> list[tuple[str, Callable[[], Any]]]:
        """What is to be compiled before the first request: its name, and what compiles it."""
        zeros = tuple(self._blank(plan) for plan in self._plans)
        found: list[tuple[str, Callable[[], Any]]] = [
            (f"batch size {size}", functools.partial(self.logits, [zeros] * size))
            for size in self.sizes
        ]
        if self.explains:
            found.append(("Grad-CAM", functools.partial(self.explanation, zeros)))
        return found

    def inputs(self, item: Item, several: set[str] | None = None) -> Inputs | Unreadable:
        """An image as the model takes it, or why it cannot be read; for threads.

        Args:
            item: The image, decoded here.
            several: Gets its name if it has frames or pages after the first.
        """
        found = []
        for plan in self._plans:
            image = as_input(item, plan, several)
            if isinstance(image, Unreadable):
                return image
            found.append(_enlarged(image, plan))
        return tuple(found)

    def logits(self, batch: Sequence[Inputs]) -> np.ndarray:
        """Logits float32 [N, num_classes]; as of `computed`."""
        return np.stack([each.logits for each in self.computed(batch)])

    def computed(self, batch: Sequence[Inputs]) -> list[Computed]:
        """What the networks give; logits of an ensemble are those of `Ensemble.mixed`.

        Args:
            batch: No more images than the largest of `sizes`.
        """
        size = next(size for size in self.sizes if size >= len(batch))
        rows = [*batch, *[batch[-1]] * (size - len(batch))]
        stacks = {plan: np.stack([row[i] for row in rows]) for i, plan in enumerate(self._plans)}
        distances: Sequence[float | None] = [None] * len(batch)
        found = []
        for member, variables in zip(self._members, self._variables, strict=True):
            how: dict[str, Any] = dict(
                model=member.model, prepare=member.inputs.device, sharding=self._sharding
            )
            images: Any = stacks[member.inputs]
            if self.trust.limit is not None and member.familiarity is not None:
                logits, features = forward_with_features(variables, images, **how)
                distances = member.familiarity.scores(np.asarray(features)[: len(batch)]).tolist()
            else:
                logits = forward(variables, images, **how)
            found.append(np.asarray(logits)[: len(batch)])
        logits = found[0] if self._ensemble is None else self._ensemble.mixed(found)
        return [Computed(*each) for each in zip(logits, distances, strict=True)]

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """The probability of every class, float32 [..., num_classes]."""
        temperature, thresholds = self._how
        return probabilities(logits, temperature, several=thresholds is not None)

    def chosen(self, logits: np.ndarray) -> list[tuple[str, ...]]:
        """The classes of each image [N, num_classes], where it may have several."""
        assert self.thresholds is not None
        picked = multilabel.chosen(logits, self.thresholds)
        return [multilabel.names_of(row, self.class_names) for row in picked]

    def prediction(self, name: str, computed: Computed, top_k: int) -> Prediction:
        """What it says of one image."""
        answer = Answer(name, computed.logits, computed.distance)
        return likeliest(answer, self.class_names, top_k, *self._how, self.trust)

    @property
    def _how(self) -> tuple[float, tuple[float, ...] | None]:
        """Temperature and thresholds; the probabilities of an ensemble are scaled already."""
        return (1.0, None) if self._ensemble else (self.first.temperature, self.first.thresholds)

    def explanation(self, inputs: Inputs) -> bytes:
        """A PNG: the image as the network sees it, under the regions that led to its prediction."""
        from matplotlib import colormaps

        device = self.first.inputs.device
        with self._explaining:  # One at a time is enough, and needs the memory of one.
            maps, _ = grad_cam(
                self.first.variables,
                jnp.asarray(inputs[0][None]),
                model=self.first.model,
                prepare=device,
            )
            seen = np.asarray(device.resize(inputs[0][None])[0])
        side = seen.shape[0] * max(1, round(_SHOWN / seen.shape[0]))
        shown = Image.fromarray(seen.round().astype(np.uint8)).resize((side, side))
        heat = Image.fromarray((np.asarray(maps[0]) * 255).round().astype(np.uint8))
        strength = np.asarray(heat.resize((side, side), Image.Resampling.BILINEAR)) / 255.0
        # Grey where nothing spoke for the class, the more coloured the more did.
        colours = np.asarray(colormaps["viridis"](0.35 + 0.65 * strength))[..., :3] * 255
        grey = np.asarray(shown.convert("L").convert("RGB"), np.float64)
        both = grey + _COLOURED * strength[..., None] * (colours - grey)
        file = io.BytesIO()
        Image.fromarray(both.round().astype(np.uint8)).save(file, "PNG")
        return file.getvalue()

    def _blank(self, plan: InputPlan) -> np.ndarray:
        size = plan.device.size
        return _enlarged(np.zeros((size, size, 3), np.uint8), plan)


def _enlarged(image: np.ndarray, plan: InputPlan) -> np.ndarray:
    """An image in the one shape that the programs of a plan are compiled for.

    Small images go to the device as they are in a run on small ones. Each of their sizes would be
    another program of the whole network, which anybody could make a server compile; so they are
    enlarged beforehand, by the same function, and stay float32.
    """
    if plan.host is not None:
        return image
    return np.asarray(_resize(image[None], prepare=plan.device)[0])


@functools.partial(jax.jit, static_argnames="prepare")
def _resize(images: jax.Array, *, prepare: Prepare) -> jax.Array:
    return prepare.resize(images)
