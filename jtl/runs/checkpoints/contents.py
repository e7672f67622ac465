"""What checkpoints hold, as it is handed over to be saved, and as it is read again.

RUN/checkpoints/EPOCH   permanent: the whole model after the best and after the latest epoch
RUN/midway/STEP         temporary: what the steps of an unfinished epoch have changed
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

from jtl.common.trees import ParamTree

FOLDER, TEMPORARY_FOLDER = "checkpoints", "midway"
FORMAT_VERSION, WITH_ADAPTERS, WITH_TWO_DTYPES = 1, 2, 3
"""Versions of a checkpoint's metadata: those after the first where arrays have adapters, or where
a part of the network computes in another number format, which earlier versions of jtl would leave
out of account."""
FINGERPRINTS = "files.json"
"""In every checkpoint: SHA-256 of each of its items' files, by path."""


@dataclasses.dataclass(frozen=True)
class Restored:
    """A permanent checkpoint that has been read.

    Attributes:
        epoch: The epoch after which it was taken, 1-based.
        saved: {"params", "batch_stats"}, the whole trees as they were trained, float32 NumPy
            arrays: with adapters where a mask trains some.
        meta: What else it takes to rebuild the model; see `jtl.train.setup.Setup.meta`.
        opt_state: The optimizer's state, where it was asked for; NumPy arrays.
        sha256: Of the fingerprints of its files, which stands for all that it holds.
    """

    epoch: int
    saved: ParamTree
    meta: dict[str, Any]
    opt_state: Any = None
    sha256: str = ""

    @functools.cached_property
    def variables(self) -> ParamTree:
        """The variables of the plain network: adapters are merged into kernels."""
        if "lora" not in self.meta:
            return self.saved
        from jtl.freeze.lora import Adapters, merged  # Late: most runs predict without.

        scale = Adapters(**self.meta["lora"]).scale
        return {**self.saved, "params": merged(self.saved["params"], scale)}


@dataclasses.dataclass(frozen=True)
class TemporaryCheckpoint:
    """Where within an epoch a temporary checkpoint was taken.

    Attributes:
        step: Steps that the run had taken; the checkpoint's number.
        epoch: The unfinished epoch, 1-based.
        batches: How many of its batches were done.
        seconds: How long these took.
        elapsed: Seconds of the whole run until then.
        checkpoints: The epochs of the permanent checkpoints beside it, ascending. They hold the
            frozen leaves, so it is of no use without them.
    """

    step: int
    epoch: int
    batches: int
    seconds: float
    elapsed: float
    checkpoints: tuple[int, ...]

    @property
    def latest(self) -> int:
        """The epoch of the latest permanent checkpoint, 0 without one."""
        return max(self.checkpoints, default=0)


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


def temporary_items(state: Any, sums: Any) -> dict[str, Any]:
    """All that changes within an epoch; the key follows from the seed."""
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    del fields["rng"]
    return {**{key: tree for key, tree in fields.items() if tree is not None}, "sums": sums}
