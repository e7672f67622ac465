"""`--model auto:fast` and `--model auto:best`: a backbone that fits the machine."""

from __future__ import annotations

from jtl import weights
from jtl.common.errors import UserError
from jtl.common.progress import Display
from jtl.config import walk
from jtl.config.model import AUTO_MODEL
from jtl.config.options import Config
from jtl.distributed import processes
from jtl.runs.files import CONFIG
from jtl.runs.resume import stored_config


def with_model(config: Config, display: Display) -> Config:
    """The options with a backbone of a name; the same where they have one.

    Where the folder has runs of a series to go on with, it is theirs.

    Args:
        config: As it was given.
        display: Told what was chosen, and why.

    Raises:
        UserError: Nothing can be chosen, or an option names what only one network has.
    """
    word = config.model.model
    if not word.startswith(AUTO_MODEL):
        return config
    for flag, given in (
        ("--weights", config.model.weights != "default"),
        ("--truncate-at", config.model.truncate_at is not None),
        ("--aux-head", config.model.aux_head),
    ):
        if given:
            raise UserError(
                f"{flag} says something of one network, and --model {word} leaves open which it "
                f"is. Name the model, or leave {flag} out."
            )
    if processes.is_distributed():
        raise UserError(
            f"--model {word} chooses by this machine's speed, and several processes train. Name "
            "the model."
        )
    folder = config.run.run_dir
    if folder is not None and config.run.resume != "never":
        for begun in sorted(folder.glob(f"*/{CONFIG}")):
            return walk.replace(config, {"model": stored_config(begun.parent).model.model})
    return walk.replace(config, {"model": weights.choose(word, display.message)})
