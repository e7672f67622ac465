"""What a step and the cache of a mask cost, counted by jtl: the same on every machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from harness import machine
from harness.store import Row

MODELS = ("resnet50", "densenet121", "efficientnet_lite0")
MASKS = ("head_only", "last_stage", "last_stages:2", "first_stages:1", "norm_only", "full")
SIZE, BATCH, CLASSES = 224, 16, 10
FEW = 11
"""Images of a traced batch: a number that is no other dimension of these networks."""
PATH = machine.RESULTS / "scaling_costs.json"


def command(model: str, mask: str) -> list[str]:
    """Words after `python` that count a mask, without any data or weights of one's own."""
    return [
        *("-m", "jtl.train", "--dry-run", "--json", "--data", "digits", "--weights", "random"),
        *("--image-size", str(SIZE), "--batch-size", str(BATCH), "--model", model, "--mask", mask),
    ]


def count(model: str, mask: str, cache: Path) -> Row:
    """A row: operations, numbers and bytes of one image, or of one step.

    Args:
        model: A backbone of jtl.
        mask: As in `--mask`.
        cache: As in `JTL_CACHE`.

    Raises:
        SystemExit: The command failed.
    """
    ran = subprocess.run(
        [sys.executable, *command(model, mask)],
        env=machine.environment(JTL_CACHE=str(cache)),
        capture_output=True,
        text=True,
        cwd=machine.ROOT,
    )
    if ran.returncode:
        raise SystemExit(f"failed: {' '.join(command(model, mask))}\n{ran.stderr[-2000:]}")
    told = json.loads(ran.stdout)
    images = told["num_train"] + told["num_val"]
    return {
        "model": model,
        "mask": mask,
        "cut": told["cut"],
        "forward_flops": told["forward_flops_per_image"],
        "prefix_flops": told["prefix_flops_per_image"],
        "step_flops": told["step_flops"] / told["batch_size"],
        "total_params": told["total_params"],
        "trainable_params": told["trainable_params"],
        "optimizer_bytes": told["optimizer_bytes"],
        "feature_values": told["cache_bytes"] // (4 * images),
        **traced(model, mask),
    }


def traced(model_name: str, mask: str) -> dict[str, int]:
    """What the command does not tell, by tracing the suffix's loss and its gradient.

    Returns:
        `kept_bytes`: of each image for the backward pass, in bfloat16; `layers`: normalized
        layers that every step runs; `live_layers`: those among them with statistics of the batch.
    """
    import jax
    import jax.numpy as jnp

    from jtl import models, onednn
    from jtl.common.trees import leaf_paths, merge, prune, within
    from jtl.freeze import label_tree, parse, split
    from jtl.freeze.split import trainable

    model = models.create(model_name, num_classes=CLASSES)
    shapes = models.variable_shapes(model, SIZE)
    labels = label_tree(parse(mask, model.units()), shapes["params"])
    cut = split(labels, model.units())
    start = cut.cut if cut.prefix else None
    x = jax.ShapeDtypeStruct((FEW, SIZE, SIZE, 3), jnp.bfloat16)
    if start is not None:
        x = models.output_shape(model, shapes, x, start)
    trains = trainable(labels)
    params = prune(shapes["params"], trains)
    frozen = prune(shapes["params"], lambda leaf: not trains(leaf))

    def residuals(params: Any, frozen: Any, batch_stats: Any, x: jax.Array):
        def loss(params: Any):
            logits, _ = model.apply(
                {"params": merge(params, frozen), "batch_stats": batch_stats},
                x,
                start=start,
                train=cut.train_units,
                mutable=["batch_stats"],
                rngs={"dropout": jax.random.key(0)},
            )
            return jnp.mean(jax.nn.logsumexp(logits, -1) - logits[:, 0])

        return jax.tree.leaves(jax.vjp(loss, params)[1])

    with onednn.disabled():  # Or its workspaces were counted, which accelerators have not.
        program = jax.make_jaxpr(residuals)(params, frozen, shapes["batch_stats"], x)
    # What several layers need is kept once.
    outputs = {id(var): var.aval for var in program.jaxpr.outvars}
    of_images = [aval for aval in outputs.values() if aval.shape[:1] == (FEW,)]
    kept = sum(aval.size * aval.dtype.itemsize for aval in of_images)

    def normalized(units: Any) -> int:
        paths = leaf_paths(prune(shapes["batch_stats"], within(units)))
        return sum(path[-1] == "mean" for path in paths)

    return {
        "kept_bytes": kept // FEW,
        "layers": normalized(cut.suffix),
        "live_layers": normalized(cut.train_units),
    }


def load() -> dict[tuple[str, str], Row]:
    """The kept counts by model and mask."""
    rows = json.loads(PATH.read_text(encoding="utf-8"))["rows"]
    return {(row["model"], row["mask"]): row for row in rows}
