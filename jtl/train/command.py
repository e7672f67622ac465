"""`python -m jtl.train`: train a classifier from pretrained weights."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from jtl.cli import app, process
from jtl.common.errors import UserError
from jtl.common.progress import Display, PlainConsole
from jtl.config.options import Config
from jtl.config.validation import resolve
from jtl.distributed import processes
from jtl.runs import messages
from jtl.train import batch_size, dry_run, loop, preview


def command(config: Config, *, draw_beside: bool = False) -> None:
    """Trains, or tells what training would cost; prints a table or JSON."""
    process.join(config)
    try:
        _command(config, draw_beside)
    except Exception as error:
        if processes.lost(error):
            raise UserError(processes.LOST) from error
        raise


def _command(config: Config, draw_beside: bool) -> None:
    if config.run.dry_run:
        task = batch_size.prepared(resolve(config), Display())
        if processes.first():
            preview.show_batch(task, Display())
        _print(config, dry_run.preflight(task), dry_run.print_preflight)
    elif config.run.find_lr:
        from jtl.train import lr_finder  # What no other run needs.

        _print(config, lr_finder.find_lr(config, Display()), lr_finder.print_found)
    elif config.run.seeds != 1:
        from jtl.train import seeds

        told = seeds.fit_seeds(resolve(config), Display(), draw_beside=draw_beside)
        _print(config, told, seeds.print_seeds)
    else:
        run = loop.fit(config, draw_beside=draw_beside)
        _print(config, run.summary, functools.partial(messages.print_summary, folder=run.folder))


def _print(config: Config, told: dict[str, Any], table: Callable[..., None]) -> None:
    """Prints a result as JSON or as a table; of many processes the first one does."""
    if not config.run.json:
        table(told, console=PlainConsole(quiet=not processes.first()))
    elif processes.first():
        app.print_json(told, indent=2)


def main() -> None:
    """Runs the command and ends the process."""
    process.prepare()
    app.end(
        app.main(Config, functools.partial(command, draw_beside=True), prog="python -m jtl.train")
    )
