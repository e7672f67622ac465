"""Writing what is published, and reading it back before it is in its place."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from jtl import weights
from jtl.common import files
from jtl.common.errors import UserError
from jtl.common.files import replace_text
from jtl.common.trees import ParamTree, leaf_paths, lookup
from jtl.predict import published
from jtl.predict.classifier import Classifier
from jtl.publish import configuration, public
from jtl.publish.card import card
from jtl.runs import selective
from jtl.runs.files import CONFIG, SUMMARY, read_json, write_json

CARD = "README.md"
_TIMM = """\
import timm
model = timm.create_model("hf-hub:{repo}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
logits = model(transform(image)[None])  # image: a Pillow image in RGB"""


@dataclasses.dataclass(frozen=True)
class Written:
    """A folder that can be published.

    Attributes:
        folder: Where it is.
        layout: "timm" if timm can load the weights, else "jtl".
        without_timm: Why timm cannot; None if it can.
    """

    folder: Path
    layout: str
    without_timm: str | None


def write(
    classifier: Classifier,
    repo: str,
    out: Path,
    *,
    licence: str | None = None,
    data_licence: str | None = None,
) -> Written:
    """Writes the model with its card, in the layout of timm where timm has the model.

    Args:
        classifier: A run's.
        repo: USER/NAME.
        out: The folder; one that was published before is replaced.
        licence: Of the weights; None for that of the pretrained ones.
        data_licence: Of the images.

    Raises:
        UserError: The run is not finished, or the folder cannot be written or is another's.
    """
    check_out(out)
    path = classifier.folder / SUMMARY
    if not path.is_file():
        raise UserError(f"the run in '{classifier.folder}' is not finished: it has no {SUMMARY}.")
    summary = public.summary(read_json(path))
    licence = licence or summary["weights"].get("licence")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(out) as unfinished:
            unfinished.mkdir()
            layout, reason = _write(classifier, repo, unfinished, summary, licence, data_licence)
            _check(classifier, unfinished)
    except OSError as error:
        raise UserError(
            f"cannot write '{out}': {error.strerror or error}. Choose a place that you can write "
            "to with --out."
        ) from error
    return Written(out, layout, reason)


def check_out(out: Path) -> None:
    """Raises `UserError` if something else is at the place."""
    empty = out.is_dir() and not any(out.iterdir())
    if os.path.lexists(out) and not empty and not published.is_published(out):
        raise UserError(
            f"--out '{out}' is there already, and jtl did not publish it. Choose a new folder."
        )


def _write(
    classifier: Classifier,
    repo: str,
    folder: Path,
    summary: dict,
    licence: str | None,
    data_licence: str | None,
) -> tuple[str, str | None]:
    path, loading, reason = folder / published.WEIGHTS, None, None
    try:
        target = weights.export(classifier.folder, "timm", path)
        _without_paths(path)
        if classifier.inputs.device.preprocessing.channel_order == "bgr":
            raise UserError("its images have blue first, for which timm has no word.")
        config = configuration.of_timm(classifier, target, licence)
        layout, loading = "timm", _TIMM.format(repo=repo)
    except UserError as error:
        layout, reason = "jtl", str(error)
        path.unlink(missing_ok=True)
        config = configuration.of_jtl(classifier)
        facts = {"format": "flax", "model": classifier.meta["model"]}
        published.write_tensors(path, _host(classifier.variables), facts)
    write_json(folder / CONFIG, config)
    write_json(folder / SUMMARY, summary)
    if (steps := selective.load(classifier.folder, classifier.epoch)) is not None:
        selective.save(folder, classifier.epoch, steps)
    description = {
        "format_version": published.FORMAT_VERSION,
        "layout": layout,
        "epoch": classifier.epoch,
        published.MORE: [] if steps is None else [selective.FILE],
        "data": summary["data"],
        "options": public.options(classifier.config),
        "meta": public.meta(classifier),
    }
    write_json(folder / published.DESCRIPTION, description)
    how = {"licence": licence, "data_licence": data_licence, "loading": loading}
    replace_text(folder / CARD, card(repo, summary, library=layout, **how))
    return layout, reason


def _without_paths(path: Path) -> None:
    """Leaves of the source that a header names its name alone."""
    with safe_open(path, "numpy") as file:
        stated = file.metadata()
        if public.name_of(stated["source"]) == stated["source"]:
            return
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    save_file(tensors, path, {**stated, "source": public.name_of(stated["source"])})


def _check(classifier: Classifier, folder: Path) -> None:
    """Makes sure that what was written is read as the same classifier, bit by bit."""
    found, own = published.read(folder).variables, _host(classifier.variables)
    same = leaf_paths(found) == leaf_paths(own) or set(leaf_paths(found)) == set(leaf_paths(own))
    if not (
        same and all(np.array_equal(lookup(found, p), lookup(own, p)) for p in leaf_paths(own))
    ):
        raise UserError(
            "what was written is not read as the same model, so nothing was saved. This is a bug "
            "in jtl; please report it."
        )


def _host(tree: ParamTree) -> ParamTree:
    return {
        key: _host(value) if isinstance(value, dict) else np.asarray(value)
        for key, value in tree.items()
    }
