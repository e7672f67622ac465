"""ONNX, by PyTorch's exporter from the network of timm or torchvision, normalization included."""

from __future__ import annotations

import logging
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jtl.common.errors import UserError
from jtl.export.formats import require
from jtl.export.libraries import torch_network

if TYPE_CHECKING:
    from jtl.predict.classifier import Classifier

_OPSET = 20


def converted(classifier: Classifier) -> Any:
    """The ONNX model from uint8 images, resized and cropped, to logits.

    Raises:
        UserError: timm and torchvision lack the network, or PyTorch is missing.
    """
    torch = require("torch", "onnx", "onnx")
    onnx = require("onnx", "onnx", "onnx")
    require("onnxscript", "onnx", "onnx")
    size = classifier.inputs.device.size
    images = np.zeros((2, size, size, 3), np.uint8)
    with tempfile.TemporaryDirectory(prefix="jtl-") as folder:
        network = _network(classifier, Path(folder, "weights.safetensors"))
        path = Path(folder, "model.onnx")
        _export(torch, _with_normalization(torch, network, classifier), images, path)
        return onnx.load(path)


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
            (torch.from_numpy(images),),
            path,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes={"images": {0: batch}},
            dynamo=True,
            external_data=False,
            verbose=False,
            opset_version=_OPSET,
        )
