"""A search of the tiny network that is killed in its trials, again and again, and resumed.

    tiny_search.py KILLS SEARCH-OPTIONS...

KILLS tells, with commas between, after how many epochs of a session the process kills itself; the
last session ends by itself. Each session is a process of its own, which this one forks before JAX
has computed anything, to import everything once.
"""

from __future__ import annotations

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import dataclasses
import itertools
import signal
import sys
import warnings
from typing import Any

import pytest

from jtl.cli import app
from jtl.models import registry
from jtl.search import sampling, session, space
from jtl.search.options import Options
from jtl.train import linear_probe  # noqa: F401
from support import quick, tiny


def run(words: list[str], kill_after: int | None) -> None:
    """One session, whose clock goes on whenever it is asked."""
    count, train = itertools.count(1), session.fit

    def fit(config: Any, display: Any, *, observer: Any, **options: Any) -> Any:
        def after_epoch(line: dict[str, Any]) -> bool:
            if next(count) == kill_after:
                os.kill(os.getpid(), signal.SIGKILL)
            return observer.after_epoch(line)

        killing = dataclasses.replace(observer, after_epoch=after_epoch)
        return train(config, display, observer=killing, **options)

    ticks = itertools.count()
    patch = pytest.MonkeyPatch()
    patch.setattr(session, "fit", fit)
    patch.setattr(sampling, "available", lambda: False)
    patch.setattr(space, "STRATEGIES", ("last_stage",))
    patch.setattr(space, "heads", list)
    quick.spare(patch)
    quick.lower_and_keep(patch)
    options = app.parsed(Options, words, "jtl search")
    session.run(options, tiny.quiet(), lambda: 0.01 * next(ticks))


if __name__ == "__main__":
    registry.ENTRIES[tiny.ENTRY.name] = tiny.ENTRY
    kills = [int(number) for number in sys.argv[1].split(",")]
    words = sys.argv[2:]
    for number, kill_after in enumerate([*kills, None]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Of threads at a fork; none of them computes yet.
            child = os.fork()
        if not child:
            run([*words, *(["--resume"] if number else [])], kill_after)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status == (0 if kill_after is None else -signal.SIGKILL), status
