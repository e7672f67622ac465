"""jtl's side of `accelerator.py`: a worker process.

python benchmarks/peers/jtl_device.py MODEL ARM DTYPE BATCH SIZE CLASSES STEPS

MODEL `-` only tells of the device. See peers/jtl_steps.py for the arms.
"""

from __future__ import annotations

from typing import Any

from harness import product, workers
from peers.jtl_steps import Forward, Step, flops, random_images

ROWS = {"cpu": 1024}
"""And columns of the matrix product beside the steps; 8192 where it is not said."""


def device_facts() -> dict[str, Any]:
    """What JAX computes on by default."""
    import jax

    device = jax.devices()[0]
    return {
        "platform": device.platform,
        "kind": device.device_kind,
        "count": jax.device_count(),
        "bytes": (device.memory_stats() or {}).get("bytes_limit"),
    }


def peak_bytes() -> int:
    """Memory of the device that was in use at most; of a CPU the process's."""
    import jax

    memory = jax.devices()[0].memory_stats() or {}
    return memory.get("peak_bytes_in_use") or workers.peak_bytes()


def main(name: str, arm: str, dtype: str, batch: int, size: int, classes: int, count: int) -> None:
    """Serves turns of `count` steps each, which are dispatched without waiting in between."""
    made: list[Forward | Step] = []

    def prepare() -> workers.Prepared:
        import jax
        import jax.numpy as jnp

        from jtl import models
        from jtl.models.initialization import initialize

        images, labels = map(jnp.asarray, random_images(batch, size, classes))
        model = models.create(name, num_classes=classes)
        variables = initialize(model, None, size=size, seed=0)
        images = images.astype(dtype)
        if arm == "forward":
            made.append(Forward(model, variables, images))
        else:
            made.append(Step(arm, model, variables, images, labels))
        one = made[0]

        def turn() -> None:
            for _ in range(count):
                done = one.dispatch()
            jax.block_until_ready(done)

        return turn, {"optimizer_bytes": one.optimizer_bytes}

    import jax

    rows = ROWS.get(jax.devices()[0].platform, 8192)
    workers.serve(prepare, lambda: product.of_jax(dtype, rows), lambda: flops(made[0]), peak_bytes)


if __name__ == "__main__":
    workers.start(main, device_facts)
