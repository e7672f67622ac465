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
from jtl.config.options import Config
from jtl.models import registry
from jtl.runs.files import CONFIG, SEARCH, read_json, write_json
from jtl.runs.resume import stored_fingerprint
from jtl.search import closing, sampling, space
from jtl.search.clock import Budget
from jtl.search.cost import CostModel
from jtl.search.options import TEST_SHARE, Options
from jtl.search.trial_loop import Engine
from jtl.search.trials import Store
from jtl.search.workload import Workload
from jtl.train.checks import checked
from jtl.train.fit import fit
from jtl.train.setup import Setup, head_fits, prepare_setup

LOG = "log.txt"
DEFAULT_BUDGET = 600.0
"""Seconds."""
SHORTEST = 5.0
"""Seconds that a linear probe takes at least."""
SLOW_RATE = 1e10
"""Operations a second of a slow machine."""
_TEST_SECONDS = 4.0
"""To load the winner and compile what scores it, beside the computation."""
_ENSEMBLE_SHARE = 0.05
"""The most of the budget that is reserved for scoring an ensemble on the test images."""


def run(
    options: Options,
    display: Display,
    clock: Callable[[], float],
    *,
    background_plots: bool = False,
) -> dict[str, Any]:
    """Searches.

    Args:
        options: What, where and how long.
        display: Where progress goes.
        clock: Seconds that count of this session so far.
        background_plots: Whether plots are drawn in a process beside, as for commands.

    Returns:
        The content of `search.json`.

    Raises:
        UserError: The options, the data or the weights cannot be used, the folder cannot be
            written, or no trial could be trained.
        Interrupted: A signal came; what was finished is saved.
    """
    walk.check(options)
    given = checked(options.base())
    folder, before = _opened(options, given)
    if before:
        given = _stored(given, options, before["options"], folder)
    seconds = _budget(options, before)
    base, setup = _prepared(given, options, display, begun=bool(before))
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
        write_json(folder / SEARCH, {**before, **told})

    note()
    gone = f", of which {format_seconds(budget.before)} are over" if before else ""
    display.message(f"Searching for {_exactly(seconds)}{gone}; everything is saved in '{folder}'")
    workload = Workload(setup, base)
    with _log(folder, display) as log:
        engine = Engine(
            folder=folder,
            base=base,
            budget=budget,
            store=Store(folder),
            workload=workload,
            cost=CostModel(),
            labels=setup.dataset.val.labels,
            display=display,
            log=log,
            train=fit,
            note=note,
            background_plots=background_plots,
        )
        _try_all(engine, workload, setup, single=options.search.single)
        return closing.close(engine, setup, single=options.search.single)


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
    base: Config, options: Options, display: Display, *, begun: bool
) -> tuple[Config, Setup]:
    """Data and network; of data without a test split a part is held out for it."""
    silent = Display(PlainConsole(quiet=True))
    probe = walk.replace(base, {"mask": "head_only"})
    setup = prepare_setup(probe, silent)
    if setup.dataset.test is None and options.search.test and not begun:
        share = {"test_split": TEST_SHARE}
        base = walk.replace(base, share)
        setup = prepare_setup(walk.replace(probe, share), silent)
    for line in (
        *setup.dataset.describe().lines(),
        *(f"note: {note}" for note in setup.dataset.notes),
    ):
        display.message(line)
    return base, setup


def _try_all(engine: Engine, workload: Workload, setup: Setup, *, single: bool) -> None:
    """The plan, then its variations."""
    base, store, display, budget = engine.base, engine.store, engine.display, engine.budget
    linear = base.model.head in ("linear", "append")
    fits = linear and head_fits(base, setup.variables, setup.dataset)
    probe = space.probe({"solver": "lbfgs"} if fits else {})
    engine.learn()
    _warn_of_probe(engine, workload, probe)
    engine.run([probe])
    if engine.cost.forward_rate is None:  # Its features were cached, or it failed.
        engine.cost.forward_rate = workload.measured_rate()
    if setup.dataset.test is not None:
        budget.closing = _TEST_SECONDS + workload.closing() / engine.cost.forward_rate
    engine.resume()
    size = setup.inputs.device.size
    if base.data.image_size is None and base.data.upsample is None and linear:
        least = getattr(registry.get(base.model.model).backbone, "min_size", 32)
        engine.run(space.sizes(probe, size, least))
    heads = space.HEADS if base.model.head == "linear" else (base.model.head,)
    if len(heads) > 1:
        engine.run(space.heads())
    engine.run(space.strategies())
    # Better known by now is what they take, and nothing has to be left for another one.
    engine.run(space.strategies(whole=True))
    if budget.closing and not single:
        budget.closing += min(2 * budget.closing, _ENSEMBLE_SHARE * budget.total)
    if not sampling.available():
        display.message(f"note: {sampling.MISSING}")
        return
    trials = [trial for trial in store.read() if trial.counts]
    floor = next((t.metric or 0.0 for t in trials if t.stage == "probe"), 0.0)
    good = [
        trial.options["image_size"]
        for trial in trials
        if trial.stage == "size" and (trial.metric or 0.0) > floor
    ]
    sampler = sampling.Sampler(engine.folder, base.train.seed, (size, *good), heads)
    if sampler.fresh:
        sampler.begin([trial for trial in trials if trial.stage == "plan"])
    engine.vary(sampler)


def _warn_of_probe(engine: Engine, workload: Workload, probe: space.Candidate) -> None:
    """Says where the linear probe, which is trained in any case, will not fit in the time."""
    if not engine.store.read() and engine.budget.left < SHORTEST:
        engine.display.message(
            f"warning: {format_seconds(engine.budget.total)} are hardly enough to start, and for "
            "nothing but the linear probe, which is trained all the same. Use a longer --budget."
        )
    work, epochs = workload.of(probe.options)
    if work.features / SLOW_RATE < max(engine.budget.left, 10.0):
        return  # Too little to be worth a measurement.
    engine.cost.forward_rate = engine.cost.forward_rate or workload.measured_rate()
    seconds = engine.cost.seconds(work, epochs)
    if seconds > engine.budget.left:
        engine.display.message(
            f"warning: the linear probe alone is predicted to take {format_seconds(seconds)}, more "
            "than the time that is left, and it is trained all the same. Use a longer --budget, a "
            "smaller --image-size or fewer images."
        )


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
