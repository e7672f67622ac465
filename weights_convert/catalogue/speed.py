"""How many images a second a backbone takes on this machine: what `list --measure` tells."""

from __future__ import annotations

import functools
from collections.abc import Callable

from jtl import models
from jtl.common import measurements

BATCH = 8
_REPEATS, _LONG_ENOUGH = 3, 1.0
"""How often a batch is timed at least, and for how many seconds in all."""


def images_per_second(name: str) -> float:
    """The rate of a frozen forward, head included, compiled, float32, at the model's input size.

    Of the shortest of several batches.

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

    call = functools.partial(forward, variables, images, model=model)
    return BATCH / measurements.shortest(call, least=_REPEATS, seconds=_LONG_ENOUGH)


def kept_rate(name: str, progress: Callable[[str], None] = lambda message: None) -> float:
    """`images_per_second`, measured once on this machine and kept in the cache folder.

    Args:
        name: A name of `jtl.models.names()`.
        progress: Called with a line of text before it is measured.
    """
    kept = measurements.place_of(["images_per_second", name])
    found = measurements.read(kept, ("images_per_second",))
    if found is None:
        progress(f"Measuring the speed of {name} on this machine (once)")
        found = {"images_per_second": images_per_second(name)}
        measurements.keep(kept, found)
    return found["images_per_second"]
