"""What a checkpoint carries beside its arrays: all that its network is built from again."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jtl import models
from jtl.data.decoding import BITS
from jtl.data.input_plan import InputPlan, host_transform
from jtl.data.preprocessing import Prepare
from jtl.models import ImageClassifier, NormSpec, Preprocessing
from jtl.models.truncation import Truncated
from jtl.runs.checkpoints.contents import FORMAT_VERSION, WITH_ADAPTERS, WITH_TWO_DTYPES
from jtl.runs.files import fitted_thresholds

if TYPE_CHECKING:
    from jtl.freeze.lora import Adapters


def describe_model(
    name: str,
    model: ImageClassifier,
    inputs: InputPlan,
    class_names: Sequence[str],
    *,
    conventions: Mapping[str, Any],
    source: Mapping[str, Any],
    multilabel: bool = False,
    adapters: Adapters | None = None,
) -> dict[str, Any]:
    """A classifier and its input as JSON; the inverse is `rebuild_model`.

    Args:
        name: Of the backbone in the registry.
        model: The classifier.
        inputs: How images become its input.
        class_names: Of the logits, in order.
        conventions: What the weights demand of the backbone.
        source: Where the weights come from.
        multilabel: Whether images may have several classes.
        adapters: Those that the checkpoint's arrays have.
    """
    assert model.head is not None  # Only a bare backbone has none.
    version = FORMAT_VERSION if adapters is None else WITH_ADAPTERS
    return {
        "format_version": version if model.float32_from is None else WITH_TWO_DTYPES,
        **({} if adapters is None else {"lora": dataclasses.asdict(adapters)}),
        "model": name,
        "conventions": {
            key: dataclasses.asdict(value) if isinstance(value, NormSpec) else value
            for key, value in conventions.items()
        },
        "head": dataclasses.asdict(model.head),
        "truncate_at": model.backbone.at if isinstance(model.backbone, Truncated) else None,
        "class_names": list(class_names),
        **({"task": "multilabel"} if multilabel else {}),
        "weights": source,
        "input": {
            "size": inputs.device.size,
            "dtype": inputs.device.dtype,
            **({"float32_from": model.float32_from} if model.float32_from else {}),
            "upsample": inputs.device.method,
            "enlarged_on_device": inputs.host is None,
            "preprocessing": dataclasses.asdict(inputs.device.preprocessing),
            **({} if inputs.bit_depth == BITS else {"bit_depth": inputs.bit_depth}),
            **({"scaled_jpeg": True} if inputs.host and inputs.host.scaled_jpeg else {}),
            **({} if inputs.fit == "crop" else {"fit": inputs.fit}),
        },
    }


def rebuild_model(meta: dict[str, Any]) -> tuple[ImageClassifier, InputPlan]:
    """The classifier and the input plan of a checkpoint, from its `describe_model`."""
    conventions = restore_conventions(meta)
    head = {
        **meta["head"],
        "layers": tuple(meta["head"]["layers"]),
        "norm": NormSpec(**meta["head"]["norm"]),
    }
    model = models.create(
        meta["model"],
        num_classes=len(meta["class_names"]),
        head=models.HeadSpec(**head),
        conventions=conventions,
        truncate_at=meta["truncate_at"],
    )
    stored = meta["input"]
    model = model.clone(float32_from=stored.get("float32_from"))
    preprocessing = restore_preprocessing(meta)
    device = Prepare(stored["size"], preprocessing, stored["dtype"], stored["upsample"])
    host, fit = None, stored.get("fit", "crop")
    if not stored["enlarged_on_device"]:
        scaled_jpeg = stored.get("scaled_jpeg", False)
        host = host_transform(stored["size"], preprocessing, scaled_jpeg, fit)
    return model, InputPlan(host, device, bit_depth=stored.get("bit_depth", BITS), fit=fit)


def restore_conventions(meta: Mapping[str, Any]) -> dict[str, Any]:
    """What the weights of a checkpoint demand of their backbone."""
    return {
        key: NormSpec(**value) if key == "norm" else value
        for key, value in meta["conventions"].items()
    }


def restore_use(meta: Mapping[str, Any], folder: Path, epoch: int) -> dict[str, str]:
    """How a run's checkpoint uses images and logits where that is not as usual; lists are JSON."""
    fit, task = meta["input"].get("fit"), meta.get("task")
    use = {} if fit is None else {"fit": fit}
    if task is not None:
        thresholds = fitted_thresholds(folder, epoch, len(meta["class_names"]))
        use |= {"task": task, "activation": "sigmoid", "thresholds": json.dumps(thresholds)}
    return use


def restore_preprocessing(meta: Mapping[str, Any]) -> Preprocessing:
    """What the weights of a checkpoint expect of images."""
    stored: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in meta["input"]["preprocessing"].items()
    }
    return Preprocessing(**stored)
