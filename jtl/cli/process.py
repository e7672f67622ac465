"""What a command sets up for its own process before JAX computes anything."""

from __future__ import annotations

import os

import jax

from jtl.common.paths import PROGRAMS, cache_dir

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
