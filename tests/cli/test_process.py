"""What commands set up for their process: compiled programs kept, memory in huge pages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from jtl.common import memory
from support.commands import python

FAULTS = """
import os, resource, sys
from jtl.common import memory
if sys.argv[1] == "huge":
    memory.restart_with_huge_pages()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5): block = b"x" * 2**26
print(os.getpid(), sys.argv[2], resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.process
@pytest.mark.skipif(not memory._can_ask(), reason="the kernel or the C library has no huge pages")
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
from jtl.common import memory
library = ctypes.CDLL(None)
library.malloc.restype, library.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
def pages(): return int(open("/proc/self/statm").read().split()[1])
before = pages()
blocks = [library.malloc(60_000) for _ in range(2000)]
for block in blocks: ctypes.memset(block, 1, 60_000)
taken = pages() - before
for block in blocks[:-1]: library.free(block)  # The last one lies behind all others.
kept = pages() - before
memory.give_back()
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
    monkeypatch.setattr(memory.os, "execve", lambda *args: started.append(args))
    monkeypatch.setattr(memory, "_can_ask", lambda: True)
    own = "glibc.malloc.tcache_count=3:glibc.malloc.arena_max=4"
    monkeypatch.setenv("GLIBC_TUNABLES", own)
    memory.restart_with_huge_pages()
    [(program, arguments, environment)] = started
    assert (program, arguments) == (sys.executable, sys.orig_argv)
    tunables = f"{own}:glibc.malloc.hugetlb=1"
    assert environment["GLIBC_TUNABLES"] == tunables
    monkeypatch.setenv("GLIBC_TUNABLES", tunables)
    memory.restart_with_huge_pages()
    assert len(started) == 1
    monkeypatch.delenv("GLIBC_TUNABLES")
    memory.restart_with_huge_pages()
    wanted = "glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1"
    assert started[1][2]["GLIBC_TUNABLES"] == wanted


COMPILE = """
import jax, jax.numpy as jnp
from jax import monitoring
from jtl.cli import process
process.prepare()
hits = []
monitoring.register_event_listener(lambda name, **_: hits.append(name))
def slow_to_compile(x):
    for i in range(40): x = jnp.sin(x) @ jnp.cos(x).T + i
    return x
jax.block_until_ready(jax.jit(slow_to_compile)(jnp.ones((8, 8))))
print(sum("cache_hits" in name for name in hits))
"""


def compiled(cache: Path) -> subprocess.CompletedProcess[str]:
    return python("-c", COMPILE, JTL_CACHE=str(cache), JAX_COMPILATION_CACHE_DIR=None)


@pytest.mark.process
def test_programs_are_compiled_once(tmp_path):
    first, second = compiled(tmp_path), compiled(tmp_path)
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert int(first.stdout) == 0
    assert int(second.stdout) > 0
    assert any((tmp_path / "programs").iterdir())


@pytest.mark.process
def test_jax_s_own_setting_comes_first(tmp_path):
    own = tmp_path / "own"
    settings = {"JTL_CACHE": str(tmp_path / "jtl"), "JAX_COMPILATION_CACHE_DIR": str(own)}
    ran = python("-c", COMPILE, **settings, JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0")
    assert ran.returncode == 0, ran.stderr
    assert any(own.iterdir())
    assert not (tmp_path / "jtl").exists()


@pytest.mark.process
def test_a_cache_folder_that_cannot_be_made_is_done_without(tmp_path):
    (tmp_path / "file").write_text("")
    ran = compiled(tmp_path / "file" / "below")
    assert (ran.returncode, ran.stdout.strip()) == (0, "0"), ran.stderr
