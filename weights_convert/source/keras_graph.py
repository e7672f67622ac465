"""What a Keras model computes after its backbone, and within: whether jtl's network does it too.

Weights alone do not show it. A model whose classifier stands on `GlobalMaxPooling2D`, or whose
logits pass another layer, has the tensors of any other; its configuration has the graph.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from jtl.common.errors import UserError
from weights_convert.printable import shown

Layer = Mapping[str, Any]

_NESTED = ("Functional", "Sequential", "Model")
CONVOLUTIONS = ("Conv2D", "DepthwiseConv2D", "SeparableConv2D", "Convolution2D")
_MAX_NESTING = 8
# What adds nothing when a network predicts.
_NEUTRAL = (
    *("Dropout", "SpatialDropout2D", "GaussianDropout", "AlphaDropout", "GaussianNoise"),
    *("ActivityRegularization", "Identity", "InputLayer"),
)
_RESHAPING = ("Flatten", "Reshape")
_JOINTS = ("Add", "Concatenate", "Merge")
# Where the way back from the logits ends: at the backbone's own layers.
_BACKBONE = (*CONVOLUTIONS, *_JOINTS, "BatchNormalization", "Dense")
_WITHIN = (*_BACKBONE, *_NEUTRAL, "ZeroPadding2D", "MaxPooling2D", "AveragePooling2D")
# Keras's names of the activations that have several.
_NAMES = {"silu": ("silu", "swish"), "hard_swish": ("hard_swish", "hard_silu")}
_OF_SQUEEZING = ("Multiply", "GlobalAveragePooling2D", "Reshape")
_BARE = "Convert the backbone alone with --drop-head of `jtl weights`"


class Usual(NamedTuple):
    """What a backbone of jtl has between its first and its last layer.

    Attributes:
        activations: By Keras's names.
        squeezes: Whether blocks weigh their channels.
        ends_activated: Whether an activation ends it.
        on_pixels: Whether its classifier stands on a map of one pixel, as a convolution.
    """

    activations: frozenset[str] = frozenset({"relu"})
    squeezes: bool = False
    ends_activated: bool = False
    on_pixels: bool = False


PLAIN = Usual()


def usual(backbone: Any) -> Usual:
    """What a configuration of a backbone has."""
    options = [dict(unit.options) for unit in backbone.units()]
    squeezes = [squeeze for each in options if (squeeze := each.get("squeeze"))]
    found = {each["activation"] for each in options if each.get("activation")}
    found |= {name for squeeze in squeezes for name in (squeeze.activation, squeeze.gate)}
    return Usual(
        frozenset(name for activation in found for name in _NAMES.get(activation, (activation,)))
        | {"relu"},
        bool(squeezes),
        bool(options[-1].get("activation")),
        bool(squeezes) and getattr(backbone, "dense", False),
    )


def layers_of(config: Layer, depth: int = 0) -> Iterator[Layer]:
    """All layers in the order of the configuration, those of nested models in their place."""
    for layer in _children(config):
        if _is_nested(layer) and depth < _MAX_NESTING:
            yield from layers_of(layer, depth + 1)
        else:
            yield layer


def check_backbone(config: Layer, epsilon: float | None, usual: Usual = PLAIN) -> None:
    """Makes sure that the layers between the first and the last convolution are usual ones.

    Args:
        config: The model's configuration.
        epsilon: Of the network's batch normalizations; None without any.
        usual: What the network has there.

    Raises:
        UserError: One of them is not what jtl's network has there.
    """
    layers = list(layers_of(config))
    places = [i for i, layer in enumerate(layers) if _kind(layer) in CONVOLUTIONS]
    for layer in layers[places[0] : places[-1] + 1] if places else ():
        kind, options = _kind(layer), _options(layer)
        if kind == "BatchNormalization" and epsilon is not None:
            seen = options.get("epsilon", 1e-3)
            if not isinstance(seen, (int, float)) or not math.isclose(seen, epsilon, rel_tol=1e-3):
                raise _within(layer, f"with epsilon {shown(seen, 20)} where it has {epsilon:g}")
        elif kind in CONVOLUTIONS:
            if _pair(options.get("dilation_rate", 1)) != (1, 1):
                raise _within(layer, f"with dilation_rate {options['dilation_rate']}")
            allowed = ("linear", None, *usual.activations)
            if (activation := _activation(layer)) not in allowed:
                raise _within(layer, f"with the activation {shown(activation, 40)}")
        elif kind == "ReLU" and "hard_sigmoid" in usual.activations:
            continue  # Its hard sigmoid is a ReLU of at most 6.
        elif kind in _OF_SQUEEZING and usual.squeezes:
            continue
        elif not (_activates(layer, usual) or _is_linear(layer) or kind in _WITHIN):
            raise _within(layer)


def check_head(config: Layer, family: str, usual: Usual = PLAIN) -> None:
    """Makes sure that a model's classifier stands on what jtl's stands on, and ends there.

    Between backbone and classifier there may be average pooling over all pixels, dropout and
    what only reshapes a vector; after it a softmax.

    Args:
        config: The model's configuration.
        family: Of the backbone in jtl.
        usual: What the backbone has.

    Raises:
        UserError: There is another layer; the message names it.
    """
    ways = [_Way(family, usual) for _ in _outputs(config)]
    # Of several outputs, such as a feature map beside the logits, the one that has a classifier.
    for way, output in zip(ways, _outputs(config), strict=True):
        if way.follow(output) and way.found_classifier:
            return
    problems = [way.problem for way in ways if way.problem]
    cannot = "the way from its backbone to its classifier cannot be followed in its configuration"
    unclear = UserError(f"{cannot}, so the classifier may give other results in jtl. {_BARE}.")
    raise next(iter(problems), unclear)


class _Way:
    """The way from a model's logits back to its backbone, checked layer by layer."""

    def __init__(self, family: str, usual: Usual):
        self._family, self._usual = family, usual
        on_pixels = family == "squeezenet" or usual.on_pixels
        self._kernel = CONVOLUTIONS if on_pixels else ("Dense",)
        self._pooled = self._vector = self._activated = self._halved = False
        self.found_classifier = False
        self.problem: UserError | None = None

    def follow(self, layers: Iterator[Layer]) -> bool:
        """Whether the layers, last first, lead to the backbone as they do in jtl."""
        try:
            for layer in layers:
                if not self.found_classifier:
                    self._after(layer)
                elif self._before(layer):
                    return True
        except UserError as error:
            self.problem = error
        return False

    def _after(self, layer: Layer) -> None:
        """A layer after the classifier, or the classifier."""
        kind, activation = _kind(layer), _activation(layer)
        if kind in self._kernel:
            self.found_classifier = True
            # SqueezeNet's logits are ReLUs.
            allowed = ("linear", None, "relu" if self._family == "squeezenet" else "softmax")
            if activation not in allowed:
                raise _refused(layer, f"with the activation {shown(activation, 40)}")
            self._activated |= activation == "relu"
            if self._family == "squeezenet" and not (self._activated and self._pooled):
                raise _refused(layer, "whose ReLUs are not averaged over the pixels")
            # What comes before it is checked anew.
            self._activated = False
        elif self._family == "squeezenet" and kind == "GlobalAveragePooling2D":
            self._pooled = True
        elif self._family == "squeezenet" and _is_relu(layer) and self._pooled:
            self._activated = True
        elif not (_is_harmless(layer) or kind in _RESHAPING or _is_softmax(layer)):
            raise _refused(layer, after=True)

    def _before(self, layer: Layer) -> bool:
        """A layer between classifier and backbone; whether it is the backbone's."""
        kind, options = _kind(layer), _options(layer)
        if kind in _BACKBONE:
            self._check_end(layer)
            return True
        if kind in _RESHAPING:
            self._vector = True
        elif not self._pooled and _averages_map(layer):
            self._pooled = True
        elif kind == "MaxPooling2D" and self._family == "vgg" and not self._halved:
            self._halved = _pair(options.get("pool_size", 2)) == (2, 2)
            if not self._halved or _pair(options.get("strides") or 2) != (2, 2):
                raise _refused(layer)
        elif _activates(layer, self._usual) and not self._halved:
            # Of what the backbone has activated, it changes nothing.
            self._activated = True
        elif not _is_harmless(layer):
            raise _refused(layer)
        return False

    def _check_end(self, layer: Layer) -> None:
        kind = _kind(layer)
        if kind == "Dense":  # VGG's own, on which its classifier stands.
            return
        within = self._family == "squeezenet" or self._usual.on_pixels
        if not (self._pooled or self._vector or within):
            raise _refused(layer, "with no pooling between it and the classifier")
        if self._usual.ends_activated and not self._activated:
            raise _refused(layer, "with no activation between it and the classifier")
        if self._family in ("resnet", "densenet") and not self._activated:
            raise _refused(layer, "with no ReLU between it and the classifier")
        if self._family == "vgg" and not self._halved:
            raise _refused(layer, "with no MaxPooling2D between it and the classifier")


def _outputs(config: Layer) -> list[Iterator[Layer]]:
    """For each output, the layers that lead to it one after the other, the last first."""
    inner = _options(config)
    if "output_layers" not in inner:
        return [_back(config, None)]
    histories = list(_histories(inner["output_layers"]))
    return [_back(config, history) for history in histories] or [iter(())]


def _back(config: Layer, history: tuple[str, int] | None, depth: int = 0) -> Iterator[Layer]:
    """The layers from an output back, as long as each has one input; see `_outputs`."""
    if depth > _MAX_NESTING:
        return
    if "output_layers" not in _options(config):
        for layer in reversed(list(_children(config))):
            if _is_nested(layer):
                for output in _outputs(layer)[:1]:
                    yield from output
            else:
                yield layer
        return
    by_name = {_name(layer): layer for layer in _children(config)}
    seen: set[tuple[str, int]] = set()
    while history and history not in seen:
        seen.add(history)
        layer = by_name.get(history[0])
        if layer is None:
            return
        if _is_nested(layer):
            outputs = list(_histories(_options(layer).get("output_layers")))
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


def _averages_map(layer: Layer) -> bool:
    """Whether a layer averages a whole map, which is as large as its window where it has one."""
    options = _options(layer)
    if _kind(layer) != "AveragePooling2D":
        return _kind(layer) == "GlobalAveragePooling2D"
    shapes = [
        shape
        for node in layer.get("inbound_nodes") or [layer.get("build_config")]
        for shape in _shapes(node)
    ]
    sides = {tuple(shape[1:3]) for shape in shapes} or {(7, 7)}  # Of images of 224 pixels.
    return sides == {_pair(options.get("pool_size", 2))}


def _shapes(value: Any, depth: int = 0) -> Iterator[list[Any]]:
    """The shapes of feature maps that a node states."""
    if isinstance(value, Mapping) and depth < _MAX_NESTING:
        for key, part in value.items():
            if key in ("shape", "input_shape") and isinstance(part, list) and len(part) == 4:
                yield part
            else:
                yield from _shapes(part, depth + 1)
    elif isinstance(value, list) and depth < _MAX_NESTING:
        for part in value:
            yield from _shapes(part, depth + 1)


def _children(config: Layer) -> list[Layer]:
    inner = config.get("config", {})
    layers = inner.get("layers", []) if isinstance(inner, Mapping) else inner
    return [layer for layer in layers if isinstance(layer, Mapping)] if layers else []


def _is_nested(layer: Layer) -> bool:
    return _kind(layer) in _NESTED


def _kind(layer: Layer) -> str:
    kind = str(layer.get("class_name"))
    # They differ in training alone.
    return "BatchNormalization" if kind == "SyncBatchNormalization" else kind


def _options(layer: Layer) -> Layer:
    options = layer.get("config")
    return options if isinstance(options, Mapping) else {}


def _activation(layer: Layer) -> Any:
    """Its name; what is neither a name nor a usual layer, as the configuration has it."""
    value = _options(layer).get("activation", "linear")
    if isinstance(value, Mapping):  # A layer, such as `Dense(activation=Softmax())`.
        if _kind(value) == "Softmax":
            return "softmax"
        if _kind(value) == "ReLU" and _is_relu(value):
            return "relu"
    return value


def _name(layer: Layer) -> str:
    return str(layer.get("name") or _options(layer).get("name"))


def _pair(value: Any) -> tuple[Any, Any]:
    pair = tuple(value) if isinstance(value, (list, tuple)) else (value, value)
    return pair if len(pair) == 2 else (None, None)


def _is_relu(layer: Layer) -> bool:
    options = _options(layer)
    if _kind(layer) == "ReLU":
        return not any(options.get(key) for key in ("max_value", "negative_slope", "threshold"))
    return _kind(layer) == "Activation" and options.get("activation") == "relu"


def _activates(layer: Layer, usual: Usual) -> bool:
    """Whether a layer is an activation that the backbone has."""
    named = _kind(layer) == "Activation" and _activation(layer) in usual.activations
    return named or _is_relu(layer)


def _is_linear(layer: Layer) -> bool:
    return _kind(layer) == "Activation" and _options(layer).get("activation") == "linear"


def _is_softmax(layer: Layer) -> bool:
    kind = _kind(layer)
    activation = _options(layer).get("activation")
    return kind == "Softmax" or (kind == "Activation" and activation == "softmax")


def _is_harmless(layer: Layer) -> bool:
    return _kind(layer) in _NEUTRAL or _is_linear(layer)


def _refused(layer: Layer, how: str = "", *, after: bool = False) -> UserError:
    where = "after its classifier" if after else "between its backbone and its logits"
    return UserError(
        f"{where} its model has a layer {_called(layer, how)}, where jtl's network has none, and "
        f"its classifier would give other results. {_BARE}."
    )


def _within(layer: Layer, how: str = "") -> UserError:
    return UserError(
        f"its network has a layer {_called(layer, how)}, which jtl's network does not have there, "
        "and its weights would give other results."
    )


def _called(layer: Layer, how: str) -> str:
    return f"{shown(_kind(layer), 40)} ('{shown(_name(layer), 40)}'){f' {how}' if how else ''}"
