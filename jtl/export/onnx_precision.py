"""ONNX in other number formats, by the tools that come with onnxruntime."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

_BATCH = 16


def float16(model: Any) -> Any:
    """A model that computes in float16 and takes and gives what it did."""
    with quiet():
        from onnxruntime.transformers.float16 import convert_float_to_float16

        # Sums over whole feature maps would leave float16's range.
        return convert_float_to_float16(
            model, keep_io_types=True, op_block_list=["ReduceSum", "Cast"]
        )


def int8(model: Any, images: np.ndarray, room: Path) -> Any:
    """A model with int8 weights (per channel) and uint8 activations, in QDQ form.

    Args:
        model: In float32.
        images: By which the ranges of activations are measured.
        room: Where temporary files may lie.
    """
    import onnx

    with quiet(), tempfile.TemporaryDirectory(prefix=".jtl-", dir=room) as folder:
        from onnxruntime import quantization
        from onnxruntime.quantization.shape_inference import quant_pre_process

        class Reader(quantization.CalibrationDataReader):
            """Gives the images in batches."""

            def __init__(self) -> None:
                self._starts = iter(range(0, len(images), _BATCH))

            def get_next(self) -> Any:
                start = next(self._starts, None)
                return None if start is None else {"images": images[start : start + _BATCH]}

        source, folded, made = (str(Path(folder, f"{i}.onnx")) for i in range(3))
        onnx.save(model, source)
        # Biases and factors go into the convolutions first.
        quant_pre_process(source, folded, skip_symbolic_shape=True)
        quantization.quantize_static(
            folded,
            made,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            op_types_to_quantize=[
                "Conv", "MatMul", "Add", "MaxPool", "Concat", "AveragePool", "Mul", "Clip", "Relu",
            ],
        )  # fmt: skip
        return onnx.load(made)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the remarks of libraries' tools on their own work, on stderr and stdout."""
    before, nowhere = logging.root.manager.disable, io.StringIO()
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
