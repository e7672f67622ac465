"""Worker processes that prepare once and then take steps in turn, one at a time.

Each library runs in a process of its own, as its users run it. The processes take their steps
alternately, so that a ratio holds when the machine's speed drifts.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.machine import environment
from jtl.common.errors import out_of_memory

PAUSE = 0.05
"""Seconds between two turns: the other's threads may still spin."""

STEPS = 2
"""Timed steps in each turn."""

Prepared = tuple[Callable[[], object], dict[str, Any]]


def serve(
    prepare: Callable[[], Prepared],
    product: Callable[[], Callable[[], float]],
    flops: Callable[[], float] | None = None,
    peak: Callable[[], int] | None = None,
) -> None:
    """A worker's whole life: prepares, then answers each line on stdin with a line of JSON.

    Where memory does not suffice, it answers {"out_of_memory": what the error says} and ends.

    Args:
        prepare: Imports the library and gives a function that takes one step and waits for
            it, and what is to be told of it.
        product: Gives a function that measures a matrix product in GFLOP/s.
        flops: Counts the floating-point operations of a step. No step is asked for after it.
        peak: Bytes of memory at most so far; default the process's resident set.
    """
    peak = peak or peak_bytes
    # What libraries print must not come between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**content: Any) -> None:
        print(json.dumps(content), file=answers, flush=True)

    try:
        began = time.perf_counter()
        step, told = prepare()
        step()
        first = time.perf_counter() - began
        step()
        answer(first_seconds=first, **told)
        _serve(answer, step, product, flops, peak)
    except Exception as error:
        said = out_of_memory(error)
        if said is None:
            raise
        answer(out_of_memory=said)


def start(main: Callable[..., None], device_facts: Callable[[], dict[str, Any]]) -> None:
    """What a peer's script for devices does with its words.

    Args:
        main: Takes network, arm, number format; batch, size, classes and steps as numbers; and the
            words after these.
        device_facts: Printed as JSON instead where the first word is `-`.
    """
    words = sys.argv[1:]
    if words[0] == "-":
        print(json.dumps(device_facts()))
    else:
        main(*words[:3], *map(int, words[3:7]), *words[7:])


def _serve(answer: Any, step: Any, product: Any, flops: Any, peak: Any) -> None:
    """Answers until nobody asks any more."""
    multiply = None
    for line in sys.stdin:
        if line.strip() == "step":
            # As in a training, where one step follows another: the first after a pause gets
            # its memory from the system anew, and is not timed.
            step()
            began = time.perf_counter()
            for _ in range(STEPS):
                step()
            seconds = (time.perf_counter() - began) / STEPS
            answer(seconds=seconds, peak_bytes=peak())
        elif line.strip() == "product":
            multiply = multiply or product()
            answer(gflops=multiply())
        elif line.strip() == "flops" and flops is not None:
            answer(flops=flops())
        else:
            raise ValueError(f"unknown request {line!r}")


def peak_bytes() -> int:
    """The largest resident set of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT


RSS_UNIT = 1 if sys.platform == "darwin" else 1024


class Worker:
    """A worker as its parent sees it; a context manager that ends the process."""

    def __init__(self, script: Path, *args: object, **variables: str):
        """Starts it, and waits until its first two steps are taken."""
        self._command = [sys.executable, str(script), *map(str, args)]
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(**variables),
        )
        try:
            self.told = self._read()
        except BaseException:
            self._process.kill()
            raise

    def ask(self, request: str) -> dict[str, Any]:
        """Sends a request (`step`, `product`, `flops`) and waits for the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{request}\n")
        self._process.stdin.flush()
        return self._read()

    @property
    def out_of_memory(self) -> str | None:
        """What it said when its first steps did not fit; None if they did."""
        return self.told.get("out_of_memory")

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a worker ended early: {' '.join(self._command)}")
        return json.loads(line)


def in_turn(workers: dict[str, Worker], repeats: int) -> dict[str, list[dict[str, Any]]]:
    """Steps of all workers, alternately; each second round in the opposite order.

    Returns:
        For each worker, an answer for every repeat: `seconds` and `peak_bytes` of a step, and
        `gflops` of a matrix product in the same round.
    """
    taken: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
    for repeat in range(repeats):
        order = list(workers) if repeat % 2 == 0 else list(workers)[::-1]
        for name in order:
            taken[name].append(workers[name].ask("step"))
            time.sleep(PAUSE)
        for name in order:
            taken[name][-1] |= workers[name].ask("product")
            time.sleep(PAUSE)
    return taken
