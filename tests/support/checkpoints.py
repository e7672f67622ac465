"""Permanent checkpoints as a run writes them, without a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jtl.common.signals import Stop
from jtl.config.options import Config
from jtl.runs.checkpoints.contents import Snapshot
from jtl.runs.checkpoints.saving import Checkpointer
from jtl.runs.run import Run


def write(
    folder: Path,
    accuracies: Sequence[float],
    variables: Callable[[int], Any],
    opt_state: Any,
    meta: dict[str, Any],
) -> None:
    """Saves an epoch for each validation accuracy; from the epoch to its variables."""
    lines = [
        {"epoch": epoch, "val_accuracy": accuracy, "val_loss": 1.0}
        for epoch, accuracy in enumerate(accuracies, 1)
    ]
    start = meta.get("start")
    with Checkpointer(Run(folder, Config(), history=lines), meta, stop=Stop()) as checkpointer:
        for line in lines:
            epoch = line["epoch"]
            checkpointer.write(Snapshot(epoch, variables(epoch), opt_state, start))
