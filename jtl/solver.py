"""The convex case: a linear head on fixed features, fitted to the optimum by L-BFGS.

Softmax regression with an L2 penalty on the kernel is convex, so a linear probe needs no
learning rate and no epochs. The objective is scikit-learn's `LogisticRegression` up to a
factor (its C is 1 / (N * l2)); the protocol, a grid of penalties on the validation split, is
that of Kornblith et al. (arXiv 1805.08974), here from the strongest to the weakest, each
fit starting where the one before ended.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

GRID = tuple(float(f"{value:.4g}") for value in np.logspace(1, -5, 25))
"""Penalties that `fit_path` tries by default: 25 from 10 to 1e-5."""

TOLERANCE = 1e-4
"""A fit ends when the gradient's norm has fallen to this; float32 resolves little more."""
MAX_ITERATIONS = 200


class Head(NamedTuple):
    """A linear head: kernel [C, K] and bias [K], float32."""

    kernel: jax.Array
    bias: jax.Array


@dataclasses.dataclass(frozen=True)
class Fit:
    """One point of the path.

    Attributes:
        l2: The penalty.
        kernel: [C, K].
        bias: [K].
        iterations: L-BFGS steps that it took.
        train_loss: Mean cross entropy on the training features, without the penalty.
        train_accuracy: Share of hits there.
        val_loss: Mean cross entropy on the validation features.
        val_accuracy: Share of hits there.
    """

    l2: float
    kernel: np.ndarray
    bias: np.ndarray
    iterations: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float


def fit_path(
    train: tuple[jax.Array, jax.Array],
    val: tuple[jax.Array, jax.Array],
    num_classes: int,
    penalties: tuple[float, ...] = GRID,
) -> list[Fit]:
    """Fits a linear head for every penalty, warm-started along the path.

    Args:
        train: Features [N, C] float and labels int32 [N].
        val: The same of the validation split; looked at, not fitted.
        num_classes: K.
        penalties: Tried in descending order.

    Returns:
        A fit for every penalty, the strongest first.
    """
    ordered = sorted(penalties, reverse=True)
    heads, stats = _path(train, val, jnp.asarray(ordered, jnp.float32), num_classes=num_classes)
    kernels, biases, rows = jax.device_get((heads.kernel, heads.bias, stats))
    return [
        Fit(
            l2=l2,
            kernel=kernels[i],
            bias=biases[i],
            iterations=int(rows["iterations"][i]),
            **{key: float(rows[key][i]) for key in rows if key != "iterations"},
        )
        for i, l2 in enumerate(ordered)
    ]


def best(path: list[Fit]) -> Fit:
    """The fit of highest validation accuracy; among equals, of lowest validation loss."""
    return max(path, key=lambda fit: (fit.val_accuracy, -fit.val_loss))


@functools.partial(jax.jit, static_argnames="num_classes")
def _path(train: Any, val: Any, penalties: jax.Array, *, num_classes: int) -> tuple[Head, Any]:
    labels, val_labels = train[1], val[1]
    # The bias is not penalized, so centred features have the same optimum; but without the
    # large common part of all features L-BFGS needs a fraction of the steps.
    centre = jnp.mean(train[0].astype(jnp.float32), 0, keepdims=True)
    x, val_x = (part[0].astype(jnp.float32) - centre for part in (train, val))

    def step(head: Head, l2: jax.Array):
        head, iterations = _minimize(head, x, labels, l2)
        train_loss, train_accuracy = _score(head, x, labels)
        val_loss, val_accuracy = _score(head, val_x, val_labels)
        stats = {
            "iterations": iterations,
            "train_loss": train_loss,
            "train_accuracy": train_accuracy,
            "val_loss": val_loss,
            "val_accuracy": val_accuracy,
        }
        return head, (head, stats)

    zero = Head(jnp.zeros((x.shape[1], num_classes)), jnp.zeros(num_classes))
    _, (heads, stats) = lax.scan(step, zero, penalties)
    shift = jnp.einsum("c,pck->pk", centre[0], heads.kernel)
    return Head(heads.kernel, heads.bias - shift), stats


def _minimize(head: Head, x: jax.Array, labels: jax.Array, l2: jax.Array) -> tuple[Head, Any]:
    """Runs L-BFGS from `head` until the gradient is small or progress ends."""

    def objective(head: Head) -> jax.Array:
        return _score(head, x, labels)[0] + 0.5 * l2 * jnp.sum(jnp.square(head.kernel))

    tx = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(objective)

    def advance(carry):
        head, state, _, count = carry
        value, grad = value_and_grad(head, state=state)
        updates, state = tx.update(grad, state, head, value=value, grad=grad, value_fn=objective)
        moved = optax.tree.norm(updates)
        return optax.apply_updates(head, updates), state, moved, count + 1

    def unfinished(carry):
        _, state, moved, count = carry
        gradient = optax.tree.norm(optax.tree.get(state, "grad"))
        # A line search that finds no step in float32 moves nothing: the end as well.
        going = (gradient > TOLERANCE) & (moved > 0) & (count < MAX_ITERATIONS)
        return (count == 0) | going

    start = (head, tx.init(head), jnp.float32(1), jnp.int32(0))
    end: Any = lax.while_loop(unfinished, advance, start)
    return end[0], end[3]


def _score(head: Head, x: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean cross entropy and share of hits."""
    logits = x @ head.kernel + head.bias.reshape(1, -1)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean(), jnp.mean(jnp.argmax(logits, -1) == labels, dtype=jnp.float32)
