"""Compiled programs are kept between runs, and whatever happens to them heals."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from jtl.common import compilation_cache
from jtl.common.paths import PROGRAMS
from support.commands import python

pytestmark = pytest.mark.process

# Prints how many programs came from the cache.
COMPILE = """
import os, sys, warnings
import jax, jax.numpy as jnp
from jax import monitoring
from jtl.cli import program_cache
jax.devices()
warnings.simplefilter("always")
if len(sys.argv) > 1 and not os.getuid(): os.setuid(int(sys.argv[1]))
program_cache.prepare()
hits = []
monitoring.register_event_listener(lambda name, **_: hits.append(name))
def slow_to_compile(x):
    for i in range(40): x = jnp.sin(x) @ jnp.cos(x).T + i
    return x
jax.block_until_ready(jax.jit(slow_to_compile)(jnp.ones((8, 8))))
print(sum("cache_hits" in name for name in hits))
"""


def compiled(cache: Path, *args: object, **environment: str) -> tuple[int, str]:
    """(programs that were read, what was said) of a process of its own."""
    settings = {"JTL_CACHE": str(cache), "JAX_COMPILATION_CACHE_DIR": None, **environment}
    ran = python("-c", COMPILE, *args, **settings)
    assert ran.returncode == 0, ran.stderr
    return int(ran.stdout), ran.stderr


@pytest.fixture(scope="module")
def filled(tmp_path_factory) -> tuple[dict[Path, bytes], int]:
    """A cache's files, and how many programs they are."""
    cache = tmp_path_factory.mktemp("cache")
    assert compiled(cache) == (0, "")
    hits, said = compiled(cache)
    assert hits
    assert not said
    paths = compilation_cache.entries(cache / PROGRAMS)
    return {path: path.read_bytes() for path in paths}, hits


@pytest.fixture
def cache(filled):
    """The cache as it was: of another path, the keys are others."""
    for path, content in filled[0].items():
        path.write_bytes(content)
    return path.parents[1]


def spoil(cache: Path, ending: str, how) -> None:
    for path in (cache / PROGRAMS).glob(f"*{ending}"):
        how(path)


DAMAGE = {
    "the disk was full": [
        ("-cache", lambda path: path.write_bytes(path.read_bytes()[:100])),
        ("-atime", Path.unlink),
    ],
    "no times": [("-atime", Path.unlink)],
    "half a time": [("-atime", lambda path: path.write_bytes(b"123"))],
    "empty": [("-cache", lambda path: path.write_bytes(b""))],
    "times alone": [("-cache", Path.unlink)],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_entries_that_were_not_written_to_their_end_are_written_anew(filled, cache, damage):
    for ending, how in DAMAGE[damage]:
        spoil(cache, ending, how)
    assert compiled(cache) == (0, "")
    assert compiled(cache) == (filled[1], "")


@pytest.mark.parametrize("content", ["noise", "half"])
def test_entries_that_look_whole_and_are_not_heal_with_one_note(filled, cache, content):
    for path in (cache / PROGRAMS).glob("*-cache"):
        path.write_bytes(path.read_bytes()[:100] if content == "half" else b"x" * 1000)
    hits, said = compiled(cache)
    assert hits == 0
    assert said.startswith("note: jtl could not save a compiled program")
    assert len(said.splitlines()) == 1
    assert compiled(cache) == (filled[1], "")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_a_folder_that_cannot_be_written_is_read_with_one_note(filled, cache):
    folder = cache / PROGRAMS
    for place in (folder, *folder.parents[:-2]):
        place.chmod(0o755)
    before = sorted(path.name for path in folder.iterdir())
    if os.getuid():
        folder.chmod(0o555)
    hits, said = compiled(cache, 54321)  # A user without a name, as in containers.
    assert hits == filled[1]
    assert said.startswith(f"note: jtl cannot save compiled programs in '{folder}' (Permission")
    assert len(said.splitlines()) == 1
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.skipif(sys.platform == "win32", reason="flock")
def test_where_there_are_no_locks_programs_are_read_with_one_note(filled, cache):
    without = (
        "import fcntl, os\ndef flock(*_): raise OSError(95, os.strerror(95))\nfcntl.flock = flock\n"
    )
    settings = {"JTL_CACHE": str(cache), "JAX_COMPILATION_CACHE_DIR": None}
    ran = python("-c", without + COMPILE, **settings)
    assert (ran.returncode, ran.stdout) == (0, f"{filled[1]}\n"), ran.stderr
    [said] = ran.stderr.splitlines()
    assert f"cannot save compiled programs in '{cache / PROGRAMS}' (no locks: Operation not" in said


def test_jax_s_own_setting_comes_first(tmp_path):
    own = tmp_path / "own"
    settings = {
        "JAX_COMPILATION_CACHE_DIR": str(own),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    assert compiled(tmp_path / "jtl", **settings) == (0, "")
    assert any(own.iterdir())
    assert not (tmp_path / "jtl").exists()


def test_a_cache_folder_that_cannot_be_made_is_done_without(tmp_path):
    (tmp_path / "file").write_text("")
    hits, said = compiled(tmp_path / "file" / "below")
    assert hits == 0
    assert said.count("note: jtl cannot save compiled programs") == len(said.splitlines()) == 1
