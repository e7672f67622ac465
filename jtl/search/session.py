"""A whole search, from its options to the result in its folder."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jtl.common.errors import UserError
from jtl.common.progress import Display, PlainConsole
from jtl.common.quantities import format_seconds, parse_seconds
from jtl.config import walk
from jtl.config.data import DataConfig, with_scheme
from jtl.config.model import AUTO_MODEL
from jtl.config.options import Config
from jtl.runs.files import CONFIG, SEARCH, read_json, write_json
from jtl.runs.resume import stored_fingerprint
from jtl.search import backbones, closing, planning
from jtl.search.backbones import Backbones
from jtl.search.clock import Budget
from jtl.search.cost import CostModel
from jtl.search.options import TEST_SHARE, Options
from jtl.search.trial_loop import Engine
from jtl.search.trials import Store
from jtl.search.workers import Team
from jtl.search.workload import Workload, Workloads
from jtl.train.auto_model import with_model
from jtl.train.checks import checked
from jtl.train.fit import fit
from jtl.train.setup import Setup, prepare_setup

LOG = "log.txt"
DEFAULT_BUDGET = 600.0
"""Seconds."""


def run(
    options: Options,
    display: Display,
    clock: Callable[[], float],
    *,
    background_plots: bool = False,
    team: Team | None = None,
) -> dict[str, Any]:
    """Searches.

    Args:
        options: What, where and how long.
        display: Where progress goes.
        clock: Seconds that count of this session so far.
        background_plots: Whether plots are drawn in a process beside, as for commands.
        team: Further processes that train trials.

    Returns:
        The content of `search.json`.

    Raises:
        UserError: The options, the data or the weights cannot be used, the folder cannot be
            written, or no trial could be trained.
        Interrupted: A signal came; what was finished is saved.
    """
    if team is None and options.search.workers not in (None, 1):
        raise UserError(
            f"--workers {options.search.workers}: only the command can start processes that share "
            "this machine: jtl search ... --workers N."
        )
    single = options.search.single
    with _opened_search(options, display, clock, background_plots) as search:
        engine = search.engine
        with team.working(engine.folder, display) if team else contextlib.nullcontext():
            attempt = planning.try_together if team and team.size > 1 else planning.try_all
            chosen = attempt(engine, search.workloads, search.setups, single=single)
            if team:
                team.wait(lambda: engine.budget.left)
        return closing.close(engine, search.setups[chosen], search.backbones, single=single)


def take_part(options: Options, display: Display, clock: Callable[[], float]) -> None:
    """Trains trials of a search that another process has begun and will close.

    Args:
        options: Its folder, and what this process computes on.
        display: Where messages about trials go.
        clock: Seconds that this process has run.

    Raises:
        UserError: As of `run`.
        Interrupted: A signal came; what was finished is saved.
    """
    single = options.search.single
    with _opened_search(options, display, clock, background_plots=True, worker=True) as search:
        planning.try_together(search.engine, search.workloads, search.setups, single=single)


@dataclasses.dataclass(frozen=True)
class _Search:
    """A search that can begin.

    Attributes:
        engine: Trains.
        workloads: Of every backbone, the first one's first.
        setups: A linear probe of each of them.
        backbones: Which these are.
    """

    engine: Engine
    workloads: dict[str, Workload]
    setups: dict[str, Setup]
    backbones: Backbones


@contextlib.contextmanager
def _opened_search(
    options: Options,
    display: Display,
    clock: Callable[[], float],
    background_plots: bool,
    *,
    worker: bool = False,
) -> Iterator[_Search]:
    """Reads or begins a search's folder; a worker finds one, and leaves `search.json` alone."""
    walk.check(options)
    silent = Display(PlainConsole(quiet=True))
    given = options.base()
    folder, before = _opened(options, given)
    given = checked(_with_model(given, before, display))
    seconds = _budget(options, before)
    if before:
        given = backbones.again(options, given, before)
        given = _stored(given, options, before["options"], folder)
        compared = backbones.of_stored(before, given)
    else:
        compared = backbones.find(options, given, seconds, display)
        given = walk.replace(given, {"model": compared.names[0]})
    told = silent if worker else display
    base, setups = _prepared(given, options, compared, told, begun=bool(before))
    setup = setups[compared.names[0]]
    _refuse_changed_images(setup, folder)
    content = base.to_dict()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"cannot write to the search's folder '{folder}': {error.strerror}. Choose another "
            "with --out."
        ) from error
    budget = Budget(seconds, clock, before.get("seconds", 0.0))

    def note() -> None:
        told = {"budget": budget.total, "seconds": round(budget.spent, 1), "options": content}
        write_json(folder / SEARCH, {**before, **told, **compared.as_json()})

    if not worker:
        note()
        gone = f", of which {format_seconds(budget.before)} are over" if before else ""
        display.message(
            f"Searching for {_exactly(seconds)}{gone}; everything is saved in '{folder}'"
        )
        if len(compared.names) > 1:
            display.message(f"Comparing backbones: {', '.join(compared.names)}")
    each = {name: Workload(of_one, base) for name, of_one in setups.items()}
    with _log(folder, display) as log:
        engine = Engine(
            folder=folder,
            base=base,
            budget=budget,
            store=Store(folder),
            workload=Workloads(each),
            cost=CostModel(),
            labels=setup.dataset.val.labels,
            display=display,
            log=log,
            train=fit,
            note=(lambda: None) if worker else note,
            background_plots=background_plots,
        )
        yield _Search(engine, each, setups, compared)


def _with_model(given: Config, before: dict[str, Any], display: Display) -> Config:
    """The options with a backbone of a name: of `auto:fast`, that of the search, or a choice."""
    if before and given.model.model.startswith(AUTO_MODEL):
        stored = before["options"]["model"]["model"]
        return walk.replace(given, {"model": stored})
    return with_model(given, display)


def _exactly(seconds: float) -> str:
    """A budget for people, in seconds where minutes would round it."""
    whole = seconds % 60 == 0
    return format_seconds(seconds) if whole or seconds > 600 else f"{seconds:.0f} s"


def _opened(options: Options, base: Config) -> tuple[Path, dict[str, Any]]:
    """The search's folder, and what its `search.json` holds of an earlier session.

    Raises:
        UserError: It holds something else, or a search that is not to be gone on with.
    """
    out, resume = options.search.out, options.search.resume
    if out is None:
        if resume:
            raise UserError("--resume needs --out, the folder of the search to continue.")
        rest = base.data.data.partition(":")[2] or base.data.data
        name = re.sub(r"[^\w.=-]+", "_", Path(rest).stem)[:40].strip("_") or "data"
        when = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        return Path("runs", f"search-{name}-{when}"), {}
    if (out / SEARCH).is_file():
        if not resume:
            raise UserError(
                f"--out '{out}' contains a search. Add --resume to continue it, or choose another "
                "folder."
            )
        before = read_json(out / SEARCH)
        if not {"options", "seconds"} <= before.keys():
            raise UserError(f"'{out / SEARCH}' is not of a search, or damaged.")
        return out, before
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        what = "is a file" if not out.is_dir() else "is not empty, and contains no search"
        raise UserError(f"--out '{out}' {what}. Choose another folder.")
    # Of several processes that are started with --resume, the first one begins the search.
    if resume and base.data.data == with_scheme(DataConfig().data):
        raise UserError(
            f"--resume: there is no search in '{out}'. Name the folder of one, or give the images "
            "to begin one there."
        )
    return out, {}


def _budget(options: Options, before: dict[str, Any]) -> float:
    """Seconds that the search may take.

    Raises:
        UserError: Earlier sessions took longer.
    """
    if options.search.budget is None:
        return before.get("budget", DEFAULT_BUDGET)
    seconds = parse_seconds("--budget", options.search.budget)
    if (spent := before.get("seconds", 0.0)) >= seconds:
        raise UserError(
            f"--budget {options.search.budget}: the search has taken {format_seconds(spent)} "
            "already. The budget counts all sessions together; give a longer one."
        )
    return seconds


def _stored(
    given: Config, options: Options, stored: dict[str, dict[str, Any]], folder: Path
) -> Config:
    """The options that a search began with, with this session's device and memory.

    Raises:
        UserError: Others are given, or they are of another version of jtl.
    """
    try:
        base = Config.from_dict(stored)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"'{folder / SEARCH}' cannot be read: it is damaged, or from another version of jtl "
            f"({type(error).__name__}: {error})."
        ) from error
    known = walk.options(Config)
    changed = [
        f"  {known[name].flag} {value} (the search has {walk.value(base, known[name])})"
        for name, value in walk.changed(given).items()
        if known[name].area != "run" and value != walk.value(base, known[name])
    ]
    if not options.search.test and base.data.test_split is not None:
        changed.append(f"  --no-test (the search has --test-split {base.data.test_split})")
    if changed:
        raise UserError(
            "--resume uses the search's original options, but you gave different ones:\n"
            + "\n".join(changed)
            + f"\nLeave them out to continue '{folder}', or start a new search."
        )
    return dataclasses.replace(base, run=given.run)


def _refuse_changed_images(setup: Setup, folder: Path) -> None:
    """Makes sure that a search goes on with the images that its trials were trained on.

    Raises:
        UserError: They have changed.
    """
    for trial in Store(folder).with_models():
        of_trial = folder / trial.folder
        if (of_trial / CONFIG).is_file():
            if stored_fingerprint(of_trial) != setup.dataset.fingerprint:
                raise UserError(
                    f"the images of '{setup.dataset.spec}' have changed since the search in "
                    f"'{folder}' began, so its trials cannot be compared with new ones. Bring them "
                    "back, or start a new search."
                )
            return


def _prepared(
    base: Config, options: Options, compared: Backbones, display: Display, *, begun: bool
) -> tuple[Config, dict[str, Setup]]:
    """Data and networks; of data without a test split a part is held out for it."""
    silent = Display(PlainConsole(quiet=True))
    probe = walk.replace(base, {"mask": "head_only"})
    setup = prepare_setup(probe, silent)
    if setup.dataset.test is None and options.search.test and not begun:
        share = {"test_split": TEST_SHARE}
        base, probe = walk.replace(base, share), walk.replace(probe, share)
        setup = prepare_setup(probe, silent)
    for line in (
        *setup.dataset.describe().lines(),
        *(f"note: {note}" for note in setup.dataset.notes),
    ):
        display.message(line)
    first, *others = compared.names
    more = {name: prepare_setup(walk.replace(probe, {"model": name}), silent) for name in others}
    return base, {first: setup, **more}


class _Log(Display):
    """Keeps what trials say in a file; a terminal shows their progress, too."""

    def __init__(self, console: PlainConsole, shown: Display):
        super().__init__(console)
        self._shown = shown

    def message(self, text: str) -> None:
        super().message(text)
        if text.startswith("Stopping after this step"):
            self._shown.message(text)

    def track(self, *args: Any, **options: Any) -> Any:
        """As of `Display`."""
        if self._shown.console.is_terminal:
            return self._shown.track(*args, **options)
        return super().track(*args, **options)


@contextlib.contextmanager
def _log(folder: Path, display: Display) -> Iterator[Display]:
    with (folder / LOG).open("a", encoding="utf-8") as file:
        yield _Log(PlainConsole(file=file, width=100), display)
