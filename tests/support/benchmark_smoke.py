"""`python benchmark_smoke.py SCRIPT ARGUMENTS`: a benchmark as it runs by itself, but sooner.

Every process that it starts takes the programs that another one has compiled, where the figures of
a benchmark are of processes that find nothing; and the machine's own limit is measured once, not
anew for every row.
"""

from __future__ import annotations

import functools
import os
import runpy
import sys
from pathlib import Path


def main(script: Path, arguments: list[str]) -> None:
    sys.path.insert(0, str(script.parent))
    from harness import machine, trainings, workers

    measured = machine.environment
    shared = {
        # Which comes before the folder of `JTL_CACHE`.
        "JAX_COMPILATION_CACHE_DIR": str(Path(os.environ["JTL_CACHE"], "benchmarks")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    }

    def environment(**variables: str) -> dict[str, str]:
        if "JTL_CACHE" in variables:  # As a run makes it that keeps its programs there.
            Path(variables["JTL_CACHE"]).mkdir(parents=True, exist_ok=True)
        return {**measured(**variables), **shared}

    for module in (machine, trainings, workers):
        module.environment = environment
    machine.product_rate = trainings.product_rate = functools.cache(machine.product_rate)
    sys.argv = [str(script), *arguments]
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
