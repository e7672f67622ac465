"""LiteRT (TensorFlow Lite), by its own converter from StableHLO: without TensorFlow."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jtl.common.errors import UserError
from jtl.export import calibration
from jtl.export.formats import ExportedOutputs, require, timed
from jtl.export.how import AS_USUAL, How
from jtl.export.onnx_precision import quiet
from jtl.export.pixels import for_everywhere, inputs, logits_of_pixels
from jtl.export.stablehlo import write_facts

if TYPE_CHECKING:
    from jtl.predict.classifier import Classifier

LOADING = """\
from ai_edge_litert.interpreter import Interpreter
interpreter = Interpreter(model_path="FILE")
interpreter.allocate_tensors()
interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)  # INPUT
interpreter.invoke()
output = interpreter.get_output_details()[0]
logits, (scale, zero) = interpreter.get_tensor(output["index"]), output["quantization"]
logits = (logits.astype("float32") - zero) * (scale or 1)  # Of int8 they are whole numbers."""
_SIGNATURE = "serving_default"


def write(
    classifier: Classifier, path: Path, samples: list[np.ndarray], how: How = AS_USUAL
) -> ExportedOutputs:
    """See `jtl.export.formats.ExportWriter`. It takes one image, resized and cropped.

    Beside the file, `FILE.json` tells its classes.
    """
    converter = require("litert_converter.converter_api_ext", "tflite", "litert")
    require("ai_edge_litert.interpreter", "tflite", "litert")
    if how.preprocessing == "resize":
        raise UserError(
            "--preprocessing resize: --to onnx, stablehlo and savedmodel can resize images. Use "
            "one of them, or leave it out and resize them yourself."
        )
    if how.precision == "float16":
        raise UserError("--precision float16: --to tflite writes float32 or int8. Use one of them.")
    path.write_bytes(_converted(converter, classifier, how))
    scores: dict[str, float] = {}
    if how.precision == "int8":
        quantizer = require("litert_quantizer", "tflite as int8", "litert")
        given, before = calibration.images_of(classifier, how), _runner(path)
        _quantize(quantizer, path, given.train)
        scores = calibration.scores(given, before, _runner(path))
    write_facts(path, classifier)
    run, images = _runner(path), inputs(classifier, samples, how)
    size = images.shape[1]
    kind = "normalized float32" if how.preprocessing == "none" else "uint8 RGB"
    # Small images are enlarged by the device, and here rounded to whole values after it.
    enlarged = classifier.inputs.host is None and how.preprocessing == "normalize"
    bound = 0.5 if how.precision == "int8" else 1e-4
    return ExportedOutputs(
        run(images),
        f"ai-edge-litert {importlib.metadata.version('ai-edge-litert')}",
        LOADING.replace("INPUT", f"{kind} [1, {size}, {size}, 3]"),
        rounding=max(bound, 1e-2 if enlarged else 0.0),
        milliseconds=timed(lambda: run(images[:1])),
        scores=scores,
    )


def _runner(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """From images to logits, one image after the other."""
    from ai_edge_litert.interpreter import Interpreter  # pyright: ignore[reportMissingImports]

    network = Interpreter(model_content=path.read_bytes(), num_threads=1)
    network.allocate_tensors()
    (given,), (gives,) = network.get_input_details(), network.get_output_details()
    scale, zero = gives["quantization"]

    def run(image: np.ndarray) -> np.ndarray:
        network.set_tensor(given["index"], image[None])
        network.invoke()
        logits = network.get_tensor(gives["index"])[0].astype(np.float32)
        return (logits - zero) * np.float32(scale) if scale else logits

    return lambda images: np.stack([run(image) for image in images])


def _quantize(quantizer: Any, path: Path, images: np.ndarray) -> None:
    """Makes weights and activations int8 in place, by the ranges that images give."""
    with quiet():
        from litert_quantizer import recipe  # pyright: ignore[reportMissingImports]

        work = quantizer.Quantizer(str(path), recipe.static_wi8_ai8())
        ranges = work.calibrate({_SIGNATURE: [{"images": image[None]} for image in images]})
        work.quantize(ranges).export_model(str(path), overwrite=True)


def _converted(converter: Any, classifier: Classifier, how: How) -> bytes:
    """The program for an accelerator, as CPUs get other convolutions, in LiteRT's format."""
    from litert_converter.mlir import ir, passmanager  # pyright: ignore[reportMissingImports]
    from litert_converter.mlir.dialects import stablehlo  # pyright: ignore[reportMissingImports]

    with for_everywhere():
        function, image = logits_of_pixels(classifier, how, batch=1)
        program = jax.export.export(jax.jit(function), platforms=("tpu",))(image)
    context = ir.Context()
    converter.prepare_mlir_context(context)
    with context:
        module = stablehlo.deserialize_portable_artifact(context, program.mlir_module_serialized)
        (main,) = [op for op in module.body.operations if op.attributes["sym_name"].value == "main"]
        converter.set_signature(main.operation, _SIGNATURE, ["images"], ["logits"])
        passes = passmanager.PassManager()
        converter.run_convert_to_tfl_passes(module, passes, converter.ConvertToTFLConfig())
        return converter.export_flatbuffer_to_bytes(module.operation)
