"""Out again: a converted or fine-tuned model under the names of timm, torchvision or Keras.

The same tables that name a source's tensors for reading name them for writing, so what came
in untouched goes out bit by bit as it was, if it was float32: all tensors are written so. The
counters `num_batches_tracked`, which no jtl model has, are those of the source where a conversion
kept them, and zeros of a fine-tuned run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import jtl
from jtl import models
from jtl.common import files
from jtl.common.errors import UserError
from jtl.common.trees import lookup
from weights_convert.checkpoint import description
from weights_convert.checkpoint import folder as converted_folder
from weights_convert.convert.filling import report
from weights_convert.convert.leaf_names import TORCH
from weights_convert.convert.rules import Table, counter_key
from weights_convert.export.targets import LIBRARIES, TargetModel, choose

_KERNELS = ("kernel", "bias")
_OTHER_LOGITS = (
    "head: its logits are linear on pooled features, where SqueezeNet's are a ReLU's on each pixel "
    "and pooled then, or the other way round; train with --head conv for SqueezeNet alone"
)
_SCALING = ("mean", "variance", "count")
_NORMS = ("gamma", "beta", "moving_mean", "moving_variance")


@dataclasses.dataclass(frozen=True, eq=False)
class Exportable:
    """A trained model and what must travel with it.

    Attributes:
        model: A name of `jtl.models.names()`.
        variables: {"params": ..., "batch_stats": ...} of float32 arrays.
        conventions: Fields of the backbone's configuration that the weights set.
        num_classes: Width of the classifier; None for a bare backbone.
        class_names: In the order of the logits, where known.
        pool: How the feature map becomes a vector: `avg` or `max`.
        preprocessing: What the weights expect of an image.
        source: Where the weights came from before jtl.
        source_sha256: Of that file, where known.
        licence: Of the source's weights, where known.
        counters: How many batches each normalization has seen, by its path, where known.
        use: How the run uses images and logits, where that is not as usual, for headers.
    """

    model: str
    variables: dict[str, Any]
    conventions: dict[str, Any]
    num_classes: int | None
    class_names: tuple[str, ...] | None
    pool: str
    preprocessing: models.Preprocessing
    source: str
    source_sha256: str | None = None
    licence: str | None = None
    counters: Mapping[str, int] = dataclasses.field(default_factory=dict)
    use: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def backbone(self) -> Any:
        """The backbone's configuration, conventions included."""
        return models.create(self.model, conventions=self.conventions).backbone


def load(folder: Path) -> Exportable:
    """Reads a converted checkpoint or the best checkpoint of a run.

    Raises:
        UserError: `folder` is neither, is damaged, or its model is more than a backbone with a
            linear head, for which other libraries have no name.
    """
    from jtl.runs.checkpoints.contents import FOLDER

    if (folder / description.FILE_NAME).is_file():
        return _of_checkpoint(converted_folder.read(folder))
    if (folder / FOLDER).is_dir():
        return _of_run(folder)
    seen = "there is no such folder" if not folder.is_dir() else "it holds neither"
    raise UserError(
        f"'{folder}' is neither a converted checkpoint ({description.FILE_NAME}) nor a run "
        f"({FOLDER}/): {seen}. Name a folder that `jtl weights` or "
        "`jtl train` wrote."
    )


def _of_checkpoint(found: converted_folder.ConvertedCheckpoint) -> Exportable:
    return Exportable(
        model=found.model,
        variables=found.variables,
        conventions=found.conventions,
        num_classes=found.num_classes,
        class_names=found.class_names,
        pool="avg",
        preprocessing=found.preprocessing,
        source=found.source,
        source_sha256=found.sha256,
        licence=found.licence,
        counters=found.counters,
    )


def _of_run(folder: Path) -> Exportable:
    from jtl.runs.checkpoints import reading
    from jtl.runs.checkpoints.model_description import (
        restore_conventions,
        restore_preprocessing,
        restore_use,
    )

    restored = reading.restore(folder)
    meta = restored.meta
    try:
        head, weights = meta["head"], meta["weights"]
        found = Exportable(
            model=meta["model"],
            variables=restored.variables,
            conventions=restore_conventions(meta),
            num_classes=len(meta["class_names"]),
            class_names=tuple(meta["class_names"]),
            pool=head["pool"],
            # The size that the run trained at, rather than that of its source.
            preprocessing=dataclasses.replace(
                restore_preprocessing(meta), size=meta["input"]["size"]
            ),
            source=weights["name"],
            source_sha256=weights.get("sha256"),
            licence=weights.get("licence"),
            use=restore_use(meta, folder, restored.epoch),
        )
        # Dropout does nothing once training is over.
        extra = [f"head layer {x}" for x in head["layers"] if not x.startswith("dropout")]
        if head.get("relu_logits", False) != models.get(found.model).classifier.relu_logits:
            extra.append(_OTHER_LOGITS)
        if meta["truncate_at"] is not None:
            extra.append(f"truncated at {meta['truncate_at']}")
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"the checkpoint in '{folder}' does not describe its model ({error!r}); it was "
            "written by another version of jtl. Export it with that version."
        ) from error
    _check_plain(found, extra, f"the model of '{folder}'")
    return found


def _check_plain(found: Exportable, extra: list[str], what: str) -> None:
    """Refuses what is not a whole backbone, pooling and one dense layer."""
    plain = models.create(found.model, num_classes=found.num_classes or 1)
    plain = dataclasses.replace(plain, backbone=found.backbone)
    expected = models.variable_shapes(plain)
    problems = converted_folder.differences(found.variables, expected) + extra
    if problems:
        raise UserError(
            f"{what} is more or less than {found.model} with a linear head, which is all that "
            f"other libraries have names for.\n{report(problems, 'next to the plain model')}"
        )


def source_tensors(
    table: Table,
    backbone: Any,
    variables: Mapping[str, Any],
    counters: Mapping[str, int] | None = None,
) -> dict[str, np.ndarray]:
    """Every tensor of `variables` under a library's name and in its layout.

    Args:
        table: The library's table.
        backbone: The configuration of the model that owns `variables`.
        variables: {"params": ..., "batch_stats": ...}.
        counters: How many batches each normalization has seen, by its path; zero of others.

    Returns:
        Contiguous arrays by the library's key. PyTorch's batch normalizations come with their
        `num_batches_tracked` (int64), so that a strict load finds all it looks for.
    """
    tensors = {}
    for path, key in table.source_keys(backbone, variables).items():
        array = table.to_source(path, np.asarray(lookup(variables, path)))
        tensors[key] = np.ascontiguousarray(array)
        if table.leaves is TORCH and path[0] == "batch_stats" and path[-1] == "mean":
            seen = (counters or {}).get("/".join(path[1:-1]), 0)
            tensors[counter_key(key)] = np.array(seen, np.int64)
    return tensors


def metadata(found: Exportable, target: TargetModel) -> dict[str, str]:
    """What a safetensors header says of an export; every value is a string, lists are JSON."""
    stated = {
        "format": "pt",
        "library": target.library,
        "architecture": target.architecture,
        "model": found.model,
        "num_classes": str(found.num_classes or 0),
        "class_names": json.dumps(found.class_names, ensure_ascii=False),
        "pool": getattr(found.backbone, "pooling", found.pool),  # Transformers pool themselves.
        "preprocessing": json.dumps(dataclasses.asdict(found.preprocessing)),
        "source": found.source,
        "source_sha256": found.source_sha256,
        "licence": found.licence,
        "jtl": jtl.__version__,
        **found.use,
    }
    return {key: value for key, value in stated.items() if value is not None}


def export(folder: Path, to: str, out: Path, *, overwrite: bool = False) -> TargetModel:
    """Writes a converted checkpoint or a run for another library.

    Args:
        folder: What `jtl weights` or `jtl train` wrote.
        to: One of `LIBRARIES`.
        out: The file to write, with the suffix that the library reads.
        overwrite: Whether to replace `out`.

    Returns:
        The model of the library that the file loads into.

    Raises:
        UserError: The model does not fit the library, or the file cannot be written. Nothing
            has changed then.
    """
    _check_out(to, out, overwrite)
    found = load(folder)
    target = choose(
        to, found.model, found.backbone, found.pool, found.num_classes, found.preprocessing.size
    )
    tensors = source_tensors(target.table, found.backbone, found.variables, found.counters)
    if target.scales_images:
        tensors |= _scaling(found.preprocessing)
    with _appearing_whole(out, overwrite) as partial:
        _write(partial, tensors, metadata(found, target), target)
    return target


def _scaling(preprocessing: models.Preprocessing) -> dict[str, np.ndarray]:
    """What Keras's EfficientNet keeps in a layer that normalizes its images, divided by 255."""
    mean, std = (np.asarray(x, np.float32) for x in (preprocessing.mean, preprocessing.std))
    values = (mean, np.square(std), np.zeros((), np.int32))
    return {f"normalization/{name}": x for name, x in zip(_SCALING, values, strict=True)}


def _check_out(to: str, out: Path, overwrite: bool) -> None:
    suffixes = LIBRARIES[to]
    if not out.name.endswith(suffixes):
        why = ""
        if out.name.endswith((".pth", ".pt", ".bin")):
            why = " Only PyTorch writes pickles; every timm and PyTorch reads safetensors."
        raise UserError(
            f"'{out}' does not end in {' or '.join(suffixes)}, which is what an export to {to} "
            f"is.{why}"
        )
    if out.is_dir():
        raise UserError(f"'{out}' is a folder. Name the file to write.")
    if os.path.lexists(out) and not overwrite:
        raise UserError(
            f"'{out}' is there already. Choose another name, or allow it to be replaced with "
            "--overwrite."
        )


def _write(
    path: Path, tensors: Mapping[str, np.ndarray], facts: Mapping[str, str], target: TargetModel
) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    if target.library == "keras":
        _write_keras(path, tensors, facts)
        return
    try:
        save_file(dict(tensors), path, dict(facts))
    except SafetensorError as error:  # What it makes of a full disk.
        raise OSError(str(error)) from error


def _write_keras(path: Path, tensors: Mapping[str, np.ndarray], facts: Mapping[str, str]) -> None:
    """Keras 3's layout: `layers/LAYER/vars/INDEX`, in the order a layer makes its variables."""
    import h5py

    orders = dict.fromkeys(("dense", "conv2d", "depthwise_conv2d"), _KERNELS)
    orders |= {"batch_normalization": _NORMS, "normalization": _SCALING}
    orders |= {"layer_normalization": _NORMS[:2], "layer_scale": _NORMS[:1]}
    with h5py.File(path, "w") as file:
        file.create_group("vars")
        for key, array in tensors.items():
            layer, _, leaf = key.rpartition("/")
            kind = re.sub(r"_\d+$", "", layer.rpartition("/")[2])
            # A normalization without scales begins with its offsets.
            order = [name for name in orders[kind] if f"{layer}/{name}" in tensors]
            place = layer.replace("/", "/layers/")  # Of a layer in a model inside the model.
            file[f"layers/{place}/vars/{order.index(leaf)}"] = array
        for name, value in facts.items():
            # HDF5 has no room for longer attributes: of very many class names, none travel.
            if name != "format" and len(value.encode()) < 60_000:
                file.attrs[f"jtl_{name}"] = value


@contextlib.contextmanager
def _appearing_whole(out: Path, overwrite: bool):
    """Gives a path to write to; afterwards `out` is that file, or nothing has changed."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        files.remove_leftovers(out.parent)
        with files.replacing(out, overwrite=overwrite) as unfinished:
            yield unfinished
    except OSError as error:
        if isinstance(error, FileExistsError) and out.parent.is_dir():
            raise UserError(
                f"another process wrote '{out}' in the meantime. Choose another name."
            ) from None
        reason = error.strerror or str(error)
        raise UserError(
            f"cannot write '{out}': {reason}. Choose a place that you may write to and that "
            "has room."
        ) from error
