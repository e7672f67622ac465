"""`--seeds N`: the same training with several seeds, and how far its results lie apart."""

from __future__ import annotations

import dataclasses
import math
import shlex
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from jtl.common.errors import UserError
from jtl.common.progress import Display
from jtl.common.signals import Interrupted
from jtl.config import walk
from jtl.config.options import Config
from jtl.distributed import processes
from jtl.runs.files import CONFIG, write_json
from jtl.runs.folder import held_folder, new_folder
from jtl.runs.lock import LOCK
from jtl.runs.resume import stored_config
from jtl.train.fit import fit

FILE = "seeds.json"
MEASURED = {
    "val_accuracy": ("validation accuracy", ".3f"),
    "val_macro_f1": ("validation macro-F1", ".3f"),
    "val_loss": ("validation loss", ".3f"),
    "test_accuracy": ("test accuracy", ".3f"),
    "test_macro_f1": ("test macro-F1", ".3f"),
    "best_epoch": ("best epoch", ".3g"),
    "train_seconds": ("training time, seconds", ".1f"),
}
"""Figures of `summary.json` that are compared: how the table calls and writes them."""
MULTILABEL_MEASURED = {
    "val_map": ("validation mAP", ".3f"),
    "test_map": ("test mAP", ".3f"),
    "val_accuracy": ("validation exact match", ".3f"),
    "test_accuracy": ("test exact match", ".3f"),
}
"""Those that only images with several labels have, or that are called something else of them."""


def measured(content: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """The figures that are compared: by their keys what tables call them, and their format.

    Args:
        content: Of `summary.json`, or of what compares several of them.
    """
    return (
        MULTILABEL_MEASURED
        | {key: named for key, named in MEASURED.items() if key not in MULTILABEL_MEASURED}
        if "val_map" in content
        else MEASURED
    )


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
        deviation of each figure of `MEASURED`.

    Raises:
        UserError: As `jtl.train.fit.fit`.
        Interrupted: As `jtl.train.fit.fit`; the message says how to go on with all seeds.
    """
    if config.run.resume != "never" and config.run.run_dir is None:
        raise UserError("--resume needs --run-dir, the folder of the seeds to continue.")
    folder = config.run.run_dir or Path(processes.broadcast_text(str(new_folder(config))))
    with held_folder(folder, display.message):
        processes.run_together(lambda: _check(config, folder))
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
        **{
            key: spread([summary.get(key) for summary in summaries])
            for key in measured(summaries[0])
        },
    }
    if processes.is_primary():
        write_json(folder / FILE, told)
    return told


def _check(config: Config, folder: Path) -> None:
    """Makes sure that the folder can hold the seeds.

    Raises:
        UserError: It holds something else, or seeds that are not to be gone on with.
    """
    if (config.run.resume == "must") and not list(folder.glob(f"seed-*/{CONFIG}")):
        raise UserError(f"'{folder}' contains no seeds to resume; --resume auto would start them.")
    held = [path for path in folder.iterdir() if path.name != LOCK] if folder.is_dir() else []
    if config.run.resume == "never" and held:
        raise UserError(
            f"--run-dir '{folder}' is not empty. Choose another folder, or add "
            "--resume to continue the seeds in it."
        )
    if (folder / CONFIG).is_file():
        raise UserError(f"'{folder}' contains a single run. Leave --seeds out to continue it.")


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
    if config.train.batch_size == "auto" and (first / CONFIG).is_file():
        # As the first one found it: other batch sizes train otherwise.
        own["batch_size"] = stored_config(first).train.batch_size
    return fit(walk.replace(config, own), display, background_plots=background_plots).summary


def spread(values: Sequence[float | None]) -> dict[str, Any] | None:
    """Median, min, max and sample standard deviation; None where a value is missing."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    return {
        "values": known,
        "median": statistics.median(known),
        "min": min(known),
        "max": max(known),
        "std": statistics.stdev(known) if len(known) > 1 else math.nan,
    }


def print_seeds(told: dict[str, Any], console: Console) -> None:
    title = f"Seeds {told['seeds'][0]} to {told['seeds'][-1]}"
    table = Table(title=title, title_justify="left")
    for name in ("", "median", "min", "max", "standard deviation"):
        table.add_column(name, justify="right" if name else "left")
    for key, (label, form) in measured(told).items():
        if (figures := told.get(key)) is not None:
            cells = [f"{figures[name]:{form}}" for name in ("median", "min", "max", "std")]
            table.add_row(label, *cells)
    console.print(table)
    console.print(f"Runs: {Path(told['runs'][0]).parent}", markup=False, soft_wrap=True)
