"""LoRA: low-rank adapters beside kernels that stay frozen (Hu et al., arXiv 2106.09685).

An adapter is two leaves next to the kernel W that it changes, `qkv/lora_a` [in, rank] and
`qkv/lora_b` [rank, out]. The layer computes with W + alpha / rank * A B. No network knows of
adapters: `merged` makes plain params of a tree that has them, in every step as at a run's end, so
that a step's network is the one that is evaluated and exported. A is random and B zero, so that
training starts from the pretrained network.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jtl.common.errors import UserError
from jtl.common.quantities import whole
from jtl.common.trees import ParamTree, has_path, leaf_paths, prune
from jtl.freeze.batch_norm import NEW_UNITS

NAME = "lora"
"""The mask, and the label of adapters."""
A, B = "lora_a", "lora_b"
PATTERN = rf".*/({A}|{B})"
"""Of an adapter's path."""


@dataclasses.dataclass(frozen=True)
class Adapters:
    """The adapters of a run.

    Attributes:
        rank: Columns of A and rows of B.
        alpha: Numerator of the factor of A B.
    """

    rank: int
    alpha: float

    @property
    def scale(self) -> float:
        """The factor of A B: alpha / rank, so that rates that suit one rank suit others."""
        return self.alpha / self.rank

    def attached(self, params: ParamTree, seed: int) -> ParamTree:
        """`params` with fresh adapters: A normal with variance 1 / in, and B zero.

        Dense layers and 1x1 convolutions of the backbone get them, if both sides of the kernel
        are larger than the rank: others would train no fewer numbers than the kernel has.

        Args:
            params: NumPy arrays.
            seed: Of A.

        Raises:
            UserError: No layer gets one.
        """
        rng = np.random.default_rng((seed, self.rank))
        sides: list[int] = []

        def walk(tree: ParamTree) -> ParamTree:
            kernel, result = tree.get("kernel"), dict(tree)
            for key, value in sorted(tree.items()):
                if isinstance(value, dict):
                    result[key] = walk(value)
            if kernel is not None and is_pointwise(kernel.shape):
                inputs, outputs = kernel.shape[-2:]
                sides.append(min(inputs, outputs))
                if sides[-1] > self.rank:
                    drawn = rng.normal(0, inputs**-0.5, (inputs, self.rank))
                    result[A] = drawn.astype(np.float32)
                    result[B] = np.zeros((self.rank, outputs), np.float32)
            return result

        result = {
            unit: leaves if unit in NEW_UNITS else walk(leaves) for unit, leaves in params.items()
        }
        if not sides:
            raise UserError(
                f"mask '{NAME}:{self.rank}': this backbone has neither dense layers nor 1x1 "
                "convolutions, which adapters are for. Use another mask, such as last_stage."
            )
        if max(sides) <= self.rank:
            raise UserError(
                f"mask '{NAME}:{self.rank}': the rank must be below {max(sides)}, the smaller side "
                "of this backbone's largest kernel."
            )
        return result


def rank_of(mask: str) -> int | None:
    """The rank that a mask gives adapters; None for a mask without.

    Raises:
        UserError: It is no whole number above 0.
    """
    name, _, argument = mask.partition(":")
    if name != NAME:
        return None
    if not (rank := whole(argument)):
        raise UserError(
            f"mask '{mask}': the rank must be a whole number, at least 1, such as {NAME}:8."
        )
    return rank


def adapters_of(masks: Iterable[str], alpha: float) -> Adapters | None:
    """The adapters of a run with these masks, one for each phase; None where none has any.

    Raises:
        UserError: A rank is wrong, or two are different.
    """
    ranks = sorted({rank for mask in masks if (rank := rank_of(mask)) is not None})
    if len(ranks) > 1:
        raise UserError(
            f"the phases ask for adapters of ranks {' and '.join(map(str, ranks))}, but a run has "
            "one rank. Use the same in all phases."
        )
    return Adapters(ranks[0], alpha) if ranks else None


def is_pointwise(shape: tuple[int, ...]) -> bool:
    """Whether a kernel is of a dense layer [in, out] or a 1x1 convolution [1, 1, in, out]."""
    return len(shape) == 2 or (len(shape) == 4 and shape[:2] == (1, 1))


def is_adapter(path: str) -> bool:
    """Whether a leaf, such as `stage1/block1/qkv/lora_a`, belongs to an adapter."""
    return re.fullmatch(PATTERN, path) is not None


def without(params: ParamTree) -> ParamTree:
    """The params less their adapters: the base, bit for bit."""
    return prune(params, lambda path: not is_adapter(path))


def merged(params: ParamTree, scale: float) -> ParamTree:
    """Plain params: every kernel W with an adapter is W + scale * A B, and no adapter remains.

    Args:
        params: NumPy arrays, or arrays of JAX, then also traced. Without adapters they come back
            as they are.
        scale: See `Adapters.scale`.

    Returns:
        Arrays of the same kind; float32. Kernels whose B is zero keep their bits where arrays are
        NumPy's.
    """
    if not any(path[-1] == B for path in leaf_paths(params)):
        return params

    def walk(tree: ParamTree) -> ParamTree:
        result: ParamTree = {
            key: walk(value) if isinstance(value, dict) else value
            for key, value in tree.items()
            if key not in (A, B)
        }
        if B in tree:
            result["kernel"] = _changed(tree["kernel"], tree[A], tree[B], scale)
        return result

    return walk(params)


merged_on_device = jax.jit(merged, static_argnames="scale")
"""`merged` of arrays that lie on a device, as one program."""


def _changed(kernel: Any, a: Any, b: Any, scale: float) -> Any:
    if isinstance(kernel, np.ndarray):
        a, b = np.asarray(a), np.asarray(b)
        return kernel + np.float32(scale) * (a @ b).reshape(kernel.shape) if b.any() else kernel
    # Accelerators would round the product's operands to fewer bits than a checkpoint has.
    product = jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
    return kernel + scale * product.reshape(kernel.shape)


def changes(labels: ParamTree, trains: Callable[[str], bool]) -> Callable[[str], bool]:
    """Whether a leaf of the plain params changes: it trains, or the adapter beside it does."""

    def effective(path: str) -> bool:
        folder, _, name = path.rpartition("/")
        adapter = f"{folder}/{B}"
        return trains(path) or (name == "kernel" and has_path(labels, adapter) and trains(adapter))

    return effective
