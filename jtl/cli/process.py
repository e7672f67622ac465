"""What a command sets up for its own process before JAX computes anything."""

from __future__ import annotations

import os
import sys

import jax

from jtl.common.errors import UserError
from jtl.config.options import Config
from jtl.config.validation import check_processes
from jtl.distributed import processes
from jtl.weights import cache_dir

PROGRAMS = "programs"
"""Folder of compiled programs below the cache folder."""
PROGRAMS_BYTES = 2**31
"""What compiled programs may take there; the least recently used go first."""


def prepare() -> None:
    """Keeps compiled programs between runs.

    JAX's own settings (`JAX_COMPILATION_CACHE_DIR` and its relatives) come first.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    folder = cache_dir() / PROGRAMS
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # Compiling anew is slower, nothing else.
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", PROGRAMS_BYTES)
    # Small programs too: a run has some fifty of them, and reading one takes a quarter of the
    # time of compiling it.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def _keep_stdout() -> None:
    """Leaves standard output to Python: what libraries write there (Gloo) goes to stderr."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = os.fdopen(kept, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)


def join(config: Config) -> None:
    """Makes the process one of several that train together, where options or environment say so.

    Raises:
        UserError: The options do not go together, or the processes do not come together.
    """
    run = config.run
    check_processes(run)
    if processes.join(run.coordinator, run.num_processes, run.process_id):
        _keep_stdout()
    if config.train.solver == "lbfgs" and processes.several():
        processes.end_together()
        raise UserError(
            "--solver lbfgs computes on the host, in a single process, and there are "
            f"{jax.process_count()}. Start one alone for it, or leave it out."
        )
