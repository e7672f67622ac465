"""`--seeds N`: the same training with several seeds, and how far its results lie apart."""

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

FILE = "seeds.json"
_SHOWN = ("median", "min", "max", "std")


def fit_seeds(
    config: Config, display: Display, *, background_plots: bool = False
) -> dict[str, Any]:
    """Trains once with each of `--seeds` seeds, from `--seed` on; a folder for each.

    All have the same validation split, that of the first seed, so that their figures can be
    compared, and frozen layers run once for all of them.

    Args:
        config: The options. With `--resume`, what is finished stays, what was cut off goes on.
        display: Where progress goes.
        background_plots: As of `jtl.train.fit.fit`.

    Returns:
        The content of `seeds.json`: the seeds, their folders, and median, min, max and standard
        deviation of each figure of `run_series.measured`.

    Raises:
        UserError: As `jtl.train.fit.fit`.
        Interrupted: As `jtl.train.fit.fit`; the message says how to go on with all seeds.
    """
    if config.run.resume != "never" and config.run.run_dir is None:
        raise UserError("--resume needs --run-dir, the folder of the seeds to continue.")
    folder = config.run.run_dir or Path(processes.broadcast_text(str(new_folder(config))))
    with held_folder(folder, display.message):
        processes.run_together(lambda: run_series.check(config, folder, "seed"))
        return _fit_all(config, folder, display, background_plots)


def _fit_all(
    config: Config, folder: Path, display: Display, background_plots: bool
) -> dict[str, Any]:
    first = config.train.seed
    chosen = range(first, first + config.run.seeds)
    folders = [folder / f"seed-{seed}" for seed in chosen]
    summaries = []
    for number, (seed, place) in enumerate(zip(chosen, folders, strict=True), 1):
        display.message(f"Seed {seed} ({number} of {len(chosen)}):")
        try:
            summaries.append(_one(config, seed, place, folders[0], display, background_plots))
        except Interrupted as stopped:
            again = f"--resume --seeds {len(chosen)} --run-dir {shlex.quote(str(folder))}"
            again += f" --seed {first}" if first else ""
            raise Interrupted(
                stopped.signal,
                f"Stopped at seed {seed} ({number} of {len(chosen)}); everything is saved. To "
                "resume:\n"
                f"  jtl train {again}",
            ) from stopped
    told = {
        "seeds": list(chosen),
        "runs": [str(place) for place in folders],
        **run_series.spreads(summaries, _SHOWN),
    }
    if processes.is_primary():
        write_json(folder / FILE, told)
    return told


def _one(
    config: Config, seed: int, place: Path, first: Path, display: Display, background_plots: bool
) -> dict[str, Any]:
    """The summary of one seed's run, which is trained unless it is there."""
    again = config.run.resume != "never"
    resume = again and (place / CONFIG).is_file()
    if again and not resume and (first / CONFIG).is_file():
        # As the others were begun.
        config = dataclasses.replace(stored_config(first), run=config.run)
    own: dict[str, Any] = {"seed": seed, "run_dir": place, "seeds": 1}
    if not resume:
        own["split_seed"] = config.split_seed
    own |= run_series.found_batch_size(config, first)
    return fit(walk.replace(config, own), display, background_plots=background_plots).summary


def print_seeds(told: dict[str, Any], console: Console) -> None:
    """The table at the end."""
    title = f"Seeds {told['seeds'][0]} to {told['seeds'][-1]}"
    run_series.show(told, title, _SHOWN, console)
