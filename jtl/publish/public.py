"""What of a run may be public: no path of this machine, no name of a file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from jtl.config import walk
from jtl.config.options import Config
from jtl.predict.classifier import Classifier

_OPTIONS = (
    "model", "head", "head_widths", "head_dropout", "head_batch_norm", "head_pool", "aux_head",
    "truncate_at", "dtype", "task", "image_size", "fit", "upsample", "jpeg_decoding", "bit_depth",
)  # fmt: skip
"""Options that the model is built by and used with."""
_PRIVATE = ("notes", "split_from", "features_reused", "class_weights")
"""What a summary says of files, and of the machine's cache."""


def name_of(source: str) -> str:
    """The name of a source without the folders that it is in.

    Example:
        >>> name_of("folder:/home/me/my-images/"), name_of("timm:resnet50.a1_in1k")
        ('my-images', 'timm:resnet50.a1_in1k')
    """
    parts = [part for part in re.split(r"[/\\\\]", source.partition("?")[0]) if part]
    if len(parts) < 2 and not re.match(r"folder:|csv:|parquet:|npz:|wds:|idx:|mat:", source):
        return source
    return parts[-1].partition(":")[2] or parts[-1] if len(parts) == 1 else parts[-1]


def options(config: Config) -> dict[str, Any]:
    """The options of a run that belong to its model, for JSON; defaults are left out."""
    changed = walk.changed(config)
    return {name: walk.to_json(changed[name]) for name in _OPTIONS if name in changed}


def meta(classifier: Classifier) -> dict[str, Any]:
    """A checkpoint's description."""
    return {**classifier.meta, "weights": _weights(classifier.meta["weights"])}


def summary(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The results of a run."""
    found = {name: value for name, value in stored.items() if name not in _PRIVATE}
    found["data"] = name_of(str(stored["data"]))
    found["weights"] = _weights(stored["weights"])
    found["mask"] = _mask(stored["mask"])
    phases = stored.get("phases", [])
    found["phases"] = [{**phase, "mask": _mask(phase["mask"])} for phase in phases]
    return found


def _weights(weights: Mapping[str, Any]) -> dict[str, Any]:
    return {**weights, "name": name_of(str(weights["name"]))}


def _mask(mask: str) -> str:
    kind, colon, path = mask.partition(":")
    return f"rules:{name_of(path)}" if kind == "rules" and colon else mask
