"""Other names of ConvNeXt's layers, made timm's."""

from __future__ import annotations

import re

# (pattern of a key's beginning in Facebook's repositories, what timm has there).
_FACEBOOK = (
    (r"downsample_layers\.0\.", "stem."),
    (r"downsample_layers\.(\d)\.", r"stages.\1.downsample."),
    (r"stages\.(\d)\.(\d+)\.dwconv\.", r"stages.\1.blocks.\2.conv_dw."),
    (r"stages\.(\d)\.(\d+)\.pwconv(\d)\.", r"stages.\1.blocks.\2.mlp.fc\3."),
    (r"stages\.(\d)\.(\d+)\.(norm\.|gamma$)", r"stages.\1.blocks.\2.\3"),
    (r"norm\.", "head.norm."),
    (r"head\.(weight|bias)$", r"head.fc.\1"),
)
# The same in transformers, of its ConvNeXt and of DINOv3's.
_TRANSFORMERS = (
    (r"(?:convnext\.)?embeddings\.patch_embeddings\.", "stem.0."),
    (r"(?:convnext\.)?embeddings\.layernorm\.", "stem.1."),
    (r"(?:convnext\.encoder|encoder|model)\.stages\.", "stages."),
    (r"stages\.0\.downsample_layers\.", "stem."),
    (r"stages\.(\d)\.downsampl(?:ing_layer|e_layers)\.", r"stages.\1.downsample."),
    (r"stages\.(\d)\.layers\.", r"stages.\1.blocks."),
    (r"(stages\.\d\.blocks\.\d+)\.(?:dwconv|depthwise_conv)\.", r"\1.conv_dw."),
    (r"(stages\.\d\.blocks\.\d+)\.(?:pwconv|pointwise_conv)(\d)\.", r"\1.mlp.fc\2."),
    (r"(stages\.\d\.blocks\.\d+)\.layer_?norm\.", r"\1.norm."),
    (r"(stages\.\d\.blocks\.\d+)\.layer_scale_parameter$", r"\1.gamma"),
    (r"(?:convnext\.)?layer_?norm\.", "head.norm."),
    (r"classifier\.", "head.fc."),
)


def facebook_convnext(key: str) -> str | None:
    """A key of ConvNeXt's or DINOv3's repository; None for one of a stage's own normalization."""
    if re.match(r"norms\.\d\.", key):
        return None
    for pattern, name in _FACEBOOK:
        renamed, found = re.subn(f"^{pattern}", name, key)
        if found:
            return renamed
    return key


def transformers_convnext(key: str) -> str:
    """A key of transformers' ConvNext or DINOv3ConvNext."""
    for pattern, name in _TRANSFORMERS:  # One after the other.
        key = re.sub(f"^{pattern}", name, key)
    return key
