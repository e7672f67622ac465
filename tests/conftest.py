"""What every test runs under: CPU, no silent broadcasting, a cache of its own."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Before the first import of JAX, which reads it once.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# And of PyTorch: its threads would spin while they wait for one another, on cores that the other
# worker of pytest wants. jtl sets it for oneDNN.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import jax
import pytest

from jtl import onednn
from jtl.common import huge_pages
from jtl.data import image_file
from jtl.models import registry
from jtl.runs import plot_worker
from jtl.runs.run import Run
from jtl.train import automatic
from jtl.train.fit import fit
from support import keras_draws, processes, quick, tiny
from support.paths import SHARED_DATA, TESTS
from support.programs import QUICK_COMPILE, keep_all
from weights_convert.read import h5_files

# Shapes that only fit by broadcasting are mistakes more often than not.
jax.config.update("jax_numpy_rank_promotion", "raise")

_CACHE = pytest.StashKey[str]()
PROGRAMS = {
    # Reading a smaller program takes as long as compiling it.
    "jax_persistent_cache_min_compile_time_secs": 0.1,
    "jax_persistent_cache_min_entry_size_bytes": 0,
    # With a limit, processes write one at a time, and read no half of a file.
    "jax_compilation_cache_max_size": 2**31,
}
"""How compiled programs are kept for a session."""


MEMORY, ROOM = Path("/dev/shm"), 8 * 2**30
"""Linux's folder in memory, and the bytes that have to be free there."""


def _write_to_memory() -> None:
    """Temporary files lie in memory where it has room: a session writes 15 GB, much of it synced.

    Whoever sets TMPDIR, or gives pytest a `--basetemp`, decides.
    """
    if "TMPDIR" in os.environ or not os.access(MEMORY, os.W_OK):
        return
    if shutil.disk_usage(MEMORY).free >= ROOM:
        os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)  # Of what is started, and of here.


def pytest_configure(config: pytest.Config) -> None:
    _write_to_memory()
    # Of this process, of workers and of what they start.
    os.environ.setdefault("XLA_FLAGS", QUICK_COMPILE)
    # What is started in the background (nohup, cron) ignores Ctrl-C, and so would all that tests
    # start and interrupt.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # What tests start finds `support` too.
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if str(TESTS) not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(TESTS), *paths]))
    # Workers of pytest-xdist and what tests start inherit the variables, so that weights are
    # converted once for all, and programs compiled.
    if "JTL_CACHE" not in os.environ:
        config.stash[_CACHE] = os.environ["JTL_CACHE"] = tempfile.mkdtemp(prefix="jtl-tests-")
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = Path(os.environ["JTL_CACHE"], "programs-of-tests")
        for name, value in {**PROGRAMS, "jax_compilation_cache_dir": str(folder)}.items():
            os.environ[name.upper()] = str(value)
            jax.config.update(name, value)
    keep_all()


def pytest_unconfigure(config: pytest.Config) -> None:
    if folder := config.stash.get(_CACHE, None):
        del os.environ["JTL_CACHE"]
        shutil.rmtree(folder, ignore_errors=True)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Spares garbage collection what stays: modules and tests, a million objects."""
    gc.collect()
    gc.freeze()
    # Tracing a program makes tens of thousands of objects that live.
    gc.set_threshold(20_000, 10, 10)


MOST_MAPS = 20_000
"""Memory maps above which compiled programs are given back; Linux allows a process 65,530."""


@pytest.fixture(autouse=True, scope="module")
def _programs_in_bounds() -> Iterator[None]:
    """Drops compiled programs between modules once there are very many.

    Each holds memory maps; without any left, the compiler crashes the process.
    """
    yield
    try:
        with open("/proc/self/maps", "rb") as maps:
            many = sum(1 for _ in maps) > MOST_MAPS
    except OSError:  # Not Linux.
        return
    if many:
        jax.clear_caches()
        gc.collect()  # What tests hold in cycles.


@pytest.fixture(autouse=True, scope="session")
def _steps_alone() -> Iterator[dict[str, Any]]:
    """Trainings in this process leave blank plots and no linear probe; gives what makes them."""
    originals = {"_draw": plot_worker._draw, "fine_tunes": automatic.fine_tunes}
    originals |= {name: getattr(module, name) for module, name in quick.LATER}
    with pytest.MonkeyPatch.context() as patch:
        quick.spare(patch)
        quick.lower_and_keep(patch)
        yield originals


@pytest.fixture
def real_plots(_steps_alone: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings in this process draw their plots."""
    monkeypatch.setattr(plot_worker, "_draw", _steps_alone["_draw"])


@pytest.fixture
def real_report(
    real_plots: None, _steps_alone: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commands in this process leave all that they do for users."""
    for module, name in quick.LATER:
        monkeypatch.setattr(module, name, _steps_alone[name])


@pytest.fixture
def real_probe(_steps_alone: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Fine-tuning in this process ends with a linear probe to compare with."""
    monkeypatch.setattr(automatic, "fine_tunes", _steps_alone["fine_tunes"])


@pytest.fixture(scope="module")
def warm_starts() -> Iterator[None]:
    """Python processes that are started begin with JAX and jtl imported."""
    with pytest.MonkeyPatch.context() as patch:
        # As after the restart by which a command asks for them, which would import all again.
        if huge_pages.VARIABLE not in os.environ:
            patch.setenv(
                huge_pages.VARIABLE, ":".join(f"{k}={v}" for k, v in huge_pages.WANTED.items())
            )
        patch.setattr(subprocess, "Popen", processes.Popen)
        yield


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """From a file's name to its path among the shared images; skips where they are not."""

    def path(name: str) -> Path:
        found = SHARED_DATA / name
        if not found.is_file():
            pytest.skip(f"needs real images: there is no ../shared/data/{name}")
        return found

    return path


@pytest.fixture
def without_heif(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As where pillow-heif is not installed."""
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    image_file._has_plugin.cache_clear()
    yield
    image_file._has_plugin.cache_clear()


@pytest.fixture(scope="session")
def keras_drawn() -> Iterator[None]:
    """Keras on JAX, whose networks are made without a program for each shape."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "jax")  # Read by the first import of Keras.
        pytest.importorskip("keras", reason="Keras is not installed (pip install 'jtl[keras]')")
        keras_draws.by_numpy(patch)
        yield


@pytest.fixture(scope="module")
def with_keras(keras_drawn: None) -> Iterator[None]:
    """Broadcasting, on which Keras relies and which the tests of jtl forbid.

    And the files that it has just written are read in this process.
    """

    def index(path: str) -> Any:
        from weights_convert.read import h5_index

        return json.loads(json.dumps(h5_index.index(path)))

    with jax.numpy_rank_promotion("allow"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(h5_files, "_index", index)
        yield


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, where whatever commands leave shows."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(params=["onednn", "xla"])
def library(request: pytest.FixtureRequest) -> Iterator[str]:
    """What computes the layers on the CPU; oneDNN where it is installed, and XLA."""
    if request.param == "xla":
        with onednn.disabled():
            yield "xla"
    elif onednn.installed():
        yield "onednn"
    else:
        pytest.skip("oneDNN is not installed (pip install 'jtl[onednn]')")


@pytest.fixture
def xla_only() -> Iterator[None]:
    """Traces without oneDNN, whose work XLA's analyses do not see."""
    with onednn.disabled():
        yield


@pytest.fixture(scope="module")
def tiny_model() -> Iterator[str]:
    """The name under which the registry knows the tiny backbone during a test module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.ENTRIES, tiny.ENTRY.name, tiny.ENTRY)
        yield tiny.ENTRY.name


@pytest.fixture(scope="module")
def tiny_data(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of small images, and beside them converted weights."""
    folder = tmp_path_factory.mktemp("data")
    tiny.write_weights(folder / "weights")
    return tiny.write_folder(folder / "tiny")


@pytest.fixture(scope="module")
def tiny_run(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A linear probe of two epochs."""
    folder = tmp_path_factory.mktemp("runs") / "deep" / "run"
    return fit(tiny.config(tiny_data, folder), tiny.quiet())


@pytest.fixture(scope="module")
def full_run(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of three epochs in which all trains, and running averages move."""
    folder = tmp_path_factory.mktemp("runs") / "full"
    return fit(tiny.config(tiny_data, folder, mask="full", bn="batch", epochs=3), tiny.quiet())
