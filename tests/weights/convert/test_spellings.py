"""Names that other repositories and transformers give to a network that timm names, too."""

from __future__ import annotations

import re

import numpy as np
import pytest

from jtl.common.trees import leaf_paths, lookup
from support import weights_samples as samples
from weights_convert.convert.conversion import convert

pytestmark = pytest.mark.slow

# The patterns are of timm's keys; written down from the modules of the projects named.
CONVNEXT = {
    "Facebook's": [
        (r"stem\.", "downsample_layers.0."),
        (r"stages\.(\d)\.downsample\.", r"downsample_layers.\1."),
        (r"stages\.(\d)\.blocks\.(\d+)\.conv_dw\.", r"stages.\1.\2.dwconv."),
        (r"stages\.(\d)\.blocks\.(\d+)\.mlp\.fc", r"stages.\1.\2.pwconv"),
        (r"stages\.(\d)\.blocks\.", r"stages.\1."),
        (r"head\.norm\.", "norm."),
        (r"head\.fc\.", "head."),
    ],
    "transformers' ConvNext": [
        (r"stem\.0\.", "convnext.embeddings.patch_embeddings."),
        (r"stem\.1\.", "convnext.embeddings.layernorm."),
        (r"stages\.(\d)\.downsample\.", r"convnext.encoder.stages.\1.downsampling_layer."),
        (r"stages\.(\d)\.blocks\.", r"convnext.encoder.stages.\1.layers."),
        (r"(.*\.)conv_dw\.", r"\1dwconv."),
        (r"(.*layers\.\d+\.)norm\.", r"\1layernorm."),
        (r"(.*\.)mlp\.fc", r"\1pwconv"),
        (r"(.*\.)gamma", r"\1layer_scale_parameter"),
        (r"head\.norm\.", "convnext.layernorm."),
        (r"head\.fc\.", "classifier."),
    ],
    "transformers' DINOv3ConvNext": [
        (r"stem\.", "stages.0.downsample_layers."),
        (r"stages\.(\d)\.downsample\.", r"stages.\1.downsample_layers."),
        (r"stages\.(\d)\.blocks\.", r"stages.\1.layers."),
        (r"(.*\.)conv_dw\.", r"\1depthwise_conv."),
        (r"(.*layers\.\d+\.)norm\.", r"\1layer_norm."),
        (r"(.*\.)mlp\.fc", r"\1pointwise_conv"),
        (r"head\.norm\.", "layer_norm."),
    ],
}


def renamed(key: str, names: list[tuple[str, str]]) -> str:
    for pattern, name in names:
        key = re.sub(f"^{pattern}", name, key)
    return key


@pytest.mark.parametrize("source", CONVNEXT)
def test_convnext(source: str):
    plain = samples.tensors("convnext_tiny", "timm")
    bare = source.endswith("DINOv3ConvNext")
    if bare:
        plain = {key: array for key, array in plain.items() if not key.startswith("head.fc.")}
    tensors = {renamed(key, CONVNEXT[source]): array for key, array in plain.items()}
    assert len(tensors) == len(plain)
    assert {*tensors} != {*plain}
    found, expected = convert(tensors), convert(plain)
    assert (found.model, found.library) == ("convnext_tiny", "timm")
    assert (found.num_classes, found.ignored) == (None if bare else 5, ())
    for path in leaf_paths(expected.variables):
        np.testing.assert_array_equal(
            lookup(found.variables, path), lookup(expected.variables, path)
        )
