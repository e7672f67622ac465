"""What commands set up for their process: compiled programs kept, freed memory kept."""

from __future__ import annotations

import sys

import pytest
from commands import python

FAULTS = """
import resource, sys
from jtl import memory
kept = sys.argv[1] == "keep" and memory.keep_freed_memory()
def work():
    # Three blocks of 64 MB, and a small one that stays and lies between them.
    small.append([b"x" * 2**26, b"x" * 10_000][1])
    first, second = b"x" * 2**26, b"x" * 2**26
small = []
work(); work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5): work()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc can be told")
def test_freed_memory_is_used_again():
    outcomes = {}
    for what in ("keep", "leave"):
        ran = python("-c", FAULTS, what)
        assert ran.returncode == 0, ran.stderr
        kept, faults = ran.stdout.split()
        assert (kept == "True") == (what == "keep")
        outcomes[what] = int(faults)
    # Five times three blocks of 16,384 pages; kept, next to none of them is new.
    assert outcomes["leave"] > 100_000
    assert outcomes["keep"] < 0.05 * outcomes["leave"]


COMPILE = """
import jax, jax.numpy as jnp
from jax import monitoring
from jtl import process
process.prepare()
hits = []
monitoring.register_event_listener(lambda name, **_: hits.append(name))
def slow_to_compile(x):
    for i in range(40): x = jnp.sin(x) @ jnp.cos(x).T + i
    return x
jax.block_until_ready(jax.jit(slow_to_compile)(jnp.ones((8, 8))))
print(sum("cache_hits" in name for name in hits))
"""


def test_programs_are_compiled_once(tmp_path):
    first, second = (python("-c", COMPILE, JTL_CACHE=str(tmp_path)) for _ in range(2))
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert int(first.stdout) == 0
    assert int(second.stdout) > 0
    assert any((tmp_path / "programs").iterdir())


def test_jax_s_own_setting_comes_first(tmp_path):
    own = tmp_path / "own"
    settings = {"JTL_CACHE": str(tmp_path / "jtl"), "JAX_COMPILATION_CACHE_DIR": str(own)}
    ran = python("-c", COMPILE, **settings, JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0")
    assert ran.returncode == 0, ran.stderr
    assert any(own.iterdir())
    assert not (tmp_path / "jtl").exists()


def test_a_cache_folder_that_cannot_be_made_is_done_without(tmp_path):
    (tmp_path / "file").write_text("")
    ran = python("-c", COMPILE, JTL_CACHE=str(tmp_path / "file" / "below"))
    assert (ran.returncode, ran.stdout.strip()) == (0, "0"), ran.stderr
