"""What a program computes one way on CPUs and another way elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import jax
from jax import lax

# JAX's own kind of context: what was traced outside is not used again inside.
_everywhere = jax.make_user_context(default_value=False)


def everywhere() -> contextlib.AbstractContextManager[Any]:
    """Traces programs inside that run on every platform: for exports."""
    return _everywhere(True)


def by_platform(*arrays: Any, cpu: Callable[..., Any], default: Callable[..., Any]) -> Any:
    """`cpu(*arrays)` on CPUs, `default(*arrays)` on accelerators.

    Where there is nothing but a CPU, the other way is not traced: to trace both takes as long
    again as the rest of a backbone. With an accelerator, or `everywhere`, the choice is made while
    the program is lowered, since a program may run on either.

    Args:
        *arrays: Trees of arrays.
        cpu: What is computed on CPUs.
        default: The same elsewhere, with results of the same shapes and dtypes.
    """
    if jax.default_backend() == "cpu" and not _everywhere.value:
        return cpu(*arrays)
    return lax.platform_dependent(*arrays, cpu=cpu, default=default)
