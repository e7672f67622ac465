"""What a command sets up for its own process before JAX computes anything."""

from __future__ import annotations

import os
import sys

from jtl.common import compilation_cache
from jtl.common.errors import UserError
from jtl.common.paths import PROGRAMS, cache_dir


def prepare() -> None:
    """Keeps compiled programs between runs.

    JAX's own settings (`JAX_COMPILATION_CACHE_DIR` and its relatives) come first.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    try:
        folder = cache_dir() / PROGRAMS
    except UserError:
        return  # Whoever needs the folder will say so.
    compilation_cache.keep(folder, lambda text: print(f"note: {text}", file=sys.stderr))
