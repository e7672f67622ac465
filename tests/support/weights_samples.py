"""Checkpoints made up for tests: the right names and shapes, random numbers."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from jtl import models
from jtl.common.trees import lookup
from weights_convert.checkpoint.folder import ConvertedCheckpoint
from weights_convert.convert.rules import Table, leaf_paths, unflatten
from weights_convert.convert.tables import TABLES, has

MODEL = "efficientnet_lite0"
TIMM_NAME = "tf_efficientnet_lite0.in1k"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG: dict[str, Any] = {
    "architecture": "tf_efficientnet_lite0",
    "num_classes": 5,
    "label_names": ["ash", "birch", "cedar", "dogwood", "elm"],
    "pretrained_cfg": {
        "input_size": [3, 192, 192],
        "interpolation": "bilinear",
        "crop_pct": 0.9,
        "mean": [0.5, 0.25, 0.125],
        "std": [0.5, 0.5, 0.25],
        "license": "apache-2.0",
    },
}


@functools.cache
def _variables(model: str, num_classes: int) -> dict[str, Any]:
    shapes = models.variable_shapes(models.create(model, num_classes=num_classes))
    random = np.random.default_rng(0)
    return unflatten(
        {
            path: random.random(lookup(shapes, path).shape, dtype=np.float32)
            for path in leaf_paths(shapes)
        }
    )


def variables(model: str = MODEL, num_classes: int = 5) -> dict[str, Any]:
    """A tree of random arrays; the dicts may be changed, the arrays may not."""
    tree = _variables(model, num_classes)
    return unflatten({path: lookup(tree, path) for path in leaf_paths(tree)})


def smallest(table: Table) -> str:
    """The model with the fewest params of those that a table's library has."""
    return min(
        (name for name in models.names() if has(table, name)),
        key=lambda name: models.get(name).published_params,
    )


def checkpoint(**changes: Any) -> ConvertedCheckpoint:
    """A converted checkpoint with five classes."""
    facts: dict[str, Any] = {
        "model": MODEL,
        "variables": variables(),
        "library": "timm",
        "conventions": {"norm": models.NormSpec(epsilon=1e-3, momentum=0.9)},
        "num_classes": 5,
        "class_names": ("ash", "birch", "cedar", "dogwood", "élan"),
        "preprocessing": models.Preprocessing(size=192, interpolation="bilinear"),
        "source": "timm:tf_efficientnet_lite0.in1k",
        "sha256": "ab" * 32,
        "licence": "apache-2.0",
        "source_format": "safetensors",
    }
    return ConvertedCheckpoint(**{**facts, **changes})


def tensors(
    model: str = MODEL, library: str = "timm", num_classes: int = 5
) -> dict[str, np.ndarray]:
    """What a checkpoint of `library` holds: keys and layouts of the source."""
    tree = _variables(model, num_classes)
    family = models.get(model).family
    table = next(t for t in TABLES if t.family == family and t.library == library)
    keys = table.source_keys(models.get(model).backbone, tree)
    return {key: table.to_source(path, lookup(tree, path)) for path, key in keys.items()}


def write_file(path: Path, arrays: dict[str, np.ndarray] | None = None) -> Path:
    """A .safetensors file of `arrays`, by default of `tensors()`."""
    arrays = tensors() if arrays is None else arrays
    save_file({key: np.asarray(array, order="C") for key, array in arrays.items()}, path)
    return path


def write_hub_cache(cache: Path, name: str = TIMM_NAME, config: object = CONFIG) -> Path:
    """A folder laid out as the hub's client keeps it: blobs, refs and links to the blobs."""
    repo = cache / f"models--timm--{name}"
    snapshot = repo / "snapshots" / COMMIT
    for folder in (repo / "blobs", repo / "refs", snapshot):
        folder.mkdir(parents=True)
    (repo / "refs" / "main").write_text(COMMIT)
    write_file(repo / "blobs" / "aaaa")
    (snapshot / "model.safetensors").symlink_to("../../blobs/aaaa")
    if config is not None:
        text = config if isinstance(config, str) else json.dumps(config)
        (repo / "blobs" / "bbbb").write_text(text)
        (snapshot / "config.json").symlink_to("../../blobs/bbbb")
    return snapshot
