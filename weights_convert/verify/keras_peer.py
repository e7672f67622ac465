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
from weights_convert.convert.rules import numbered
from weights_convert.export.targets import is_gone, keras_name
from weights_convert.source import keras_layers
from weights_convert.source.description import Source
from weights_convert.verify.libraries import require, table_of

_COUNTED = re.compile(r"(conv2d|depthwise_conv2d|(?:batch|layer)_normalization)(?:_(\d+))?")


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
        """See `Peer`. Of layers that activate, what goes into the activation."""
        by_name = {layer.name: layer for layer in flat(self._model)}
        layers = {name: by_name[self._names[name]] for name in names}
        seen: dict[str, Any] = {}
        calls = {layer.name: layer.call for layer in layers.values()}
        try:
            for layer in layers.values():
                layer.call = keeping(layer, seen)
            self.forward(images)
        finally:
            for layer in layers.values():
                layer.call = calls[layer.name]
        return {name: np.asarray(seen[layer.name]) for name, layer in layers.items()}

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
        by_name = {layer.name: layer for layer in flat(model)}
        return {
            f"{name}/{leaf}": values[variable.path]
            for name, layer in layer_names(model, self._library).items()
            for leaf, variable in leaves_of(by_name[layer])
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


def keeping(layer: Any, seen: dict[str, Any]) -> Callable[..., Any]:
    """A layer's `call` that keeps in `seen`, by the layer's name, what it gives.

    Of a layer that activates, what goes into the activation. Of a map, also its `mean of NAME`.
    """
    call, name = layer.call, layer.name

    def keep(*inputs: Any, **options: Any) -> Any:
        out = call(*inputs, **options)
        seen[name] = out
        seen[f"mean of {name}"] = out.mean((1, 2)) if getattr(out, "ndim", 0) == 4 else out
        if layer.weights and activates(layer):
            activation, layer.activation = layer.activation, None
            try:
                seen[name] = call(*inputs, **options)
            finally:
                layer.activation = activation
        return out

    return keep


def flat(model: Any) -> Iterator[Any]:
    """All layers in the order of their work, those of nested models in their place."""
    for layer in model.layers:
        if is_nested(layer):
            yield from flat(layer)
        else:
            yield layer


def is_nested(layer: Any) -> bool:
    """Whether a layer is a model of layers."""
    return type(layer).__name__ in ("Functional", "Sequential")


def leaves_of(layer: Any) -> list[tuple[str, Any]]:
    """A layer's variables by the names in the source's keys."""
    if type(layer).__name__ == "LayerScale":  # Keras numbers its one variable.
        return [("gamma", layer.gamma)]
    return [(variable.name, variable) for variable in layer.weights]


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
    if library.startswith("keras (numbered"):
        return dict(_numbered(model))
    # What scales images is no layer of the backbone.
    names = [str(x.name) for x in flat(model) if x.weights and not _scales(x)]
    if library in ("keras", "keras (no top)") and any(map(_COUNTED.fullmatch, names)):
        return _counted_from_zero(names)
    old = library == "keras (old keys)"
    renamed = {"conv1_conv": "conv1/conv", "conv1_bn": "conv1/bn", "predictions": "fc1000"}
    return {renamed.get(name, name) if old else name: name for name in names}


def _scales(layer: Any) -> bool:
    return type(layer).__name__ == "Normalization"


def _numbered(model: Any) -> Iterator[tuple[str, str]]:
    """The layers as Keras counts them in a file: by class, those of each nested model anew."""
    seen: collections.Counter[str] = collections.Counter()
    for layer in model.layers:
        if not layer.weights or _scales(layer):
            continue
        kind = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(layer).__name__).lower()
        name = numbered(kind, seen[kind])
        seen[kind] += 1
        if is_nested(layer):
            yield from ((f"{name}/{inner}", place) for inner, place in _numbered(layer))
        else:
            yield name, layer.name
