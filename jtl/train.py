"""`python -m jtl.train`: train a classifier from pretrained weights."""

from __future__ import annotations

if __name__ == "__main__":
    from jtl import memory

    memory.restart_with_huge_pages()  # Before the slow imports.

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
    console = PlainConsole(quiet=not processes.first())
    if config.run.dry_run:
        task = batch_size.prepared(resolve(config), Display())
        preview.show_batch(task, Display())
        figures = preflight.preflight(task)
        if config.run.json:
            cli.print_json(figures, indent=2)
        else:
            preflight.print_preflight(figures, console)
        return
    beside = __name__ == "__main__"
    if config.run.find_lr:
        from jtl import lr_finder  # What no other run needs.

        found = lr_finder.find_lr(config, Display())
        if config.run.json:
            cli.print_json(found, indent=2)
        else:
            lr_finder.print_found(found, console)
        return
    if config.run.seeds != 1:
        from jtl import seeds

        told = seeds.fit_seeds(resolve(config), Display(), draw_beside=beside)
        if config.run.json:
            cli.print_json(told, indent=2)
        else:
            seeds.print_seeds(told, console)
        return
    run = loop.fit(config, draw_beside=beside)
    if config.run.json and processes.first():
        cli.print_json(run.summary, indent=2)
    elif not config.run.json:
        report.print_summary(run.summary, run.folder, console)


if __name__ == "__main__":
    process.prepare()
    cli.end(cli.main(Config, command, prog="python -m jtl.train"))
