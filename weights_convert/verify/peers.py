"""The source libraries as peers of the converted model. The only importer of torch and timm.

Nothing here is imported before a verification asks for it: the libraries are large, and jtl
works without them.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import importlib
import importlib.metadata
import re
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np

from jtl import models
from jtl.common.errors import UserError
from weights_convert.catalogue.weights import timm_names
from weights_convert.checkpoint.folder import ConvertedCheckpoint
from weights_convert.convert.conversion import recognize
from weights_convert.convert.fused import fused
from weights_convert.convert.leaf_names import KERAS, TORCH
from weights_convert.convert.tables import TABLES, torchvision_name
from weights_convert.export import targets
from weights_convert.read import readers, sharded
from weights_convert.source.description import Source
from weights_convert.verify.libraries import require, table_of


class Peer(Protocol):
    """A network of another library, with the source's weights.

    Attributes:
        reference: The library, the network and the versions, in words.
        only_size: Height and width of the only images that the network takes; None for any.
    """

    reference: str
    only_size: int | None

    def forward(self, images: np.ndarray) -> np.ndarray:
        """Logits, or averaged features without a classifier: NHWC -> [N, width]."""
        ...

    def layers(self, images: np.ndarray, names: Iterable[str]) -> dict[str, np.ndarray]:
        """The outputs of the layers called `names`, feature maps as NHWC."""
        ...

    def sgd_steps(
        self, images: np.ndarray, labels: np.ndarray, learning_rate: float
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """The state under the source's keys after a step on the mean cross-entropy, twice.

        Both steps start from the source's weights, and drop nothing: what is dropped, each library
        draws otherwise. The first is the more precise; what lies between the two is rounding.
        """
        ...


# By the format of a file that no library loads into a network of its own: its kind, and what does.
_UNVERIFIED = {
    "onnx": ("an ONNX model", "the state dict it was made of"),
    "caffe": ("a Caffe model", "a conversion to PyTorch or Keras"),
    "tensorflow": ("a checkpoint of TensorFlow", "the Keras model it was made of"),
}


def load(checkpoint: ConvertedCheckpoint, source: Source) -> Peer:
    """The peer of converted weights, with the weights of their file.

    Raises:
        UserError: Its library is not installed, or cannot load the file.
    """
    if checkpoint.source_format in _UNVERIFIED:
        kind, better = _UNVERIFIED[checkpoint.source_format]
        raise UserError(
            f"'{source.name}' is {kind}, which --verify and --report cannot compare. Convert it "
            f"without them, or verify {better}."
        )
    if table_of(checkpoint).leaves is KERAS:
        from weights_convert.verify.keras_model import KerasModelPeer
        from weights_convert.verify.keras_peer import KerasPeer

        # Weights alone have no model in their file, and of SqueezeNet Keras's own is gone.
        weights = checkpoint.source_format == "keras-weights-h5"
        squeezenet = models.get(checkpoint.model).family == "squeezenet"
        if source.path.is_file() and not (weights or squeezenet):
            file = readers.read(source.path, source.entry)
            if file.keras_config:
                return KerasModelPeer(checkpoint, source, file)
        return KerasPeer(checkpoint, source)
    return TorchPeer(checkpoint, source)


class TorchPeer:
    """A network of timm or torchvision."""

    def __init__(self, checkpoint: ConvertedCheckpoint, source: Source):
        self._torch = require("torch", "timm")
        self._leaves = table_of(checkpoint).leaves
        self._model, library, name = _torch_network(checkpoint, source)
        have: Any = models.create(checkpoint.model, conventions=checkpoint.conventions).backbone
        # Position embeddings are resized by jtl alone.
        self.only_size = getattr(have, "image_size", None)
        if checkpoint.library == "big_vision":
            # timm has a reader of its own for these files.
            self._model.load_pretrained(str(source.path))
            self._renamed = _by_timm(checkpoint, self._model.state_dict())
        else:
            self._load(checkpoint, source, library)
        versions = [
            f"{p} {importlib.metadata.version(p)}" for p in dict.fromkeys([library, "torch"])
        ]
        self.reference = f"{name} of {', '.join(versions)}"

    def _load(self, checkpoint: ConvertedCheckpoint, source: Source, library: str) -> None:
        """Reads the file with the library, into its network."""
        tensors = _torch_tensors(self._torch, checkpoint, source)
        ignored = [p for p in table_of(checkpoint).ignored if "num_batches_tracked" not in p]
        tensors = {
            key: value
            for key, value in tensors.items()
            if not any(re.fullmatch(pattern, key) for pattern in ignored)
        }
        self._renamed = _renaming(checkpoint, tensors, self._model)
        state = self._model.state_dict()
        # MNASNet asks for its own version. By theirs, normalizations would ask for counters.
        state._metadata = {"": state._metadata[""]}
        state.clear()
        state.update({new: tensor for new, (_, tensor) in self._renamed.items()})
        try:
            self._model.load_state_dict(state, strict=True)
        except RuntimeError as error:
            raise UserError(f"{library} cannot load '{source.name}': {error}") from error

    def _input(self, images: np.ndarray) -> Any:
        return self._torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))

    def forward(self, images: np.ndarray) -> np.ndarray:
        with self._torch.no_grad():
            return self._model.eval()(self._input(images)).numpy()

    def layers(self, images: np.ndarray, names: Iterable[str]) -> dict[str, np.ndarray]:
        """See `Peer`. Of timm's normalizations that activate, what goes into the activation."""
        outputs: dict[str, np.ndarray] = {}
        here = {
            old.rpartition("/" if "/" in old else ".")[0]: new.rpartition(".")[0]
            for new, (old, _) in self._renamed.items()
        }
        handles = []
        for name in names:
            module = self._model.get_submodule(here[name])
            activation = getattr(module, "act", None)
            # Copied at once, because the next layer may work in place.
            if activation is None:

                def keep(_module, _inputs, output, name=name):
                    outputs[name] = _nhwc(output)

                handles.append(module.register_forward_hook(keep))
            else:

                def keep_input(_module, inputs, name=name):
                    outputs[name] = _nhwc(inputs[0])

                handles.append(activation.register_forward_pre_hook(keep_input))
        self.forward(images)
        for handle in handles:
            handle.remove()
        return outputs

    def sgd_steps(
        self, images: np.ndarray, labels: np.ndarray, learning_rate: float
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """See `Peer`: in float64 and in float32."""
        torch = self._torch

        def step(dtype: Any) -> dict[str, np.ndarray]:
            # A copy, so that every step starts from the source's weights.
            network = copy.deepcopy(self._model).to(dtype).train()
            for module in network.modules():
                # Dropout, and torchvision's StochasticDepth.
                if isinstance(getattr(module, "p", None), float):
                    module.p = 0.0
            optimizer = torch.optim.SGD(network.parameters(), lr=learning_rate)
            logits = network(self._input(images).to(dtype))
            torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels)).backward()
            optimizer.step()
            state = network.state_dict()
            return {
                old: self._as_stored(state[new].detach().numpy())
                for new, (old, _) in self._renamed.items()
                if not new.endswith("num_batches_tracked")
            }

        return step(torch.float64), step(torch.float32)

    def _as_stored(self, array: np.ndarray) -> np.ndarray:
        """A tensor of the network in the layout of the source."""
        return self._leaves.to_source(TORCH.to_target(array))


def _nhwc(tensor: Any) -> np.ndarray:
    array = tensor.detach().numpy().copy()
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array


def _torch_network(checkpoint: ConvertedCheckpoint, source: Source) -> tuple[Any, str, str]:
    """An untrained network of the source's library, the library and the network's name."""
    classes = checkpoint.num_classes or 0
    name = checkpoint.model
    entry = models.get(name)
    shared = checkpoint.library == "timm/torchvision" and not source.name.startswith("timm:")
    if shared or checkpoint.library.startswith("torchvision"):
        torchvision = require("torchvision", "timm")
        options: dict[str, Any] = {"num_classes": classes} if classes else {}
        if entry.family == "inception":
            options |= {"aux_logits": False, "init_weights": False}
        backbone: Any = models.create(name, conventions=checkpoint.conventions).backbone
        if size := getattr(backbone, "image_size", None):
            options["image_size"] = size
        network = torchvision.models.get_model(torchvision_name(name), **options)
        if not classes:
            identity = require("torch", "timm").nn.Identity()
            network.set_submodule(table_of(checkpoint).classifier, identity)
        return network, "torchvision", name
    options = {}
    if checkpoint.library == "lukemelas":
        # That port's network sets TensorFlow's momentum, for which timm has this switch.
        options["bn_momentum"] = 0.01
    backbone: Any = models.create(name, conventions=checkpoint.conventions).backbone
    if hasattr(backbone, "image_size"):
        options |= {"img_size": backbone.image_size, "global_pool": backbone.pooling}
    name = _timm_name(checkpoint)
    timm = require("timm", "timm")
    return timm.create_model(name, pretrained=False, num_classes=classes, **options), "timm", name


def _timm_name(checkpoint: ConvertedCheckpoint) -> str:
    """Timm's network that pads and normalizes as the weights' does."""
    have: Any = models.create(checkpoint.model, conventions=checkpoint.conventions).backbone
    for target in targets.candidates("timm", checkpoint.model):
        if _deciding(have) == _deciding(target.backbone):
            return target.architecture
    return timm_names(checkpoint.model)[0]


def _deciding(backbone: Any) -> tuple[Any, ...]:
    """What tells timm's networks of one model apart; Nones where a family has no such field."""
    fields = ("padding", "class_token", "embeds_class", "registers", "layer_scale", "pooling")
    fields += ("norm_pre",)
    norm = getattr(backbone, "norm", None)
    return (norm and norm.epsilon, *(getattr(backbone, name, None) for name in fields))


def _torch_tensors(torch: Any, checkpoint: ConvertedCheckpoint, source: Source) -> dict[str, Any]:
    """The file's state dict by the library's own reader, as float32, under the library's keys."""
    file = readers.read(source.path, source.entry)
    file = dataclasses.replace(file, tensors=dict(fused(file.tensors)))
    index = sharded.is_index(source.path)
    places = sorted(set(sharded.read_index(str(source.path)).values())) if index else [source.path]
    loaded: dict[str, Any] = {}
    for place in places:
        loaded |= _loaded(torch, place, file.format, source.name)
    for wrapper in file.wrappers:
        if wrapper in loaded:
            loaded = loaded[wrapper]
        else:
            loaded = {key.removeprefix(wrapper): value for key, value in loaded.items()}
    _, _, layout = recognize(
        file.tensors,
        checkpoint.model,
        drop_head=not checkpoint.num_classes,
        strip_prefix=source.strip_prefix,
        ignore_keys=source.ignore_keys,
    )
    shapes = {layout.origin[key]: array.shape for key, array in layout.tensors.items()}
    if any(key not in loaded or loaded[key].shape != shape for key, shape in shapes.items()):
        arrays = fused({key: value.float().numpy() for key, value in loaded.items()})
        loaded = {key: torch.from_numpy(np.array(array)) for key, array in arrays.items()}
    tensors = {key: loaded[layout.origin[key]] for key in layout.tensors}
    return {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}


def _loaded(torch: Any, path: Any, layout: str, name: str) -> Any:
    if layout == "safetensors":
        return require("safetensors.torch", "timm").load_file(path)
    try:
        # Plain holders of values, which training scripts keep beside the weights.
        with torch.serialization.safe_globals([argparse.Namespace, frozenset]):
            return torch.load(path, map_location="cpu", weights_only=True)
    # Its unpickler raises many types for what it does not allow.
    except Exception as error:
        raise UserError(f"PyTorch cannot load '{name}': {error}") from error


def _renaming(
    checkpoint: ConvertedCheckpoint, tensors: Mapping[str, Any], network: Any
) -> dict[str, tuple[str, Any]]:
    """{the network's key: (the source's key, tensor)}, found without the conversion tables."""
    if checkpoint.library == "torchvision (old keys)":
        # The names had a dot that torchvision took out later.
        pattern = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(\d\.)")
        return {pattern.sub(r"\1\2", key): (key, value) for key, value in tensors.items()}
    if checkpoint.library == "transformers":
        return _in_timms_names(checkpoint, tensors)
    if checkpoint.library != "lukemelas":
        return {key: (key, value) for key, value in tensors.items()}
    # Another port of the same network registers the same layers in the same order, which a
    # pickle keeps.
    ours = [k for k in network.state_dict() if not k.endswith("num_batches_tracked")]
    theirs = [k for k in tensors if not k.endswith("num_batches_tracked")]
    shapes = [tuple(network.state_dict()[k].shape) for k in ours]
    if shapes != [tuple(tensors[k].shape) for k in theirs]:
        raise UserError(
            f"'{checkpoint.source}' holds lukemelas's keys in another order than that network has "
            "them, so there is nothing to compare it with. Verify its original file, or convert "
            "without --verify."
        )
    return {new: (old, tensors[old]) for new, old in zip(ours, theirs, strict=True)}


def _by_timm(
    checkpoint: ConvertedCheckpoint, state: Mapping[str, Any]
) -> dict[str, tuple[str, Any]]:
    """{timm's key: (the source's key, timm's tensor)}."""
    names = _timms_names(checkpoint)
    return {name: (key, state[name]) for key, name in names.items()}


def _in_timms_names(
    checkpoint: ConvertedCheckpoint, tensors: Mapping[str, Any]
) -> dict[str, tuple[str, Any]]:
    """{timm's key: (the source's key, tensor)}: the networks are the same."""
    names = _timms_names(checkpoint)
    return {names[key]: (key, tensor) for key, tensor in tensors.items() if key in names}


def _timms_names(checkpoint: ConvertedCheckpoint) -> dict[str, str]:
    """{the source's key: timm's key}."""
    family = models.get(checkpoint.model).family
    timm = next(t for t in TABLES if t.family == family and t.library.startswith("timm"))
    backbone = models.get(checkpoint.model).backbone
    theirs, ours = (
        table.source_keys(backbone, checkpoint.variables) for table in (table_of(checkpoint), timm)
    )
    return {key: ours[path] for path, key in theirs.items()}
