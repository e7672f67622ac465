"""Opening a run: a new one, one to go on with, or one that is finished."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jtl.common.errors import UserError
from jtl.common.files import refuse_link
from jtl.common.text import counted
from jtl.config import walk
from jtl.config.model import AUTO_MODEL
from jtl.config.options import Config
from jtl.config.training import balance_of
from jtl.data.sources.registry import Dataset
from jtl.distributed import processes
from jtl.runs import data_contents, metrics_log
from jtl.runs.checkpoints import reading
from jtl.runs.checkpoints.contents import TemporaryCheckpoint
from jtl.runs.files import CONFIG, METRICS, SUMMARY, read_json, write_json
from jtl.runs.folder import SUBFOLDERS, held_folder
from jtl.runs.run import Run, claimed_run

CHOSEN = ("batch_size", "bn", "solver", "augment", "dtype")
"""Options that may be `auto`, and of which a run keeps what that came to."""


@contextlib.contextmanager
def opened_run(config: Config, message: Callable[[str], None]) -> Iterator[Run]:
    """A run's folder, which no other process writes inside the `with` block.

    Args:
        config: The options that were given. `--resume never` takes an empty folder, `must` one
            that a run has begun, and `auto` either: the same command starts a run and goes on.
        message: Told where a run begins, and of what cannot be used.

    Yields:
        The run. It has a `summary` if it is finished, and nothing is locked or written then; it is
        `resumed` if a run in the folder goes on, with that run's options.

    Raises:
        UserError: The folder cannot be used; the options are not those of the run in it; or
            another process is writing it.
    """
    folder, resume = config.run.run_dir, config.run.resume
    if resume != "never" and folder is None:
        raise UserError("--resume needs --run-dir, the folder of the run to continue.")
    if folder is None or resume == "never":
        with claimed_run(config, message) as run:
            yield run
        return
    begun = processes.run_together(lambda: processes.all_agree((folder / CONFIG).is_file()))
    if resume == "must" and not begun:
        raise UserError(
            f"'{folder}' is not a run: it has no {CONFIG}, so there is nothing to resume. "
            "--resume auto would start the run."
        )
    if not begun:
        message(f"There is no run in '{folder}' yet; starting it now")
        with claimed_run(config, message, begun=True) as run:
            yield run
        return
    stored, more = processes.run_together(lambda: _stored(config, folder, message))
    summary = processes.run_together(lambda: _result(folder, message))
    if summary and not more:
        yield Run(folder, stored, summary=summary, history=_history(folder, None), resumed=True)
        return
    with held_folder(folder, message):
        run = processes.run_together(lambda: _resumed(folder, stored, more, message))
        _check_same_place(run.resumed_at)
        yield run


def _stored(config: Config, folder: Path, message: Callable[[str], None]) -> tuple[Config, int]:
    """The options of a run, with those of this session, and how many epochs are to be added.

    Epochs that were added last, and not trained yet, are taken back where fewer are asked for.
    """
    stored = stored_config(folder)
    _refuse_changes(config, stored, folder)
    log_to = config.run.log_to or stored.run.log_to
    stored = walk.replace(dataclasses.replace(stored, run=config.run), {"log_to": log_to})
    if "data" in config.run.given or config.data.data != Config().data.data:
        stored = walk.replace(
            stored, {"data": config.data.data}
        )  # What it holds is compared later.
    asked, planned = config.train.epochs, _planned(read_json(folder / CONFIG))
    extended = stored.train.extended
    # Before epochs were added, each time, and now: a requeue says again what it said then.
    totals = [planned - sum(extended[at:]) for at in range(len(extended) + 1)]
    if asked in (None, stored.train.epochs, *totals):
        return stored, 0
    if stored.train.solver == "lbfgs":
        raise UserError(
            f"--epochs {asked}: --solver lbfgs has already fitted the run in '{folder}' to the "
            "optimum; there is nothing left to train."
        )
    done, more = max(reading.saved_epochs(folder), default=0), asked - planned
    if more < 0 and extended and asked > totals[-2] and asked >= done:
        message(f"The run will end after {asked} epochs, not {planned} as planned before")
        extended, more = (*extended[:-1], asked - totals[-2]), 0
    elif more > 0:
        extended = (*extended, more)
    else:
        raise UserError(
            f"--epochs {asked}: the run in '{folder}' has {planned} epochs. Use a larger number "
            "to train it longer, or leave --epochs out to continue as planned."
        )
    return walk.replace(stored, {"extended": extended}), more


def _planned(content: dict[str, Any]) -> int:
    """How many epochs `config.json` or `summary.json` has planned, in all phases."""
    try:
        return sum(phase["epochs"] for phase in content["phases"])
    except (LookupError, TypeError) as error:
        raise UserError(
            f"the run is from another version of jtl: its phases cannot be read ({error})."
        ) from error


def _result(folder: Path, message: Callable[[str], None]) -> dict[str, Any]:
    """The content of `summary.json`; empty where the run has not ended, or goes on since."""
    if not (folder / SUMMARY).is_file():
        return {}
    try:
        summary = read_json(folder / SUMMARY)
        ended = _planned(summary)
    except UserError as error:
        message(f"note: the summary is written again: {error}")
        return {}
    return summary if ended == _planned(read_json(folder / CONFIG)) else {}


def _resumed(folder: Path, stored: Config, more: int, message: Callable[[str], None]) -> Run:
    """A run as far as its latest checkpoint, permanent or temporary."""
    for name in SUBFOLDERS:
        refuse_link(folder / name)
    reading.check(folder)
    run = Run(folder, stored, resumed=True)
    done = max(reading.saved_epochs(folder), default=0)
    run.resumed_at = reading.find_temporary(folder, message)
    if run.resumed_at is not None:
        done = run.resumed_at.epoch - 1
    elif not done:
        message(f"The run in '{folder}' has no checkpoint yet; starting from the beginning")
    run.history = _history(folder, done)
    if more:
        message(
            f"Adding {counted(more, 'epoch')} as another phase: the learning-rate schedule "
            "starts again, the optimizer keeps its state"
        )
    # Epochs after the checkpoint are trained again, so their lines must go.
    if processes.is_primary():
        metrics_log.replace(folder, run.history)
    return run


def _check_same_place(place: TemporaryCheckpoint | None) -> None:
    """Makes sure that all processes go on from the same place.

    Raises:
        UserError: They have found different ones.
    """
    told = processes.all_gather([place.epoch, place.batches] if place else [0, 0])
    if (told != told[0]).any():
        seen = ", ".join(f"{batches:g} of epoch {epoch:g}" for epoch, batches in told)
        raise UserError(
            f"the processes see different checkpoints within an epoch (after batch {seen}): the "
            "run's folder must be on a file system that all of them share."
        )


def check_same_inputs(run: Run, now: dict[str, Any], dataset: Dataset) -> str | None:
    """Makes sure that a run goes on with the classes, images, weights and rules it began with.

    Args:
        run: One that is resumed.
        now: `class_names`, `class_weights`, `data_fingerprint`, `weights_sha256` and `rules`.
        dataset: The images.

    Returns:
        What to say where files have other times or places, but hold what they held; else None.

    Raises:
        UserError: Something is not that of the run.
    """
    stored = read_json(run.folder / CONFIG)
    stored["rules"] = [phase.get("rules") for phase in stored.get("phases", ())]
    now = {**now, "rules": now["rules"][: len(stored["rules"])]}
    changed = [key for key, value in now.items() if stored.get(key) != value]
    if not changed:
        return None
    images = (
        data_contents.difference(run.folder, dataset) if "data_fingerprint" in changed else None
    )
    if images == "" and changed == ["data_fingerprint"]:
        if processes.is_primary():
            stored["data"]["data"] = run.config.data.data
            del stored["rules"]
            stored["data_fingerprint"] = now["data_fingerprint"]
            write_json(run.folder / CONFIG, stored)
        return "the image files have new times or places, but the same content as before"
    told = [
        f"  images: {images}"
        if key == "data_fingerprint" and images
        else f"  {key}: {stored.get(key)} before, {now[key]} now"
        for key in changed
    ]
    raise UserError(
        f"'{run.folder}' cannot be resumed, because its data or weights have changed:\n"
        + "\n".join(told)
        + "\n"
        "Restore them, or start a new run."
    )


def stored_config(folder: Path) -> Config:
    """The options of the run in a folder.

    Raises:
        UserError: Its `config.json` is missing or damaged.
    """
    path = folder / CONFIG
    try:
        content = read_json(path)
        stored = _relocated(Config.from_dict(content), content.get("started_in"))
        if stored.train.bn == "auto":  # Written when `auto` was what `batch` is.
            stored = walk.replace(stored, {"bn": "batch"})
        return stored
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"'{path}' cannot be read: it is damaged, or from another version of jtl "
            f"({type(error).__name__}: {error})."
        ) from error


def _relocated(stored: Config, started_in: str | None) -> Config:
    """Relative paths that lead nowhere from here, as from where the run was started."""

    def found(path: str) -> str:
        there = Path(started_in or "", path)
        # Of text that is no path, and too long for one, `Path.exists` would raise.
        moved = path and not os.path.exists(path) and os.path.exists(there)
        return str(there) if moved else path

    scheme, colon, path = stored.data.data.partition(":")
    moved: dict[str, Any] = {
        "data": scheme + colon + found(path),
        "weights": found(stored.model.weights),
    }
    if stored.train.class_weights != "none" and balance_of(stored.train.class_weights) is None:
        moved["class_weights"] = found(stored.train.class_weights)
    for name in ("image_root", "exclude"):
        if (place := getattr(stored.data, name)) is not None:
            moved[name] = found(place)
    kind, colon, path = stored.train.mask.partition(":")
    if kind == "rules":
        moved["mask"] = kind + colon + found(path)
    return walk.replace(stored, moved)


def stored_fingerprint(folder: Path) -> str | None:
    """The fingerprint of the data that the run in a folder was trained on."""
    return read_json(folder / CONFIG).get("data_fingerprint")


def _refuse_changes(given: Config, stored: Config, folder: Path) -> None:
    """Makes sure that nothing is asked of a resumed run but to go on as it is."""
    asked, changed = walk.changed(given), []
    for name, option in walk.options(Config).items():
        value, was = walk.value(given, option), walk.value(stored, option)
        if option.area == "run" or name in ("epochs", "extended", "data"):
            continue  # See `_stored`.
        if name in CHOSEN and value == "auto":
            continue  # It was chosen when the run began.
        if name == "model" and value.startswith(AUTO_MODEL):
            continue  # Likewise.
        if (name in asked or name in given.run.given) and value != was:
            changed.append(f"  {option.flag} {value} (the run has {was})")
    if changed:
        told = "\n".join(changed)
        raise UserError(
            "--resume uses the run's original options, but you gave different ones:\n"
            f"{told}\n"
            f"Leave them out to continue '{folder}', or start a new run."
        )


def _history(folder: Path, done: int | None) -> list[dict[str, Any]]:
    """The lines of the first `done` epochs; of all, where that is None.

    Raises:
        UserError: They are not all there.
    """
    try:
        history = [] if done == 0 else list(itertools.islice(metrics_log.lines(folder), done))
        done = len(history) if done is None else done
        whole = [line["epoch"] for line in history] == list(range(1, done + 1))
    except (OSError, ValueError, KeyError, TypeError):
        whole, history = False, []
    if not whole:
        raise UserError(
            f"'{folder / METRICS}' is damaged: it should list the {done} epochs up to the latest "
            "checkpoint. The run cannot be resumed, but its model can still be used."
        )
    return history
