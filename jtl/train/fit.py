"""`fit`: one training, from its options to the run that it leaves."""

from __future__ import annotations

import contextlib

from jtl.common.progress import Display
from jtl.common.signals import Stop, listening
from jtl.config.options import Config
from jtl.distributed import processes
from jtl.runs import trackers
from jtl.runs.plot_worker import PlotWorker
from jtl.runs.resume import check_same_inputs, opened_run
from jtl.runs.run import Run
from jtl.train import automatic, batch_size, preview
from jtl.train.auto_model import with_model
from jtl.train.checks import checked
from jtl.train.loop import Training
from jtl.train.observer import Observer
from jtl.train.overview import opening_lines
from jtl.train.run_records import run_content, run_inputs
from jtl.train.setup import Setup, prepare_setup


def fit(
    config: Config,
    display: Display | None = None,
    *,
    background_plots: bool = False,
    observer: Observer = Observer(),
    worker: PlotWorker | None = None,
) -> Run:
    """Trains a classifier and writes its run folder.

    Args:
        config: The options.
        display: Where progress goes; default stderr.
        background_plots: Whether plots are drawn in a process beside, as for commands.
        observer: Who hears of the epochs, and may end the training.
        worker: Who draws the plots, so that they can come after the results; its block has begun,
            and they are there when it ends. Default: one of its own.

    Returns:
        The run: its folder and summary.

    Raises:
        UserError: The options, the data or the weights cannot be used, or the folder cannot
            be written. Nothing is left behind then.
        Interrupted: SIGINT or SIGTERM came; what was trained until then is saved.
    """
    display = display or Display()
    if config.run.resume == "never":
        config = checked(with_model(config, display))
    with listening(display.message) as stop, opened_run(config, display.message) as run:
        if run.summary:
            display.message(f"The run in '{run.folder}' is already finished; these are its results")
            return run
        if run.resumed:
            setup = processes.run_together(
                lambda: prepare_setup(checked(run.config), display, run.folder)
            )
            note = processes.run_together(
                lambda: check_same_inputs(run, run_inputs(setup), setup.dataset)
            )
            display.message(f"note: {note}") if note else None
            run.extend(run_content(setup))
        else:
            config = checked(with_model(config, display))
            setup = batch_size.prepared(config, display)
            run.config = setup.config
            for line in (*opening_lines(setup), *automatic.lines(setup, config)):
                display.message(line)
        with contextlib.ExitStack() as stack:
            if worker is None:
                worker = stack.enter_context(PlotWorker(background=background_plots))
            worker.start()
            _go(setup, run, display, stop, worker, observer)
    return run


def _go(
    setup: Setup, run: Run, display: Display, stop: Stop, worker: PlotWorker, observer: Observer
) -> None:
    """Trains what is prepared, new or resumed."""
    if processes.is_primary():
        preview.show_batch(setup, display)
    options, done = run.config.to_dict(), len(run.history)
    log_to = run.config.run.log_to if processes.is_primary() else ()
    with trackers.opened(log_to, run.folder, options, done, display.message) as run.trackers:
        Training(setup, run, display, stop, worker, observer).run_phases()
