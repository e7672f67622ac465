"""Going on with a run that was cut off, and reading what a run has stored of itself."""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from jtl.common.errors import UserError
from jtl.common.files import replace_text
from jtl.config.options import Config
from jtl.distributed import processes
from jtl.runs import checkpoint, midway
from jtl.runs.run import CONFIG, METRICS, SUMMARY, Run, read_json


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
        stored = Config.from_dict(read_json(path))
        for group in dataclasses.fields(stored):
            _check_types(getattr(stored, group.name))
        return stored
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"'{path}' cannot be read: it is damaged, or of another version of jtl "
            f"({type(error).__name__}: {error})."
        ) from error


def _check_types(options: Any) -> None:
    """Raises TypeError where a value is none of its option's type, as after a change by hand."""
    hints = typing.get_type_hints(type(options))
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if not _is_of(value, hints[field.name]):
            raise TypeError(f"'{field.name}' is {value!r}")


def _is_of(value: Any, hint: Any) -> bool:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return value in inner
    if origin is tuple:
        return isinstance(value, tuple) and all(_is_of(part, inner[0]) for part in value)
    if inner:
        return any(_is_of(value, part) for part in inner)
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)


def stored_fingerprint(folder: Path) -> str | None:
    """The fingerprint of the data that the run in a folder was trained on."""
    return read_json(folder / CONFIG).get("data_fingerprint")


def _refuse_changes(given: Config, stored: Config, folder: Path) -> None:
    """Makes sure that nothing is asked of a resumed run but to go on as it is."""
    usual, changed = Config(), []
    for group in ("model", "data", "train", "augment", "steps"):
        for field in dataclasses.fields(getattr(usual, group)):
            asked, default, was = (
                getattr(getattr(c, group), field.name) for c in (given, usual, stored)
            )
            if field.name == "batch_size" and asked == "auto":
                continue  # It was found when the run began.
            named = asked != default or field.name in given.run.given
            if named and asked != was:
                option = "--" + field.name.replace("_", "-")
                changed.append(f"  {option} {asked}, the run has {was}")
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
