"""Python processes that begin with jtl and JAX imported: half of what a short one takes.

`Popen` asks a server, a process that has imported all and computed nothing, to fork; what it
cannot start so, it starts as ever. In all else the child is a process of its own: number, files,
environment, working directory, signals and exit.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import functools
import gc
import importlib
import inspect
import io
import json
import os
import random
import runpy
import select
import signal
import socket
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

from support import programs

IMPORTED = (
    "support.tiny_train",
    "jtl.cli.commands",
    "jtl.runs.checkpoints.managers",
    # What a training imports on its way: as much processor time as the tiny net's compilation.
    "jtl.data.sources.folder",
    "weights_convert.source.sources",
    "scipy.optimize",
)
"""What children have imported."""
READ_EARLY = ("GLIBC_", "JAX_", "KERAS_", "LD_", "MPL", "OMP_", "PYTHON", "TF_", "XLA_")
"""Variables that imports or the start of Python read: a server has them as its children do."""
PROGRAMS = (
    "compilation_cache_dir",
    "persistent_cache_min_compile_time_secs",
    "persistent_cache_min_entry_size_bytes",
)
"""Settings of JAX that a child takes from its own variables: nothing is compiled before."""
SIZE = 2**17
"""Bytes that hold what a process is started with."""
_Start = subprocess.Popen


class Popen(_Start):  # type: ignore[type-arg]
    """A process, forked from a server where that makes no difference."""

    _answers: socket.socket | None = None
    """Of a forked process: its number, and at its end its status."""

    def _execute_child(self, *given: Any) -> None:
        names = list(inspect.signature(_Start._execute_child).parameters)[1:]  # type: ignore[attr-defined]
        asked = dict(zip(names, given, strict=True))
        if not _can_fork(asked):
            super()._execute_child(*given)  # type: ignore[misc]
            return
        environment = dict(os.environ if asked["env"] is None else asked["env"])
        ends = (asked["p2cread"], asked["c2pwrite"], asked["errwrite"])
        order = {
            "words": list(map(os.fspath, asked["args"])),
            "environment": environment,
            "folder": os.fspath(asked["cwd"] or os.getcwd()),
        }
        self._answers, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            passed = [end if end != -1 else standard for standard, end in enumerate(ends)]
            files = array.array("i", [theirs.fileno(), *passed])
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, files)
            _server(_early(environment)).sendmsg([json.dumps(order).encode()], [rights])
        self.pid = int(self._answers.recv(64))
        self._child_created = True
        pipes = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        self._close_pipe_fds(*(asked[name] for name in pipes))  # type: ignore[attr-defined]

    def _try_wait(self, flags: int) -> tuple[int, int]:
        if self._answers is None:
            return super()._try_wait(flags)  # type: ignore[misc]
        try:
            told = self._answers.recv(64, socket.MSG_DONTWAIT if flags & os.WNOHANG else 0)
        except BlockingIOError:
            return 0, 0
        self._answers.close()
        return self.pid, int(told)

    def _internal_poll(self, *given: Any, **named: Any) -> int | None:
        if self._answers is not None:
            named["_waitpid"] = lambda _, flags: self._try_wait(flags)
        return super()._internal_poll(*given, **named)  # type: ignore[misc]


def _early(environment: dict[str, str]) -> tuple[tuple[str, str], ...]:
    late = {f"JAX_{name}".upper() for name in PROGRAMS}
    return tuple(
        sorted(
            (name, value)
            for name, value in environment.items()
            if name.startswith(READ_EARLY) and name not in late
        )
    )


def _can_fork(asked: dict[str, Any]) -> bool:
    words = asked["args"]
    others = ("executable", "preexec_fn", "pass_fds", "shell", "start_new_session")
    return (
        sys.platform == "linux"
        and isinstance(words, list)
        and len(words) > 1
        and words[0] == sys.executable
        and (str(words[1]) in ("-m", "-c") or Path(words[1]).suffix == ".py")
        and not any(asked[name] for name in others if asked[name] != sys.executable)
    )


@functools.cache
def _server(early: tuple[tuple[str, str], ...]) -> socket.socket:
    """A connection to the server of such variables."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    others = {k: v for k, v in os.environ.items() if not k.startswith(READ_EARLY)}
    with theirs:
        number = theirs.fileno()
        code = f"from support import processes as p; p.run(p.next_order({number}))"
        process = _Start(
            [sys.executable, "-c", code], env={**others, **dict(early)}, pass_fds=[number]
        )

    @atexit.register
    def end() -> None:
        ours.close()
        process.wait()

    return ours


# In the server.


def next_order(number: int) -> dict[str, Any]:
    """Serves a connection; returns in each child what it shall run, and never in the server."""
    for name in IMPORTED:
        importlib.import_module(name)
    programs.keep_all()
    gc.collect()
    gc.freeze()
    connection = socket.socket(fileno=number)
    awake, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers: dict[int, int] = {}  # Numbers of sockets, which children close without more ado.
    while True:
        ready = select.select([connection, awake], [], [])[0]
        if awake in ready:
            os.read(awake, 4096)
            while answers and (ended := os.waitpid(-1, os.WNOHANG))[0]:
                answer = answers.pop(ended[0])
                with contextlib.suppress(BrokenPipeError):  # Nobody waits for it any more.
                    os.write(answer, str(ended[1]).encode())
                os.close(answer)
        if connection not in ready:
            continue
        content, files, *_ = socket.recv_fds(connection, SIZE, 4)
        if not content:
            os._exit(0)
        answer, *standard = files
        with warnings.catch_warnings():  # JAX warns: of threads, of which there are none yet.
            warnings.simplefilter("ignore")
            child = os.fork()
        if child:
            os.write(answer, str(child).encode())
            answers[child] = answer
            for each in standard:
                os.close(each)
            continue
        signal.set_wakeup_fd(-1)
        for number, reset in (
            (signal.SIGCHLD, signal.SIG_DFL),
            (signal.SIGINT, signal.default_int_handler),
        ):
            signal.signal(number, reset)
        for to, each in enumerate(standard):
            os.dup2(each, to)
        os.closerange(3, max(*files, *answers.values(), connection.detach(), awake, wake) + 1)
        return json.loads(content)


def run(order: dict[str, Any]) -> None:
    """What Python does with a command line, and its exit."""
    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(order["folder"])
    _set_up_programs(order["environment"])
    random.seed()
    _reopen_standard_streams()
    sys.orig_argv[:] = order["words"]
    first, *rest = order["words"][1:]
    if first == "-c":
        sys.argv[:] = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    elif first == "-m":
        sys.argv[:] = rest
        sys.modules.pop(rest[0], None)
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv[:] = [first, *rest]
        sys.path[0] = str(Path(first).resolve().parent)
        runpy.run_path(first, run_name="__main__")


def _set_up_programs(environment: dict[str, str]) -> None:
    """Sets what JAX reads from variables when it is imported."""
    import jax

    for name in PROGRAMS:
        setting, given = f"jax_{name}", environment.get(f"JAX_{name}".upper())
        if given is not None:
            kind = type(jax.config.values[setting])
            jax.config.update(setting, given if kind in (str, type(None)) else kind(given))


def _reopen_standard_streams() -> None:
    """As Python does at its start: a stream knows whether it is a terminal, a file or a pipe."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        old = getattr(sys, name)
        raw = open(number, "wb" if number else "rb", closefd=False)  # noqa: SIM115
        lines = number == 2 or raw.isatty()
        new = io.TextIOWrapper(raw, old.encoding, old.errors, line_buffering=lines)
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)
