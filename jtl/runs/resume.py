"""Going on with a run that was cut off, and reading what a run has stored of itself."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jtl.common.errors import UserError
from jtl.common.files import replace_text
from jtl.config import walk
from jtl.config.options import Config
from jtl.distributed import processes
from jtl.runs import checkpoint, midway
from jtl.runs.files import CONFIG, METRICS, SUMMARY, read_json
from jtl.runs.run import Run


def resumed_run(config: Config, tell: Callable[[str], None]) -> Run:
    """A run that was cut off, as far as its latest checkpoint, of an epoch or within one.

    Args:
        config: The options that were given.
        tell: Told of a checkpoint within an epoch that cannot be used.

    Raises:
        UserError: `--run-dir` is missing, is no run, has no checkpoint or is finished.
    """
    folder = config.run.run_dir
    if folder is None:
        raise UserError("--resume needs --run-dir, the folder of the run to go on with.")
    if not (folder / CONFIG).is_file():
        raise UserError(f"'{folder}' is not a run: it has no {CONFIG}. Nothing can be resumed.")
    if (folder / SUMMARY).is_file():
        raise UserError(f"the run in '{folder}' is finished; its results are in {SUMMARY}.")
    stored = stored_config(folder)
    _refuse_changes(config, stored, folder)
    log_to = config.run.log_to or stored.run.log_to
    options = dataclasses.replace(config.run, resume=False, log_to=log_to)
    run = Run(folder, dataclasses.replace(stored, run=options))
    done = checkpoint.latest_epoch(folder)
    run.resumed_at = midway.found(folder, tell)
    if run.resumed_at is not None:
        done = run.resumed_at.epoch - 1
    run.history = _history(folder, done)
    # Epochs after the checkpoint are trained again, so their lines must go.
    if processes.first():
        replace_text(folder / METRICS, "".join(json.dumps(e) + "\n" for e in run.history))
    return run


def stored_config(folder: Path) -> Config:
    """The options of the run in a folder.

    Raises:
        UserError: Its `config.json` is missing or damaged.
    """
    path = folder / CONFIG
    try:
        return Config.from_dict(read_json(path))
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"'{path}' cannot be read: it is damaged, or of another version of jtl "
            f"({type(error).__name__}: {error})."
        ) from error


def stored_fingerprint(folder: Path) -> str | None:
    """The fingerprint of the data that the run in a folder was trained on."""
    return read_json(folder / CONFIG).get("data_fingerprint")


def _refuse_changes(given: Config, stored: Config, folder: Path) -> None:
    """Makes sure that nothing is asked of a resumed run but to go on as it is."""
    asked, changed = walk.changed(given), []
    for name, option in walk.options(Config).items():
        value, was = walk.value(given, option), walk.value(stored, option)
        if option.area == "run" or (name == "batch_size" and value == "auto"):
            continue  # The size was found when the run began.
        if (name in asked or name in given.run.given) and value != was:
            changed.append(f"  {option.flag} {value}, the run has {was}")
    if changed:
        told = "\n".join(changed)
        raise UserError(
            f"a resumed run goes on with its own options, but other ones are given:\n{told}\n"
            f"Leave them out to go on with '{folder}', or start a new run."
        )


def _history(folder: Path, done: int) -> list[dict[str, Any]]:
    """The lines of the first `done` epochs.

    Raises:
        UserError: They are not all there.
    """
    path = folder / METRICS
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if done else []
        history = [json.loads(line) for line in lines[:done]]
        whole = [line["epoch"] for line in history] == list(range(1, done + 1))
    except (OSError, ValueError, KeyError, TypeError):
        whole, history = False, []
    if not whole:
        raise UserError(
            f"'{path}' is damaged: it should tell of the {done} epochs up to the latest "
            "checkpoint. The run cannot be resumed; the model it has can still be used."
        )
    return history
