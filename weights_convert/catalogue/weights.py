"""What can be converted: the models, their conventions and the hub's weights for them.

Tags, licences and input sizes are those of timm 1.0.31's model registry; accuracies are top-1
on ImageNet-1k's validation set, from timm's results (results-imagenet.csv) or, of torchvision's
weights, from torchvision 0.29's list, at the size named.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from jtl.models import registry
from weights_convert.catalogue import torch_hub


@dataclasses.dataclass(frozen=True)
class Weights:
    """One set of pretrained weights.

    Attributes:
        name: As SOURCE names it.
        licence: SPDX name in lower case; None where not known.
        size: Of the input of the training or published evaluation, in pixels.
        top1: Published top-1 accuracy in percent, by input size.
    """

    name: str
    licence: str | None
    size: int
    top1: dict[str, float] = dataclasses.field(default_factory=dict)


# timm's names that are not the model's, the first with the conventions of its default weights.
_TIMM = {
    "mobilenet_v2": ("mobilenetv2_100",),
    **{
        f"efficientnet_lite{n}": (f"tf_efficientnet_lite{n}", f"efficientnet_lite{n}")
        for n in range(3)
    },
}
_KERAS = ("keras", "keras (old keys)", "keras (numbered)")
# Libraries whose names can be read, in the order of `convert.tables`: by model, else by family.
CONVENTIONS: dict[str, tuple[str, ...]] = {
    "resnet": ("timm/torchvision",),
    **dict.fromkeys(("resnet18", "resnet34"), ("timm/torchvision", "transformers")),
    "resnet50": ("timm/torchvision", *_KERAS, "transformers"),
    **dict.fromkeys(
        ("resnet101", "resnet152"),
        ("timm/torchvision", "keras", "keras (numbered)", "transformers"),
    ),
    "densenet": ("timm/torchvision", "torchvision (old keys)", *_KERAS),
    "densenet161": ("timm/torchvision", "torchvision (old keys)"),
    "inception": ("timm/torchvision", "keras", "keras (numbered)"),
    "vgg": ("torchvision", "timm"),
    **dict.fromkeys(
        ("vgg16", "vgg19"),
        (
            *("torchvision", "timm", "keras", "keras (no top)"),
            *("keras (numbered)", "keras (numbered, no top)"),
        ),
    ),
    "mobilenet": ("torchvision", "timm", "tflite"),
    "alexnet": ("torchvision",),
    "squeezenet": ("torchvision",),
    "squeezenet1_1": ("torchvision", "keras-squeezenet"),
    "efficientnet_lite": ("timm", "lukemelas"),
}

_RESEARCH = ("fb_ssl_yfcc100m_ft_in1k", "fb_swsl_ig1b_ft_in1k", "fb_wsl_ig1b_ft_in1k")
_SEMI = _RESEARCH[:2]
_TORCHVISION = ("tv_in1k", "tv2_in1k")
_DENSENET = ("tv_in1k",)
# Architecture on the hub -> tags.
_TAGS: dict[str, tuple[str, ...]] = {
    "resnet18": ("a1_in1k", "a2_in1k", "a3_in1k", *_SEMI, "gluon_in1k", "tv_in1k"),
    "resnet34": (
        *("a1_in1k", "a2_in1k", "a3_in1k", "bt_in1k", "gluon_in1k", "ra4_e3600_r224_in1k"),
        "tv_in1k",
    ),
    "resnet50": (
        *("a1_in1k", "a1h_in1k", "a2_in1k", "a3_in1k", "am_in1k", "b1k_in1k", "b2k_in1k"),
        *("bt_in1k", "c1_in1k", "c2_in1k", "d_in1k", *_SEMI, "gluon_in1k", "ra_in1k"),
        *("ram_in1k", "tv2_in1k", "tv_in1k"),
    ),
    "resnet101": ("a1_in1k", "a1h_in1k", "a2_in1k", "a3_in1k", "gluon_in1k", *_TORCHVISION),
    "resnet152": ("a1_in1k", "a1h_in1k", "a2_in1k", "a3_in1k", "gluon_in1k", *_TORCHVISION),
    "wide_resnet50_2": ("racm_in1k", *_TORCHVISION),
    "wide_resnet101_2": _TORCHVISION,
    "resnext50_32x4d": (
        *("a1_in1k", "a1h_in1k", "a2_in1k", "a3_in1k", *_SEMI, "gluon_in1k", "ra_in1k"),
        *_TORCHVISION,
    ),
    "resnext101_32x8d": (*_RESEARCH, *_TORCHVISION),
    "densenet121": ("ra_in1k", *_DENSENET),
    "densenet161": _DENSENET,
    "densenet169": _DENSENET,
    "densenet201": _DENSENET,
    "inception_v3": ("gluon_in1k", "tf_adv_in1k", "tf_in1k", "tv_in1k"),
    **{f"vgg{depth}{bn}": ("tv_in1k",) for depth in (11, 13, 16, 19) for bn in ("", "_bn")},
    "mobilenetv2_100": ("ra_in1k",),
    "tf_efficientnet_lite0": ("in1k",),
    "tf_efficientnet_lite1": ("in1k",),
    "tf_efficientnet_lite2": ("in1k",),
    "efficientnet_lite0": ("ra_in1k",),
}
# Sizes that are not the model's own.
_SIZES = {"a3_in1k": 160, "tv2_in1k": 176, "resnet50.a1h_in1k": 176}
_TOP1: dict[str, dict[str, float]] = {
    "resnet50.a1_in1k": {"224": 80.38, "288": 81.24},
    "resnet50.tv_in1k": {"224": 76.16},
    "densenet121.ra_in1k": {"224": 75.57, "288": 76.49},
    "densenet121.tv_in1k": {"224": 74.75},
    "mobilenetv2_100.ra_in1k": {"224": 72.98},
    "tf_efficientnet_lite0.in1k": {"224": 74.85},
    # torchvision's.
    "resnet18.tv_in1k": {"224": 69.76},
    "resnet34.tv_in1k": {"224": 73.31},
    "resnet50.tv2_in1k": {"224": 80.86},
    "resnet101.tv_in1k": {"224": 77.37},
    "resnet101.tv2_in1k": {"224": 81.89},
    "resnet152.tv_in1k": {"224": 78.31},
    "resnet152.tv2_in1k": {"224": 82.28},
    "wide_resnet50_2.tv_in1k": {"224": 78.47},
    "wide_resnet50_2.tv2_in1k": {"224": 81.60},
    "wide_resnet101_2.tv_in1k": {"224": 78.85},
    "wide_resnet101_2.tv2_in1k": {"224": 82.51},
    "resnext50_32x4d.tv_in1k": {"224": 77.62},
    "resnext50_32x4d.tv2_in1k": {"224": 81.20},
    "resnext101_32x8d.tv_in1k": {"224": 79.31},
    "resnext101_32x8d.tv2_in1k": {"224": 82.83},
    "densenet161.tv_in1k": {"224": 77.14},
    "densenet169.tv_in1k": {"224": 75.60},
    "densenet201.tv_in1k": {"224": 76.90},
    "vgg11.tv_in1k": {"224": 69.02},
    "vgg11_bn.tv_in1k": {"224": 70.37},
    "vgg13.tv_in1k": {"224": 69.93},
    "vgg13_bn.tv_in1k": {"224": 71.59},
    "vgg16.tv_in1k": {"224": 71.59},
    "vgg16_bn.tv_in1k": {"224": 73.36},
    "vgg19.tv_in1k": {"224": 72.38},
    "vgg19_bn.tv_in1k": {"224": 74.22},
    "inception_v3.tv_in1k": {"299": 77.29},
}


def weights_of(model: str) -> tuple[Weights, ...]:
    """The known weights of a backbone, its default first."""
    entry = registry.get(model)
    found = [
        Weights(f"timm:{name}", _licence(architecture, tag), _size(name, tag, entry), top1)
        for architecture in timm_names(model)
        for tag in _TAGS.get(architecture, ())
        for name in [f"{architecture}.{tag}"]
        for top1 in [_TOP1.get(name, {})]
    ]
    if entry.default_weights.startswith("torchvision:"):
        size = entry.preprocessing.size
        top1 = {str(size): torch_hub.FILES[model].top1}
        found.append(Weights(entry.default_weights, torch_hub.LICENCE, size, top1))
    if entry.default_weights.startswith("package:"):
        size = entry.preprocessing.size
        found.append(Weights(entry.default_weights, "apache-2.0", size))
    return tuple(sorted(found, key=lambda weights: weights.name != entry.default_weights))


def licence_of(name: str) -> str | None:
    """The licence of timm's weights `name`; None where this catalogue does not have them."""
    architecture, _, tag = name.partition(".")
    return _licence(architecture, tag) if tag in _TAGS.get(architecture, ()) else None


def _licence(architecture: str, tag: str) -> str:
    if tag in _RESEARCH:
        return "cc-by-nc-4.0"
    # The hub states Apache-2.0 of torchvision's DenseNets and InceptionV3, BSD of the others.
    apache = architecture.startswith(("densenet", "inception"))
    return "bsd-3-clause" if tag in _TORCHVISION and not apache else "apache-2.0"


def _size(name: str, tag: str, entry: registry.ModelEntry) -> int:
    return _SIZES.get(name) or _SIZES.get(tag) or entry.preprocessing.size


def catalogue(names: Sequence[str] = (), *, measure: bool = False) -> list[dict[str, Any]]:
    """Everything as JSON values, an object per model.

    Args:
        names: The models; all of them by default.
        measure: Whether to measure how many images a second each takes here.

    Raises:
        UserError: A name is no model's.
    """
    chosen = [registry.get(name).name for name in names] or registry.names()
    return [
        {
            "model": name,
            "family": entry.family,
            "params": entry.published_params,
            "input_size": entry.preprocessing.size,
            "default_weights": entry.default_weights,
            "conventions": list(CONVENTIONS.get(name) or CONVENTIONS[entry.family]),
            "weights": [dataclasses.asdict(weights) for weights in weights_of(name)],
            **({"images_per_second": _measured(name)} if measure else {}),
        }
        for name in chosen
        for entry in [registry.get(name)]
    ]


def timm_names(model: str) -> tuple[str, ...]:
    """The names of `model` in timm: of its default weights' network first."""
    return _TIMM.get(model, (model,))


def _measured(name: str) -> float:
    from weights_convert.catalogue import speed  # Who only lists needs no JAX.

    return speed.images_per_second(name)


def overview(entries: list[dict[str, Any]]) -> str:
    """A catalogue for people, in short: a row per model, with its default weights' figures."""
    measured = any("images_per_second" in entry for entry in entries)
    header = ("model", "parameters", "pixels", "top-1", "licence", "published")
    rows: list[tuple[str, ...]] = [(*header, *(["images/s here"] if measured else []))]
    families = [""]
    for entry in entries:
        default = entry["weights"][0]
        top1 = next(iter(default["top1"].values()), None)
        rows.append(
            (
                entry["model"],
                f"{entry['params'] / 1e6:.1f} M",
                str(entry["input_size"]),
                "-" if top1 is None else f"{top1:.1f} %",
                default["licence"] or "-",
                str(len(entry["weights"])),
                *([f"{entry['images_per_second']:,.1f}"] if measured else []),
            )
        )
        families.append(entry["family"])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines: list[str] = []
    for before, family, row in zip(["", *families], families, rows, strict=False):
        gap = [""] if family != before else []
        cells = [
            cell.ljust(width) if place in (0, 4) else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines += [*gap, "  ".join(cells).rstrip()]
    return "\n".join(lines)


def to_text(entries: list[dict[str, Any]]) -> str:
    """A catalogue for people: a paragraph per model."""
    paragraphs = []
    for entry in entries:
        rate = entry.get("images_per_second")
        measured = f", {rate:,.1f} images/s here" if rate else ""
        lines = [
            f"{entry['model']}: {entry['params']:,} params with 1000 classes, "
            f"{entry['input_size']} pixels{measured}",
            f"  conventions: {', '.join(entry['conventions'])}",
        ]
        width = max(len(weights["name"]) for weights in entry["weights"])
        for weights in entry["weights"]:
            top1 = ", ".join(f"{value:.2f} % at {size}" for size, value in weights["top1"].items())
            facts = f"{weights['licence'] or 'licence not known':<12}  {weights['size']} pixels"
            accuracy = f"  top-1 {top1}" if top1 else ""
            default = "  (default)" if weights["name"] == entry["default_weights"] else ""
            lines.append(f"  {weights['name']:<{width}}  {facts}{accuracy}{default}")
        paragraphs.append("\n".join(lines))
    return "\n\n".join(paragraphs)
