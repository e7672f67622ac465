"""What `--bn` means: which units normalize with the statistics of each batch."""

from __future__ import annotations

from collections.abc import Iterable

from jtl.config.training import BatchNormMode

NEW_UNITS = frozenset({"head", "aux"})
"""Units that no weights come with, so that there are no running averages to keep."""


def units_with_batch_statistics(
    units: Iterable[str], trained: frozenset[str], mode: BatchNormMode
) -> frozenset[str]:
    """The units that normalize with the batch's statistics and change their running averages.

    All others normalize with running averages, which stay as they are. It is about BatchNorm
    alone: dropout is on in the units that train, whatever the mode. What `auto` becomes is chosen
    in `jtl.train.automatic`.

    Args:
        units: Paths of all units.
        trained: Paths of those with a trainable leaf.
        mode: `frozen`: new ones that train; `batch` and `auto`: those that train; `train`: all.
    """
    return {"frozen": trained & NEW_UNITS, "train": frozenset(units)}.get(mode, trained)
