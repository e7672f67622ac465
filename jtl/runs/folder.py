"""The folder of a run: taken by one process, and either a run's or left alone."""

from __future__ import annotations

import contextlib
import datetime
import functools
import itertools
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from jtl.common.errors import UserError
from jtl.common.text import listed
from jtl.config.options import Config
from jtl.distributed import processes
from jtl.runs import data_contents, familiarity, report, selective
from jtl.runs.checkpoints import reading
from jtl.runs.checkpoints.contents import FOLDER, TEMPORARY_FOLDER
from jtl.runs.files import CONFIG, HTML_REPORT, METRICS, SUMMARY, TABLE
from jtl.runs.lock import LOCK, locked
from jtl.runs.trackers import LEFTOVERS, TRACKER_FOLDERS

PROFILE = "profile"
"""Folder of traces."""
BEGUN = ".jtl-begun"
"""Stands from when a run claims its folder until `config.json` does: what is there is the run's."""
_OWN = (
    METRICS, PROFILE, data_contents.FILE, FOLDER, TEMPORARY_FOLDER, SUMMARY,
    *report.PLOTS, TABLE, report.PAGE, HTML_REPORT, familiarity.FILE, selective.FILE, *LEFTOVERS,
    CONFIG,
)  # fmt: skip
"""What a run writes; `config.json` goes last, as the run goes on by it."""
_DRAFT = re.compile(
    r"(config|summary|data)\.json\.[0-9a-f]{32}\.tmp|metrics\.jsonl\.[0-9a-f]{32}\.tmp"
    r"|\.jtl-[0-9a-f]{32}\.partial"
)
"""What `jtl.common.files` leaves where it is killed; earlier versions wrote the first forms."""
_CHECKPOINTS = (FOLDER, TEMPORARY_FOLDER)
SUBFOLDERS = (*_CHECKPOINTS, PROFILE, *TRACKER_FOLDERS)
"""That a run writes into."""
_NAMES = re.compile(
    r"\.jtl-.*|midway\.removed|(seeds|folds)\.json|(seed|fold)-\d+|"
    + "|".join(map(re.escape, _OWN))
)
"""All that jtl writes into the folder of a run, or of several (seeds, folds): others do no harm."""
_UNFINISHED = ("*.orbax-checkpoint-tmp*", "removed")
"""In a folder of checkpoints: what is no checkpoint yet, or none any more."""


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


def _free(folder: Path) -> Path:
    """The first of NAME-2, NAME-3 and so on that does not exist yet."""
    names = (folder.with_name(f"{folder.name}-{number}") for number in itertools.count(2))
    return next(path for path in names if not path.exists())


def check_empty(folder: Path, begun: bool, message: Callable[[str], None]) -> None:
    """Makes sure that a run can begin in a folder, and marks that one has.

    What a run has left that was killed before its `config.json` is removed, where it is certain
    that it is the run's.

    Raises:
        UserError: The folder holds something else. Nothing has changed.
    """
    if not processes.is_primary():
        return
    files = sorted(path for path in folder.iterdir() if path.name not in (LOCK, BEGUN))
    names = [path.name for path in files]
    if begun and (CONFIG in names or reading.has_any(folder)):
        raise UserError(
            f"the run in '{folder}' cannot be resumed: it has checkpoints, but no {CONFIG}."
        )
    marked = (folder / BEGUN).exists()
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
        if not begun and SUMMARY in names and CONFIG in names:
            raise UserError(
                f"--run-dir '{folder}' is not empty: it contains a finished run. To train again, "
                f"choose another folder, such as --run-dir {shlex.quote(str(_free(folder)))}; to "
                "see this run's results again, add --resume."
            )
        way_out = ""
        if not begun and (CONFIG in names or reading.has_any(folder)):
            way_out = ", or add --resume to continue the run in it"
        raise UserError(
            f"--run-dir '{folder}' is not empty: it contains {named}. "
            f"Choose another folder{way_out}."
        )
    if others:
        message(f"note: '{folder}' also contains {listed(others, 3)}, which jtl leaves alone")
    if marked:
        remove_begun(folder)
    for path in files:
        if path.name in _CHECKPOINTS or _DRAFT.fullmatch(path.name):
            _remove(path)
    (folder / BEGUN).touch()


def _is_unfinished(path: Path) -> bool:
    """Whether it is a folder of checkpoints that has none, and nothing else either."""
    if path.name not in _CHECKPOINTS or path.is_symlink() or not path.is_dir():
        return False
    return all(any(inner.match(form) for form in _UNFINISHED) for inner in path.iterdir())


def remove_begun(folder: Path) -> None:
    """Removes what a run has written that has nothing to go on from, as after a full disk.

    Only for a folder that the run has claimed: it held nothing of these names then.
    """
    if not folder.is_dir():
        return
    with contextlib.suppress(OSError):  # Whatever cannot be removed now is the run's later, too.
        (folder / BEGUN).touch()
    drafts = [path for path in folder.iterdir() if _DRAFT.fullmatch(path.name)]
    left = [path for path in (*drafts, *(folder / name for name in _OWN)) if not _remove(path)]
    if not left:
        (folder / BEGUN).unlink(missing_ok=True)


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
