"""Trials side by side: processes of one search, each with a GPU or some of the cores to itself."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from jtl.common.errors import UserError
from jtl.common.progress import Display, PlainConsole
from jtl.common.quantities import parse_bytes
from jtl.common.text import counted
from jtl.search.options import SearchConfig

VARIABLE = "JTL_SEARCH_WORKER"
"""Tells a process that a search has started which share of the machine is its own, as JSON."""
_GPUS, _PLATFORMS = "CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS"
_PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")
LISTING_SECONDS = 20.0
"""That `nvidia-smi` may take."""
SAVING_SECONDS = 10.0
"""That a worker has to save its trial when it is asked to stop."""
_POLL_SECONDS = 0.1


@dataclasses.dataclass(frozen=True)
class Share:
    """What one process of a search computes on.

    Attributes:
        number: From 1 on; the first one is the process that was started by the user.
        gpu: As in CUDA_VISIBLE_DEVICES; None on a CPU.
        cores: Numbers of CPU cores; empty where the system does not tell or take them.
    """

    number: int
    gpu: str | None = None
    cores: tuple[int, ...] = ()

    def take(self) -> None:
        """Keeps this process to its share; JAX must not have computed anything yet."""
        if self.gpu is not None:
            os.environ[_GPUS] = self.gpu
        if self.cores:
            os.sched_setaffinity(0, self.cores)


def shares(search: SearchConfig) -> list[Share]:
    """What each process of a search computes on: one for each GPU, or what `--workers` says.

    Raises:
        UserError: There are fewer GPUs or cores than `--workers`.
    """
    asked, gpus = search.workers, _gpus(search)
    if gpus:
        if asked is not None and asked > len(gpus):
            raise UserError(
                f"--workers {asked}: there are {len(gpus)} GPUs, and each process needs one. Use "
                f"at most {len(gpus)}."
            )
        # One process alone uses all of them.
        count = len(gpus) if asked is None else asked
        return [Share(1)] if count == 1 else [Share(n, gpus[n - 1]) for n in range(1, count + 1)]
    if asked is None or asked == 1:
        return [Share(1)]
    if search.device == "tpu":
        raise UserError("--workers: several processes can share a CPU or GPUs, but no TPU.")
    known = hasattr(os, "sched_getaffinity")  # Not so under macOS and Windows.
    cores = sorted(os.sched_getaffinity(0)) if known else list(range(os.cpu_count() or 1))
    if asked > len(cores):
        raise UserError(
            f"--workers {asked}: there are {len(cores)} CPU cores, and each process needs one. Use "
            f"at most {len(cores)}."
        )
    cuts = [len(cores) * n // asked for n in range(asked + 1)]
    parts = [tuple(cores[begin:end]) for begin, end in itertools.pairwise(cuts)]
    return [Share(n, None, part if known else ()) for n, part in enumerate(parts, 1)]


def _gpus(search: SearchConfig) -> list[str]:
    """The NVIDIA GPUs that JAX would compute on, as CUDA_VISIBLE_DEVICES names them.

    JAX itself is not asked: once it knows its devices, it takes memory of all of them.
    """
    platforms = {name for name in os.environ.get(_PLATFORMS, "").split(",") if name}
    if search.device == "auto" and platforms and not platforms & {"cuda", "gpu"}:
        return []
    if search.device not in ("auto", "gpu") or not any(map(importlib.util.find_spec, _PLUGINS)):
        return []
    if (visible := os.environ.get(_GPUS)) is not None:
        return [name.strip() for name in visible.split(",") if name.strip()]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        listed = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=LISTING_SECONDS
        )
        found = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]
        return [str(number) for number in range(len(found))]
    return []


def given() -> Share | None:
    """The share of this process, if a search has started it as a worker."""
    said = os.environ.get(VARIABLE)
    if said is None:
        return None
    share = json.loads(said)
    return Share(share["number"], share["gpu"], tuple(share["cores"]))


def end_with_parent() -> None:
    """Ends this process, its trial saved, when the one that started it closes its end or dies."""

    def wait() -> None:
        while os.read(0, 1):  # Not by `sys.stdin`, whose lock Python wants when it ends.
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


class Prefixed(Display):
    """A worker's messages, told apart; no progress."""

    def __init__(self, number: int):
        super().__init__(PlainConsole(stderr=True))
        self._number = number
        self._silent = Display(PlainConsole(quiet=True))

    def message(self, text: str) -> None:
        super().message(f"[{self._number}] {text}")

    def track(self, *args, **options):  # type: ignore[no-untyped-def]
        """As of `Display`, shown nowhere."""
        return self._silent.track(*args, **options)


class Team:
    """The workers of a search, beside the process that was started by the user."""

    def __init__(self, shares: Sequence[Share], search: SearchConfig):
        """Divides the memory for features, too, where `--cache-budget` says how much it is."""
        self._shares, self._search = shares[1:], search
        self.size = len(shares)
        """Of processes, the one that was started by the user included."""
        self._processes: list[subprocess.Popen[bytes]] = []
        budget = search.cache_budget
        if budget is not None and self._shares:
            budget = str(parse_bytes("--cache-budget", budget) // self.size)
        self.cache_budget = budget

    @contextlib.contextmanager
    def working(self, folder: Path, display: Display) -> Iterator[None]:
        """Has them work on the search in a folder until the end of the block, where they stop."""
        if self._shares:
            display.message(
                f"{self.size} processes train trials side by side, each on {self._each()}"
            )
        try:
            for share in self._shares:
                self._processes.append(self._started(share, folder))
            yield
        finally:
            self._stop()

    def _each(self) -> str:
        share = self._shares[-1]
        if share.gpu is not None:
            return "a GPU"
        return counted(len(share.cores), "CPU core") if share.cores else "a part of the CPU"

    def _started(self, share: Share, folder: Path) -> subprocess.Popen[bytes]:
        words = ["--resume", "--out", str(folder), "--device", self._search.device]
        words += ["--single"] if self._search.single else []
        if self.cache_budget is not None:
            words += ["--cache-budget", self.cache_budget]
        environment = {**os.environ, VARIABLE: json.dumps(dataclasses.asdict(share))}
        if share.gpu is not None:
            environment[_GPUS] = share.gpu
        command = [sys.executable, "-m", "jtl.search", *words]
        return subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
        )

    def wait(self, left: Callable[[], float]) -> None:
        """Waits until they have ended, as long as there is time.

        Args:
            left: Seconds that trials may take yet.
        """
        while any(process.poll() is None for process in self._processes) and left() > 0:
            time.sleep(_POLL_SECONDS)

    def _stop(self) -> None:
        """Asks them to save and to stop, and sees to it that they have."""
        for process in self._processes:
            assert process.stdin is not None
            with contextlib.suppress(OSError):
                process.stdin.close()
        until = time.monotonic() + SAVING_SECONDS
        for process in self._processes:
            try:
                process.wait(max(until - time.monotonic(), 0.0))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
