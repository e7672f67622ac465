"""A run's folder: what it holds, and that it holds either a run or nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jtl.common.errors import UserError
from jtl.common.files import append_text
from jtl.common.text import listed
from jtl.config.options import Config
from jtl.data.sources.registry import Dataset
from jtl.distributed import processes
from jtl.runs import checkpoint, contents, report
from jtl.runs.files import CONFIG, CURVES, METRICS, SUMMARY, read_json, write_json
from jtl.runs.lock import LOCK, locked
from jtl.runs.plot_worker import PlotWorker
from jtl.runs.plots import curves_title
from jtl.runs.trackers import LEFTOVERS, TRACKER_FOLDERS, Trackers

PROFILE = "profile"
"""Folder of traces."""
_BEGUN = ".jtl-begun"
"""Stands from when a run claims its folder until `config.json` does: what is there is the run's."""
_OWN = (
    METRICS, PROFILE, contents.FILE, checkpoint.FOLDER, checkpoint.TEMPORARY_FOLDER, SUMMARY,
    CURVES, report.PAGE, *LEFTOVERS, CONFIG,
)  # fmt: skip
"""What a run writes; `config.json` goes last, as the run goes on by it."""
_DRAFT = re.compile(
    r"(config|summary|data)\.json\.[0-9a-f]{32}\.tmp|metrics\.jsonl\.[0-9a-f]{32}\.tmp"
    r"|\.jtl-[0-9a-f]{32}\.partial"
)
"""What `jtl.common.files` leaves where it is killed; versions of before wrote the first forms."""
_CHECKPOINTS = (checkpoint.FOLDER, checkpoint.TEMPORARY_FOLDER)
SUBFOLDERS = (*_CHECKPOINTS, PROFILE, *TRACKER_FOLDERS)
"""That a run writes into."""
_NAMES = re.compile(
    r"\.jtl-.*|midway\.removed|seeds\.json|seed-\d+|" + "|".join(map(re.escape, _OWN))
)
"""All that jtl writes into the folder of a run, or of several seeds: other names do no harm."""
_UNFINISHED = ("*.orbax-checkpoint-tmp*", "removed")
"""In a folder of checkpoints: what is no checkpoint yet, or none any more."""


@dataclasses.dataclass
class Run:
    """One training and the folder it writes; of many processes the first one writes.

    Attributes:
        folder: Where everything is.
        config: The resolved options.
        summary: The keys of `summary.json`; empty until the run is finished.
        history: A line for every epoch that is done.
        resumed_at: The temporary checkpoint that the run goes on from, if it is one.
        resumed: Whether it was begun before this session.
        trackers: What else is told of every epoch and of the result.
    """

    folder: Path
    config: Config
    summary: dict[str, Any] = dataclasses.field(default_factory=dict)
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    resumed_at: checkpoint.TemporaryCheckpoint | None = None
    resumed: bool = False
    trackers: Trackers | None = None

    def open(self, content: Callable[[], dict[str, Any]], dataset: Dataset) -> None:
        """Writes `config.json`, if not there yet; from here on there is something to keep."""
        if processes.is_primary() and not (self.folder / CONFIG).exists():
            contents.write(self.folder, dataset)
            started_in = str(Path.cwd())  # What relative paths in it are relative to.
            write_json(self.folder / CONFIG, {**content(), "started_in": started_in})
            (self.folder / _BEGUN).unlink(missing_ok=True)

    def extend(self, content: dict[str, Any]) -> None:
        """Notes in `config.json` that this session has added epochs, if it has.

        Args:
            content: As of `open`.
        """
        if not processes.is_primary():
            return
        stored, extended = read_json(self.folder / CONFIG), list(self.config.train.extended)
        if stored["train"].get("extended", []) != extended:
            stored["train"]["extended"] = extended
            write_json(self.folder / CONFIG, {**stored, "phases": content["phases"]})

    def abandon(self) -> None:
        """Removes what was written, if there is no checkpoint to go on from."""
        if processes.is_primary() and not checkpoint.has_any(self.folder):
            _remove_begun(self.folder)

    def log(self, line: dict[str, Any]) -> None:
        """Appends an epoch's line to `metrics.jsonl`."""
        self.history.append(line)
        if not processes.is_primary():
            return
        append_text(self.folder / METRICS, json.dumps(line) + "\n")
        if self.trackers is not None:
            self.trackers.log(line)

    def best_epoch(self, until: int | None = None) -> int:
        """The epoch of highest validation accuracy; among equals, of lowest loss.

        Args:
            until: The last epoch to look at; default all that are done.
        """
        best = max(
            self.history[:until], key=lambda e: (e["val_accuracy"], -e["val_loss"], -e["epoch"])
        )
        return best["epoch"]

    def improved_epoch(self, min_delta: float) -> int:
        """The last epoch that was better than those before it.

        Args:
            min_delta: By how much validation accuracy must have grown since the last such epoch; 0
                for what `best_epoch` says.
        """
        if not min_delta:
            return self.best_epoch()
        best, at = -math.inf, 0
        for line in self.history:
            if line["val_accuracy"] > best + min_delta:
                best, at = line["val_accuracy"], line["epoch"]
        return at

    def check_same(self, now: dict[str, Any], dataset: Dataset) -> str | None:
        """Makes sure that a run goes on with what it began with.

        Args:
            now: `class_names`, `class_weights`, `data_fingerprint`, `weights_sha256` and `rules`.
            dataset: The images.

        Returns:
            What to say where files have other times or places, but hold what they held; else None.

        Raises:
            UserError: Something is not that of the run.
        """
        stored = read_json(self.folder / CONFIG)
        stored["rules"] = [phase.get("rules") for phase in stored.get("phases", ())]
        now = {**now, "rules": now["rules"][: len(stored["rules"])]}
        changed = [key for key, value in now.items() if stored.get(key) != value]
        if not changed:
            return None
        images = (
            contents.difference(self.folder, dataset) if "data_fingerprint" in changed else None
        )
        if images == "" and changed == ["data_fingerprint"]:
            if processes.is_primary():
                stored["data"]["data"] = self.config.data.data
                del stored["rules"]
                stored["data_fingerprint"] = now["data_fingerprint"]
                write_json(self.folder / CONFIG, stored)
            return "the image files have new times or places, but the same content as before"
        told = [
            f"  images: {images}"
            if key == "data_fingerprint" and images
            else f"  {key}: {stored.get(key)} before, {now[key]} now"
            for key in changed
        ]
        raise UserError(
            f"'{self.folder}' cannot be resumed, because its data or weights have changed:\n"
            + "\n".join(told)
            + "\n"
            "Restore them, or start a new run."
        )

    def finish(self, summary: dict[str, Any]) -> None:
        """Writes `summary.json` and `report.md`."""
        self.summary = summary
        if not processes.is_primary():
            return
        write_json(self.folder / SUMMARY, self.summary)
        report.write(self.folder, self.summary, self.config)
        if self.trackers is not None:
            self.trackers.close(self.summary)

    def draw(self, data: str, plot_worker: PlotWorker) -> None:
        """Asks for `curves.png`, once all epochs are in the history."""
        if not processes.is_primary():
            return
        best = self.best_epoch()
        title = curves_title(
            model=self.config.model.model,
            mask=self.config.train.phases or self.config.train.mask,
            data=data,
            accuracy=self.history[best - 1]["val_accuracy"],
        )
        path = self.folder / CURVES
        plot_worker.draw("draw_curves", path, history=self.history, best_epoch=best, title=title)


@contextlib.contextmanager
def claimed_run(
    config: Config, message: Callable[[str], None], *, begun: bool = False
) -> Iterator[Run]:
    """Creates the run's folder now, and removes it again if the run fails before it opens.

    A folder that cannot be written is found out before minutes of work, not after. No other
    process writes it until the `with` block ends.

    Args:
        config: The options.
        message: Where notes go.
        begun: Whether the folder may hold empty folders of checkpoints, which are removed, and
            files of others, which stay.

    Raises:
        UserError: The folder holds a run already, is a file, or cannot be written; or another
            process is writing it.
    """
    folder = config.run.run_dir or Path(processes.broadcast_text(str(new_folder(config))))
    with held_folder(folder, message):
        processes.run_together(lambda: _check_empty(folder, begun, message))
        run = Run(folder, config)
        try:
            yield run
        except BaseException:
            run.abandon()
            raise
        if processes.is_primary():
            (folder / _BEGUN).unlink(missing_ok=True)


@contextlib.contextmanager
def held_folder(folder: Path, message: Callable[[str], None]) -> Iterator[None]:
    """A folder that no other process writes inside the `with` block; made if it is missing.

    At the end, it and its parents are removed as far as this made them and they hold nothing.

    Raises:
        UserError: It is a file, or cannot be written; or another process is writing it.
    """
    with contextlib.ExitStack() as stack:
        hold = functools.partial(_hold, folder, message, stack)
        processes.run_together(lambda: hold() if processes.is_primary() else None)
        yield


def _hold(folder: Path, message: Callable[[str], None], stack: contextlib.ExitStack) -> None:
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    stack.callback(_remove_empty, missing)
    try:
        stack.enter_context(locked(folder, message))
        # Permission bits do not tell all (read-only mounts, quotas, root): only writing does.
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"0")
            file.flush()
    except OSError as error:
        raise UserError(
            f"cannot write to the run's folder '{folder}': {error.strerror}. Choose another with "
            "--run-dir."
        ) from error


def _check_empty(folder: Path, begun: bool, message: Callable[[str], None]) -> None:
    """Makes sure that a run can begin in a folder, and marks that one has.

    What a run has left that was killed before its `config.json` is removed, where it is certain
    that it is the run's.

    Raises:
        UserError: The folder holds something else. Nothing has changed.
    """
    if not processes.is_primary():
        return
    files = sorted(path for path in folder.iterdir() if path.name not in (LOCK, _BEGUN))
    names = [path.name for path in files]
    if begun and (CONFIG in names or checkpoint.has_any(folder)):
        raise UserError(
            f"the run in '{folder}' cannot be resumed: it has checkpoints, but no {CONFIG}."
        )
    marked = (folder / _BEGUN).exists()
    held = [
        path.name
        for path in files
        if not _DRAFT.fullmatch(path.name)
        and not ((begun or marked) and _is_unfinished(path))
        and not (marked and path.name in _OWN and path.name not in _CHECKPOINTS)
    ]
    others = [name for name in held if begun and not _NAMES.fullmatch(name)]
    if held != others:
        named = listed((name for name in held if name not in others), 3)
        way_out = "" if begun else ", or add --resume to continue the run in it"
        raise UserError(
            f"--run-dir '{folder}' is not empty: it contains {named}. Choose another folder or "
            f"delete this one{way_out}."
        )
    if others:
        message(f"note: '{folder}' also contains {listed(others, 3)}, which jtl leaves alone")
    if marked:
        _remove_begun(folder)
    for path in files:
        if path.name in _CHECKPOINTS or _DRAFT.fullmatch(path.name):
            _remove(path)
    (folder / _BEGUN).touch()


def _is_unfinished(path: Path) -> bool:
    """Whether it is a folder of checkpoints that has none, and nothing else either."""
    if path.name not in _CHECKPOINTS or path.is_symlink() or not path.is_dir():
        return False
    return all(any(inner.match(form) for form in _UNFINISHED) for inner in path.iterdir())


def _remove_begun(folder: Path) -> None:
    """Removes what a run has written that has nothing to go on from, as after a full disk.

    Only for a folder that the run has claimed: it held nothing of these names then.
    """
    if not folder.is_dir():
        return
    with contextlib.suppress(OSError):  # Whatever cannot be removed now is the run's later, too.
        (folder / _BEGUN).touch()
    drafts = [path for path in folder.iterdir() if _DRAFT.fullmatch(path.name)]
    left = [path for path in (*drafts, *(folder / name for name in _OWN)) if not _remove(path)]
    if not left:
        (folder / _BEGUN).unlink(missing_ok=True)


def _remove(path: Path) -> bool:
    """Removes a file or a folder, but of checkpoints only the unfinished; whether it is gone."""
    if path.is_symlink() or not path.is_dir():
        with contextlib.suppress(OSError):
            path.unlink()
    elif path.name not in _CHECKPOINTS:
        shutil.rmtree(path, ignore_errors=True)
    else:
        for inner in [inner for form in _UNFINISHED for inner in path.glob(form)]:
            _remove(inner)
        with contextlib.suppress(OSError):
            path.rmdir()
    return not os.path.lexists(path)


def _remove_empty(folders: list[Path]) -> None:
    """Removes the folders that hold nothing, given from the innermost outwards."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def new_folder(config: Config) -> Path:
    """runs/<data>-<model>-<mask>-<time>, numbered if two start in the same second."""
    scheme, _, rest = config.data.data.partition(":")
    data = _for_paths(Path(rest.partition(":")[0]).stem).strip("_") or scheme
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    mask = _for_paths(config.train.mask)
    name = f"{data}-{config.model.model}-{mask}-{now}"
    folder, number = Path("runs", name), 1
    while folder.exists():
        number += 1
        folder = Path("runs", f"{name}-{number}")
    return folder


def _for_paths(text: str) -> str:
    """Shortened, and without what rules and patterns of files hold and paths should not."""
    return re.sub(r"[^\w.=-]+", "_", text)[:40]
