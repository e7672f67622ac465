"""The convex case: a linear head on fixed features, fitted to the optimum by L-BFGS.

Softmax regression with an L2 penalty on the kernel is convex, so a linear probe needs no
learning rate and no epochs. The objective is scikit-learn's `LogisticRegression` up to a
factor (its C is 1 / (N * l2)); the protocol, a grid of penalties on the validation split, is
that of Kornblith et al. (arXiv 1805.08974), here from the strongest to the weakest, each
fit starting from where the ones before it were heading. The optimizer is SciPy's L-BFGS-B;
loss and gradient are computed where the features lie.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import optimize
from threadpoolctl import threadpool_limits

GRID = tuple(float(f"{value:.4g}") for value in np.logspace(1, -5, 25))
"""Penalties that `fit_path` tries by default: 25 from 10 to 1e-5."""

MAX_ITERATIONS = 500
"""The most steps of L-BFGS for one penalty."""
_STATE = 25
"""Copies of the solution, in float64, that L-BFGS-B works with: ten pairs and five more."""
_ON_THE_WAY = {"gtol": 1e-4, "ftol": 1e-7}
"""When a fit is close enough to be compared with others; see `scipy.optimize.minimize`."""
_AT_THE_END = {"gtol": 1e-6, "ftol": 1e-10}
"""For the fit that is used; float32 gradients resolve no more."""


@dataclasses.dataclass(frozen=True)
class Solution:
    """One point of the path.

    Attributes:
        l2: The penalty.
        kernel: [C, K].
        bias: [K].
        iterations: L-BFGS steps that it took.
        train_loss: Mean cross entropy on the training features, without penalty and weights.
        train_accuracy: Share of hits there.
        val_loss: Mean cross entropy on the validation features.
        val_accuracy: Share of hits there.
        score: What decides which fit is best; the higher the better.
    """

    l2: float
    kernel: np.ndarray
    bias: np.ndarray
    iterations: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    score: float


# SciPy's own vectors are short: BLAS threads would spin, in the way of XLA's, and a whole run would
# take up to three times as long.
@threadpool_limits.wrap(limits=1, user_api="blas")
def fit_path(
    train: tuple[jax.Array, jax.Array],
    val: tuple[jax.Array, jax.Array],
    num_classes: int,
    penalties: tuple[float, ...] = GRID,
    class_weights: np.ndarray | None = None,
    score: Callable[[np.ndarray, np.ndarray], float] | None = None,
) -> list[Solution]:
    """Fits a linear head for every penalty, warm-started along the path.

    The fits are close to their optima, near enough to compare them; the one of `best` is
    then continued to the optimum, and is in the list as it came out.

    Args:
        train: Features [N, C] float and labels int32 [N]; or labels of 0 and 1, [N, K], where
            images have several classes: then the fits are K independent logistic regressions.
        val: The same of the validation split; looked at, not fitted.
        num_classes: K.
        penalties: Tried in descending order.
        class_weights: How much each class counts in the loss of the training features, float32
            [K], averaging 1 over them; of several classes, how much having each counts. None for
            the same.
        score: From logits [N, K] and labels [N] of the validation split to how good they are, the
            higher the better; default the accuracy.

    Returns:
        A fit for every penalty, the strongest first.
    """
    problem = _Problem(train, val, num_classes, class_weights, score)
    path: list[Solution] = []
    before = now = np.zeros((problem.width + 1, num_classes))
    for l2 in sorted(penalties, reverse=True):
        # Optima move nearly evenly along the logarithm of the penalty.
        start = now + (now - before) if len(path) > 1 else now
        before, (now, iterations) = now, problem.minimize(start, l2, **_ON_THE_WAY)
        path.append(problem.fit(now, l2, iterations))
    chosen = best(path)
    start = problem.centred(chosen)
    solution, iterations = problem.minimize(start, chosen.l2, **_AT_THE_END)
    path[path.index(chosen)] = problem.fit(solution, chosen.l2, chosen.iterations + iterations)
    return path


def best(path: list[Solution]) -> Solution:
    """The fit of the best score; among equals, of lowest validation loss."""
    return max(path, key=lambda fit: (fit.score, -fit.val_loss))


def needed_bytes(images: int, width: int, classes: int) -> int:
    """How much memory a fit takes: with thousands of classes, features are the least of it.

    Args:
        images: N, of all splits.
        width: C.
        classes: K.
    """
    features = 3 * images * width  # And two copies of them.
    scores = 4 * images * classes  # Targets, logits, probabilities and the gradient.
    solutions = (2 * _STATE + len(GRID)) * width * classes
    return 4 * (features + scores + solutions)


class _Problem:
    """The features, centred, and what the optimizer asks about them.

    A solution is [C + 1, K] float64: the kernel, and the bias for centred features as its
    last row. The bias is not penalized, so centring leaves the optimum what it is; but
    without the large common part of all features L-BFGS needs a fraction of the steps.
    """

    def __init__(
        self, train: Any, val: Any, num_classes: int, class_weights: Any, score: Any = None
    ):
        self._score_of, self._several = score, train[1].ndim > 1
        features = train[0].astype(jnp.float32)
        self._mean = jnp.mean(features, 0)
        self._x, self._labels = features - self._mean.reshape(1, -1), train[1]
        # Both orders in memory: a product with a transposed view is several times slower.
        self._transposed = jnp.array(self._x.T)
        self._val = (val[0].astype(jnp.float32) - self._mean.reshape(1, -1), val[1])
        self._targets = self._labels.astype(jnp.float32)
        if not self._several:
            self._targets = jax.nn.one_hot(self._labels, num_classes)
        if class_weights is not None:
            self._targets *= class_weights.reshape(1, -1)
        self._variance = np.asarray(jnp.var(self._x, 0), np.float64)
        # Mean of p (1 - p) over the predictions, which scales the loss's curvature; at first
        # all classes are equally likely.
        self._spread = 0.25 if self._several else (num_classes - 1) / num_classes**2
        self.width = self._x.shape[1]

    def minimize(self, start: np.ndarray, l2: float, **tolerances: float) -> tuple[Any, int]:
        """The optimum for a penalty, from `start`, and the iterations it took."""
        curvature = np.append(self._variance * self._spread + l2, self._spread)
        # Steps of one length in every direction: the diagonal of the Hessian, roughly.
        scale = 1 / np.sqrt(curvature)[:, None]

        def value_and_gradient(scaled: np.ndarray) -> tuple[float, np.ndarray]:
            solution = scaled.reshape(start.shape) * scale
            value, gradient = _value_and_gradient(
                jnp.asarray(solution, jnp.float32),
                self._x,
                self._transposed,
                self._targets,
                jnp.float32(l2),
                several=self._several,
            )
            return float(value), (np.asarray(gradient, np.float64) * scale).ravel()

        options = {"maxiter": MAX_ITERATIONS, **tolerances}
        found = optimize.minimize(
            *(value_and_gradient, (start / scale).ravel()),
            jac=True,
            method="L-BFGS-B",
            options=options,
        )
        return found.x.reshape(start.shape) * scale, int(found.nit)

    def fit(self, solution: np.ndarray, l2: float, iterations: int) -> Solution:
        """A solution with its scores."""
        as_float32 = jnp.asarray(solution, jnp.float32)
        train_loss, train_accuracy, spread = _score(as_float32, self._x, self._labels)
        val_loss, val_accuracy, _ = _score(as_float32, *self._val)
        self._spread = max(float(spread), 1e-4)
        kernel, bias = solution[:-1], solution[-1]
        return Solution(
            l2=l2,
            kernel=kernel.astype(np.float32),
            bias=(bias - np.asarray(self._mean, np.float64) @ kernel).astype(np.float32),
            iterations=iterations,
            train_loss=float(train_loss),
            train_accuracy=float(train_accuracy),
            val_loss=float(val_loss),
            val_accuracy=float(val_accuracy),
            score=float(val_accuracy) if self._score_of is None else self._scored(as_float32),
        )

    def _scored(self, solution: jax.Array) -> float:
        features, labels = self._val
        logits = features @ solution[:-1] + solution[-1].reshape(1, -1)
        return self._score_of(np.asarray(logits), np.asarray(labels))

    def centred(self, fit: Solution) -> np.ndarray:
        """The solution that a fit was made of."""
        kernel = fit.kernel.astype(np.float64)
        return np.vstack([kernel, fit.bias + np.asarray(self._mean, np.float64) @ kernel])


@functools.partial(jax.jit, static_argnames="several")
def _value_and_gradient(
    solution: jax.Array,
    x: jax.Array,
    transposed: jax.Array,
    targets: jax.Array,
    l2: jax.Array,
    *,
    several: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Mean cross entropy with the penalty, and its gradient, [C + 1, K].

    A row of `targets` is 0 but for its class, where it is how much the image counts. Where images
    have several classes, the losses of all are added: each is a problem of its own.
    """
    kernel, bias = solution[:-1], solution[-1]
    logits = x @ kernel + bias.reshape(1, -1)
    if several:
        absent = (targets == 0).astype(jnp.float32)
        losses = targets * jax.nn.log_sigmoid(logits) + absent * jax.nn.log_sigmoid(-logits)
        loss = -losses.sum(-1).mean()
        error = (jax.nn.sigmoid(logits) * (targets + absent) - targets) / len(x)
    else:
        loss = optax.softmax_cross_entropy(logits, targets).mean()
        weights = targets.sum(-1, keepdims=True)
        error = (jax.nn.softmax(logits) * weights - targets) / len(x)
    gradient = transposed @ error + l2 * kernel
    return loss + 0.5 * l2 * jnp.sum(jnp.square(kernel)), jnp.vstack(
        [gradient, error.sum(0, keepdims=True)]
    )


@jax.jit
def _score(
    solution: jax.Array, x: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean cross entropy, share of hits, and mean of p (1 - p)."""
    logits = x @ solution[:-1] + solution[-1].reshape(1, -1)
    if labels.ndim > 1:
        losses = optax.sigmoid_binary_cross_entropy(logits, labels)
        exact = jnp.mean(jnp.all((logits > 0) == (labels > 0), -1), dtype=jnp.float32)
        p = jax.nn.sigmoid(logits)
        return losses.mean(), exact, jnp.mean(p * (1 - p))
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    hits = jnp.mean(jnp.argmax(logits, -1) == labels, dtype=jnp.float32)
    p = jax.nn.softmax(logits)
    return losses.mean(), hits, jnp.mean(p * (1 - p))
