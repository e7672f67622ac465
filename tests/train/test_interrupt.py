"""SIGINT and SIGTERM in mid training: what is saved, what is said, and that the process ends."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from jtl.cli import app
from jtl.common import signals
from jtl.common.signals import Interrupted, Stop, listening
from jtl.runs.checkpoints import reading
from support import tiny

pytestmark = pytest.mark.usefixtures("warm_starts")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_folder(tmp_path_factory.mktemp("interrupt") / "data", 24, 2, size=32)


def start(images: Path, folder: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "jtl.train", "--data", f"folder:{images}"),
            *("--image-size", "32", "--batch-size", "4", "--run-dir", str(folder), *options),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_epochs(process: subprocess.Popen[str], folder: Path, count: int) -> None:
    metrics = folder / "metrics.jsonl"
    for _ in range(3000):
        assert process.poll() is None, process.communicate()
        if metrics.exists() and len(metrics.read_text().splitlines()) >= count:
            return
        time.sleep(0.05)
    raise AssertionError("no epoch was finished in time")


# A trained part of the backbone, so that long programs are under way when the signal comes.
@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_run_and_ends_the_process(images, tmp_path, number):
    folder = tmp_path / "a run"
    process = start(images, folder, "--mask", "last_stage", "--epochs", "500")
    wait_for_epochs(process, folder, 2)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert "Traceback" not in out + err
    where = r"Stopped (?:at|after) epoch (\d+)/500(, batch \d+/18)?; everything is saved"
    stopped = re.search(where, err)
    assert stopped is not None, err
    assert f"python -m jtl.train --resume --run-dir '{folder}'" in err
    epoch = int(stopped[1])
    assert epoch > 1
    if stopped[2] is None:
        assert reading.saved_epochs(folder)[-1] == epoch
        return
    place = reading.find_temporary(folder, pytest.fail)
    assert place is not None
    assert (f", batch {place.batches}/18", place.epoch) == (stopped[2], epoch)


@pytest.mark.process
def test_a_signal_before_the_first_epoch_leaves_nothing(images, tmp_path):
    folder = tmp_path / "run"
    process = start(images, folder, "--mask", "last_stage", "--epochs", "500")
    while not folder.exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert not folder.exists()


def test_a_second_signal_stops_at_once():
    stop, told = Stop(), []
    with stop.deferred():
        stop.receive(signal.SIGINT, told.append)
        assert stop.signal == signal.SIGINT
        assert "again to quit immediately" in told[0]
        with pytest.raises(Interrupted):
            stop.receive(signal.SIGINT, told.append)
    with pytest.raises(Interrupted):
        Stop().receive(signal.SIGTERM, told.append)


class Collected:
    """Is sent a signal while it is taken apart, where Python swallows what handlers raise."""

    def __init__(self, number: int):
        self.number = number

    def __del__(self):
        signal.raise_signal(self.number)


def wait_after_one(number: int) -> None:
    Collected(number)
    for _ in range(500):
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_a_callback_that_swallows_exceptions_is_not_lost(number, capsys):
    hook = sys.unraisablehook
    told: list[str] = []
    with pytest.raises(Interrupted) as caught, listening(told.append):
        wait_after_one(number)
    assert caught.value.signal == number
    assert not told  # It is the first signal, not the second.
    assert "Traceback" not in capsys.readouterr().err
    assert sys.unraisablehook is hook


def test_a_signal_is_not_sent_again_into_what_swallows_it(monkeypatch):
    class Late(threading.Timer):
        def start(self) -> None:
            super().start()
            time.sleep(5 * signals.RETRY_SECONDS)  # Others have the processor.

    monkeypatch.setattr(threading, "Timer", Late)
    with pytest.raises(Interrupted), listening(pytest.fail):
        wait_after_one(signal.SIGINT)


def test_a_second_signal_that_is_swallowed_stays_the_second():
    told: list[str] = []
    with listening(told.append) as stop, stop.deferred():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(Interrupted):
            wait_after_one(signal.SIGINT)
    assert len(told) == 1


def test_ctrl_c_in_such_a_callback_ends_every_command(capsys):
    def run() -> int:
        wait_after_one(signal.SIGINT)
        return 0

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert app.guarded(run) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "interrupted\n"


def test_another_exception_of_such_a_callback_is_printed_as_ever(capsys, monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)

    class Broken:
        def __del__(self):
            raise ValueError("of its own")

    with listening(pytest.fail):
        Broken()
    assert "ValueError: of its own" in capsys.readouterr().err


def test_signals_are_as_before_afterwards_and_left_alone_in_threads():
    before = signal.getsignal(signal.SIGINT)
    with listening(lambda text: None):
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
    seen = []

    def in_a_thread():
        with listening(lambda text: None):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=in_a_thread)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.mark.process
def test_what_tests_start_can_be_interrupted():
    """Also where the suite was started in the background, which the second time pretends."""
    code = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "True\n"
    if "JTL_IN_BACKGROUND" not in os.environ:
        one = f"{__file__}::{test_what_tests_start_can_be_interrupted.__name__}"
        command = shlex.join([sys.executable, "-m", "pytest", "-q", one])
        environment = {**os.environ, "JTL_IN_BACKGROUND": "1"}
        shell = ["sh", "-c", f"trap '' INT; exec {command}"]
        again = subprocess.run(shell, env=environment, capture_output=True, text=True)
        assert again.returncode == 0, again.stdout
