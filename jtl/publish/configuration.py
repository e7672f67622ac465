"""`config.json` of a published folder, by which timm and transformers load it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jtl.export.libraries import timm_options
from jtl.predict.classifier import Classifier

if TYPE_CHECKING:
    from weights_convert.export.targets import TargetModel

_CROP_MODES = {"crop": "center", "squash": "squash", "pad": "border"}
"""timm's words for how images become squares."""


def of_timm(classifier: Classifier, target: TargetModel, licence: str | None) -> dict[str, Any]:
    """The configuration of a model that timm has."""
    inputs, names = classifier.inputs, list(classifier.class_names)
    preprocessing, size = inputs.device.preprocessing, inputs.device.size
    # Small images are enlarged whole.
    crop_pct = 1.0 if inputs.host is None or inputs.fit != "crop" else preprocessing.crop_pct
    options = timm_options(classifier)
    pool = options.pop("global_pool")
    if target.architecture == "inception_v3":
        options["aux_logits"] = "aux" in classifier.variables["params"]
    return {
        "architecture": target.architecture,
        "num_classes": len(names),
        "global_pool": pool,
        **({"model_args": options} if options else {}),
        **_labels(classifier),
        "pretrained_cfg": {
            "num_classes": len(names),
            "input_size": [3, size, size],
            "fixed_input_size": False,
            "interpolation": preprocessing.interpolation,
            "crop_pct": crop_pct,
            "crop_mode": _CROP_MODES[inputs.fit],
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
            "classifier": target.table.classifier,
            **({"license": licence} if licence else {}),
        },
    }


def of_jtl(classifier: Classifier) -> dict[str, Any]:
    """The configuration of a model that only jtl has."""
    return {
        "library_name": "jtl",
        "architecture": classifier.meta["model"],
        "num_classes": len(classifier.class_names),
        **_labels(classifier),
    }


def _labels(classifier: Classifier) -> dict[str, Any]:
    names = list(classifier.class_names)
    titles = classifier.class_titles
    several = classifier.thresholds is not None
    return {
        "label_names": names,
        **({"label_descriptions": {n: titles.get(n, n) for n in names}} if titles else {}),
        **({"problem_type": "multi_label_classification"} if several else {}),
    }
