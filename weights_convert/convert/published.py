"""What is published of a model: whose weights, under which names, how good.

Each family's table, in `weights_convert.convert.tables`, says it of the family's models.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from jtl.models import Preprocessing


@dataclasses.dataclass(frozen=True)
class Tag:
    """One set of pretrained weights of a network of timm.

    Attributes:
        top1: Published top-1 accuracy in percent, by input size in pixels.
        size: Input size in pixels; None for the model's own.
    """

    top1: Mapping[str, float] = dataclasses.field(default_factory=dict)
    size: int | None = None


@dataclasses.dataclass(frozen=True)
class TimmNetwork:
    """A network of timm with a model's keys.

    Attributes:
        tags: Of its pretrained weights.
        conventions: Fields of the backbone's configuration that neither keys nor shapes show, where
            it has others than timm's table says.
        preprocessing: What its weights expect of an image, unless a source states its own; None
            for the model's.
    """

    tags: Mapping[str, Tag] = dataclasses.field(default_factory=dict)
    conventions: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    preprocessing: Preprocessing | None = None


@dataclasses.dataclass(frozen=True)
class TorchvisionFile:
    """A model's weights in torchvision, which jtl takes from PyTorch's cache.

    Attributes:
        name: Of the file, which ends with the first digits of its SHA-256.
        top1: Published top-1 accuracy in percent.
        model: The network's name there; None for jtl's.
    """

    name: str
    top1: float
    model: str | None = None


@dataclasses.dataclass(frozen=True)
class Published:
    """What is published of one model.

    Attributes:
        libraries: Whose names can be read: libraries of the family's tables.
        timm: Its networks in timm by name; the first is that of the table's conventions.
        keras: Its name in `keras.applications`; None if Keras does not have it.
        torchvision: What `torchvision:NAME` reads; None for nothing.
    """

    libraries: tuple[str, ...]
    timm: Mapping[str, TimmNetwork] = dataclasses.field(default_factory=dict)
    keras: str | None = None
    torchvision: TorchvisionFile | None = None


def network(
    tags: str = "",
    conventions: Mapping[str, Any] | None = None,
    preprocessing: Preprocessing | None = None,
    **top1: Mapping[str, float],
) -> TimmNetwork:
    """A network of timm.

    Args:
        tags: With spaces between them; `TAG@SIZE` where the input size is not the model's.
        conventions: As of `TimmNetwork`.
        preprocessing: As of `TimmNetwork`.
        **top1: By tag, as of `Tag`.
    """
    found = {}
    for text in tags.split():
        tag, _, size = text.partition("@")
        found[tag] = Tag(top1.get(tag, {}), int(size) if size else None)
    return TimmNetwork(found, conventions or {}, preprocessing)
