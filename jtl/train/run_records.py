"""What a run was made of and came to: the content of `summary.json`."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from jtl.common.trees import ParamTree
from jtl.config.defaults import filled
from jtl.freeze.phase_plan import PhasePlan
from jtl.runs import metrics, multilabel
from jtl.runs.calibration import calibration, fit_temperature
from jtl.runs.checkpoints.contents import Restored
from jtl.runs.environment import describe_device, versions
from jtl.train.setup import Setup


def run_content(setup: Setup) -> dict[str, Any]:
    """The content of `config.json`: what was asked for, with defaults written out."""
    return {
        **filled(setup.config).to_dict(),
        "phases": [phase_summary(setup, plan) for plan in setup.plans],
        "weights_source": setup.source["name"],
        **fixed_inputs(setup),
    }


def run_inputs(setup: Setup) -> dict[str, Any]:
    """What a run must find again to go on: `fixed_inputs`, and the rules of its masks."""
    return {**fixed_inputs(setup), "rules": [plan.phase.rules for plan in setup.plans]}


def fixed_inputs(setup: Setup) -> dict[str, Any]:
    """What a run is made of and cannot change while it goes on."""
    weights = setup.class_weights
    return {
        "class_names": list(setup.dataset.class_names),
        # The JSON of float32 numbers reads back as the same ones.
        "class_weights": None if weights is None else weights.tolist(),
        "data_fingerprint": setup.dataset.fingerprint,
        "weights_sha256": setup.source.get("sha256"),
    }


def phase_summary(setup: Setup, plan: PhasePlan) -> dict[str, Any]:
    """A phase, and with which defaults its steps went."""
    told, recipe = dataclasses.asdict(plan.phase), plan.recipe
    if setup.config.train.solver == "lbfgs":
        return told
    return {**told, "weight_decay": recipe.weight_decay, "warmup": recipe.schedule.warmup}


def summarize(
    setup: Setup,
    best: Restored,
    history: list[dict[str, Any]],
    logits: dict[str, np.ndarray],
    measured: dict[str, Any],
) -> dict[str, Any]:
    """The content of `summary.json`; counts include BatchNorm statistics, as Keras counts."""
    line = history[best.epoch - 1]
    # The mask and the counts of the phase that the best epoch belongs to, as all else below.
    plan = setup.plan_of(best.epoch)
    total = _count(setup.start)
    trainable = _count(plan.trainable_params(setup.start))
    seconds = sum(entry["seconds"] for entry in history)
    images = sum(entry["images_per_second"] * entry["seconds"] for entry in history)
    return {
        "task": "multilabel" if setup.dataset.multilabel else "single-label",
        "model": setup.config.model.model,
        "weights": setup.source,
        "mask": plan.phase.mask,
        "phases": [dataclasses.asdict(p.phase) for p in setup.plans],
        "bn": setup.config.train.bn,
        "head": setup.config.model.head,
        "data": setup.dataset.spec,
        "data_fingerprint": setup.dataset.fingerprint,
        "notes": list(setup.dataset.notes),
        "unlabelled_folder": setup.dataset.unlabelled_folder,
        "num_classes": len(setup.dataset.class_names),
        "class_names": list(setup.dataset.class_names),
        **({"class_titles": dict(setup.dataset.titles)} if setup.dataset.titles else {}),
        "class_weights": fixed_inputs(setup)["class_weights"],
        "num_train": len(setup.dataset.train),
        "num_val": len(setup.dataset.val),
        "num_test": None if setup.dataset.test is None else len(setup.dataset.test),
        "image_size": setup.inputs.device.size,
        "augmentation": setup.config.augment.resolved().describe(),
        "total_params": total,
        "trainable_params": trainable,
        "frozen_params": total - trainable,
        "optimizer_bytes": measured["optimizer_bytes"],
        "solver": setup.config.train.solver,
        "epochs": len(history),
        "best_epoch": best.epoch,
        "metric": setup.config.train.metric,
        "val_accuracy": line["val_accuracy"],
        "val_loss": line["val_loss"],
        "test_accuracy": measured["test_accuracy"],
        "probe_val_accuracy": measured["probe_accuracies"].get("val"),
        "probe_test_accuracy": measured["probe_accuracies"].get("test"),
        **class_summary(setup, logits),
        "train_seconds": round(measured["train_seconds"], 3),
        "feature_seconds": round(measured["feature_seconds"], 3),
        "features_reused": measured["features_reused"],
        "images_per_second": round(images / max(seconds, 1e-9), 1),
        "cached_prefix": line["cached_prefix"],
        "cut": line["cut"],
        "frozen_leaves": len(jax.tree.leaves(_untouched(setup, best.epoch, setup.start))),
        "frozen_unchanged": frozen_unchanged(setup, best),
        "seed": setup.config.train.seed,
        "device": describe_device(),
        "versions": versions(),
    }


def class_summary(setup: Setup, logits: dict[str, np.ndarray]) -> dict[str, Any]:
    """How well each class is recognized in val and test, and how well the model knows.

    A split that does not exist has None.
    """
    if setup.dataset.multilabel:
        return _multilabel_summary(setup, logits)
    temperature = 1.0
    if setup.config.train.calibrate == "temperature":
        temperature = fit_temperature(logits["val"], setup.dataset.val.labels)
    told: dict[str, Any] = {"temperature": temperature}
    metric = setup.config.train.metric
    for split in ("val", "test"):
        scores = calibrated = None
        if split in logits:
            labels = getattr(setup.dataset, split).labels
            if metric in ("balanced_accuracy", "auroc"):  # The others are here in any case.
                told[f"{split}_{metric}"] = metrics.measure(metric, logits[split], labels)
            scores = metrics.by_class(logits[split].argmax(-1), labels, setup.dataset.class_names)
            calibrated = calibration(logits[split], labels, temperature)
        told[f"{split}_macro_f1"] = None if scores is None else metrics.macro_f1(scores)
        told[f"{split}_classes"] = scores
        told[f"{split}_calibration"] = calibrated
    return told


def _multilabel_summary(setup: Setup, logits: dict[str, np.ndarray]) -> dict[str, Any]:
    """As `class_summary`, of images that may have several classes.

    Accuracy is the share of images of which all classes are right, by the fitted thresholds.
    """
    thresholds = None
    if setup.config.train.calibrate == "temperature":
        thresholds = multilabel.fit_thresholds(logits["val"], setup.dataset.val.labels)
    names = setup.dataset.class_names
    told: dict[str, Any] = {"temperature": 1.0, "thresholds": thresholds}
    for split in ("val", "test"):
        if split in logits:
            labels = getattr(setup.dataset, split).labels
            told |= multilabel.scores(split, logits[split], labels, names, thresholds)
        else:
            told |= {f"{split}_{key}": None for key in multilabel.KEYS}
    return told


def frozen_unchanged(setup: Setup, best: Restored) -> bool:
    """Whether every leaf frozen in all phases so far has the bits that were loaded.

    Running statistics are leaves too. What an earlier phase has trained is not among them.
    """
    before, tree_before = jax.tree.flatten(_untouched(setup, best.epoch, setup.start))
    after, tree_after = jax.tree.flatten(_untouched(setup, best.epoch, best.saved))
    return tree_before == tree_after and all(
        a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        for a, b in zip(map(np.asarray, before), map(np.asarray, after), strict=True)
    )


def _untouched(setup: Setup, epoch: int, variables: ParamTree) -> ParamTree:
    """The leaves that no phase up to `epoch` trains."""
    for plan in setup.plans:
        if plan.first_epoch <= epoch:
            variables = plan.frozen(variables)
    return variables


def _count(tree: ParamTree) -> int:
    return sum(int(leaf.size) for leaf in jax.tree.leaves(tree))
