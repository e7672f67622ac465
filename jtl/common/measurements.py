"""How fast this machine was found to be: measured once, kept in the cache folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jtl.common import files
from jtl.common.paths import MEASURED, cache_dir


def place_of(what: Sequence[Any]) -> Path:
    """The file of a measurement.

    Args:
        what: All that it depends on beside the machine and the versions; JSON values.
    """
    import jax  # Who only lists needs none.

    from jtl import __version__

    devices = jax.devices()
    machine = [__version__, jax.__version__, devices[0].device_kind, len(devices)]
    depends = [*what, *machine, processor(), os.cpu_count()]
    digest = hashlib.sha256(json.dumps(depends).encode()).hexdigest()
    return cache_dir() / MEASURED / f"{digest[:32]}.json"


def read(path: Path, names: Sequence[str]) -> dict[str, float] | None:
    """The positive numbers of these names that are kept there; None where they are not."""
    # Whatever it is that cannot be read is measured again.
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        found: Any = json.loads(path.read_text(encoding="utf-8"))
        values = {name: float(found[name]) for name in names}
        if all(value > 0 for value in values.values()):
            return values
    return None


def keep(path: Path, values: Mapping[str, float]) -> None:
    """Keeps what was measured, where the cache folder can be written."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        files.replace_text(path, json.dumps(dict(values)) + "\n")


def shortest(
    call: Callable[[], Any], *, least: int, most: float = math.inf, seconds: float = 0.0
) -> float:
    """Seconds of a call on the device, the shortest of several: what disturbs one makes it longer.

    A first call, which compiles and fills the caches, does not count.

    Args:
        call: Gives arrays of JAX, which are waited for.
        least: How often it is timed at least.
        most: And at most.
        seconds: How long all of them take, between these numbers.
    """
    import jax  # As above.

    jax.block_until_ready(call())
    taken: list[float] = []
    while len(taken) < least or (len(taken) < most and sum(taken) < seconds):
        began = time.perf_counter()
        jax.block_until_ready(call())
        taken.append(time.perf_counter() - began)
    return min(taken)


def processor() -> str:
    """The processor's name."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
