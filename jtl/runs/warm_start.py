"""Starting a new run from the best model of another one: `--weights RUN`."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

from jtl.common.errors import UserError
from jtl.common.trees import ParamTree
from jtl.freeze import lora
from jtl.models import Preprocessing
from jtl.runs.checkpoints import reading
from jtl.runs.checkpoints.contents import FOLDER, Restored
from jtl.runs.checkpoints.model_description import restore_conventions, restore_preprocessing
from jtl.runs.files import CONFIG, read_json

_NAME = re.compile(r"run .+, epoch \d+")
"""The name of a source that is a run."""


@dataclasses.dataclass(frozen=True, eq=False)
class RunWeights:
    """A run's best model, as weights to start from; as `weights_convert`'s converted checkpoints.

    Attributes:
        variables: {"params", "batch_stats"}, float32 NumPy arrays.
        conventions: Fields for `jtl.models.create(..., conventions=...)`.
        num_classes: Width of the run's classifier, where it is a single dense layer on average-
            pooled features, which --head append can keep; else None.
        preprocessing: What the model expects of an image.
        source: The run and the epoch.
        sha256: Of the checkpoint's fingerprints.
        licence: Of the weights that the run started from.
    """

    variables: ParamTree
    conventions: dict[str, Any]
    num_classes: int | None
    preprocessing: Preprocessing
    source: str
    sha256: str
    licence: str | None


def of_run(spec: str, model: str) -> RunWeights | None:
    """The weights of the run in a folder; None where `spec` names no such folder.

    Args:
        spec: As in `--weights`.
        model: The backbone that they are for.

    Raises:
        UserError: The run has no checkpoint that can be read, or is of another model.
    """
    folder = Path(spec).expanduser()
    if not _is_run(folder):
        return None
    best = reading.restore(folder)
    if (other := best.meta.get("model")) != model:
        raise UserError(
            f"'{spec}' is a run of {other}, but the model is {model}. Try --model {other}, or "
            "other weights."
        )
    name = f"run {folder.resolve().name}, epoch {best.epoch}"
    return _weights(folder, best, {"name": name, "sha256": best.sha256})


def _is_run(folder: Path) -> bool:
    """Whether jtl trains there: other programs keep `checkpoints` beside their weights, too."""
    if not (folder / FOLDER).is_dir():
        return False
    try:
        return bool(reading.saved_epochs(folder)) or "phases" in read_json(folder / CONFIG)
    except UserError:
        return False


def of_resumed(spec: str, model: str, resumed: Path) -> tuple[RunWeights | None, bool]:
    """What a run that goes on began with, where that was a run, which may have gone on itself.

    Args:
        spec: As in `--weights`, when it began.
        model: The backbone.
        resumed: The folder of the run that goes on.

    Returns:
        The weights, None where they were those of no run; and whether they are from the resumed
        run's own latest checkpoint. Their frozen leaves are those that it began with, the others
        are as far as it has trained them.

    Raises:
        UserError: The other run has no longer what this one began with, which has no checkpoint
            of its own yet.
    """
    stored, own = read_json(resumed / CONFIG), None
    source = stored.get("weights_source") or ""
    if reading.saved_epochs(resumed):
        own = reading.restore(resumed, "latest")
        source = own.meta.get("weights", {}).get("name", "")
    if not _NAME.fullmatch(source):
        return of_run(spec, model), False
    try:
        found, why = of_run(spec, model), "has other weights by now"
        why = "is gone" if found is None else why
    except UserError as error:
        found, why = None, f"cannot be read ({error})"
    if found is not None and found.sha256 == stored.get("weights_sha256"):
        return found, False
    if own is not None:
        return _weights(resumed, own, own.meta["weights"], resumed=True), True
    raise UserError(
        f"'{resumed}' cannot be resumed: it began with {source}, and '{spec}' {why}. It has no "
        "checkpoint of its own to take them from. Bring that checkpoint back; or start again, with "
        "the run as it is now: remove the folder, or choose another with --run-dir."
    )


def _weights(
    folder: Path, restored: Restored, source: dict[str, Any], *, resumed: bool = False
) -> RunWeights:
    """A checkpoint as weights to start from, or those that a resumed run has started from.

    Raises:
        UserError: It is of another version.
    """
    meta, trees = restored.meta, restored.variables
    if resumed:  # What adapters are for has stayed as it was loaded.
        trees = {**restored.saved, "params": lora.without(restored.saved["params"])}
    # New in every run, as the head is: for other classes.
    variables = {
        kind: {unit: leaves for unit, leaves in units.items() if unit != "aux"}
        for kind, units in trees.items()
    }
    try:
        head = meta["head"]
        classes = len(meta["class_names"])
        if resumed and head.get("source_classes"):
            # What --head append kept was the head of the weights.
            classes = head["source_classes"]
            variables["params"]["head"] = variables["params"]["classifier"]
        elif head["layers"] or head["pool"] != "avg" or head.get("source_classes"):
            classes = None
        return RunWeights(
            variables=variables,
            conventions={
                key: value
                for key, value in restore_conventions(meta).items()
                if key != "aux_classes"
            },
            num_classes=classes,
            preprocessing=restore_preprocessing(meta),
            source=source["name"],
            sha256=source["sha256"],
            licence=meta["weights"].get("licence"),
        )
    except (LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"the checkpoint of epoch {restored.epoch} in '{folder}' is of another version of jtl "
            f"({type(error).__name__}: {error})."
        ) from error
