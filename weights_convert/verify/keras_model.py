"""A whole Keras model, as its file has it, as the peer of what was converted from it.

`weights_convert.verify.keras_peer` builds the network that Keras has under the backbone's name. A
`.keras` archive and an `.h5` of a whole model hold the graph as well: layers around the backbone,
the backbone as a layer of another model. So the peer is that model, loaded by Keras.
"""

from __future__ import annotations

import importlib.metadata
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from jtl import models
from jtl.common.errors import UserError, first_line
from weights_convert.checkpoint.folder import ConvertedCheckpoint
from weights_convert.printable import shown
from weights_convert.read import readers
from weights_convert.source import keras_layers
from weights_convert.source.description import Source
from weights_convert.verify.keras_peer import (
    flat,
    jax_keras,
    keeping,
    layer_names,
    leaves_of,
    named_for_keras,
    state_of,
    two_sgd_steps,
    unscaled,
)
from weights_convert.verify.libraries import table_of

_WITHOUT = "so there is nothing to compare with. Convert without --verify"
# What follows a backbone's last weights and is still the backbone's.
_LAST = ("Activation", "ReLU", "Add", "Concatenate", "MaxPooling2D")


class KerasModelPeer:
    """The model in a file; see `weights_convert.verify.peers.Peer`."""

    def __init__(self, checkpoint: ConvertedCheckpoint, source: Source, file: readers.SourceFile):
        keras = jax_keras()
        config = file.keras_config or {}
        _check_code(config, source.name)
        try:
            scaling = keras_layers.declared(config, (), file.tensors)
        except UserError as error:
            raise UserError(f"'{source.name}' cannot be verified: {error}, {_WITHOUT}.") from error
        self._scaling = scaling
        self._model = model = _loaded(keras, checkpoint, source)
        model.trainable = True
        self._seen: dict[str, Any] = {}
        layers = list(flat(model))
        self._names = self._named(checkpoint, layers)
        self._out = self._watch(checkpoint, layers)
        self.only_size: int | None = model.input_shape[1]
        self.reference = (
            f"the file's own model in keras {keras.__version__}, jax "
            f"{importlib.metadata.version('jax')}"
        )

    def forward(self, images: np.ndarray) -> np.ndarray:
        out, _, whole = self._run(images, ())
        self._check_end(out, whole)
        return out

    def layers(self, images: np.ndarray, names: Iterable[str]) -> dict[str, np.ndarray]:
        names = list(names)
        _, seen, _ = self._run(images, tuple(self._names[name] for name in names))
        return {name: seen[self._names[name]] for name in names}

    def sgd_steps(
        self, images: np.ndarray, labels: np.ndarray, learning_rate: float
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """See `Peer`."""
        model = self._model
        by_name = {layer.name: layer for layer in flat(model)}

        def logits_of(params: Any, fixed: Any, images: Any) -> Any:
            _, updated = model.stateless_call(params, fixed, self._bytes(images), training=True)
            return self._seen[self._out].reshape(len(images), -1), updated

        def by_source_key(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {
                f"{name}/{leaf}": values[variable.path]
                for name, layer in self._names.items()
                for leaf, variable in leaves_of(by_name[layer])
            }

        one, other = two_sgd_steps(model, logits_of, images, labels, learning_rate)
        return by_source_key(one), by_source_key(other)

    def _run(
        self, images: np.ndarray, layers: tuple[str, ...]
    ) -> tuple[np.ndarray, dict[str, np.ndarray], list[np.ndarray]]:
        """Logits or features, what the layers gave, and what the model gives."""
        import jax

        @jax.jit
        def run(params: Any, fixed: Any, images: Any) -> Any:
            whole, _ = self._model.stateless_call(params, fixed, images, training=False)
            whole = whole if isinstance(whole, (list, tuple)) else [whole]
            return self._seen[self._out], {name: self._seen[name] for name in layers}, whole

        # One compilation is enough for a verification; each of its calls has other layers.
        out, seen, whole = run(*state_of(self._model), self._bytes(images))
        arrays = {name: np.asarray(value) for name, value in seen.items()}
        # Logits of a convolution over one pixel are vectors, too.
        out = np.asarray(out).reshape(len(images), -1)
        return out, arrays, [np.asarray(value) for value in whole]

    def _bytes(self, images: Any) -> Any:
        """What the model takes: where its own layers normalize, what they normalize to `images`."""
        return unscaled(images, self._scaling)

    def _named(self, checkpoint: ConvertedCheckpoint, layers: list[Any]) -> dict[str, str]:
        """{name in the source's keys: the layer's name} of the layers that were converted."""
        table = table_of(checkpoint)
        names = layer_names(types.SimpleNamespace(layers=layers), checkpoint.library)
        backbone = models.create(
            checkpoint.model, head=None, conventions=dict(checkpoint.conventions)
        )
        keys = table.source_keys(backbone.backbone, models.variable_shapes(backbone))
        wanted = {key.rpartition("/")[0] for key in keys.values()}
        found = {name: names[name] for name in wanted if name in names}
        if missing := wanted - found.keys():
            raise UserError(
                f"the model of '{checkpoint.source}' has no layer '{shown(min(missing), 40)}' in "
                f"Keras, {_WITHOUT}."
            )
        if checkpoint.num_classes:
            # Its author named it.
            on_pixels = table.layout_of("head/logits") == "conv"
            kind = "Conv2D" if on_pixels else "Dense"
            dense = [layer for layer in layers if type(layer).__name__ == kind]
            heads = [layer for layer in dense if layer.name not in found.values()]
            found[self._head(checkpoint)] = _classifier(checkpoint, heads)
        return found

    def _head(self, checkpoint: ConvertedCheckpoint) -> str:
        """What the source's library calls the classifier."""
        model = models.create(checkpoint.model, conventions=dict(checkpoint.conventions))
        return table_of(checkpoint).module_name("head/logits", model.backbone)

    def _watch(self, checkpoint: ConvertedCheckpoint, layers: list[Any]) -> str:
        """Makes layers keep what they give, those of training alone do nothing.

        Returns:
            The name of the layer that gives logits or the last feature map.
        """
        for layer in layers:
            if keras_layers.frames_or_trains(type(layer).__name__):
                layer.call = lambda inputs, *_, **__: inputs
            else:
                layer.call = keeping(layer, self._seen)
        if checkpoint.num_classes:
            return self._names[self._head(checkpoint)]
        converted = set(self._names.values())
        last = max(i for i, layer in enumerate(layers) if layer.name in converted)
        while last + 1 < len(layers) and type(layers[last + 1]).__name__ in _LAST:
            last += 1
        name, kind = layers[last].name, type(layers[last]).__name__
        if kind == "LayerNormalization" and len(layers[last].output.shape) == 4:
            raise UserError(
                f"the model of '{checkpoint.source}' normalizes each pixel before anything pools "
                f"them (pooling=None), and jtl's network pools first, {_WITHOUT}."
            )
        return f"mean of {name}"

    def _check_end(self, logits: np.ndarray, whole: list[np.ndarray]) -> None:
        """Whether the model ends with its logits or their softmax, where there are any."""
        if self._out.startswith("mean of "):
            return
        shares = np.exp(logits - logits.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        for out in whole:
            for expected in (logits, shares):
                if out.shape == expected.shape and np.allclose(out, expected, 1e-4, 1e-5):
                    return
        raise UserError(
            "the file's model gives neither its classifier's logits nor their softmax: another "
            "layer follows. Convert the backbone alone with --drop-head."
        )


def _classifier(checkpoint: ConvertedCheckpoint, heads: list[Any]) -> str:
    """The layer that was converted; --ignore-keys may have left out others."""
    if len(heads) > 1:
        kernel = checkpoint.variables["params"]["head"]["logits"]["kernel"]
        heads = [
            head
            for head in heads
            if np.array_equal(np.asarray(head.kernel.value).reshape(-1, kernel.shape[-1]), kernel)
        ]
    if len(heads) != 1:
        raise UserError(
            f"the model of '{checkpoint.source}' has {len(heads) or 'no'} Dense layers with the "
            f"weights of the converted classifier, {_WITHOUT}."
        )
    return heads[0].name


def _check_code(config: Mapping[str, Any], name: str) -> None:
    """Refuses a model with code of its author's: loading it could run the code."""
    for kind, module in _classes(config):
        if kind in ("Lambda", "__lambda__", "TFSMLayer") or module.partition(".")[0] != "keras":
            raise UserError(
                f"'{name}' holds {shown(kind, 40)}, code that is not Keras's own and is not run, "
                f"{_WITHOUT}."
            )


def _classes(value: Any, depth: int = 0) -> Iterator[tuple[str, str]]:
    """(class, module) of every object in a configuration."""
    if depth > 64:
        return
    if isinstance(value, Mapping):
        if isinstance(kind := value.get("class_name"), str):
            yield kind, str(value.get("module") or "keras")
        for part in value.values():
            yield from _classes(part, depth + 1)
    elif isinstance(value, list):
        for part in value:
            yield from _classes(part, depth + 1)


def _loaded(keras: Any, checkpoint: ConvertedCheckpoint, source: Source) -> Any:
    """The model, by Keras's own loader."""
    suffix = ".keras" if checkpoint.source_format == "keras-archive" else ".h5"
    try:
        with named_for_keras(suffix, source) as path:
            model = keras.models.load_model(path, compile=False, safe_mode=True)
    # Its loader raises many types for what it does not know.
    except Exception as error:
        raise UserError(
            f"Keras {keras.__version__} cannot load the model in '{source.name}' "
            f"({shown(first_line(error), 160)}), {_WITHOUT}."
        ) from error
    if len(model.inputs) != 1 or len(model.input_shape) != 4:
        raise UserError(f"the model in '{source.name}' takes more than images, {_WITHOUT}.")
    return model
