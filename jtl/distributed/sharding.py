"""Data parallelism: one program over all devices, each with its part of every batch.

Params and optimizer state are on every device, batches are divided by examples, and the compiler
(GSPMD, Xu et al., arXiv 2105.04663) puts in what must be exchanged. The program is the one of a
single device: losses are means over the whole batch, BatchNorm takes its statistics from the
whole batch, and the result does not depend on the number of devices but for rounding.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, TypeVar

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jtl.common.errors import UserError

AXIS = "data"
"""The mesh's only axis, along which examples are divided."""

_Tree = TypeVar("_Tree")


@dataclasses.dataclass(frozen=True)
class DataSharding:
    """Devices that run one program together. Compared by value, as static arguments are.

    Attributes:
        devices: `jax.Device`s, those of a process side by side; none stands for the default device
            alone, where arrays need no placing.
    """

    devices: tuple[Any, ...] = ()

    @property
    def count(self) -> int:
        return max(len(self.devices), 1)

    @property
    def spans_processes(self) -> bool:
        """Whether some of the devices are another process's."""
        return len(self._mine) < len(self.devices)

    @functools.cached_property
    def _mine(self) -> range:
        """The places of this process's devices among all."""
        here = jax.process_index() if self.devices else 0
        places = [i for i, device in enumerate(self.devices) if device.process_index == here]
        return range(places[0], places[-1] + 1) if places else range(0)

    @functools.cached_property
    def _mesh(self) -> Mesh:
        return Mesh(np.array(self.devices), (AXIS,))

    @functools.cached_property
    def _everywhere(self) -> NamedSharding:
        return NamedSharding(self._mesh, PartitionSpec())

    @functools.cached_property
    def _by_rows(self) -> NamedSharding:
        return NamedSharding(self._mesh, PartitionSpec(AXIS))

    def local(self) -> DataSharding:
        """This process's devices among these, for programs that it runs by itself."""
        if not self.spans_processes:
            return self
        mine = tuple(self.devices[place] for place in self._mine)
        return DataSharding(mine) if len(mine) > 1 else SINGLE

    def replicated(self, tree: _Tree) -> _Tree:
        """Inside a program: arrays that every device has."""
        return lax.with_sharding_constraint(tree, self._everywhere) if self.devices else tree

    def sharded(self, tree: _Tree) -> _Tree:
        """Inside a program: arrays [N, ...] of which every device has N / `count` rows."""
        return lax.with_sharding_constraint(tree, self._by_rows) if self.devices else tree

    def take(self, table: jax.Array, indices: jax.Array) -> jax.Array:
        """Inside a program: `table[indices]` on every device, of a table that may be divided.

        Every device looks up the rows that it has of a divided table, and the sum is the batch.
        If the compiler divided the result, it would divide the indices too, and gather them by
        one more exchange.
        """
        return self.replicated(table[indices])

    def replicate(self, tree: Any) -> Any:
        """Arrays that every device has, from values that every process has."""
        if not self.devices:
            return jax.device_put(jax.tree.map(_uncommitted, tree))
        if not self.spans_processes:
            return jax.device_put(tree, self._everywhere)

        def put(leaf: Any) -> jax.Array:
            if isinstance(leaf, jax.Array) and leaf.sharding == self._everywhere:
                return leaf
            values = np.asarray(leaf)
            with jax.transfer_guard("allow"):  # Which JAX takes for no explicit transfer.
                return jax.make_array_from_callback(
                    values.shape, self._everywhere, lambda index: values[index]
                )

        return jax.tree.map(put, tree)

    def shard(self, rows: np.ndarray | jax.Array) -> np.ndarray | jax.Array:
        """A batch that is divided among the devices, from `local_batch` of it."""
        if not self.devices:
            return rows
        if not self.spans_processes:
            return jax.device_put(rows, self._by_rows)
        return jax.make_array_from_process_local_data(self._by_rows, np.asarray(rows))

    def local_batch(self, batch: np.ndarray) -> np.ndarray:
        """The entries [n] of a batch's [N] that this process is to read.

        N is a multiple of `count`.
        """
        if not self.spans_processes:
            return batch
        each = len(batch) // self.count
        return batch[each * self._mine.start : each * self._mine.stop]

    def local_rows(self, count: int) -> range:
        """Which of `count` rows, divided among the devices once and for all, are this process's."""
        if not self.spans_processes:
            return range(count)
        each = -(-count // self.count)
        return range(min(each * self._mine.start, count), min(each * self._mine.stop, count))

    def shard_table(self, rows: np.ndarray, count: int) -> jax.Array:
        """All `count` rows of a data set, divided among the devices, from those of `local_rows`.

        Returns:
            [at least `count`, ...]: filled up with zeros to a multiple of the devices.
        """
        if not self.devices:
            # Nobody changes the array any more: on a CPU it stays where it is.
            return jax.device_put(rows, may_alias=True)
        each = -(-count // self.count)
        missing = each * (len(self._mine) if self.spans_processes else self.count) - len(rows)
        if missing:
            filler = np.zeros((missing, *rows.shape[1:]), rows.dtype)
            rows = np.concatenate([rows, filler])
        if not self.spans_processes:
            return jax.device_put(rows, self._by_rows)
        return jax.make_array_from_process_local_data(self._by_rows, rows)

    def batch_size(self, size: int, count: int) -> int:
        """How many of `count` examples are looked at together, at `size` to a device.

        A multiple of the devices, and no more than are needed where there are several.
        """
        if not self.devices:
            return size
        return self.count * min(size, -(-count // self.count))


def _uncommitted(leaf: Any) -> Any:
    """An array that no device is named for, as those of a checkpoint are.

    JAX compiles other programs for committed arrays: a resumed run would find none of those that
    it compiled at first.
    """
    return np.asarray(leaf) if isinstance(leaf, jax.Array) and leaf.committed else leaf


SINGLE = DataSharding()
"""The default device alone."""


def sharding_for(batch_size: int) -> DataSharding:
    """All devices there are, or as many as divide a batch evenly.

    Args:
        batch_size: Examples of a step.

    Raises:
        UserError: The batch cannot be divided evenly among the devices of many processes.
    """
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    count = max(n for n in range(1, len(devices) + 1) if batch_size % n == 0)
    if jax.process_count() > 1 and count < len(devices):
        raise UserError(
            f"a batch of {batch_size} cannot be split evenly across the {len(devices)} devices "
            f"of {jax.process_count()} processes. Use a --batch-size that is a multiple of "
            f"{len(devices)}, and at most the number of training images."
        )
    return DataSharding(tuple(devices[:count])) if count > 1 else SINGLE
