"""`python -m jtl.train`: train a classifier from pretrained weights."""

from __future__ import annotations

if __name__ == "__main__":
    from jtl import memory

    memory.restart_with_huge_pages()  # Before the slow imports.

import functools
from collections.abc import Callable
from typing import Any

from jtl import batch_size, cli, loop, preflight, preview, process, report
from jtl.config import Config
from jtl.devices import processes
from jtl.errors import UserError
from jtl.progress import Display, PlainConsole
from jtl.validation import resolve


def command(config: Config) -> None:
    """Trains, or tells what training would cost; prints a table or JSON."""
    process.join(config)
    try:
        _command(config)
    except Exception as error:
        if processes.lost(error):
            raise UserError(processes.LOST) from error
        raise


def _command(config: Config) -> None:
    beside = __name__ == "__main__"
    if config.run.dry_run:
        task = batch_size.prepared(resolve(config), Display())
        if processes.first():
            preview.show_batch(task, Display())
        _print(config, preflight.preflight(task), preflight.print_preflight)
    elif config.run.find_lr:
        from jtl import lr_finder  # What no other run needs.

        _print(config, lr_finder.find_lr(config, Display()), lr_finder.print_found)
    elif config.run.seeds != 1:
        from jtl import seeds

        told = seeds.fit_seeds(resolve(config), Display(), draw_beside=beside)
        _print(config, told, seeds.print_seeds)
    else:
        run = loop.fit(config, draw_beside=beside)
        _print(config, run.summary, functools.partial(report.print_summary, folder=run.folder))


def _print(config: Config, told: dict[str, Any], table: Callable[..., None]) -> None:
    """Prints a result as JSON or as a table; of many processes the first one does."""
    if not config.run.json:
        table(told, console=PlainConsole(quiet=not processes.first()))
    elif processes.first():
        cli.print_json(told, indent=2)


if __name__ == "__main__":
    process.prepare()
    cli.end(cli.main(Config, command, prog="python -m jtl.train"))
