"""The lock of a run's folder, where the file system or the file is not what one expects."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import pytest

from jtl.common.errors import UserError
from jtl.runs.checkpoints import reading
from jtl.runs.lock import LOCK, is_written_by_another, locked

_HOLD = """
import sys, time
from pathlib import Path
from jtl.runs.lock import locked
with locked(Path(sys.argv[1]), print):
    print("held", flush=True)
    time.sleep(60)
"""
_NO_FLOCK = """
import fcntl
def flock(*_):
    raise OSError(38, "Function not implemented")
fcntl.flock = flock
"""


def _held(folder: Path, before: str = "") -> subprocess.Popen[str]:
    """A process that has the lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", before + _HOLD, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    while process.stdout.readline() != "held\n":
        assert process.poll() is None
    return process


def _kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSYS, "Function not implemented"),
        OSError(errno.EOPNOTSUPP, "Operation not supported"),
        OSError(errno.ENOLCK, "No locks available"),
        NotImplementedError("no flock"),
    ],
)
def test_without_locks_it_is_said_and_nothing_stays(tmp_path, monkeypatch, error):
    def flock(*_):
        raise error

    monkeypatch.setattr(fcntl, "flock", flock)
    told = []
    # A warning would be filelock's, of a lock that outlives a killed process.
    with warnings.catch_warnings(action="error"), locked(tmp_path, told.append):
        assert list(tmp_path.iterdir()) == []
    [said] = told
    assert f"does not support locks ({getattr(error, 'strerror', error)}). Make sure" in said
    assert list(tmp_path.iterdir()) == []


def test_without_locks_nothing_stays_after_a_kill(tmp_path):
    _kill(_held(tmp_path, _NO_FLOCK))
    assert list(tmp_path.iterdir()) == []


def test_readers_ask_the_system_whether_it_is_held(tmp_path):
    assert not is_written_by_another(tmp_path)
    process = _held(tmp_path)
    assert is_written_by_another(tmp_path)
    _kill(process)
    assert (tmp_path / LOCK).exists()
    assert not is_written_by_another(tmp_path)


def test_a_readers_look_does_not_keep_a_writer_out(tmp_path, monkeypatch):
    (tmp_path / LOCK).write_text("{}")
    with (tmp_path / LOCK).open() as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)
        monkeypatch.setattr("time.sleep", lambda _: fcntl.flock(reader, fcntl.LOCK_UN))
        with locked(tmp_path, print):
            pass


def test_a_pipe_hangs_nobody(tmp_path):
    os.mkfifo(tmp_path / LOCK)
    assert is_written_by_another(tmp_path)
    with pytest.raises(UserError, match=r"lock file '.*lock' cannot be used: it is no plain file"):
        locked(tmp_path, print).__enter__()


@pytest.mark.parametrize("make", [os.mkdir, lambda path: os.symlink("mine", path)])
def test_what_is_no_lock_file_is_named(tmp_path, make):
    make(tmp_path / LOCK)
    with pytest.raises(UserError, match=r"lock file '.*lock' cannot be used: it is no plain file"):
        locked(tmp_path, print).__enter__()


def test_a_file_of_another_name_is_not_overwritten(tmp_path):
    (tmp_path / "mine").write_text("mine")
    os.link(tmp_path / "mine", tmp_path / LOCK)
    with pytest.raises(UserError, match="it is a second name"):
        locked(tmp_path, print).__enter__()
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_reader_copies_what_it_reads_or_reads_in_place(tiny_run, monkeypatch):
    monkeypatch.setattr(reading, "is_written_by_another", lambda _: True)
    copied, copytree = [], shutil.copytree

    def copy(source, target, *rest, **options):
        result = copytree(source, target, *rest, **options)
        copied.extend(path.name for path in Path(target).iterdir())
        return result

    monkeypatch.setattr(shutil, "copytree", copy)
    epoch = reading.restore(tiny_run.folder, "latest").epoch
    stored = tiny_run.folder / "checkpoints" / str(epoch)
    assert (stored / "opt_state").is_dir()
    assert "variables" in copied
    assert "opt_state" not in copied

    def full(*_, **__):
        raise shutil.Error([("a", "b", "No space left on device")] * 50)

    monkeypatch.setattr(shutil, "copytree", full)
    assert reading.restore(tiny_run.folder, "latest").epoch == epoch
    monkeypatch.setattr(tempfile, "TemporaryDirectory", full)
    assert reading.restore(tiny_run.folder, "latest").epoch == epoch
    assert json.loads((stored / "files.json").read_text())
