"""What a Keras model computes after its backbone, and within: whether jtl's network does it too.

Weights alone do not show it. A model whose classifier stands on `GlobalMaxPooling2D`, or whose
logits pass another layer, has the tensors of any other; its configuration has the graph.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from jtl.common.errors import UserError
from weights_convert.printable import shown
from weights_convert.source.keras_config import (
    CONVOLUTIONS,
    Layer,
    activation_of,
    as_pair,
    called,
    is_relu,
    kind_of,
    layers_of,
    options_of,
    outputs_of,
    shapes_in,
)

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
_OF_LAYER_NORMS = ("LayerScale", "StochasticDepth")
_LAYER_NORM_EPSILON = 1e-6
_BARE = "Convert the backbone alone with --drop-head of `jtl weights`"


class Usual(NamedTuple):
    """What a backbone of jtl has between its first and its last layer.

    Attributes:
        activations: By Keras's names.
        squeezes: Whether blocks weigh their channels.
        ends_activated: Whether an activation ends it.
        on_pixels: Whether its classifier stands on a map of one pixel, as a convolution.
        layer_norms: Whether it has layer normalizations, the last of them on pooled features.
    """

    activations: frozenset[str] = frozenset({"relu"})
    squeezes: bool = False
    ends_activated: bool = False
    on_pixels: bool = False
    layer_norms: bool = False


PLAIN = Usual()


def usual(backbone: Any) -> Usual:
    """What a configuration of a backbone has."""
    options = [dict(unit.options) for unit in backbone.units()]
    # SqueezeNet's are numbers of channels.
    squeezes: list[Any] = [s for each in options if hasattr(s := each.get("squeeze"), "gate")]
    found = {each["activation"] for each in options if each.get("activation")}
    found |= {name for squeeze in squeezes for name in (squeeze.activation, squeeze.gate)}
    layer_norms = getattr(backbone, "activation", None) == "gelu"
    found |= {"gelu"} if layer_norms else set()
    return Usual(
        frozenset(name for activation in found for name in _NAMES.get(activation, (activation,)))
        | (set() if found & {"relu6", "gelu"} else {"relu"}),
        bool(squeezes),
        bool(options[-1].get("activation")),
        bool(squeezes) and getattr(backbone, "dense", False),
        layer_norms,
    )


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
    ends = (*CONVOLUTIONS, *_OF_LAYER_NORMS[: usual.layer_norms])
    places = [i for i, layer in enumerate(layers) if kind_of(layer) in ends]
    for layer in layers[places[0] : places[-1] + 1] if places else ():
        kind, options = kind_of(layer), options_of(layer)
        if kind == "BatchNormalization" and epsilon is not None:
            seen = options.get("epsilon", 1e-3)
            if not isinstance(seen, (int, float)) or not math.isclose(seen, epsilon, rel_tol=1e-3):
                raise _within(layer, f"with epsilon {shown(seen, 20)} where it has {epsilon:g}")
        elif kind in CONVOLUTIONS or (kind == "Dense" and usual.layer_norms):
            if as_pair(options.get("dilation_rate", 1)) != (1, 1):
                raise _within(layer, f"with dilation_rate {options['dilation_rate']}")
            allowed = ("linear", None, *(() if usual.layer_norms else usual.activations))
            if (activation := activation_of(layer)) not in allowed:
                raise _within(layer, f"with the activation {shown(activation, 40)}")
        elif kind == "ReLU" and "hard_sigmoid" in usual.activations:
            continue  # Its hard sigmoid is a ReLU of at most 6.
        elif not (_activates(layer, usual) or _is_linear(layer) or _is_part(layer, usual)):
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
    ways = [_Way(family, usual) for _ in outputs_of(config)]
    # Of several outputs, such as a feature map beside the logits, the one that has a classifier.
    for way, output in zip(ways, outputs_of(config), strict=True):
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
        self._pooled = self._vector = self._activated = self._halved = self._normalized = False
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
        kind, activation = kind_of(layer), activation_of(layer)
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
        elif self._family == "squeezenet" and is_relu(layer) and self._pooled:
            self._activated = True
        elif not (_is_harmless(layer) or kind in _RESHAPING or _is_softmax(layer)):
            raise _refused(layer, after=True)

    def _before(self, layer: Layer) -> bool:
        """A layer between classifier and backbone; whether it is the backbone's."""
        kind, options = kind_of(layer), options_of(layer)
        if kind in _BACKBONE:
            self._check_end(layer)
            return True
        if kind in _RESHAPING:
            self._vector = True
        elif self._usual.layer_norms and not self._pooled and _normalizes_channels(layer):
            self._normalized = True
        elif not self._pooled and _averages_map(layer):
            self._pooled = True
        elif kind == "MaxPooling2D" and self._family == "vgg" and not self._halved:
            self._halved = as_pair(options.get("pool_size", 2)) == (2, 2)
            if not self._halved or as_pair(options.get("strides") or 2) != (2, 2):
                raise _refused(layer)
        elif _activates(layer, self._usual) and not self._halved:
            # Of what the backbone has activated, it changes nothing.
            self._activated = True
        elif not _is_harmless(layer):
            raise _refused(layer)
        return False

    def _check_end(self, layer: Layer) -> None:
        kind = kind_of(layer)
        if kind == "Dense":  # VGG's own, on which its classifier stands.
            return
        within = self._family == "squeezenet" or self._usual.on_pixels
        if not (self._pooled or self._vector or within):
            raise _refused(layer, "with no pooling between it and the classifier")
        if self._usual.layer_norms and not self._normalized:
            raise _refused(layer, "with no LayerNormalization of pooled features after it")
        if self._usual.ends_activated and not self._activated:
            raise _refused(layer, "with no activation between it and the classifier")
        if self._family in ("resnet", "densenet") and not self._activated:
            raise _refused(layer, "with no ReLU between it and the classifier")
        if self._family == "vgg" and not self._halved:
            raise _refused(layer, "with no MaxPooling2D between it and the classifier")


def _averages_map(layer: Layer) -> bool:
    """Whether a layer averages a whole map, which is as large as its window where it has one."""
    options = options_of(layer)
    if kind_of(layer) != "AveragePooling2D":
        return kind_of(layer) == "GlobalAveragePooling2D"
    shapes = [
        shape
        for node in layer.get("inbound_nodes") or [layer.get("build_config")]
        for shape in shapes_in(node)
    ]
    sides = {tuple(shape[1:3]) for shape in shapes} or {(7, 7)}  # Of images of 224 pixels.
    return sides == {as_pair(options.get("pool_size", 2))}


def _activates(layer: Layer, usual: Usual) -> bool:
    """Whether a layer is an activation that the backbone has."""
    if kind_of(layer) == "Activation":
        return activation_of(layer) in usual.activations
    if "relu6" in usual.activations and kind_of(layer) == "ReLU":
        options = options_of(layer)
        slopes = options.get("negative_slope") or options.get("threshold")
        return options.get("max_value") == 6 and not slopes
    return "relu" in usual.activations and is_relu(layer)


def _is_part(layer: Layer, usual: Usual) -> bool:
    """Whether a layer is of a kind that blocks of the backbone have."""
    kind = kind_of(layer)
    if usual.layer_norms and (kind in _OF_LAYER_NORMS or _normalizes_channels(layer)):
        return True
    return kind in _WITHIN or (usual.squeezes and kind in _OF_SQUEEZING)


def _normalizes_channels(layer: Layer) -> bool:
    """Whether a layer is a normalization over channels as the backbone has it."""
    options = options_of(layer)
    epsilon = options.get("epsilon", 1e-3)
    usual = isinstance(epsilon, (int, float)) and math.isclose(epsilon, _LAYER_NORM_EPSILON)
    last = options.get("axis", -1) in (-1, [-1], 1, [1], 3, [3])
    whole = options.get("center", True) and options.get("scale", True)
    return kind_of(layer) == "LayerNormalization" and usual and last and bool(whole)


def _is_linear(layer: Layer) -> bool:
    return kind_of(layer) == "Activation" and options_of(layer).get("activation") == "linear"


def _is_softmax(layer: Layer) -> bool:
    kind = kind_of(layer)
    activation = options_of(layer).get("activation")
    return kind == "Softmax" or (kind == "Activation" and activation == "softmax")


def _is_harmless(layer: Layer) -> bool:
    return kind_of(layer) in _NEUTRAL or _is_linear(layer)


def _refused(layer: Layer, how: str = "", *, after: bool = False) -> UserError:
    where = "after its classifier" if after else "between its backbone and its logits"
    return UserError(
        f"{where} its model has a layer {called(layer, how)}, where jtl's network has none, and "
        f"its classifier would give other results. {_BARE}."
    )


def _within(layer: Layer, how: str = "") -> UserError:
    return UserError(
        f"its network has a layer {called(layer, how)}, which jtl's network does not have there, "
        "and its weights would give other results."
    )
