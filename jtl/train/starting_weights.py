"""The pretrained weights that a run starts from, or goes on from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from jtl import weights
from jtl.common.errors import UserError
from jtl.common.progress import Display
from jtl.config.options import Config
from jtl.runs.warm_start import RunWeights, of_resumed, of_run

if TYPE_CHECKING:
    from weights_convert.checkpoint.folder import ConvertedCheckpoint


def find(
    config: Config, display: Display, resumed: Path | None
) -> tuple[ConvertedCheckpoint | RunWeights | None, bool]:
    """The weights to start from, None for random ones, and whether all of them are known still.

    Args:
        config: As `jtl.train.checks.checked` gives it.
        display: Told what takes time.
        resumed: The folder of the run that goes on, if it is none that begins.

    Raises:
        UserError: They cannot be had, or an option cannot be used with them.
    """
    options = config.model
    if options.weights == "random":
        return None, True
    reading = weights.Reading(options.entry, options.strip_prefix, options.ignore_keys, options.bgr)
    if resumed is None:
        pretrained, own = of_run(options.weights, options.model), False
    else:
        pretrained, own = of_resumed(options.weights, options.model, resumed)
    if pretrained is None:
        progress = display.message
        return weights.resolve(
            options.weights, options.model, progress=progress, reading=reading
        ), True
    if flags := reading.flags():
        raise UserError(
            f"'{options.weights}' is a run, so {', '.join(flags)} cannot change anything. Leave "
            "it out."
        )
    if own and config.train.l2_sp:
        raise UserError(
            f"--l2-sp pulls towards the weights that the run began with ({pretrained.source}), and "
            f"'{options.weights}' has others by now. Bring that checkpoint back, or start again."
        )
    if own:
        display.message(
            f"note: '{options.weights}' no longer has what this run began with "
            f"({pretrained.source}): frozen leaves come from this run's own checkpoint, and a "
            "linear probe is left out"
        )
    return pretrained, not own
