"""What training hands over to be saved: after an epoch, and within one."""

from __future__ import annotations

from typing import Any, NamedTuple

from jtl.common.trees import ParamTree
from jtl.runs.checkpoint import TemporaryCheckpoint


class Snapshot(NamedTuple):
    """What an epoch gave, on the host.

    Attributes:
        epoch: 1-based.
        variables: The whole {"params", "batch_stats"}, frozen leaves included, so that reading a
            run needs no mask.
        opt_state: What else it takes to go on.
        start: The unit that the epoch's steps began with; None for the whole network.
    """

    epoch: int
    variables: ParamTree
    opt_state: Any
    start: str | None


class EpochProgress(NamedTuple):
    """How far an epoch is.

    Attributes:
        position: Where the run stands.
        state: The `TrainState` after the last step, on its devices.
        sums: The sums over the epoch's examples so far.
    """

    position: TemporaryCheckpoint
    state: Any
    sums: Any
