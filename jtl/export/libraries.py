"""timm, torchvision and Keras: weights under their names, loaded there and run."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from jtl import weights
from jtl.common.errors import UserError
from jtl.export.formats import ExportedOutputs, fitted, require

if TYPE_CHECKING:
    from jtl.predict.classifier import Classifier
    from weights_convert.export.targets import TargetModel

ROUNDING = 1e-4
"""What float32 sums in another order cost through all layers, relative to the largest logit."""


def write_timm(classifier: Classifier, path: Path, samples: list[np.ndarray]) -> ExportedOutputs:
    return _write_torch(classifier, path, samples, "timm")


def write_torchvision(
    classifier: Classifier, path: Path, samples: list[np.ndarray]
) -> ExportedOutputs:
    return _write_torch(classifier, path, samples, "torchvision")


def _write_torch(
    classifier: Classifier, path: Path, samples: list[np.ndarray], to: str
) -> ExportedOutputs:
    torch = require("torch", to, "timm")
    network, target = torch_network(classifier, path, to)
    with torch.no_grad():
        images = torch.from_numpy(_normalized(classifier, samples).transpose(0, 3, 1, 2).copy())
        logits = network(images).numpy()
    loading = f"{target.loading}\n{_input(classifier, 'N, 3, {0}, {0}')}"
    return ExportedOutputs(logits, _versions(to, "torch"), loading, ROUNDING)


def torch_network(classifier: Classifier, path: Path, to: str) -> tuple[Any, TargetModel]:
    """Writes weights for timm or torchvision to `path`, and loads them there.

    Returns:
        (the network in evaluation mode: normalized float32 NCHW -> logits, what it is).
    """
    library = require(to, to, "timm")
    safetensors = require("safetensors.torch", to, "timm")
    target = weights.export(classifier.folder, to, path)
    tensors = safetensors.load_file(path)
    options: dict[str, Any] = {"num_classes": len(classifier.class_names)}
    inception = target.architecture == "inception_v3"
    if inception:
        options["aux_logits"] = any(key.startswith("AuxLogits.") for key in tensors)
    if to == "timm":
        options |= timm_options(classifier)
        network = library.create_model(target.architecture, **options)
    else:
        drawn = {"init_weights": False} if inception else {}  # Drawing takes it minutes.
        options |= torchvision_options(classifier)
        network = library.models.get_model(target.architecture, **options, **drawn)
    state = network.state_dict()  # With its modules' versions, or MNASNet loads nothing.
    state.clear()
    state.update(tensors)
    network.load_state_dict(state, strict=True)
    if inception:
        network.aux_logits = False  # Whose output timm gives beside the logits.
    return network.eval(), target


def timm_options(classifier: Classifier) -> dict[str, Any]:
    """Arguments of `timm.create_model` for a run's network, besides its name and classes."""
    backbone: Any = classifier.model.backbone
    if not (positions := getattr(backbone, "image_size", None)):
        return {"global_pool": classifier.meta["head"]["pool"]}
    options = {"img_size": positions, "global_pool": backbone.pooling}
    if classifier.inputs.device.size != positions:
        options["dynamic_img_size"] = True
    return options


def torchvision_options(classifier: Classifier) -> dict[str, Any]:
    """The same of torchvision's networks.

    Raises:
        UserError: A vision transformer takes images of another size than its positions are of.
    """
    if not (positions := getattr(classifier.model.backbone, "image_size", None)):
        return {}
    if (size := classifier.inputs.device.size) != positions:
        raise UserError(
            f"torchvision's vision transformers take images of one size, {positions} pixels here, "
            f"and this run's have {size}. Export with --to timm, or train with --image-size "
            f"{positions}."
        )
    return {"image_size": positions}


def write_keras(classifier: Classifier, path: Path, samples: list[np.ndarray]) -> ExportedOutputs:
    os.environ.setdefault("KERAS_BACKEND", "jax")
    keras = require("keras", "keras", "keras")
    target = weights.export(classifier.folder, "keras", path)
    if target.scales_images:
        images = np.asarray(fitted(classifier, samples), np.float32)
        size = classifier.inputs.device.size
        takes = f"# It takes float32 [N, {size}, {size}, 3]: RGB from 0 to 255."
    else:
        images, takes = _normalized(classifier, samples), _input(classifier, "N, {0}, {0}, 3")
    options: dict[str, Any] = {"weights": None, "classes": len(classifier.class_names)}
    if target.can_leave_out_scaling:
        options["include_preprocessing"] = False
    network = getattr(keras.applications, target.architecture)(
        **options, input_shape=images.shape[1:], classifier_activation=None
    )
    network.load_weights(path)
    logits = np.asarray(keras.ops.convert_to_numpy(network(images, training=False)))
    loading = f"{target.loading}\n{takes}"
    return ExportedOutputs(logits, _versions("keras"), loading, ROUNDING)


def _normalized(classifier: Classifier, samples: list[np.ndarray]) -> np.ndarray:
    """float32 [N, size, size, 3], as the network takes them."""
    x = classifier.inputs.device.normalize(jnp.asarray(fitted(classifier, samples)))
    return np.asarray(x, np.float32)


def _input(classifier: Classifier, shape: str) -> str:
    """A comment on what the network takes."""
    device = classifier.inputs.device
    mean, std = (
        ", ".join(f"{x:.4g}" for x in values)
        for values in (device.preprocessing.mean, device.preprocessing.std)
    )
    order = ", then BGR" if device.preprocessing.channel_order == "bgr" else ""
    return (
        f"# It takes float32 [{shape.format(device.size)}]: RGB / 255, minus ({mean}), divided by\n"
        f"# ({std}){order}."
    )


def _versions(*packages: str) -> str:
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
