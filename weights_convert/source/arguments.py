"""How the library built the network that weights are of, where no key and no shape shows it.

timm's `config.json` states the arguments that a model was created with, and how it pools;
transformers' states the same under names of its own. A ResNet with `output_stride=8` or
`act_layer="gelu"` has the keys and shapes of any other, and computes something else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
from collections.abc import Mapping, Sized
from typing import Any

from jtl import models
from jtl.common.errors import UserError
from weights_convert.printable import listed, shown

AVERAGES = ("avg", "fast", "fastavg")
"""timm's names of average pooling."""
_POOLS = (
    *AVERAGES,
    *(f"{fast}{pool}" for fast in ("", "fast") for pool in ("max", "avgmax", "catavgmax")),
)

# What training, loading or another part of jtl sees to: rates of dropping, initialization, classes.
_HARMLESS = re.compile(
    r"drop\w*|\w+_drop(_rate)?|zero_init\w*|(weight_)?init(_\w+)?|bn_momentum|bn_tf|"
    r"memory_efficient|scriptable|exportable|no_jit|pretrained\w*|checkpoint_path|cache_dir|"
    r"num_classes|in_chans|img_size|input_size|out_indices|device|dtype|strict"
)
# What shapes and keys tell; where it does not fit, the conversion says so.
_SHAPES = re.compile(
    r"layers|channels|block|cardinality|base_width|stem_width|growth_rate|block_config|bn_size|cfg|"
    r"channel_multiplier|depth_multiplier|stem_size|num_features|mlp_ratio|channel_divisor|"
    r"fix_stem_head|aux_logits|round_chs_fn|head_hidden_size|"
    # Of ConvNeXt and of vision transformers.
    r"depths?|dims|patch_size|embed_dim|(ls_)?init_values?|reg_tokens|no_embed_class|class_token|"
    r"fc_norm|pre_norm|conv_mlp|use_grn|head_norm_first|dynamic_img_\w+"
)
# The values that change nothing.
_DEFAULTS: dict[str, tuple[Any, ...]] = {
    "output_stride": (32,),
    "replace_stride_with_dilation": ([False, False, False], (False, False, False)),
    "stem_type": ("",),
    "replace_stem_pool": (False,),
    "block_reduce_first": (1,),
    "down_kernel_size": (1,),
    "avg_down": (False,),
    "aa_layer": ("",),
    "block_args": ({}, []),
    "norm_layer": ("", "bn", "batchnorm", "batchnorm2d", "batchnormact2d", "layernorm"),
    "norm_kwargs": ({},),
    "features_only": (False,),
    # Of transformers.
    "hidden_act": ("relu",),
    "downsample_in_first_stage": (False,),
    "downsample_in_bottleneck": (False,),
}
_OF_TRANSFORMERS = ("hidden_act", "downsample_in_first_stage", "downsample_in_bottleneck")
_POOLED = {
    "avg": "averages them",
    "normed_avg": "averages them",
    "token": "takes the class token",
    "map": "pools them by attention",
}
# timm's names of the activations that have several, or others than here.
_ACTIVATIONS = {
    "silu": ("silu", "swish"),
    "hard_swish": ("hardswish",),
    "gelu_tanh": ("gelutanh",),
    "quick_gelu": ("quickgelu",),
}


@dataclasses.dataclass(frozen=True)
class Built:
    """How a library built a network, as one file says it.

    Attributes:
        by: Which file, in words that begin a sentence.
        pool: How the feature map becomes a vector; None where it is not stated.
        arguments: What the network was created with.
        conventions: Fields of the backbone's configuration, where it is a vision transformer.
    """

    by: str
    pool: str | None = None
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    conventions: Mapping[str, Any] = dataclasses.field(default_factory=dict)


_DILATING = ("output_stride", "replace_stride_with_dilation", "aa_layer")
"""What no key shows, by which programs state it on its own."""


def stated_alone(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments that stand among other settings, as numbers or as text."""
    found = {}
    for name in _DILATING:
        value = settings.get(name)
        if isinstance(value, str):
            with contextlib.suppress(ValueError, RecursionError):
                value = json.loads(value.lower())
        if isinstance(value, (int, str, list, tuple)):
            found[name] = value
    return found


def of_timm(config: Mapping[str, Any], by: str) -> Built:
    """What timm's `config.json` says."""
    arguments = config.get("model_args")
    arguments = dict(arguments) if isinstance(arguments, dict) else {}
    pool = arguments.pop("global_pool", None)
    pool = config.get("global_pool") if pool is None else pool
    return Built(by, pool if pool is None else shown(pool, 40), arguments)


def of_training(settings: Mapping[str, Any]) -> Built:
    """What timm's training script keeps of its options in a checkpoint."""
    arguments = settings.get("model_kwargs")
    arguments = stated_alone(settings) | (dict(arguments) if isinstance(arguments, dict) else {})
    if settings.get("bn_eps") is not None:
        arguments["bn_eps"] = settings["bn_eps"]
    pool = arguments.pop("global_pool", None)
    if isinstance(gp := settings.get("gp"), str) and gp in _POOLS:  # Others' gp is something else.
        pool = gp
    return Built(
        "its training's configuration", None if pool is None else shown(pool, 40), arguments
    )


def of_transformers(config: Mapping[str, Any]) -> Built:
    """What transformers' `config.json` says of a ResNet."""
    is_resnet = config.get("model_type") == "resnet"
    stated = {name: config[name] for name in _OF_TRANSFORMERS if is_resnet and name in config}
    stated |= stated_alone(config)
    by = "the config.json next to it"
    return Built(by, None, stated, _activation(config, by))


# transformers' vision transformers by `model_type`: their activation where none is stated.
_ACTIVATION: dict[str, str] = dict.fromkeys(
    ("vit", "deit", "dinov2", "dinov2_with_registers"), "gelu"
)
_ACTIVATION |= dict.fromkeys(("clip", "clip_vision_model"), "quick_gelu")
_ACTIVATION |= dict.fromkeys(("siglip", "siglip_vision_model"), "gelu_pytorch_tanh")
_FROM_TRANSFORMERS = {
    "gelu": "gelu",
    "quick_gelu": "quick_gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}


def _activation(config: Mapping[str, Any], by: str) -> dict[str, Any]:
    """The field `activation` of a vision transformer; empty for other networks."""
    usual = _ACTIVATION.get(str(config.get("model_type")))
    if usual is None:
        return {}
    tower = config.get("vision_config")
    said = (tower if isinstance(tower, dict) else config).get("hidden_act", usual)
    if said not in _FROM_TRANSFORMERS:
        raise UserError(
            f"{by} says that the activation is {shown(said, 40)} (hidden_act), which jtl's vision "
            f"transformers do not have. They have {listed(_FROM_TRANSFORMERS, 6)}."
        )
    return {"activation": _FROM_TRANSFORMERS[said]}


def check(
    built: Built,
    source: str,
    model: str,
    conventions: Mapping[str, Any],
    num_classes: int | None,
) -> None:
    """Makes sure that jtl's network computes what the one that was built does.

    Args:
        built: What a file says of it.
        source: What the user calls the weights.
        model: The backbone.
        conventions: Fields of the backbone's configuration.
        num_classes: Width of the classifier that is kept; None without one.

    Raises:
        UserError: It does not; the message names what differs.
    """
    if differing := _differing(built.arguments, model, conventions):
        names = listed((f"{name}={value!r}" for name, value in differing.items()), 6)
        raise UserError(
            f"{built.by} says that the network of '{source}' was built with {names}, which jtl's "
            f"{model} does not have. Its weights would give other results there. If that is not "
            "how it was built, correct or remove what says so."
        )
    pooling = conventions.get("pooling", getattr(models.get(model).backbone, "pooling", "avg"))
    pools = AVERAGES if pooling in ("avg", "normed_avg") else (pooling,)
    if built.pool not in (None, *pools) and num_classes:
        raise UserError(
            f"{built.by} says that the classifier of '{source}' stands on features pooled by "
            f"{built.pool or 'nothing'}; jtl's {_POOLED[pooling]}, and would give other results. "
            "Convert the backbone alone with --drop-head of `jtl weights`."
        )


def _differing(
    arguments: Mapping[str, Any], model: str, conventions: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments that jtl's network does not have."""
    backbone: Any = models.get(model).backbone
    norm = conventions.get("norm")
    defaults = dict(_DEFAULTS)
    # Of mmpretrain: where the stride is in a block of three convolutions.
    wide = getattr(backbone, "block", None) == "bottleneck"
    defaults["style"] = ("pytorch",) if wide else ("pytorch", "caffe")
    activation = dict(backbone.units()[0].options).get("activation", "relu")
    activation = conventions.get("activation", getattr(backbone, "activation", activation))
    if hasattr(backbone, "prefix_tokens"):
        defaults["num_heads"] = (backbone.channels // 64,)
        defaults["qkv_bias"] = (True,)
    defaults["act_layer"] = _ACTIVATIONS.get(activation, (activation,))
    padding = conventions.get("padding", getattr(backbone, "padding", "symmetric"))
    defaults["pad_type"] = ("same",) if padding == "SAME" else ("",)
    defaults["bn_eps"] = (norm.epsilon if norm is not None else models.NormSpec().epsilon,)
    return {
        shown(name, 40): value
        for name, value in arguments.items()
        # timm takes None for what the network has by itself.
        if value is not None
        and not _HARMLESS.fullmatch(str(name))
        and not _SHAPES.fullmatch(str(name))
        and not _is_usual(value, defaults.get(name))
    }


def _is_usual(value: Any, defaults: tuple[Any, ...] | None) -> bool:
    """Whether a value changes nothing; of an argument without defaults, whether it is off."""
    if defaults is None:
        return value is False or (isinstance(value, Sized) and not len(value))
    return (value.lower().replace("_", "") if isinstance(value, str) else value) in defaults
