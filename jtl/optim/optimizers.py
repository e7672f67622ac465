"""Optimizers: one `optax.multi_transform` over the labels of a mask."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jtl.common.platforms import by_platform
from jtl.common.trees import FROZEN, lookup
from jtl.config.training import OptimizerName

DECOUPLED = ("adamw", "nadamw", "adan", "lion", "lamb")
"""Whose weight decay does not go through their moments."""


def build(
    labels: dict[str, Any], groups: Mapping[str, optax.GradientTransformation]
) -> optax.GradientTransformation:
    """An optimizer for a label tree.

    Its `init` and `update` take the full param tree or any sub-tree of it: jtl's train step
    gives only the trainable leaves, so that frozen leaves are out of reach of every wrapper
    (clipping by global norm, accumulation, averages). Given the full tree, frozen leaves
    get a zero update and own no state.

    Args:
        labels: Tree of labels, as `jtl.freeze.label_tree` gives it.
        groups: The transform of every label but `frozen`.
    """
    return optax.multi_transform(
        {**groups, FROZEN: optax.set_to_zero()},
        param_labels=lambda params: _restrict(labels, params),
    )


def _restrict(labels: Any, params: Any) -> Any:
    """The labels of just the leaves that `params` has."""
    if not isinstance(params, Mapping):
        return labels
    return {key: _restrict(labels[key], value) for key, value in params.items()}


def carry(old: Any, new: Any, since: Callable[[str], int]) -> Any:
    """Takes the optimizer state of leaves that go on training into the next phase.

    Args:
        old: State of `build`'s optimizer at the end of a phase.
        new: Fresh state of the next phase's.
        since: The phase in which a label's leaves began to train.

    Returns:
        `new`, with every array of a leaf that trained before, and every count of leaves that
        began together, taken from `old`.
    """

    def key(path: tuple[Any, ...]) -> tuple[Any, ...] | None:
        # A leaf is known by its path, whatever its label was; a count by when it began.
        parts = [str(part) for part in path]
        if ".inner_states" not in parts:
            return None  # What is accumulated, which no phase leaves to the next.
        at = parts.index(".inner_states")
        label = path[at + 1].key
        rest = (*parts[:at], *parts[at + 2 :])
        of_a_leaf = any(isinstance(part, jax.tree_util.DictKey) for part in path[at + 2 :])
        return rest if of_a_leaf else (since(label), *rest)

    kept = {key(path): leaf for path, leaf in jax.tree.leaves_with_path(old)}
    kept.pop(None, None)
    return jax.tree.map_with_path(lambda path, leaf: kept.get(key(path), leaf), new)


def l2_sp(strength: float, start: Mapping[str, Any]) -> optax.GradientTransformation:
    """Adds the gradient of strength / 2 * |w - w0|^2.

    Regularizes towards the pretrained solution instead of zero (L2-SP; Li et al. 2018, arXiv
    1802.01483). The starting point is part of the state and goes into checkpoints with it.

    Args:
        strength: Of the pull.
        start: w0: the params as they were loaded, all of them. Not those at `init`, which a
            phase before may have trained already.
    """

    def init(params: Any) -> Any:
        # Copies: a step donates its state.
        return jax.tree.map_with_path(
            lambda path, _: jnp.array(lookup(start, [part.key for part in path])), params
        )

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        assert params is not None  # multi_transform passes what it was given.
        pulled = jax.tree.map(lambda g, w, w0: g + strength * (w - w0), updates, params, state)
        return pulled, state

    return optax.GradientTransformation(init, update)


def scale_by_peak(label: str) -> optax.GradientTransformation:
    """Multiplies a group's updates by its highest learning rate, which each update is given.

    Its `update` takes `peaks`, a float32 scalar for every label. So the number is an operand of
    the compiled step, not a part of it: a run with another learning rate has its program
    already. For optimizers whose update is linear in the learning rate, as optax's are.

    Args:
        label: The group's.
    """

    def init(params: Any) -> Any:
        del params
        return optax.EmptyState()

    def update(
        updates: Any,
        state: Any,
        params: Any = None,
        *,
        peaks: Mapping[str, jax.Array],
        **extra: Any,
    ) -> tuple[Any, Any]:
        del params, extra
        return jax.tree.map(lambda u: (u * peaks[label]).astype(u.dtype), updates), state

    # optax's type of an update function names no arguments of one's own.
    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]


def transform(
    name: OptimizerName,
    learning_rate: optax.Schedule | float,
    weight_decay: float,
    momentum: float = 0.9,
) -> optax.GradientTransformation:
    """One group's optimizer.

    Args:
        name: Of optax, with its defaults; `sgd` with Nesterov momentum.
        learning_rate: A number or a schedule by step.
        weight_decay: Of kernels, as timm and big_vision have it: biases and the scales of
            normalizations are not drawn to zero. Decoupled for those in `DECOUPLED`, else added
            to the gradient.
        momentum: Of `sgd`; 0 for none.
    """
    optimizer: Any = getattr(optax, name)
    if callable(learning_rate):
        learning_rate = _computed_once(learning_rate)
    if name in DECOUPLED:
        return _unmasked(optimizer(learning_rate, weight_decay=weight_decay, mask=_kernels))
    if name == "sgd":
        tx = optax.sgd(learning_rate, momentum=momentum or None, nesterov=bool(momentum))
    else:
        tx = optimizer(learning_rate)
    return _unmasked(optax.chain(optax.add_decayed_weights(weight_decay, _kernels), tx))


def _computed_once(schedule: optax.Schedule) -> optax.Schedule:
    """A schedule that the program of a step holds once.

    XLA for CPUs computes a number anew wherever it is used: a cosine in the update of every leaf,
    which takes seconds to compile. Into a branch it does not look. On an accelerator a branch
    waits for the device, so there it stays as it is.
    """

    def in_a_branch(count: jax.Array) -> jax.Array:
        # No count is negative, which the compiler does not know.
        return lax.cond(count < 0, lambda _: jnp.float32(0), plain, count)

    def plain(count: jax.Array) -> jax.Array:
        return jnp.asarray(schedule(count), jnp.float32)

    def share(count: Any) -> jax.Array:
        return by_platform(count, cpu=in_a_branch, default=plain)

    return share


def _unmasked(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same with the state of one that decays everything, as earlier checkpoints have it.

    A mask adds a level to the state, without any array in it.
    """

    def is_masked(node: Any) -> bool:
        return isinstance(node, optax.MaskedState)

    def strip(state: Any) -> Any:
        return jax.tree.map(
            lambda n: n.inner_state if is_masked(n) else n, state, is_leaf=is_masked
        )

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        masked = jax.tree.structure(jax.eval_shape(tx.init, params))
        state = jax.tree.unflatten(masked, jax.tree.leaves(state))
        updates, state = optax.with_extra_args_support(tx).update(updates, state, params, **extra)
        return updates, strip(state)

    return optax.GradientTransformationExtraArgs(lambda params: strip(tx.init(params)), update)


_NOT_DECAYED = ("cls_token", "reg_token", "pos_embed")
"""Of vision transformers: inputs rather than kernels, which no published recipe decays."""


def _kernels(params: Any) -> Any:
    """Which leaves weight decay acts on: those with more than one axis, but for tokens."""
    return jax.tree.map_with_path(
        lambda path, leaf: leaf.ndim > 1 and getattr(path[-1], "key", None) not in _NOT_DECAYED,
        params,
    )


def wrapped(
    tx: optax.GradientTransformation, clip_norm: float, accumulate: int
) -> optax.GradientTransformation:
    """An optimizer with what is done to the gradients of all groups before it.

    Args:
        tx: As `build` gives it.
        clip_norm: The largest norm of all gradients together; 0 for no limit.
        accumulate: Steps whose mean gradient makes one update.
    """
    if clip_norm:
        tx = optax.chain(optax.clip_by_global_norm(clip_norm), tx)
    if accumulate > 1:
        several = optax.MultiSteps(tx, accumulate)
        # Nor does it know MultiSteps' state.
        update: Any = several.update
        tx = optax.GradientTransformationExtraArgs(several.init, update)
    return tx


def updated(opt_state: Any) -> jax.Array | bool:
    """Whether the last step has moved the params, or only added to what is accumulated."""
    return opt_state.mini_step == 0 if isinstance(opt_state, optax.MultiStepsState) else True
