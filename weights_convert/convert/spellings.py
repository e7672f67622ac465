"""Other names of the layers of ConvNeXt and of vision transformers, made timm's."""

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
# In transformers, its older and its newer names, of ViT, DeiT and DINOv2.
_TRANSFORMERS_VIT = (
    (r"(?:vit|deit|dinov2|dinov2_with_registers)\.", ""),
    (r"embeddings\.position_embeddings$", "pos_embed"),
    (r"embeddings\.(cls_token|reg_token)$", r"\1"),
    (r"embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"(?:encoder\.)?layers?\.(\d+)\.", r"blocks.\1."),
    (r"(blocks\.\d+)\.attention\.(?:attention\.)?qkv\.", r"\1.attn.qkv."),
    (r"(blocks\.\d+)\.attention\.(?:output\.dense|o_proj)\.", r"\1.attn.proj."),
    (r"(blocks\.\d+)\.intermediate\.dense\.", r"\1.mlp.fc1."),
    (r"(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"(blocks\.\d+)\.layernorm_before\.", r"\1.norm1."),
    (r"(blocks\.\d+)\.layernorm_after\.", r"\1.norm2."),
    (r"(blocks\.\d+)\.layer_scale(\d)\.lambda1$", r"\1.ls\2.gamma"),
    (r"layernorm\.", "norm."),
    (r"classifier\.", "head."),
)


# In OpenAI's repository and OpenCLIP; the tower's own, behind `visual.`.
_CLIP_VIT = (
    (r"class_embedding$", "cls_token"),
    (r"positional_embedding$", "pos_embed"),
    (r"conv1\.weight$", "patch_embed.proj.weight"),
    (r"ln_pre\.", "norm_pre."),
    (r"ln_post\.", "norm."),
    (r"transformer\.resblocks\.(\d+)\.ln_([12])\.", r"blocks.\1.norm\2."),
    (r"transformer\.resblocks\.(\d+)\.attn\.in_proj_", r"blocks.\1.attn.qkv."),
    (r"transformer\.resblocks\.(\d+)\.attn\.out_proj\.", r"blocks.\1.attn.proj."),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_fc\.", r"blocks.\1.mlp.fc1."),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_proj\.", r"blocks.\1.mlp.fc2."),
)
# In transformers, of the vision towers of CLIP and SigLIP.
_TOWERS = (
    (r"embeddings\.class_embedding$", "cls_token"),
    (r"embeddings\.position_embedding\.weight$", "pos_embed"),
    (r"embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"pre_layrnorm\.", "norm_pre."),  # As it is spelt there.
    (r"post_layernorm\.", "norm."),
    (r"encoder\.layers\.(\d+)\.layer_norm([12])\.", r"blocks.\1.norm\2."),
    (r"encoder\.layers\.(\d+)\.self_attn\.qkv\.", r"blocks.\1.attn.qkv."),
    (r"encoder\.layers\.(\d+)\.self_attn\.out_proj\.", r"blocks.\1.attn.proj."),
    (r"encoder\.layers\.(\d+)\.mlp\.", r"blocks.\1.mlp."),
    (r"head\.probe$", "attn_pool.latent"),
    (r"head\.attention\.(q|kv)\.", r"attn_pool.\1."),
    (r"head\.attention\.out_proj\.", "attn_pool.proj."),
    (r"head\.layernorm\.", "attn_pool.norm."),
    (r"head\.mlp\.", "attn_pool.mlp."),
)
TOWER = "those of CLIP's and SigLIP's vision towers in transformers"
CLIP = "those of CLIP's own repository or OpenCLIP's"
"""What their spelling is called."""


def clip(key: str) -> str | None:
    """A key of CLIP's as the vision transformer's; None for one of its other parts."""
    if not key.startswith("visual."):
        return None
    return clip_tower(key.removeprefix("visual."))


def clip_tower(key: str) -> str | None:
    """A key of CLIP's vision transformer alone; None for its projection to texts."""
    return _first(key, _CLIP_VIT)


def transformers_tower(key: str) -> str | None:
    """A key of CLIP's or SigLIP's vision transformer in transformers; None for another."""
    return _first(key, _TOWERS)


def _first(key: str, names: tuple[tuple[str, str], ...]) -> str | None:
    for pattern, name in names:
        renamed, found = re.subn(f"^{pattern}", name, key)
        if found:
            return renamed
    return None


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
    return _renamed(key, _TRANSFORMERS)


def transformers_vit(key: str) -> str:
    """A key of transformers' ViT, DeiT or DINOv2."""
    return _renamed(key, _TRANSFORMERS_VIT)


def keras_convnext(key: str) -> str:
    """A key of Keras's ConvNeXt inside another model, whose own models inside have names, too."""
    return re.sub(r"^convnext_\w+_(?:stem|downsampling_block_\d)/", "", key)


def _renamed(key: str, names: tuple[tuple[str, str], ...]) -> str:
    for pattern, name in names:  # One after the other.
        key = re.sub(f"^{pattern}", name, key)
    return key
