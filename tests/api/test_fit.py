"""`jtl.fit` in somebody's process: in threads, in event loops, and what it leaves behind."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
import warnings

import pytest

import jtl
from jtl import api
from jtl.config.options import Config
from support import tiny


def options(data, folder) -> dict:
    config = tiny.config(data, folder)
    groups = (config.model, config.data, config.train, config.steps, config.run)
    given = {}
    for group in groups:
        for name, value in vars(group).items():
            if value != type(group).__dataclass_fields__[name].default:
                given[name] = value
    return given


def state() -> dict:
    return {
        "filters": list(warnings.filters),
        "environment": dict(os.environ),
        "handlers": list(logging.getLogger().handlers),
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "hooks": (sys.excepthook, sys.unraisablehook, threading.excepthook, warnings.showwarning),
        "streams": (sys.stdout, sys.stderr, os.getcwd()),
    }


def test_inside_an_event_loop_and_nothing_is_left_changed(tiny_data, tmp_path, monkeypatch):
    real = api._fit

    def imports(*args):
        warnings.filterwarnings("ignore", "of a library that is imported late")
        monkeypatch.setenv("KMP_INIT_AT_FORK", "FALSE")
        return real(*args)

    monkeypatch.delenv("KMP_INIT_AT_FORK", raising=False)
    monkeypatch.setattr(api, "_fit", imports)
    before = state()

    async def notebook():
        return jtl.fit(**options(tiny_data, tmp_path / "run"), display=tiny.quiet())

    assert asyncio.run(notebook()).summary["epochs"]
    assert state() == before


def test_of_three_threads_two_are_told_to_wait(tiny_data, tmp_path, monkeypatch):
    begun, told, real = threading.Event(), threading.Barrier(3), api._fit

    def slow(*args):
        begun.set()
        told.wait(60)
        return real(*args)

    monkeypatch.setattr(api, "_fit", slow)

    def train(number: int):
        if number:
            begun.wait(60)
        try:
            return jtl.fit(**options(tiny_data, tmp_path / str(number)), display=tiny.quiet())
        except jtl.UserError as error:
            told.wait(60)
            return str(error)

    async def threads():
        return await asyncio.gather(*(asyncio.to_thread(train, n) for n in range(3)))

    run, *refused = asyncio.run(threads())
    assert run.summary["epochs"]
    assert all("another training runs in this process" in reason for reason in refused)
    # Afterwards there is room again.
    monkeypatch.setattr(api, "_fit", lambda *_: jtl.Run(tmp_path, Config()))
    assert jtl.fit().folder == tmp_path


def test_a_training_that_fails_makes_room(tmp_path, monkeypatch):
    with pytest.raises(jtl.UserError):
        jtl.fit("folder:/nowhere/at/all", weights="random")
    monkeypatch.setattr(api, "_fit", lambda *_: jtl.Run(tmp_path, Config()))
    assert jtl.fit().folder == tmp_path
