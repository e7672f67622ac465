"""What every form of an export has in common."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import jax.numpy as jnp
import numpy as np
from PIL import Image

from jtl.common import optional
from jtl.data.square_fit import fill_of
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
    """

    logits: np.ndarray
    reference: str
    loading: str
    rounding: float


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
    """

    name: str
    suffix: str
    writer: str

    def load(self) -> ExportWriter:
        module, _, function = self.writer.partition(":")
        return getattr(importlib.import_module(module), function)


FORMATS = {
    "stablehlo": ExportFormat("model.stablehlo", ".stablehlo", "jtl.export.stablehlo:write"),
    "timm": ExportFormat("timm.safetensors", ".safetensors", "jtl.export.libraries:write_timm"),
    "torchvision": ExportFormat(
        "torchvision.safetensors", ".safetensors", "jtl.export.libraries:write_torchvision"
    ),
    "keras": ExportFormat("keras.weights.h5", ".weights.h5", "jtl.export.libraries:write_keras"),
    "onnx": ExportFormat("model.onnx", ".onnx", "jtl.export.onnx:write"),
    "savedmodel": ExportFormat("saved_model", "", "jtl.export.savedmodel:write"),
}
"""The forms by the word of `--to`."""


def require(name: str, to: str, extra: str) -> Any:
    """The module `name`, or an error that says how to get it."""
    return optional.require(name, f"exporting to {to}", f"jtl[{extra}]")


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
