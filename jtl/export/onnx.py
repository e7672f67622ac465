"""ONNX, by PyTorch's exporter from the network of timm or torchvision, normalization included."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jtl.common.errors import UserError
from jtl.export.formats import ExportedOutputs, facts, fitted, require
from jtl.export.libraries import torch_network

if TYPE_CHECKING:
    from jtl.predict.classifier import Classifier

LOADING = """\
import onnxruntime
session = onnxruntime.InferenceSession("FILE")
(logits,) = session.run(None, {"images": images})  # uint8 RGB [N, SIZE, SIZE, 3], any N"""
_OPSET = 20


def write(classifier: Classifier, path: Path, samples: list[np.ndarray]) -> ExportedOutputs:
    """See `jtl.export.formats.ExportWriter`. It takes images that are resized and cropped."""
    torch = require("torch", "onnx", "onnx")
    for name in ("onnxscript", "onnxruntime", "onnx"):
        require(name, "onnx", "onnx")
    weights = path.with_name("weights.safetensors")
    try:
        network = _network(classifier, weights)
    finally:
        weights.unlink(missing_ok=True)
    images = np.rint(fitted(classifier, samples)).astype(np.uint8)
    _export(torch, _with_normalization(torch, network, classifier), images, path)
    _describe(path, classifier)
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    (logits,) = session.run(None, {"images": images})
    size = str(images.shape[1])
    return ExportedOutputs(
        np.asarray(logits),
        f"onnxruntime {onnxruntime.__version__}",
        LOADING.replace("SIZE", size),
        # Small images are enlarged by the device, and here rounded to whole values after it.
        rounding=1e-4 if classifier.inputs.host is not None else 1e-2,
    )


def _network(classifier: Classifier, weights: Path) -> Any:
    try:
        return torch_network(classifier, weights, "timm")[0]
    except UserError:
        if weights.exists():
            raise
        # What timm has no name for torchvision may have; if not, timm's reason is as good.
        return torch_network(classifier, weights, "torchvision")[0]


def _with_normalization(torch: Any, network: Any, classifier: Classifier) -> Any:
    preprocessing = classifier.inputs.device.preprocessing

    class Whole(torch.nn.Module):
        """uint8 NHWC -> logits."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network
            self.register_buffer("mean", torch.tensor(preprocessing.mean))
            self.register_buffer("std", torch.tensor(preprocessing.std))

        def forward(self, images: Any) -> Any:
            x = (images.to(torch.float32) / 255.0 - self.mean) / self.std
            if preprocessing.channel_order == "bgr":
                x = x.flip(-1)
            return self.network(x.permute(0, 3, 1, 2))

    return Whole().eval()


def _export(torch: Any, whole: Any, images: np.ndarray, path: Path) -> None:
    batch = torch.export.Dim("batch")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # Remarks of PyTorch's on its own code.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            whole,
            # Of two images at least: of one, the exporter would take the batch for constant.
            (torch.from_numpy(np.resize(images, (2, *images.shape[1:]))),),
            path,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes={"images": {0: batch}},
            dynamo=True,
            external_data=False,
            verbose=False,
            opset_version=_OPSET,
        )


def _describe(path: Path, classifier: Classifier) -> None:
    """Writes what a user must know into the file itself."""
    import onnx

    model = onnx.load(path)
    for name, value in facts(classifier).items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        model.metadata_props.add(key=name, value=text)
    onnx.save(model, path)
