"""Programs of eight devices, written down by a process that has them for `test_lowering_sharded`.

What is lowered is what training runs: the steps of a `Trainer`, with the sharding of the run, on
arguments that lie where training puts them.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

from jtl.common.platforms import everywhere
from jtl.data import loader
from jtl.models import inference, registry
from jtl.train import step as steps
from jtl.train.memory_estimate import dummy_batch
from jtl.train.trainer import Trainer
from support import tiny

DEVICES, BATCH, ROWS = 8, 16, 40
"""Of a step, and of a table of features that lies on the devices."""
ACCELERATORS = ("cuda", "tpu")


def outline(array: Any) -> jax.ShapeDtypeStruct:
    """An argument without its values: where it lies if JAX has placed it, as NumPy's if not."""
    sharding = array.sharding if isinstance(array, jax.Array) else None
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)


class Lowering:
    """A program and its arguments, in groups of leaves.

    Args:
        function: A jitted function.
        groups: Its positional arguments by name.
        options: Its other ones.
    """

    def __init__(self, function: Any, groups: dict[str, Any], options: dict[str, Any]):
        self.function, self.options = function, options
        self.groups = {name: jax.tree.map(outline, tree) for name, tree in groups.items()}

    def write(self, folder: Path, *, compiled: bool) -> None:
        """Its modules for accelerators and, if `compiled`, what this machine's devices run."""
        folder.mkdir()
        arguments = self.groups.values()
        told: dict[str, Any] = {}
        for name, group in self.groups.items():
            parts = {name: group}
            if name == "constants":
                frozen = {"params": group.params, "batch_stats": group.batch_stats}
                parts = {"frozen": frozen, "peaks": group.peaks}
            elif name == "batch":
                parts = {"x": group.x, "labels": group.labels}
            told |= {part: len(jax.tree.leaves(tree)) for part, tree in parts.items()}
        if state := self.groups.get("state"):
            for name in ("params", "batch_stats"):
                told[name] = [leaf.shape for leaf in jax.tree.leaves(getattr(state, name))]
        x = self.groups["batch"].x if "batch" in self.groups else self.groups["x"]
        told["x_shape"] = x.shape
        for platform in ACCELERATORS:
            with everywhere():
                exported = export.export(self.function, platforms=[platform])(
                    *arguments, **self.options
                )
            (folder / f"{platform}.mlir").write_text(exported.mlir_module())
            told["kept"] = exported.module_kept_var_idx
            told["devices"] = exported.nr_devices
        if compiled:
            lowered = self.function.lower(*arguments, **self.options)
            (folder / "compiled.hlo").write_text(lowered.compile().as_text())
        (folder / "told.json").write_text(json.dumps(told))


def trainer(data: Path, mask: str, dtype: str = "float32", *, cached: bool = False) -> Trainer:
    """Of a run that takes all devices, from features where `cached`."""
    # With the statistics of the batch, which devices exchange.
    options = dict(batch_size=BATCH, optimizer="adamw", lr=1e-3, bn="batch")
    config = tiny.config(data, None, mask=mask, **options)
    model = dataclasses.replace(config.model, dtype=dtype)
    one = tiny.trainer_of(dataclasses.replace(config, model=model))
    assert one.setup.sharding.count == DEVICES
    assert one.inputs.cached != (mask == "full")
    if cached or mask == "full":
        return one
    return Trainer(one.setup, one.plan, tiny.image_inputs(one.setup), one.setup.variables)


def step(of: Trainer) -> Lowering:
    """One training step, from images or features as the trainer's arm has them."""
    sharding = of.setup.sharding
    shapes = jax.eval_shape(lambda: dummy_batch(of.setup, of.inputs, BATCH))
    x, labels = (np.zeros(shape.shape, shape.dtype) for shape in (shapes.x, shapes.labels))
    batch = steps.Batch(sharding.shard(sharding.local_batch(x)), labels)
    groups = {"state": of.state, "constants": of.constants, "batch": batch}
    return Lowering(steps.train_step, groups, {"step": of.step})


def table_of(of: Trainer) -> jax.Array:
    """All features, as many as `ROWS`, divided among the devices."""
    shape = jax.eval_shape(lambda: dummy_batch(of.setup, of.inputs, ROWS)).x
    return of.setup.sharding.shard_table(np.zeros(shape.shape, shape.dtype), ROWS)


def epoch(of: Trainer) -> Lowering:
    """An epoch in one program, over features that lie on the devices."""
    labels = np.zeros(ROWS, np.int32)
    batches = np.arange(2 * BATCH, dtype=np.int32).reshape(2, BATCH)
    table = steps.Batch(table_of(of), labels)
    groups = {"state": of.state, "constants": of.constants, "batch": table, "batches": batches}
    return Lowering(steps.train_epoch, groups, {"step": of.step})


def rows(of: Trainer) -> Lowering:
    """What brings a step's rows of a table of features to the devices that are to have them."""
    groups = {"x": table_of(of), "batches": np.arange(BATCH, dtype=np.int32)}
    return Lowering(loader._rows, groups, {"sharding": of.setup.sharding})


def forward(of: Trainer, stop: str | None) -> Lowering:
    """The frozen layers over images: features up to `stop`, or logits."""
    setup, sharding = of.setup, of.setup.sharding
    x = np.zeros((BATCH, tiny.SIZE, tiny.SIZE, 3), np.uint8)
    groups = {"variables": sharding.replicate(of.variables()), "x": sharding.shard(x)}
    options = dict(model=setup.model, stop=stop, prepare=setup.inputs.device, sharding=sharding)
    return Lowering(inference.forward, groups, options)


def lowerings(data: Path) -> dict[str, Callable[[], Lowering]]:
    """The programs of trainings, by name."""

    def of(mask: str, dtype: str = "float32", **options: Any) -> Trainer:
        return trainer(data, mask, dtype, **options)

    return {
        "full": lambda: step(of("full")),
        "full-bfloat16": lambda: step(of("full", "bfloat16")),
        "head_only": lambda: step(of("head_only")),
        "head_only-bfloat16": lambda: step(of("head_only", "bfloat16")),
        "features": lambda: step(of("last_stages:1", cached=True)),
        "features-bfloat16": lambda: step(of("last_stages:1", "bfloat16", cached=True)),
        "epoch": lambda: epoch(of("head_only", cached=True)),
        "rows": lambda: rows(of("last_stages:1", cached=True)),
        "prefix-bfloat16": lambda: forward(of("head_only", "bfloat16"), "head"),
        "logits": lambda: forward(of("head_only"), None),
    }


def main(folder: Path) -> None:
    assert jax.device_count() == DEVICES
    registry.ENTRIES[tiny.ENTRY.name] = tiny.ENTRY
    data = tiny.write_folder(folder / "data", train=13, val=7)
    tiny.write_weights(folder / "weights")
    for name, make in lowerings(data).items():
        make().write(folder / name, compiled="bfloat16" not in name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
