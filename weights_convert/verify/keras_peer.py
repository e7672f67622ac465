"""Keras's applications as peers of the converted model, on Keras's JAX backend.

Like `weights_convert.verify.peers`, imports its library only when a verification asks for it.
"""

from __future__ import annotations

import collections
import contextlib
import importlib.metadata
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from jtl import models
from jtl.common.errors import UserError
from weights_convert.checkpoint.folder import ConvertedCheckpoint
from weights_convert.export.targets import is_gone, keras_name
from weights_convert.source import keras_layers
from weights_convert.source.description import Source
from weights_convert.verify.libraries import require, table_of

_COUNTED = re.compile(r"(conv2d|depthwise_conv2d|batch_normalization)(?:_(\d+))?")


class KerasPeer:
    """A network of `keras.applications`; see `weights_convert.verify.peers.Peer`."""

    def __init__(self, checkpoint: ConvertedCheckpoint, source: Source):
        self._keras = keras = jax_keras()
        name = keras_name(checkpoint.model)
        if name is None or is_gone(table_of(checkpoint)):
            raise UserError(
                f"Keras {keras.__version__} no longer has the network of these weights "
                f"({checkpoint.model} in {checkpoint.library} keys): nothing to compare "
                "with. Convert without --verify."
            )
        size = checkpoint.preprocessing.size
        # Its dense layers see the whole last feature map.
        fixed = models.get(checkpoint.model).family == "vgg" and checkpoint.num_classes
        fixed = fixed and checkpoint.conventions.get("dense")
        self.only_size: int | None = size if fixed else None
        self._library = checkpoint.library
        self._build = lambda size: _network(keras, name, size, checkpoint, source)
        self._model = self._build(size)
        self._scaling = _scaling(self._model)
        self._names = layer_names(self._model, self._library)
        self.reference = (
            f"{name} of keras {keras.__version__}, jax {importlib.metadata.version('jax')}"
        )

    def forward(self, images: np.ndarray) -> np.ndarray:
        return np.asarray(self._model(self._unscaled(images), training=False))

    def layers(self, images: np.ndarray, names: Iterable[str]) -> dict[str, np.ndarray]:
        names = list(names)
        layers = [self._model.get_layer(self._names[name]) for name in names]
        # Of layers that activate, what goes into the activation.
        active = [activates(layer) for layer in layers]
        wanted = [
            layer.input if acts else layer.output
            for layer, acts in zip(layers, active, strict=True)
        ]
        values = self._keras.Model(self._model.inputs, wanted)(
            [self._unscaled(images)], training=False
        )
        return {
            name: np.asarray(_without_activation(layer, value) if acts else value)
            for name, layer, acts, value in zip(names, layers, active, values, strict=True)
        }

    def sgd_steps(
        self, images: np.ndarray, labels: np.ndarray, learning_rate: float
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """See `Peer`. Computed in float64 it would take XLA minutes to compile."""
        model = self._build(images.shape[1])

        def logits_of(params: Any, fixed: Any, images: Any) -> Any:
            return model.stateless_call(params, fixed, self._unscaled(images), training=True)

        one, other = two_sgd_steps(model, logits_of, images, labels, learning_rate)
        return self._by_source_key(model, one), self._by_source_key(model, other)

    def _unscaled(self, images: Any) -> Any:
        """What the network's own layers scale to `images`."""
        return unscaled(images, self._scaling)

    def _by_source_key(self, model: Any, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """{the source's key: value} of a network's values by path.

        Its own names: what Keras numbers alone is called otherwise in every network of a process.
        """
        return {
            f"{name}/{variable.name}": values[variable.path]
            for name, layer in layer_names(model, self._library).items()
            for variable in model.get_layer(layer).weights
        }


def _scaling(model: Any) -> dict[str, Any]:
    """The mean and standard deviation of layers of the network itself; empty without any."""
    variables = {f"{x.name}/{v.name}": np.asarray(v.value) for x in model.layers for v in x.weights}
    return keras_layers.declared(json.loads(model.to_json()), (), variables)


def unscaled(images: Any, scaling: Mapping[str, Any]) -> Any:
    """Bytes that layers of a network normalize to `images`; `images` where there are none."""
    if not scaling:
        return images
    mean, std = (np.asarray(scaling[key], np.float32) for key in ("mean", "std"))
    return (images * std.reshape(1, 1, 1, 3) + mean.reshape(1, 1, 1, 3)) * np.float32(255)


def jax_keras() -> Any:
    """Keras on its JAX backend.

    Raises:
        UserError: It is not installed, or runs on another backend.
    """
    os.environ.setdefault("KERAS_BACKEND", "jax")
    keras = require("keras", "keras")
    if keras.backend.backend() != "jax":
        raise UserError(
            f"Keras runs on {keras.backend.backend()} here, and a comparison needs its JAX "
            "backend. Set KERAS_BACKEND=jax."
        )
    return keras


def state_of(model: Any) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The values of a model's trainable variables, and of the others."""
    both = (model.trainable_variables, model.non_trainable_variables)
    trained, fixed = ([np.asarray(v.value) for v in variables] for variables in both)
    return trained, fixed


def two_sgd_steps(
    model: Any,
    logits_of: Callable[[Any, Any, Any], Any],
    images: np.ndarray,
    labels: np.ndarray,
    learning_rate: float,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """{path: value} of all variables after a step of SGD, and after one from almost equal images.

    The second step's images differ by one part in a million, which shows what rounding makes.

    Args:
        model: The model.
        logits_of: From its trainable and other variables and images to logits, and to the other
            variables as a step leaves them.
        images: What it sees.
        labels: Their classes.
        learning_rate: Of SGD.
    """
    import jax

    params, fixed = state_of(model)
    paths = [v.path for v in (*model.trainable_variables, *model.non_trainable_variables)]

    def loss(params: Any, images: Any) -> Any:
        logits, updated = logits_of(params, fixed, images)
        chosen = jax.nn.log_softmax(logits)[np.arange(len(labels)), labels]
        return -chosen.mean(), updated

    gradients = jax.jit(jax.grad(loss, has_aux=True))

    def step(images: np.ndarray) -> dict[str, np.ndarray]:
        gradient, updated = gradients(params, images)
        moved = [p - learning_rate * np.asarray(g) for p, g in zip(params, gradient, strict=True)]
        return dict(zip(paths, [*moved, *map(np.asarray, updated)], strict=True))

    noise = np.random.default_rng(0).standard_normal(images.shape).astype(np.float32)
    return step(images), step(images * (1 + 1e-6 * noise))


def activates(layer: Any) -> bool:
    """Whether a layer ends with an activation of its own."""
    activation = getattr(layer, "activation", None)  # A function, or a layer.
    return activation is not None and getattr(activation, "__name__", "") != "linear"


def _without_activation(layer: Any, value: Any) -> Any:
    """What a layer makes of its input before its activation."""
    activation, layer.activation = layer.activation, None
    try:
        return layer(value)
    finally:
        layer.activation = activation


def _network(
    keras: Any, name: str, size: int, checkpoint: ConvertedCheckpoint, source: Source
) -> Any:
    """The application with the file's weights, giving logits or averaged features."""
    classes = checkpoint.num_classes
    options: dict[str, Any] = {"weights": None, "input_shape": (size, size, 3)}
    if classes:
        options |= {"classes": classes, "classifier_activation": None}
    else:
        options |= {"include_top": False, "pooling": "avg"}
    network = getattr(keras.applications, name)(**options)
    for layer in network.layers:
        if type(layer).__name__ == "Dropout":  # Each library draws otherwise what it drops.
            layer.call = lambda inputs, *_, **__: inputs
    try:
        weights = checkpoint.source_format == "keras-weights-h5"
        with named_for_keras(".weights.h5" if weights else ".h5", source) as path:
            network.load_weights(path)
    # Its loader raises many types for files that do not fit.
    except Exception as error:
        dropped = "The classifier was dropped: try without, or s" if not classes else "S"
        raise UserError(
            f"Keras cannot load '{source.name}' into its {name}: it may hold the weights of a "
            f"model that has the network as a layer, or another head. {dropped}ave the whole model "
            "(model.save('model.keras')) and verify that; or convert without --verify."
        ) from error
    return network


def _counted_from_zero(names: list[str]) -> dict[str, str]:
    """{name as if the model were the process's first: its name} of layers that have but numbers."""
    numbered: dict[str, list[tuple[int, str]]] = {}
    others = []
    for name in names:
        if found := _COUNTED.fullmatch(name):
            numbered.setdefault(found[1], []).append((int(found[2] or 0), name))
        else:
            others.append(name)
    renamed = {
        f"{kind}_{i}" if i else kind: name
        for kind, pairs in numbered.items()
        for i, (_, name) in enumerate(sorted(pairs))
    }
    return {**renamed, **{name: name for name in others}}


@contextlib.contextmanager
def named_for_keras(suffix: str, source: Source) -> Iterator[str]:
    """The file under a name that tells Keras its layout, for which it looks at nothing else."""
    with tempfile.TemporaryDirectory(prefix="jtl-") as folder:
        link = os.path.join(folder, f"source{suffix}")
        try:
            os.symlink(os.path.abspath(source.path), link)
        except OSError:  # Windows permits links to few.
            shutil.copyfile(source.path, link)
        yield link


def layer_names(model: Any, library: str) -> dict[str, str]:
    """{name in the source's keys: name in today's Keras} of the layers with variables."""
    # What scales images is no layer of the backbone.
    layers = [x for x in model.layers if x.weights and type(x).__name__ != "Normalization"]
    if library == "keras" and any(_COUNTED.fullmatch(layer.name) for layer in layers):
        return _counted_from_zero([layer.name for layer in layers])
    if not library.startswith("keras (numbered"):
        old = library == "keras (old keys)"
        renamed = {"conv1_conv": "conv1/conv", "conv1_bn": "conv1/bn", "predictions": "fc1000"}
        ours = [str(layer.name) for layer in layers]
        return {renamed.get(name, name) if old else name: name for name in ours}
    classes = {"Conv2D": "conv2d", "DepthwiseConv2D": "depthwise_conv2d", "Dense": "dense"}
    classes["BatchNormalization"] = "batch_normalization"
    seen: collections.Counter[str] = collections.Counter()
    names: dict[str, str] = {}
    for layer in layers:
        kind = classes[type(layer).__name__]
        names[f"{kind}_{seen[kind]}" if seen[kind] else kind] = layer.name
        seen[kind] += 1
    return names
