"""Vision transformers: names of timm, of torchvision, and of big_vision's `.npz` files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jtl.common.errors import UserError
from jtl.models import Preprocessing
from weights_convert.convert.big_vision import POSITIONS
from weights_convert.convert.leaf_names import TORCH, LeafRules
from weights_convert.convert.published import Published, TimmNetwork, TorchvisionFile, network
from weights_convert.convert.rules import Layout, Naming, Table

if TYPE_CHECKING:
    from jtl.models.families.vit import ViT

_TIMM = {"qkv": "attn.qkv", "proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
_TIMM |= {"layer_scale1": "ls1", "layer_scale2": "ls2"}
_TORCHVISION = {"norm1": "ln_1", "norm2": "ln_2", "fc1": "mlp.0", "fc2": "mlp.3"}
_BIG_VISION = {"norm1": "LayerNorm_0", "norm2": "LayerNorm_2", "fc1": "MlpBlock_3/Dense_0"}
_BIG_VISION |= {"fc2": "MlpBlock_3/Dense_1", "qkv": "MultiHeadDotProductAttention_1/qkv"}
_BIG_VISION |= {"proj": "MultiHeadDotProductAttention_1/out"}
# One tensor for queries, keys and values: `in_proj_weight`.
_TORCHVISION |= {"qkv": "self_attention.in_proj_", "proj": "self_attention.out_proj"}


def _timm(backbone: ViT) -> tuple[Naming, ...]:
    def block(index: str, name: str) -> str:
        return f"blocks.{int(index) - 1}.{_TIMM.get(name, name)}"

    return (
        (r"stem", lambda: ""),
        (r"stem/conv", lambda: "patch_embed.proj"),
        (r"stem/norm", lambda: "norm_pre"),
        (r"stage\d/block(\d+)/(\w+)", block),
        # timm's name says whether it comes before the pooling.
        (r"final/norm", lambda: "fc_norm" if backbone.pooling == "avg" else "norm"),
        (r"final/attn_pool", lambda: "attn_pool"),
        (r"final/attn_pool/(q|kv|proj|norm)", "attn_pool.{}".format),
        (r"final/attn_pool/(fc[12])", "attn_pool.mlp.{}".format),
    )


def _torchvision(_backbone: ViT) -> tuple[Naming, ...]:
    def block(index: str, name: str) -> str:
        return f"encoder.layers.encoder_layer_{int(index) - 1}.{_TORCHVISION[name]}"

    return (
        (r"stem", lambda: ""),
        (r"stem/conv", lambda: "conv_proj"),
        (r"stage\d/block(\d+)/(norm[12]|fc[12]|qkv|proj)", block),
        (r"final/norm", lambda: "encoder.ln"),
    )


def _big_vision(_backbone: ViT) -> tuple[Naming, ...]:
    def block(index: str, name: str) -> str:
        return f"Transformer/encoderblock_{int(index) - 1}/{_BIG_VISION[name]}"

    return (
        (r"stem", lambda: ""),
        (r"stem/conv", lambda: "embedding"),
        (r"stage\d/block(\d+)/(norm[12]|fc[12]|qkv|proj)", block),
        (r"final/norm", lambda: "Transformer/encoder_norm"),
    )


def _grid(positions: int) -> tuple[int, bool] | None:
    """Side of a square of position embeddings, and whether the class token has one, too."""
    for own in (False, True):
        side = math.isqrt(positions - own)
        if side and side**2 == positions - own:
            return side, own
    return None


def _shown(positions: str, class_token: str, tensors: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"class_token": class_token in tensors}
    shape = getattr(tensors.get(positions), "shape", ())
    if len(shape) == 3 and (grid := _grid(shape[1])):
        found |= {"grid": grid[0], "embeds_class": grid[1] or not found["class_token"]}
    return found


def _shown_by_timm(tensors: Mapping[str, Any]) -> dict[str, Any]:
    registers = getattr(tensors.get("reg_token"), "shape", ())
    is_clips = "norm_pre.weight" in tensors
    return {
        **_shown("pos_embed", "cls_token", tensors),
        "registers": registers[1] if len(registers) == 3 else 0,
        "layer_scale": "blocks.0.ls1.gamma" in tensors,
        # CLIP's towers have another epsilon, which no key shows.
        "norm_pre": is_clips,
        "epsilon": 1e-5 if is_clips else 1e-6,
        "pooling": _pooling(tensors),
        # Of those without a class token, timm's of 32 pixels has the approximation.
        **({"activation": "gelu_tanh"} if _is_siglip_of_32(tensors) else {}),
    }


def _pooling(tensors: Mapping[str, Any]) -> str:
    if "attn_pool.latent" in tensors:
        return "map"
    if "fc_norm.weight" in tensors:
        return "avg"
    # Without a class token and a normalization after the average, patches are normalized before.
    return "token" if "cls_token" in tensors else "normed_avg"


def _is_siglip_of_32(tensors: Mapping[str, Any]) -> bool:
    shape = getattr(tensors.get("patch_embed.proj.weight"), "shape", ())
    return "cls_token" not in tensors and "fc_norm.weight" not in tensors and shape[2:] == (32, 32)


def _shown_by_torchvision(tensors: Mapping[str, Any]) -> dict[str, Any]:
    return _shown("encoder.pos_embedding", "class_token", tensors)


def _shown_by_big_vision(tensors: Mapping[str, Any]) -> dict[str, Any]:
    if "cls" not in tensors and POSITIONS in tensors:
        raise UserError(
            "it is a vision transformer of big_vision without a class token, which averages "
            "normalized patches or pools by attention; jtl's networks do neither. Take one with "
            "a class token (array 'cls'), such as AugReg's"
        )
    return _shown(POSITIONS, "cls", tensors)


# All have dense layers where jtl has convolutions of one pixel.
_DENSE: dict[str, Layout] = {r"(stage\d/block\d+|final/attn_pool)/(q|kv|qkv|proj|fc[12])": "dense"}
# Flax's own names and layouts.
_FLAX = LeafRules(
    names={("params", name): name for name in ("kernel", "bias", "scale")},
    separator="/",
    conv_axes=(0, 1, 2, 3),
    dense_axes=(0, 1),
)
TABLES = (
    Table(
        "timm",
        "vit",
        _timm,
        "head",
        TORCH,
        # What masked images are filled with in training, and transformers' layer for sentences.
        ignored=(r"(.*\.)?mask_token", r"(\w+\.)?pooler\..*"),
        layouts=_DENSE,
        shown_by=_shown_by_timm,
    ),
    Table(
        "torchvision",
        "vit",
        _torchvision,
        "heads.head",
        TORCH,
        ignored=(),
        conventions={"layer_scale": False},
        preprocessing=Preprocessing(interpolation="bilinear"),
        layouts=_DENSE,
        leaf_names={"cls_token": "class_token", "pos_embed": "encoder.pos_embedding"},
        uncalled=(r".*/(qkv|proj)",),
        shown_by=_shown_by_torchvision,
    ),
    Table(
        "big_vision",
        "vit",
        _big_vision,
        "head",
        _FLAX,
        ignored=(),
        # Whole images, resized bilinearly, with values from -1 to 1.
        preprocessing=Preprocessing(
            (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), crop_pct=1.0, interpolation="bilinear"
        ),
        layouts=_DENSE,
        leaf_names={"cls_token": "cls", "pos_embed": POSITIONS},
        shown_by=_shown_by_big_vision,
    ),
)

INSIDE = (
    (
        r"blocks\.(\d+)\.(?:attn(?:\.\w+_drop|\.[qk]_norm)?|mlp(?:\.\w+)?|drop_path\d?)",
        lambda block: f"stage{1 + int(block) // 3}/block{int(block) + 1}",
    ),
)

_AUGREG = "augreg_in21k augreg_in21k_ft_in1k"
_IMAGENET = Preprocessing(crop_pct=0.9)
_WHOLE = Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), crop_pct=1.0, size=384)
_CLIP = Preprocessing(
    (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711), crop_pct=1.0
)
_CLIPS: dict[str, Any] = {"norm_pre": True, "epsilon": 1e-5}
_QUICK: dict[str, Any] = {**_CLIPS, "activation": "quick_gelu"}
_SIGLIP: dict[str, Any] = {"class_token": False, "pooling": "map"}
_GAP: dict[str, Any] = {"class_token": False, "pooling": "normed_avg"}


def _siglip(patch: int, sizes: tuple[int, ...], **fields: Any) -> dict[str, TimmNetwork]:
    """SigLIP's and SigLIP 2's towers without a classifier, by their names in timm."""
    found = {}
    for size in sizes:
        tags = "v2_webli" if patch == 32 else "webli v2_webli"
        tags += " webli_i18n" if (patch, size) == (16, 256) else ""
        if size != 224:
            tags = " ".join(f"{tag}@{size}" for tag in tags.split())
        grid = {"grid": size // patch, **fields}
        for name, pooling in (("siglip", _SIGLIP), ("siglip_gap", _GAP)):
            found[f"vit_base_patch{patch}_{name}_{size}"] = network(tags, {**grid, **pooling})
    return found


MODELS = {
    "vit_tiny_patch16": Published(
        ("timm", "big_vision"),
        timm={
            "vit_tiny_patch16_224": network(_AUGREG),
            "vit_tiny_patch16_384": network(
                "augreg_in21k_ft_in1k@384",
                {"grid": 24},
                _WHOLE,
                augreg_in21k_ft_in1k={"384": 78.42},
            ),
            "deit_tiny_patch16_224": network("fb_in1k", {}, _IMAGENET),
        },
    ),
    "vit_small_patch16": Published(
        ("timm", "big_vision"),
        timm={
            "vit_small_patch16_224": network(
                f"{_AUGREG} augreg_in1k dino",
                augreg_in21k_ft_in1k={"224": 81.38},
                augreg_in1k={"224": 78.85},
            ),
            "vit_small_patch16_384": network(
                "augreg_in21k_ft_in1k@384 augreg_in1k@384",
                {"grid": 24},
                _WHOLE,
                augreg_in21k_ft_in1k={"384": 83.80},
                augreg_in1k={"384": 81.12},
            ),
            "deit_small_patch16_224": network("fb_in1k", {}, _IMAGENET, fb_in1k={"224": 79.84}),
            "deit3_small_patch16_224": network(
                "fb_in1k fb_in22k_ft_in1k",
                {"layer_scale": True, "embeds_class": False},
                _IMAGENET,
                fb_in1k={"224": 81.37},
                fb_in22k_ft_in1k={"224": 83.07},
            ),
        },
    ),
    "vit_small_patch32": Published(
        ("timm", "big_vision"),
        timm={"vit_small_patch32_224": network(_AUGREG)},
    ),
    "vit_base_patch16": Published(
        ("timm", "torchvision", "big_vision"),
        timm={
            "vit_base_patch16_224": network(
                f"{_AUGREG} augreg2_in21k_ft_in1k augreg_in1k orig_in21k_ft_in1k sam_in1k dino mae",
                augreg_in21k_ft_in1k={"224": 84.53},
                augreg2_in21k_ft_in1k={"224": 85.10},
                augreg_in1k={"224": 79.15},
                orig_in21k_ft_in1k={"224": 81.79},
                sam_in1k={"224": 80.24},
            ),
            "vit_base_patch16_384": network(
                "augreg_in21k_ft_in1k@384 augreg_in1k@384 orig_in21k_ft_in1k@384",
                {"grid": 24},
                _WHOLE,
                augreg_in21k_ft_in1k={"384": 86.00},
                augreg_in1k={"384": 81.10},
                orig_in21k_ft_in1k={"384": 84.20},
            ),
            "deit_base_patch16_224": network("fb_in1k", {}, _IMAGENET, fb_in1k={"224": 81.99}),
            "deit3_base_patch16_224": network(
                "fb_in1k fb_in22k_ft_in1k",
                {"layer_scale": True, "embeds_class": False},
                _IMAGENET,
                fb_in1k={"224": 83.79},
                fb_in22k_ft_in1k={"224": 85.70},
            ),
            "vit_base_patch16_clip_224": network(
                "laion2b laion2b_ft_in1k laion2b_ft_in12k_in1k openai openai_ft_in1k datacompxl",
                _CLIPS,
                _CLIP,
                laion2b_ft_in1k={"224": 85.47},
                laion2b_ft_in12k_in1k={"224": 86.17},
                openai_ft_in1k={"224": 85.29},
            ),
            # Of the same files on the hub, as what they were trained with.
            "vit_base_patch16_clip_quickgelu_224": network("", _QUICK, _CLIP),
            **_siglip(16, (224, 256, 384, 512)),
        },
        torchvision=TorchvisionFile("vit_b_16-c867db91.pth", 81.07, "vit_b_16"),
    ),
    "vit_base_patch32": Published(
        ("timm", "torchvision", "big_vision"),
        timm={
            "vit_base_patch32_224": network(
                f"{_AUGREG} augreg_in1k sam_in1k", augreg_in21k_ft_in1k={"224": 80.72}
            ),
            "vit_base_patch32_clip_224": network(
                "laion2b laion2b_ft_in1k laion2b_ft_in12k_in1k openai openai_ft_in1k datacompxl",
                _CLIPS,
                _CLIP,
                laion2b_ft_in1k={"224": 82.58},
                laion2b_ft_in12k_in1k={"224": 83.30},
                openai_ft_in1k={"224": 81.93},
            ),
            "vit_base_patch32_clip_quickgelu_224": network("", _QUICK, _CLIP),
            **_siglip(32, (256,), activation="gelu_tanh"),
        },
        torchvision=TorchvisionFile("vit_b_32-d86f8d99.pth", 75.91, "vit_b_32"),
    ),
    "vit_small_patch14": Published(
        ("timm",),
        timm={
            "vit_small_patch14_dinov2": network("lvd142m@518"),
            "vit_small_patch14_reg4_dinov2": network(
                "lvd142m@518", {"registers": 4, "embeds_class": False}
            ),
        },
    ),
    "vit_base_patch14": Published(
        ("timm",),
        timm={
            "vit_base_patch14_dinov2": network("lvd142m@518"),
            "vit_base_patch14_reg4_dinov2": network(
                "lvd142m@518", {"registers": 4, "embeds_class": False}
            ),
        },
    ),
}
"""What is published of each model; see `weights_convert.convert.published`."""
