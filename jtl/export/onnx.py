"""ONNX: straight from what JAX computes, or by PyTorch's exporter where that has no node for it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jtl.common.errors import UserError
from jtl.export import calibration, onnx_graph, onnx_precision, onnx_resizing
from jtl.export.formats import ExportedOutputs, facts, require, timed
from jtl.export.how import AS_USUAL, How
from jtl.export.pixels import for_everywhere, inputs, logits_of_pixels

if TYPE_CHECKING:
    from jtl.predict.classifier import Classifier

LOADING = """\
import onnxruntime
session = onnxruntime.InferenceSession("FILE")
(logits,) = session.run(None, {"images": images})  # INPUT, any N"""
_ROUNDING = {"float32": 1e-4, "float16": 2e-2, "int8": 0.5}
"""What each number format costs; of int8 the accuracy says more."""


def write(
    classifier: Classifier, path: Path, samples: list[np.ndarray], how: How = AS_USUAL
) -> ExportedOutputs:
    """See `jtl.export.formats.ExportWriter`.

    It takes images that are resized and cropped, unless `how` has it do that.
    """
    onnx = require("onnx", "onnx", "onnx")
    runtime = require("onnxruntime", "onnx", "onnx")
    resizes = how.preprocessing == "resize"
    if resizes:
        onnx_resizing.refuse(classifier.inputs)
        how = dataclasses.replace(how, preprocessing="normalize")
    model = _converted(onnx, classifier, how)
    scores: dict[str, float] = {}
    if how.precision == "float16":
        model = onnx_precision.float16(model)
    elif how.precision == "int8":
        given, before = calibration.images_of(classifier, how), _runner(runtime, model)
        model = onnx_precision.int8(model, given.train, path.parent)
        scores = calibration.scores(given, before, _runner(runtime, model))
    if resizes:
        onnx_resizing.prepend(onnx, model, classifier.inputs)
        how = dataclasses.replace(how, preprocessing="resize")
    _describe(model, classifier, how)
    onnx.save(model, path)
    session = runtime.InferenceSession(path)
    batches = [each[None] for each in samples] if resizes else [inputs(classifier, samples, how)]
    logits = np.concatenate([session.run(None, {"images": each})[0] for each in batches])
    size, float_input = str(classifier.inputs.device.size), how.preprocessing == "none"
    sides = "height, width" if resizes else f"{size}, {size}"
    given_as = f"{'normalized float32' if float_input else 'uint8 RGB'} [N, {sides}, 3]"
    # Small images are enlarged by the device, and here rounded to whole values after it.
    inexact = resizes or (classifier.inputs.host is None and not float_input)
    return ExportedOutputs(
        logits,
        f"onnxruntime {runtime.__version__}",
        LOADING.replace("INPUT", given_as),
        rounding=max(_ROUNDING[how.precision], 1e-2 if inexact else 0.0),
        milliseconds=timed(lambda: session.run(None, {"images": batches[0][:1]})),
        scores=scores,
    )


def _runner(runtime: Any, model: Any) -> Callable[[np.ndarray], np.ndarray]:
    """From images to logits."""
    session = runtime.InferenceSession(model.SerializeToString())
    return lambda images: session.run(None, {"images": images})[0]


def _converted(onnx: Any, classifier: Classifier, how: How) -> Any:
    """The ONNX model, in float32.

    Raises:
        UserError: It cannot be written, or PyTorch would be needed for it and is missing.
    """
    try:
        with for_everywhere():
            function, image = logits_of_pixels(classifier, how)
            return onnx_graph.convert(onnx, function, image, classifier.meta["model"])
    except UserError as error:
        if how.preprocessing != "normalize":
            raise
        from jtl.export import onnx_torch

        try:
            return onnx_torch.converted(classifier)
        except UserError as other:
            raise UserError(
                f"{error} PyTorch's exporter cannot write it either: {other}"
            ) from other


def _describe(model: Any, classifier: Classifier, how: How) -> None:
    """Writes what a user must know into the file itself."""
    about = {**facts(classifier), "precision": how.precision, "input": how.preprocessing}
    for name, value in about.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        model.metadata_props.add(key=name, value=text)
