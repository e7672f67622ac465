"""The machine's limit: the rate of a matrix product, by JAX or by PyTorch."""

from __future__ import annotations

import time
from collections.abc import Callable

ROWS = 2048
"""And columns of the matrices: large enough for the processor's full rate."""


def of_jax(dtype: str = "float32", rows: int = ROWS) -> Callable[[], float]:
    """Takes one product by XLA at each call and gives its GFLOP/s."""
    import jax
    import jax.numpy as jnp

    a = jnp.ones((rows, rows), dtype)
    multiply = jax.jit(lambda a: a @ a)
    multiply(a).block_until_ready()
    return lambda: _rate(lambda: multiply(a).block_until_ready(), rows)


def of_torch() -> Callable[[], float]:
    """The same by PyTorch."""
    import torch

    a = torch.ones((ROWS, ROWS))
    torch.mm(a, a)
    return lambda: _rate(lambda: torch.mm(a, a))


def _rate(multiply: Callable[[], object], rows: int = ROWS) -> float:
    began = time.perf_counter()
    multiply()
    return 2 * rows**3 / (time.perf_counter() - began) / 1e9


if __name__ == "__main__":
    product = of_jax()
    print(max(product() for _ in range(7)))
