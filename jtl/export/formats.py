"""What every form of an export has in common."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import jax.numpy as jnp
import numpy as np
from PIL import Image

from jtl.common import optional
from jtl.data.square_fit import fill_of
from jtl.export.how import AS_USUAL, How
from jtl.runs import familiarity, selective
from jtl.runs.environment import versions

if TYPE_CHECKING:
    from jtl.predict.classifier import Classifier


@dataclasses.dataclass(frozen=True)
class ExportedOutputs:
    """What a file gave that was written, when its library ran it.

    Attributes:
        logits: float32 [N, num_classes] of the images.
        reference: The library and its version.
        loading: Lines of Python that load the file and run it; `FILE` stands for its path.
        rounding: Largest difference of logits that rounding explains, relative to the largest.
        milliseconds: What an image by itself takes; None where that was not measured.
        scores: `accuracy_before` and `accuracy_after` on validation images, where the numbers of
            the network were made coarser.
    """

    logits: np.ndarray
    reference: str
    loading: str
    rounding: float
    milliseconds: float | None = None
    scores: Mapping[str, float] = dataclasses.field(default_factory=dict)


class ExportWriter(Protocol):
    """Writes a classifier in one form, and runs what it wrote."""

    def __call__(
        self, classifier: Classifier, path: Path, images: list[np.ndarray]
    ) -> ExportedOutputs:
        """Writes `path` and runs it on images, uint8 [H, W, 3] of several sizes.

        Raises:
            UserError: The form cannot hold the model, or a library is missing.
        """
        ...


@dataclasses.dataclass(frozen=True)
class ExportFormat:
    """A form of export.

    Attributes:
        name: Of its file or folder by default.
        suffix: What its file must end in; of a folder nothing.
        writer: "MODULE:FUNCTION" of its `ExportWriter`; imported when asked for.
        choices: Whether it takes a `How`.
    """

    name: str
    suffix: str
    writer: str
    choices: bool = False

    def load(self, how: How = AS_USUAL) -> ExportWriter:
        """What writes it; if it has choices, with these."""
        module, _, function = self.writer.partition(":")
        found = getattr(importlib.import_module(module), function)
        return functools.partial(found, how=how) if self.choices else found


FORMATS = {
    "stablehlo": ExportFormat("model.stablehlo", ".stablehlo", "jtl.export.stablehlo:write"),
    "timm": ExportFormat("timm.safetensors", ".safetensors", "jtl.export.libraries:write_timm"),
    "torchvision": ExportFormat(
        "torchvision.safetensors", ".safetensors", "jtl.export.libraries:write_torchvision"
    ),
    "keras": ExportFormat("keras.weights.h5", ".weights.h5", "jtl.export.libraries:write_keras"),
    "onnx": ExportFormat("model.onnx", ".onnx", "jtl.export.onnx:write", choices=True),
    "tflite": ExportFormat("model.tflite", ".tflite", "jtl.export.tflite:write", choices=True),
    "savedmodel": ExportFormat("saved_model", "", "jtl.export.savedmodel:write"),
}
"""The forms by the word of `--to`."""


def require(name: str, to: str, extra: str) -> Any:
    """The module `name`, or an error that says how to get it."""
    return optional.require(name, f"exporting to {to}", f"jtl[{extra}]")


def timed(run: Callable[[], Any]) -> float:
    """Milliseconds of a call: the median of several, after one that does not count."""
    run()
    seconds = []
    while len(seconds) < 3 or (sum(seconds) < 0.3 and len(seconds) < 50):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return 1000 * float(np.median(seconds))


def fitted(classifier: Classifier, images: list[np.ndarray]) -> np.ndarray:
    """Images resized and cropped as by `jtl.predict`: float32 [N, size, size, 3], 0 to 255."""
    inputs = classifier.inputs
    hosts = [inputs.host_for((p.shape[0], p.shape[1])) for p in images]
    rows = [
        p if host is None else host(Image.fromarray(p))
        for p, host in zip(images, hosts, strict=True)
    ]
    resized = [inputs.device.resize(jnp.asarray(row[None])) for row in rows]
    return np.concatenate([np.asarray(x) for x in resized])


def _multilabel_facts(classifier: Classifier) -> dict[str, Any]:
    """How logits become labels where images may have several."""
    if classifier.thresholds is None:
        return {}
    return {
        "task": "multilabel",
        "activation": "sigmoid",
        "thresholds": list(classifier.thresholds),
    }


def _fit_of(classifier: Classifier) -> dict[str, Any]:
    """How images become squares, where that is not by a crop."""
    if classifier.inputs.fit == "crop":
        return {}
    mean = classifier.inputs.device.preprocessing.mean
    fill = {"fill": list(fill_of(mean))} if classifier.inputs.fit == "pad" else {}
    return {"fit": classifier.inputs.fit, **fill}


def _trust_facts(classifier: Classifier) -> dict[str, Any]:
    """From which probability on answers can be trusted, and how far images may be from training."""
    found: dict[str, Any] = {}
    steps = selective.load(classifier.folder, classifier.epoch)
    if steps is not None and classifier.thresholds is None:
        each = {f"error:{error:g}": steps.for_error(error) for error in selective.TARGETS}
        found["abstain"] = {name: came for name, came in each.items() if came is not None}
    if classifier.familiarity is not None:
        found["out_of_distribution"] = {
            "score": f"distance of the pooled features, at length 1, to those of the "
            f"{familiarity.NEAREST}th nearest training image",
            "features": f"{familiarity.FILE} in the run's folder",
            "usual": classifier.familiarity.limit,
        }
    return found


def facts(classifier: Classifier) -> dict[str, Any]:
    """What a user of an export must know, for JSON."""
    stored = classifier.meta["input"]
    return {
        "class_names": list(classifier.class_names),
        "model": classifier.meta["model"],
        "weights": classifier.meta["weights"],
        "image_size": stored["size"],
        "preprocessing": stored["preprocessing"],
        **_fit_of(classifier),
        "epoch": classifier.epoch,
        "temperature": classifier.temperature,
        **_multilabel_facts(classifier),
        **_trust_facts(classifier),
        "versions": versions(),
    }
