"""Weights that make all classes count the same: in a step, in a run, in the convex fit."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.utils.class_weight import compute_class_weight

from jtl.common.errors import UserError
from jtl.config.options import AugmentConfig
from jtl.data.augment import PRESETS, Augmentation
from jtl.data.balance import balanced_weights
from jtl.optim import lbfgs
from jtl.runs.checkpoints import reading
from jtl.runs.files import read_json
from jtl.train.fit import fit
from jtl.train.step import Batch, Constants, TrainStep
from support import tiny
from support.augmented import augmented, figures, step_arguments

WEIGHTS = np.array([0.25, 1, 4], np.float32)
OF_6_4_2 = [np.float32(12 / (3 * count)) for count in (6, 4, 2)]


def test_the_weights_are_scikit_learns():
    labels = np.repeat([0, 1, 3], [70, 20, 10])
    weights = balanced_weights(labels, 5)
    expected = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=labels)
    np.testing.assert_allclose(weights[[0, 1, 3]], expected, rtol=1e-6)
    assert weights.dtype == np.float32
    assert weights[2] == weights[4] == 0
    assert weights[labels].mean() == pytest.approx(1)


@pytest.mark.slow
@pytest.mark.parametrize("mixed", [False, True])
def test_the_step_minimizes_the_weighted_mean(mixed: bool):
    """One step of SGD against the gradient of the definition, with whole and with shared labels."""
    images, labels, examples = tiny.images(8), tiny.labels(8), np.arange(8)
    options = PRESETS["strong"] if mixed else PRESETS["light"]
    augment = Augmentation(options, tiny.PREPARE, len(tiny.CLASSES))
    state, frozen, static = step_arguments(augment)
    x, targets = jax.jit(augment)(state.rng, images, labels, examples, 1, state.step)
    shares = targets if mixed else jax.nn.one_hot(targets, 3)
    assert bool((shares.max(1) < 1).any()) is mixed
    variables = tiny.variables()

    @jax.jit
    def gradient(params, weights):
        def objective(params):
            logits, _ = tiny.MODEL.apply(
                {**variables, "params": params},
                x,
                train=static["train_units"],
                mutable=["batch_stats"],
            )
            terms = shares * jax.nn.log_softmax(logits)
            return -(terms * weights.reshape(1, 3)).sum() / 8, -terms.sum()

        return jax.grad(objective, has_aux=True)(params)

    grads, loss = gradient(variables["params"], WEIGHTS)
    plain, _ = gradient(variables["params"], np.ones(3, np.float32))
    assert float(optax.tree.norm(jax.tree.map(jnp.subtract, grads, plain))) > 0.1
    constants = Constants(**frozen, class_weights=jnp.asarray(WEIGHTS))
    batch = Batch(images, labels, examples, 1)
    after, metrics = TrainStep(**static)(state, constants, batch)
    moved = jax.tree.map(lambda new, old: (old - new) / 0.1, after.params, variables["params"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-4), moved, grads)
    # Told is the loss as validation has it.
    np.testing.assert_allclose(metrics.loss, loss, rtol=1e-5)


@pytest.fixture(scope="module")
def lopsided(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6, 4 and 2 training images, and weights beside them."""
    folder = tmp_path_factory.mktemp("lopsided")
    tiny.write_weights(folder / "weights")
    data = tiny.write_folder(folder / "tiny")
    for name, count in zip(tiny.CLASSES, (6, 4, 2), strict=True):
        for index in range(count, 6):
            (data / "train" / name / f"{index}.png").unlink()
    return data


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mask", "augment"), [("head_only", "none"), ("last_stage", "none"), ("full", "strong")]
)
def test_a_run_and_its_resumption(lopsided: Path, tmp_path: Path, monkeypatch, mask, augment):
    def config(name: str, class_weights: str = "balanced"):
        options = dict(mask=mask, epochs=3, class_weights=class_weights)
        return augmented(lopsided, tmp_path / name, AugmentConfig(augment), **options)

    whole, plain = (fit(config(name, name), tiny.quiet()) for name in ("balanced", "none"))
    assert whole.summary["class_weights"] == OF_6_4_2
    assert plain.summary["class_weights"] is None
    tiny.fit_until(1, config("resumed"), monkeypatch)
    resumed = fit(tiny.resumed(tmp_path / "resumed"), tiny.quiet())
    assert figures(resumed) == figures(whole)
    end, expected, other = (
        reading.restore(run.folder, "latest").variables for run in (resumed, whole, plain)
    )
    jax.tree.map(np.testing.assert_array_equal, end, expected)
    head = [tree["params"]["head"]["logits"]["kernel"] for tree in (expected, other)]
    assert np.abs(head[0] - head[1]).max() > 1e-3
    assert whole.summary["frozen_unchanged"]


def test_the_weights_are_stored_with_the_run(lopsided: Path, tmp_path: Path, monkeypatch):
    config = tiny.config(lopsided, tmp_path / "run", class_weights="balanced")
    tiny.fit_until(1, config, monkeypatch)
    path = tmp_path / "run" / "config.json"
    stored = read_json(path)
    assert stored["class_weights"] == OF_6_4_2
    assert stored["train"]["class_weights"] == "balanced"
    path.write_text(json.dumps({**stored, "class_weights": [1, 1, 1]}))
    with pytest.raises(UserError, match=r"class_weights: \[1, 1, 1\] before, \[0\.66"):
        fit(tiny.resumed(tmp_path / "run"), tiny.quiet())


@pytest.mark.parametrize("l2", [1.0, 1e-1])
def test_the_weighted_optimum_is_scikit_learns(l2: float):
    rng = np.random.default_rng(1)
    y = np.repeat(np.arange(3), [200, 60, 15]).astype(np.int32)
    x = (rng.normal(size=(3, 12))[y] + rng.normal(size=(len(y), 12)) + 5).astype(np.float32)
    train = (jnp.asarray(x), jnp.asarray(y))
    weights = balanced_weights(y, 3)
    [ours], [plain] = (lbfgs.fit_path(train, train, 3, (l2,), w) for w in (weights, None))
    reference = LogisticRegression(
        C=1 / (len(x) * l2), tol=1e-8, max_iter=10_000, class_weight="balanced"
    ).fit(x.astype(np.float64), y)
    assert np.abs(plain.kernel - reference.coef_.T).max() > 2e-2
    np.testing.assert_allclose(ours.kernel, reference.coef_.T, atol=2e-4)


def test_a_solved_run_is_weighted(lopsided: Path, tmp_path: Path):
    options = dict(solver="lbfgs", epochs=None, lr=None, l2="0.1")
    heads = []
    for choice in ("balanced", "none"):
        run = fit(
            tiny.config(lopsided, tmp_path / choice, class_weights=choice, **options), tiny.quiet()
        )
        heads.append(reading.restore(run.folder).variables["params"]["head"]["logits"]["bias"])
    # The rarest class is chosen more often.
    assert heads[0][2] - heads[0][0] > heads[1][2] - heads[1][0] + 0.1
