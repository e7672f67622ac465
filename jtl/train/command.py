"""`jtl train`: train a classifier from pretrained weights."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import Any

from jtl.common.errors import UserError
from jtl.common.output import print_json
from jtl.config.options import Config
from jtl.config.options import Config as Options

__all__ = ["Options", "command"]


def command(config: Config, *, background_plots: bool = True) -> None:
    """Trains, or tells what training would cost; prints a table or JSON."""
    from jtl.distributed import processes

    _join(config)
    try:
        _command(config, background_plots)
    except Exception as error:
        if processes.is_peer_failure(error):
            raise UserError(processes.PEER_FAILURE) from error
        raise


def _join(config: Config) -> None:
    """Makes the process one of several that train together, where options or environment say so.

    Raises:
        UserError: The options do not go together, or the processes do not come together.
    """
    from jtl.distributed import device, processes

    run = config.run
    run.check_processes()
    device.choose(run.device)
    if processes.join(run.coordinator, run.num_processes, run.process_id):
        _keep_stdout()
    device.check(run.device)
    if config.train.solver == "lbfgs" and processes.is_distributed():
        processes.shut_down_together()
        raise UserError(
            "--solver lbfgs runs in a single process, but several were started. Start one "
            "process, or leave --solver out."
        )


def _keep_stdout() -> None:
    """Leaves standard output to Python: what libraries write there (Gloo) goes to stderr."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = os.fdopen(kept, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)


def _command(config: Config, background_plots: bool) -> None:
    from jtl.common.progress import Display
    from jtl.distributed import processes
    from jtl.runs import console_text
    from jtl.runs.files import HTML_REPORT
    from jtl.runs.plot_worker import PlotWorker
    from jtl.train import batch_size, dry_run, preview
    from jtl.train.auto_model import with_model
    from jtl.train.checks import checked
    from jtl.train.fit import fit

    several = config.run.seeds != 1 or config.run.folds != 1
    if several or config.run.dry_run or config.run.find_lr:  # `fit` chooses for a run of its own.
        config = with_model(config, Display())
    if config.run.dry_run:
        setup = batch_size.prepared(checked(config), Display())
        if processes.is_primary():
            preview.show_batch(setup, Display())
        _print(config, dry_run.dry_run(setup), dry_run.print_dry_run)
    elif config.run.find_lr:
        from jtl.train import lr_finder  # What no other run needs.

        _print(config, lr_finder.find_lr(config, Display()), lr_finder.print_found)
    elif config.run.seeds != 1:
        from jtl.train import seeds

        told = seeds.fit_seeds(checked(config), Display(), background_plots=background_plots)
        _print(config, told, seeds.print_seeds)
    elif config.run.folds != 1:
        from jtl.train import folds

        told = folds.fit_folds(checked(config), Display(), background_plots=background_plots)
        _print(config, told, folds.print_folds)
    else:
        with PlotWorker(background=background_plots) as worker:
            run = fit(config, worker=worker)
            html = worker.has_more or (run.folder / HTML_REPORT).is_file()
            told = functools.partial(console_text.print_summary, folder=run.folder, html=html)
            _print(config, run.summary, told)
            sys.stdout.flush()  # What follows takes a moment.


def _print(config: Config, told: dict[str, Any], table: Callable[..., None]) -> None:
    """Prints a result as JSON or as a table; of many processes the first one does."""
    from jtl.common.progress import PlainConsole
    from jtl.distributed import processes

    if not config.run.json:
        table(told, console=PlainConsole(quiet=not processes.is_primary()))
    elif processes.is_primary():
        print_json(told)
