"""TensorFlow Lite files: the layers of one network, dequantized, without TensorFlow.

A `.tflite` file is a FlatBuffer by the schema of TensorFlow Lite, of which a few fields are read:
operators in order, their weights, and how these are quantized. A converter folds normalizations
into convolutions, so each layer comes back with a normalization that adds its bias and does
nothing else. Layers have no reliable names and are numbered.
"""

from __future__ import annotations

import math
import mmap
import struct
from typing import NamedTuple

import numpy as np

from jtl.common.errors import UserError

MAGIC = b"TFL3"
"""At the fifth byte of a file."""
EPSILON = 1e-3
"""The epsilon of the normalizations that stand for the folded ones."""

# Numbers of the schema's enumerations.
_CONV, _DEPTHWISE, _DENSE = 3, 4, 9
_WITHOUT_WEIGHTS = {0: "ADD", 1: "AVERAGE_POOL_2D", 6: "DEQUANTIZE", 22: "RESHAPE", 25: "SOFTMAX"}
_WITHOUT_WEIGHTS |= {40: "MEAN", 43: "SQUEEZE", 114: "QUANTIZE"}
_TYPES = {0: "<f4", 1: "<f2", 2: "<i4", 3: "u1", 9: "i1"}
_SAME, _PLAIN, _RELU6 = 0, 0, 3
_MAX_OPERATORS, _MAX_DIMENSIONS = 10_000, 8

_AGAIN = "Download the file again"


class _Table:
    """A FlatBuffers table: fields by number, each present or absent."""

    def __init__(self, data: mmap.mmap, offset: int) -> None:
        self._data, self._offset = data, offset
        self._fields = offset - struct.unpack_from("<i", data, offset)[0]
        if self._fields < 0:
            raise struct.error("a table lies before the file")
        self._count = (struct.unpack_from("<H", data, self._fields)[0] - 4) // 2

    def _place(self, number: int) -> int | None:
        if number >= self._count:
            return None
        relative = struct.unpack_from("<H", self._data, self._fields + 4 + 2 * number)[0]
        return self._offset + relative if relative else None

    def number(self, field: int, kind: str = "i", default: int = 0) -> int:
        """A scalar field."""
        place = self._place(field)
        return default if place is None else struct.unpack_from("<" + kind, self._data, place)[0]

    def table(self, field: int) -> _Table | None:
        """A field that is a table."""
        place = self._place(field)
        return None if place is None else _Table(self._data, place + self._pointer(place))

    def _pointer(self, place: int) -> int:
        return struct.unpack_from("<I", self._data, place)[0]

    def _vector(self, field: int, width: int) -> tuple[int, int]:
        """Number of elements and where they begin."""
        place = self._place(field)
        if place is None:
            return 0, 0
        start = place + self._pointer(place)
        count = self._pointer(start)
        if start + 4 + count * width > len(self._data):
            raise struct.error("a vector ends after the file")
        return count, start + 4

    def array(self, field: int, dtype: str) -> np.ndarray:
        """A field that is a vector of numbers."""
        count, start = self._vector(field, np.dtype(dtype).itemsize)
        return np.frombuffer(self._data, dtype, count, start).copy()

    def tables(self, field: int) -> list[_Table]:
        """A field that is a vector of tables."""
        count, start = self._vector(field, 4)
        places = range(start, start + 4 * count, 4)
        return [_Table(self._data, place + self._pointer(place)) for place in places]


class Content(NamedTuple):
    """Arrays by `layer_N/variable` in Keras's layouts, and a sentence about their precision."""

    tensors: dict[str, np.ndarray]
    note: str


def read(data: mmap.mmap) -> Content:
    """Reads the weights of every layer.

    Args:
        data: The whole file.

    Returns:
        `layer_N/kernel` (HWIO, float32) of every convolution and dense layer, in order from 0; of
        all but the last also the four variables of a normalization; of the last `bias`.

    Raises:
        UserError: The file is damaged, or has operators that no network of jtl has.
    """
    try:
        return _read(_Table(data, struct.unpack_from("<I", data, 0)[0]))
    except (struct.error, ValueError, IndexError, OverflowError, MemoryError) as error:
        raise UserError(
            f"it is a TensorFlow Lite file that is damaged ({error!s:.200}). {_AGAIN}"
        ) from error


def _read(root: _Table) -> Content:
    kinds = [max(code.number(3), code.number(0, "b")) for code in root.tables(1)]
    graphs, buffers = root.tables(2), root.tables(4)
    if len(graphs) != 1:
        raise UserError(
            f"it is a TensorFlow Lite file of {len(graphs)} graphs instead of one. Convert its "
            "network alone"
        )
    tensors, operators = graphs[0].tables(0), graphs[0].tables(3)
    if len(operators) > _MAX_OPERATORS:
        raise ValueError(f"{len(operators)} operators")
    layers: list[tuple[np.ndarray, np.ndarray]] = []
    for operator in operators:
        kind = kinds[operator.number(0, "I")]
        if kind in _WITHOUT_WEIGHTS:
            continue
        _check(kind, operator)
        _, weights, bias, *_ = operator.array(1, "<i4").tolist()
        kernel, rest = (_values(tensors[i], buffers) for i in (weights, bias))
        axes = {_CONV: (1, 2, 3, 0), _DEPTHWISE: (1, 2, 0, 3)}.get(kind)
        layers.append((kernel.transpose(axes) if axes else kernel.T[None, None], rest))
    found: dict[str, np.ndarray] = {}
    for number, (kernel, bias) in enumerate(layers):
        name, ones = f"layer_{number}", np.ones(kernel.shape[-1], np.float32)
        found[f"{name}/kernel"] = kernel
        if number == len(layers) - 1:
            found[f"{name}/bias"] = bias
        else:
            found[f"{name}/gamma"] = ones * np.float32(math.sqrt(1 + EPSILON))
            found[f"{name}/beta"] = bias
            found[f"{name}/moving_mean"] = 0 * ones
            found[f"{name}/moving_variance"] = ones
    if not found:
        raise UserError("it is a TensorFlow Lite file without weights. Choose one that has them")
    return Content(
        found,
        "a TensorFlow Lite file keeps rounded weights and no batch normalization of its own: they "
        "are dequantized, and train best with --bn frozen",
    )


def _check(kind: int, operator: _Table) -> None:
    """Refuses what would compute something else than a layer of jtl's."""
    if kind not in (_CONV, _DEPTHWISE, _DENSE):
        raise UserError(
            f"it is a TensorFlow Lite file with an operator that is not read (number {kind} of its "
            "schema). Allowed are convolutions, dense layers, "
            f"{', '.join(_WITHOUT_WEIGHTS.values())}"
        )
    options = operator.table(4)
    if options is None or kind == _DENSE:
        return
    padding = options.number(0, "b")
    activation = options.number(3 if kind == _CONV else 4, "b")
    if padding != _SAME or activation not in (_PLAIN, _RELU6):
        raise UserError(
            "it is a TensorFlow Lite file whose convolutions pad or activate otherwise (padding "
            f"{padding}, activation {activation} of its schema). Allowed are SAME and RELU6"
        )


def _values(tensor: _Table, buffers: list[_Table]) -> np.ndarray:
    """A tensor as float32, dequantized: (stored - zero point) * scale, along one axis or all."""
    shape = tensor.array(0, "<i4").tolist()
    kind = tensor.number(1, "b")
    if kind not in _TYPES:
        raise UserError(
            f"it is a TensorFlow Lite file with numbers of type {kind} of its schema. Allowed are "
            "float32, float16, int8, uint8 and int32"
        )
    if len(shape) > _MAX_DIMENSIONS or min(shape, default=1) < 0:
        raise ValueError(f"a tensor of shape {shape}")
    raw = buffers[tensor.number(2, "I")].array(0, "u1")
    stored = raw.view(_TYPES[kind]).reshape(shape)
    values = stored.astype(np.float32)
    quantized = tensor.table(4)
    scales = quantized.array(2, "<f4") if quantized else np.zeros(0, np.float32)
    if quantized is None or not len(scales):
        return values
    along = [1] * len(shape)
    if len(scales) > 1:
        along[quantized.number(6)] = len(scales)
    zeros = quantized.array(3, "<i8").astype(np.float32)
    zeros = zeros if len(zeros) == len(scales) else np.zeros_like(scales)
    # Whatever does not end as a finite number is refused by the conversion.
    with np.errstate(over="ignore", invalid="ignore"):
        return (values - zeros.reshape(along)) * scales.reshape(along)
