"""How many images a second a backbone takes on this machine: what `list --measure` tells."""

from __future__ import annotations

import statistics
import time

from jtl import models

BATCH, _REPEATS = 8, 3


def images_per_second(name: str) -> float:
    """The rate of a frozen forward, head included, compiled, float32, at the model's input size.

    Args:
        name: A name of `jtl.models.names()`. Its weights are random: they change nothing here.
    """
    import jax
    import numpy as np

    from jtl.models.inference import forward
    from jtl.models.initialization import initialize

    entry = models.get(name)
    size = entry.preprocessing.size
    model = models.create(name, head=entry.classifier)
    variables = jax.device_put(initialize(model, None, size=size, seed=0))
    shape = (BATCH, size, size, 3)
    images = jax.device_put(np.random.default_rng(0).standard_normal(shape, np.float32))

    def take() -> float:
        began = time.perf_counter()
        forward(variables, images, model=model).block_until_ready()
        return time.perf_counter() - began

    take()  # Compiles.
    return BATCH / statistics.median(take() for _ in range(_REPEATS))
