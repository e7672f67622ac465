"""Starting a new run from the best model of another one: `--weights RUN`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from jtl.common import hashes
from jtl.common.errors import UserError
from jtl.common.trees import ParamTree
from jtl.models import NormSpec, Preprocessing
from jtl.runs import checkpoint


@dataclasses.dataclass(frozen=True, eq=False)
class RunWeights:
    """A run's best model, as weights to start from; as `weights_convert`'s artifacts.

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
    if not (folder / checkpoint.FOLDER).is_dir():
        return None
    best = checkpoint.restore(folder)
    meta = best.meta
    try:
        if meta["model"] != model:
            raise UserError(
                f"'{spec}' is a run of {meta['model']}, but the model is {model}. Try --model "
                f"{meta['model']}, or other weights."
            )
        head, stored = meta["head"], meta["input"]["preprocessing"]
        preprocessing: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()
        }
        plain = not head["layers"] and head["pool"] == "avg" and not head.get("source_classes")
        return RunWeights(
            variables=best.variables,
            conventions={
                key: NormSpec(**value) if key == "norm" else value
                for key, value in meta["conventions"].items()
                if key != "aux_classes"
            },
            num_classes=len(meta["class_names"]) if plain else None,
            preprocessing=Preprocessing(**preprocessing),
            source=f"run {folder.resolve().name}, epoch {best.epoch}",
            sha256=hashes.sha256(
                folder / checkpoint.FOLDER / str(best.epoch) / checkpoint.FINGERPRINTS
            ),
            licence=meta["weights"].get("licence"),
        )
    except (LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"the checkpoint of epoch {best.epoch} in '{folder}' is of another version of jtl "
            f"({type(error).__name__}: {error})."
        ) from error
