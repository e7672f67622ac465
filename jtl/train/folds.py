"""`--folds K`: the same training K times, each time validated on another part of the images."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

from rich.console import Console

from jtl.common.errors import UserError
from jtl.common.progress import Display
from jtl.common.signals import Interrupted
from jtl.config import walk
from jtl.config.options import Config
from jtl.distributed import processes
from jtl.runs.files import CONFIG, write_json
from jtl.runs.folder import held_folder, new_folder
from jtl.runs.resume import stored_config
from jtl.train import run_series
from jtl.train.fit import fit

FILE = "folds.json"
_SHOWN = ("mean", "std", "min", "max")


def fit_folds(
    config: Config, display: Display, *, background_plots: bool = False
) -> dict[str, Any]:
    """Trains once for each of `--folds` folds; a folder for each.

    Each image validates once. The features of a fold's images are computed once, for all runs.

    Args:
        config: The options. With `--resume`, what is finished stays, what was cut off goes on.
        display: Where progress goes.
        background_plots: As of `jtl.train.fit.fit`.

    Returns:
        The content of `folds.json`: the number of folds, their folders, and mean, sample standard
        deviation, min and max of each figure of `run_series.measured`.

    Raises:
        UserError: As `jtl.train.fit.fit`.
        Interrupted: As `jtl.train.fit.fit`; the message says how to go on with all folds.
    """
    if processes.is_distributed():
        raise UserError("--folds runs in a single process, but several were started.")
    if config.run.resume != "never" and config.run.run_dir is None:
        raise UserError("--resume needs --run-dir, the folder of the folds to continue.")
    folder = config.run.run_dir or new_folder(config)
    with held_folder(folder, display.message):
        run_series.check(config, folder, "fold")
        return _fit_all(config, folder, display, background_plots)


def _fit_all(
    config: Config, folder: Path, display: Display, background_plots: bool
) -> dict[str, Any]:
    count, summaries = config.run.folds, []
    folders = [folder / f"fold-{number}" for number in range(1, count + 1)]
    for number, place in enumerate(folders, 1):
        display.message(f"Fold {number} of {count}:")
        try:
            summaries.append(_one(config, number, place, folders[0], display, background_plots))
        except Interrupted as stopped:
            again = f"--resume --folds {count} --run-dir {shlex.quote(str(folder))}"
            raise Interrupted(
                stopped.signal,
                f"Stopped at fold {number} of {count}; everything is saved. To resume:\n"
                f"  jtl train {again}",
            ) from stopped
    told = {
        "folds": count,
        "runs": [str(place) for place in folders],
        **run_series.spreads(summaries, _SHOWN),
    }
    write_json(folder / FILE, told)
    return told


def _one(
    config: Config, number: int, place: Path, first: Path, display: Display, background_plots: bool
) -> dict[str, Any]:
    """The summary of one fold's run, which is trained unless it is there."""
    again, count = config.run.resume != "never", config.run.folds
    resume = again and (place / CONFIG).is_file()
    if (first / CONFIG).is_file():
        begun = stored_config(first)
        if begun.data.fold != f"1/{count}":
            raise UserError(
                f"'{first.parent}' has folds of another number: the first is {begun.data.fold}. "
                f"Resume with --folds {str(begun.data.fold).partition('/')[2]}."
            )
        if again and not resume:  # As the others were begun.
            config = dataclasses.replace(begun, run=config.run)
    own: dict[str, Any] = {"run_dir": place, "folds": 1}
    if not resume:
        own |= {"fold": f"{number}/{count}", "split_seed": config.split_seed}
    own |= run_series.found_batch_size(config, first)
    return fit(walk.replace(config, own), display, background_plots=background_plots).summary


def print_folds(told: dict[str, Any], console: Console) -> None:
    """The table at the end."""
    run_series.show(told, f"{told['folds']} folds", _SHOWN, console)
