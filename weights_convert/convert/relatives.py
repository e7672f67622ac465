"""Networks that resemble jtl's and are others: what gives them away, by keys or by name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

_BLOCK = r"(.*\.)?layer\d\.\d+\."
# (pattern of a key that no network of jtl's has, the network that has it), the first that matches.
_KEYS: tuple[tuple[str, str], ...] = (
    (r"(.*\.)?attnpool\.positional_embedding", "CLIP's ResNet, with a deep stem"),
    (r"(.*\.)?res[2-5]\.\d+\.conv\d\.norm\..*", "detectron2's ResNet, as in a detector"),
    (_BLOCK + r"conv\d\.attn\..*", "a selective-kernel network (timm's skresnet)"),
    (_BLOCK + r"(se|eca)\.conv\.weight", "ECA-ResNet (timm's ecaresnet), with channel attention"),
    (_BLOCK + r"convs\.\d\..*", "Res2Net"),
    (_BLOCK + r"conv2\.(fc1|radix.*|bn0\..*)(\..*)?", "ResNeSt, with split attention"),
    (
        _BLOCK + r"(se|se_module)\..*",
        "SE-ResNet (timm's seresnet or resnetrs), with squeeze-and-excitation in its blocks",
    ),
    (_BLOCK + r"(ca|sa|cbam|attn|attention)\..*", "a ResNet with attention in its blocks"),
    (_BLOCK + r"bn\d\.(IN|BN)\..*", "ResNet-IBN, with instance normalization"),
    (
        _BLOCK + r"downsample\.2\..*|(.*\.)?conv1\.[14]\.running_mean",
        "a ResNet with another deep stem or averaging shortcuts (timm's resnet-c, -s and -t, such "
        "as resnet50c)",
    ),
    (
        r"(.*\.)?features\.(conv|norm)[12]\..*",
        "a DenseNet with a deep stem (timm's densenetblur121d and densenet264d)",
    ),
    (r"(.*\.)?dist(illation)?_token", "a distilled DeiT, with two class tokens"),
    (
        r"(.*\.)?(pre_layrnorm|ln_pre)\.weight",
        "CLIP's vision transformer of transformers, or a larger one",
    ),
    (
        r"(.*\.)?(storage_tokens|rope_embed\..*)",
        "DINOv3's ViT, with rotary positions",
    ),
    (r"(.*\.)?relative_position_bias_table", "Swin Transformer"),
    (r"(.*\.)?(s\d|trunk_output\.block\d)\.(b\d|block\d-\d)\..*", "another RegNet"),
    (r"(.*\.)?grn\.(weight|bias|gamma|beta)", "ConvNeXt V2, with response normalization"),
    (r"(.*\.)?inception\d[a-e]\.branch\d\..*", "GoogLeNet (Inception v1)"),
    (r"(.*\.)?(branch1|stage2\.0\.branch1)\.0\.weight", "ShuffleNet"),
    (r"(.*\.)?backbone\.fpn\..*|(.*\.)?rpn\.head\..*", "a detector, with its pyramid and heads"),
)
# Networks of jtl have such keys too: they say something where the rest fits none of them.
_SQUEEZING = re.compile(
    r"(.*\.)?blocks\.\d+\.\d+\.se\..*|(.*\.)?_blocks\.\d+\._se_.*|block\d[a-z]_se_.*"
)
_TOKENS = re.compile(r"(.*\.)?(cls_token|pos_embed|patch_embed\.proj\.weight)")
_NUMBERED = re.compile(
    r"(convolution2d|conv2d|batch_?normalization|dense|separable_?conv2d)(_\d+)?/.*"
)
# What timm makes of a ResNet without a param more: its strides blur, or average.
_SAME_KEYS = re.compile(r"(?i)(?<![a-z])(resnet(blur|aa)\d+)(?![a-z0-9])")
# And what dilation makes of one, for segmentation.
_STRIDE = r"(?:os|output[-_]?stride)[-_=]?(?:8|16)"
_DILATED = re.compile(
    rf"(?i)(?<![a-z])(dilated[-_.]?resnet[-_]?\d+|resnet[-_]?\d+[-_.](?:dilated|{_STRIDE}))(?![a-z0-9])"
)
_PLAIN = re.compile(r"(?i)(res|dense|mobile|squeeze|efficient|alex)_?-?net|vgg")


def looks_like(keys: Iterable[str]) -> str | None:
    """The network that jtl does not have and whose keys are among these; None if none is."""
    keys = list(keys)
    known = _KEYS
    if not any(re.match(_BLOCK, key) for key in keys):
        # The stem's key alone is that of many networks.
        known = tuple(pair for pair in _KEYS if not pair[0].startswith(_BLOCK))
    for pattern, network in known:
        if any(re.fullmatch(pattern, key) for key in keys):
            return network
    return None


def of_groups(tensors: Mapping[str, np.ndarray]) -> bool:
    """Whether every normalization lacks running statistics: those of groups have none."""
    norms = [key for key in tensors if re.fullmatch(r"(.*\.)?(bn|norm)\d\.weight", key)]
    return bool(norms) and not any(key.endswith("running_mean") for key in tensors)


def named(text: str) -> str | None:
    """The network with jtl's own keys and another forward pass that a name speaks of.

    timm's `resnetblur50` and `resnetaa50` have every key and every shape of `resnet50`: their
    anti-aliasing has no params. Neither has dilation. So nothing but a name tells them apart.
    """
    found = _SAME_KEYS.search(text) or _DILATED.search(text)
    return found and found[1].lower()


def named_by(path: Path) -> tuple[str, str] | None:
    """The network that a file's name or its folder's speaks of, as `named`, and which of the two.

    A folder counts where the file's own name, such as `model.safetensors`, says no network: the
    one around it, or that of a model in the hub's cache.
    """
    path = Path(os.path.abspath(path))
    if other := named(path.name):
        return other, "its name"
    if _PLAIN.search(path.name):
        return None
    cached = (folder for folder in path.parents[1:4] if folder.name.startswith("models--"))
    for folder in (path.parent, *cached):
        if other := named(folder.name):
            return other, "the name of its folder"
    return None


def advice(tensors: Mapping[str, np.ndarray]) -> str:
    """A sentence, with a space before it, on keys that are no known model's; or nothing."""
    if tensors and all(_NUMBERED.fullmatch(key) for key in tensors):
        return (
            " Its layers have numbers instead of names, which do not tell the order that Keras "
            "gave them. Load the model in the Keras that wrote it, give its layers the names of "
            "keras.applications, and save it again."
        )
    if _without_normalizations(tensors):
        return (
            " Its convolutions have biases, and there is no batch normalization: it may have been "
            "folded into the convolutions, as for deployment. Take the weights from before that."
        )
    network = unsupported(tensors)
    if network is None and any(map(_SQUEEZING.fullmatch, tensors)):
        network = (
            "a larger EfficientNet, MnasNet or another MobileNetV3, with squeeze-and-excitation in "
            "its blocks"
        )
    if network is None and any(map(_TOKENS.fullmatch, tensors)):
        network = "another vision transformer, perhaps a larger one or one with other parts"
    return f" They look like those of {network}; jtl has no such network." if network else ""


def unsupported(tensors: Mapping[str, np.ndarray]) -> str | None:
    """Which network tensors look like by their keys, where jtl does not have it; None elsewhere."""
    network = looks_like(tensors)
    if network is None and of_groups(tensors):
        network = "one that normalizes without running statistics (GroupNorm, timm's resnet50_gn)"
    return network or _of_small_images(tensors)


def _of_small_images(tensors: Mapping[str, np.ndarray]) -> str | None:
    """A ResNet with a 3x3 stem, as of kuangliu's pytorch-cifar; None of any other."""
    blocks = any(re.match(_BLOCK, key) for key in tensors)
    stems = [a.shape for key, a in tensors.items() if re.fullmatch(r"(.*\.)?conv1\.weight", key)
             and not re.match(_BLOCK, key)]  # fmt: skip
    if not blocks or not any(len(shape) == 4 and shape[2:] == (3, 3) for shape in stems):
        return None
    return (
        "a ResNet for small images such as CIFAR's (kuangliu's pytorch-cifar and others), whose "
        "first convolution is 3 x 3 and which pools nothing before its blocks"
    )


def _without_normalizations(tensors: Mapping[str, np.ndarray]) -> bool:
    """Whether nearly all convolutions have biases, and there is no normalization."""
    convolutions = [key for key, a in tensors.items() if a.ndim == 4 and key.endswith(".weight")]
    biased = sum(f"{key.removesuffix('weight')}bias" in tensors for key in convolutions)
    normed = any(key.endswith(("running_mean", ".gamma")) for key in tensors)
    norms = any(re.fullmatch(r"(.*\.)?(bn|norm)\d?\.weight", key) for key in tensors)
    return biased > max(3, 0.9 * len(convolutions)) and not normed and not norms
