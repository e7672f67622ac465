"""`jtl search`: the best classifier within a given time."""

from __future__ import annotations

from jtl.common.output import print_json
from jtl.search.options import Options

__all__ = ["Options", "command"]


def command(options: Options, *, background_plots: bool = True) -> None:
    """Searches; prints a table or JSON.

    Raises:
        UserError: The options, the data or the weights cannot be used, or no trial could train.
        Interrupted: SIGINT came; finished trials are saved.
    """
    from jtl.common.progress import Display, PlainConsole
    from jtl.distributed import device
    from jtl.search import clock, console_text, session, winner

    device.use(options.search.device)
    found = session.run(
        options, Display(), clock.process_clock(), background_plots=background_plots
    )
    if options.search.json:
        print_json(found)
    else:
        console_text.print_result(found, PlainConsole())
    winner.write_report(found, background_plots=background_plots)
