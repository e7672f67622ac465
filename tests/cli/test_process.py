"""What commands set up for their process: memory in huge pages, and when garbage is collected."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from jtl.cli import commands
from jtl.common import garbage_collection, huge_pages, invocation
from jtl.train.setup import prepare_setup
from support import tiny
from support.commands import python

FAULTS = """
import os, resource, sys
from jtl.common import huge_pages
huge_pages.is_command = lambda words: True
if sys.argv[1] == "huge":
    huge_pages.restart_with_huge_pages()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5): block = b"x" * 2**26
print(os.getpid(), sys.argv[2], resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.process
@pytest.mark.skipif(
    not huge_pages._can_ask(), reason="the kernel or the C library has no huge pages"
)
def test_large_blocks_come_in_huge_pages():
    outcomes = {}
    for what in ("huge", "small"):
        ran = python("-c", FAULTS, what, "an argument")
        assert ran.returncode == 0, ran.stderr
        *_, argument, faults = ran.stdout.split()
        assert argument == "argument"
        outcomes[what] = int(faults)
    # Five blocks of 16,384 small pages each.
    assert outcomes["small"] > 80_000
    assert outcomes["huge"] < 0.05 * outcomes["small"]


FREED = """
import ctypes
from jtl.common import huge_pages
library = ctypes.CDLL(None)
library.malloc.restype, library.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
def pages(): return int(open("/proc/self/statm").read().split()[1])
before = pages()
blocks = [library.malloc(60_000) for _ in range(2000)]
for block in blocks: ctypes.memset(block, 1, 60_000)
taken = pages() - before
for block in blocks[:-1]: library.free(block)  # The last one lies behind all others.
kept = pages() - before
huge_pages.give_back()
print(taken, kept, pages() - before)
"""


@pytest.mark.process
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's /proc")
def test_free_memory_in_the_midst_is_given_back():
    ran = python("-c", FREED)
    assert ran.returncode == 0, ran.stderr
    taken, kept, left = map(int, ran.stdout.split())
    assert kept > 0.9 * taken > 25_000
    assert left < 0.1 * taken


def test_a_restart_happens_once_and_keeps_other_tunables(monkeypatch):
    started = []
    monkeypatch.setattr(huge_pages.os, "execve", lambda *args: started.append(args))
    monkeypatch.setattr(huge_pages, "_can_ask", lambda: True)
    monkeypatch.setattr(huge_pages, "is_command", lambda words: True)
    own = "glibc.malloc.tcache_count=3:glibc.malloc.arena_max=4"
    monkeypatch.setenv("GLIBC_TUNABLES", own)
    huge_pages.restart_with_huge_pages()
    [(program, arguments, environment)] = started
    assert (program, arguments) == (sys.executable, sys.orig_argv)
    tunables = f"{own}:glibc.malloc.hugetlb=1"
    assert environment["GLIBC_TUNABLES"] == tunables
    monkeypatch.setenv("GLIBC_TUNABLES", tunables)
    huge_pages.restart_with_huge_pages()
    assert len(started) == 1
    monkeypatch.delenv("GLIBC_TUNABLES")
    huge_pages.restart_with_huge_pages()
    wanted = "glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1"
    assert started[1][2]["GLIBC_TUNABLES"] == wanted


@pytest.mark.parametrize(
    ("words", "restarts"),
    [
        ("python -m jtl.train --data x", True),
        ("python -W error -X utf8 -um jtl.predict run", True),
        ("python -mjtl.train", True),
        ("python -P -m jtl", True),
        ("python /usr/bin/jtl train", True),
        ("python wrapper.py -m jtl.train", False),
        ("python -m cProfile -m jtl.train", False),
        ("python -m torch.distributed.run -m jtl.train", False),
        ("python -c exec(program) -m jtl.train", False),
        ("python -Ic code -m jtl.train", False),
        ("python - -m jtl.train", False),
        ("python", False),
    ],
)
def test_only_the_commands_themselves_are_started_anew(words, restarts):
    assert invocation.is_command(words.split()) == restarts


PROGRAM = """
import runpy, sys
print("begins", flush=True)
sys.argv[1:] = ["--help"]
runpy.run_module("jtl.train", run_name="__main__", alter_sys=True)
"""


@pytest.mark.process
@pytest.mark.skipif(
    not huge_pages._can_ask(), reason="the kernel or the C library has no huge pages"
)
@pytest.mark.parametrize("how", ["input", "file"])
def test_a_program_that_runs_a_command_runs_once_and_to_its_end(tmp_path, how):
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, *([] if how == "input" else [tmp_path / "program.py"])]
    environment = {k: v for k, v in os.environ.items() if k != huge_pages.VARIABLE}
    ran = subprocess.run(
        command, input=PROGRAM, capture_output=True, text=True, check=True, env=environment
    )
    assert ran.stdout.count("begins") == 1
    assert "--mask" in ran.stdout


@pytest.fixture
def collector() -> Iterator[None]:
    yield
    gc.enable()
    gc.unfreeze()


@pytest.mark.usefixtures("collector")
def test_the_garbage_collector_waits_until_a_command_has_started(monkeypatch):
    monkeypatch.setattr(garbage_collection, "is_command", lambda words: True)
    garbage_collection.pause_until_started()
    assert not gc.isenabled()
    garbage_collection.resume()
    assert gc.isenabled()
    frozen = gc.get_freeze_count()
    assert frozen > 100_000
    more = [[] for _ in range(1000)]
    garbage_collection.resume()  # Only once: a command may load many runs.
    assert gc.get_freeze_count() == frozen
    garbage_collection.skip_at_exit()
    assert gc.get_freeze_count() >= frozen + len(more)


@pytest.mark.usefixtures("collector")
def test_the_garbage_collector_of_other_programs_is_theirs(monkeypatch):
    monkeypatch.setattr(garbage_collection, "is_command", lambda words: False)
    garbage_collection.pause_until_started()
    garbage_collection.skip_at_exit()
    assert gc.isenabled()
    assert not gc.get_freeze_count()
    monkeypatch.setattr(garbage_collection, "is_command", lambda words: True)
    gc.disable()  # By somebody who wants it so.
    garbage_collection.pause_until_started()
    garbage_collection.resume()
    assert not gc.isenabled()


def test_commands_that_compute_pause_the_collector_and_resume_it(tiny_run, tiny_data, monkeypatch):
    calls = []
    for name in ("pause_until_started", "resume", "skip_at_exit"):
        monkeypatch.setattr(
            garbage_collection, name, lambda name=name: calls.append(name.split("_")[0])
        )
    monkeypatch.setattr(huge_pages, "restart_with_huge_pages", lambda: None)
    monkeypatch.setattr(commands.app, "quiet_libraries", lambda: None)
    image = next(tiny_data.rglob("*.png"))
    for words in (["predict", tiny_run.folder, image], ["evaluate", tiny_run.folder]):
        calls.clear()
        with pytest.raises(SystemExit) as ended:
            commands.run(words[0], [str(word) for word in words[1:]])
        assert ended.value.code == 0
        assert calls == ["pause", "resume", "skip"]
    calls.clear()
    prepare_setup(tiny.config(tiny_data, None), tiny.quiet())
    assert calls == ["resume"]
