"""`jtl search`: the best classifier within a given time."""

from __future__ import annotations

import dataclasses

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
    from jtl.search import clock, console_text, session, winner, workers

    if (share := workers.given()) is not None:
        workers.end_with_parent()
        share.take()
        device.use(options.search.device)
        session.take_part(options, workers.Prefixed(share.number), clock.process_clock())
        return
    shares = workers.shares(options.search)
    shares[0].take()
    team = workers.Team(shares, options.search)
    search = dataclasses.replace(options.search, cache_budget=team.cache_budget)
    options = dataclasses.replace(options, search=search)
    device.use(options.search.device)
    found = session.run(
        options, Display(), clock.process_clock(), background_plots=background_plots, team=team
    )
    if options.search.json:
        print_json(found)
    else:
        console_text.print_result(found, PlainConsole())
    winner.write_report(found, background_plots=background_plots)
