"""A Keras model's configuration: its layers, nested or not, and the ways through its graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from weights_convert.printable import shown

Layer = Mapping[str, Any]

CONVOLUTIONS = ("Conv2D", "DepthwiseConv2D", "SeparableConv2D", "Convolution2D")
_NESTED = ("Functional", "Sequential", "Model")
_MAX_NESTING = 8


def layers_of(config: Layer, depth: int = 0) -> Iterator[Layer]:
    """All layers in the order of the configuration, those of nested models in their place."""
    for layer in _children(config):
        if _is_nested(layer) and depth < _MAX_NESTING:
            yield from layers_of(layer, depth + 1)
        else:
            yield layer


def outputs_of(config: Layer) -> list[Iterator[Layer]]:
    """For each output, the layers that lead to it one after the other, the last first."""
    inner = options_of(config)
    if "output_layers" not in inner:
        return [_back(config, None)]
    histories = list(_histories(inner["output_layers"]))
    return [_back(config, history) for history in histories] or [iter(())]


def _back(config: Layer, history: tuple[str, int] | None, depth: int = 0) -> Iterator[Layer]:
    """The layers from an output back, as long as each has one input; see `outputs_of`."""
    if depth > _MAX_NESTING:
        return
    if "output_layers" not in options_of(config):
        for layer in reversed(list(_children(config))):
            if _is_nested(layer):
                for output in outputs_of(layer)[:1]:
                    yield from output
            else:
                yield layer
        return
    by_name = {name_of(layer): layer for layer in _children(config)}
    seen: set[tuple[str, int]] = set()
    while history and history not in seen:
        seen.add(history)
        layer = by_name.get(history[0])
        if layer is None:
            return
        if _is_nested(layer):
            outputs = list(_histories(options_of(layer).get("output_layers")))
            yield from _back(layer, outputs[0] if outputs else None, depth + 1)
        else:
            yield layer
        nodes = layer.get("inbound_nodes")
        nodes = nodes if isinstance(nodes, list) else []
        node = nodes[history[1]] if history[1] < len(nodes) else nodes[:1]
        inputs = list(_histories(node))
        history = inputs[0] if len(inputs) == 1 else None


def _histories(value: Any, depth: int = 0) -> Iterator[tuple[str, int]]:
    """(layer, which of its calls) of every tensor in a node, as Keras 3 and Keras 2 write them."""
    if depth > 2 * _MAX_NESTING:
        return
    if isinstance(value, Mapping):
        for part in [value["keras_history"]] if "keras_history" in value else value.values():
            yield from _histories(part, depth + 1)
    elif isinstance(value, list):
        if len(value) >= 3 and isinstance(value[0], str) and type(value[1]) is int:
            yield value[0], max(value[1], 0)
            return
        for part in value:
            yield from _histories(part, depth + 1)


def shapes_in(value: Any, depth: int = 0) -> Iterator[list[Any]]:
    """The shapes of feature maps that a node states."""
    if isinstance(value, Mapping) and depth < _MAX_NESTING:
        for key, part in value.items():
            if key in ("shape", "input_shape") and isinstance(part, list) and len(part) == 4:
                yield part
            else:
                yield from shapes_in(part, depth + 1)
    elif isinstance(value, list) and depth < _MAX_NESTING:
        for part in value:
            yield from shapes_in(part, depth + 1)


def _children(config: Layer) -> list[Layer]:
    inner = config.get("config", {})
    layers = inner.get("layers", []) if isinstance(inner, Mapping) else inner
    return [layer for layer in layers if isinstance(layer, Mapping)] if layers else []


def _is_nested(layer: Layer) -> bool:
    return kind_of(layer) in _NESTED


def kind_of(layer: Layer) -> str:
    kind = str(layer.get("class_name"))
    # They differ in training alone.
    return "BatchNormalization" if kind == "SyncBatchNormalization" else kind


def options_of(layer: Layer) -> Layer:
    options = layer.get("config")
    return options if isinstance(options, Mapping) else {}


def activation_of(layer: Layer) -> Any:
    """Its name; what is neither a name nor a usual layer, as the configuration has it."""
    value = options_of(layer).get("activation", "linear")
    if isinstance(value, Mapping):  # A layer, such as `Dense(activation=Softmax())`.
        if kind_of(value) == "Softmax":
            return "softmax"
        if kind_of(value) == "ReLU" and is_relu(value):
            return "relu"
    return value


def name_of(layer: Layer) -> str:
    return str(layer.get("name") or options_of(layer).get("name"))


def as_pair(value: Any) -> tuple[Any, Any]:
    pair = tuple(value) if isinstance(value, (list, tuple)) else (value, value)
    return pair if len(pair) == 2 else (None, None)


def is_relu(layer: Layer) -> bool:
    options = options_of(layer)
    if kind_of(layer) == "ReLU":
        return not any(options.get(key) for key in ("max_value", "negative_slope", "threshold"))
    return kind_of(layer) == "Activation" and options.get("activation") == "relu"


def called(layer: Layer, how: str) -> str:
    return f"{shown(kind_of(layer), 40)} ('{shown(name_of(layer), 40)}'){f' {how}' if how else ''}"
