"""Benchmarks as they run by themselves, but sooner.

The script runs in this process, and what it starts in processes of their own. Each of these takes
the programs that another one has compiled, where the figures of a benchmark are of processes that
find nothing; and the machine's own limit is measured once, not anew for every row.
"""

from __future__ import annotations

import functools
import os
import runpy
import sys
from pathlib import Path

import pytest

from support.paths import BENCHMARKS

SHARED = {
    # The peers are not held to this suite's strictness.
    "PYTHONWARNINGS": "default",
    "JAX_NUMPY_RANK_PROMOTION": "allow",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
}


def run(script: str, *arguments: object) -> None:
    """Runs a script of `benchmarks` with `--smoke`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        from harness import machine, trainings, workers

        measured = machine.environment
        # Which comes before the folder of `JTL_CACHE`.
        programs = {"JAX_COMPILATION_CACHE_DIR": str(Path(os.environ["JTL_CACHE"], "benchmarks"))}

        def environment(**variables: str) -> dict[str, str]:
            if "JTL_CACHE" in variables:  # As a run makes it that keeps its programs there.
                Path(variables["JTL_CACHE"]).mkdir(parents=True, exist_ok=True)
            return {**measured(**variables), **SHARED, **programs}

        for module in (machine, trainings, workers):
            patch.setattr(module, "environment", environment)
        product_rate = functools.cache(machine.product_rate)
        for module in (machine, trainings):
            patch.setattr(module, "product_rate", product_rate)
        path = BENCHMARKS / f"{script}.py"
        patch.setattr(sys, "argv", [str(path), "--smoke", *map(str, arguments)])
        runpy.run_path(str(path), run_name="__main__")
