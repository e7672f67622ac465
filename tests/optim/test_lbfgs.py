"""L-BFGS against scikit-learn's logistic regression, and its use in a run."""

from __future__ import annotations

import json

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_info, threadpool_limits

from jtl.evaluate.evaluation import evaluate_run
from jtl.optim import lbfgs
from jtl.predict import classifier
from jtl.train.fit import fit
from support import tiny


def blobs(count: int, seed: int, classes: int = 3, width: int = 20):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(classes, width))
    labels = rng.integers(0, classes, count).astype(np.int32)
    # The common offset makes the problem ill-conditioned unless features are centred.
    return (centres[labels] + rng.normal(size=(count, width)) + 5).astype(np.float32), labels


@pytest.mark.parametrize("l2", [1.0, 1e-1, 1e-2])
def test_the_optimum_is_scikit_learn_s(l2: float):
    (x, y), (vx, vy) = blobs(300, 1), blobs(100, 2)
    train, val = (jnp.asarray(x), jnp.asarray(y)), (jnp.asarray(vx), jnp.asarray(vy))
    [fit] = lbfgs.fit_path(train, val, 3, (l2,))
    reference = LogisticRegression(C=1 / (len(x) * l2), tol=1e-8, max_iter=10_000)
    # In float64: of float32 features scikit-learn finds the optimum to three digits only.
    reference.fit(x.astype(np.float64), y)
    np.testing.assert_allclose(fit.kernel, reference.coef_.T, atol=2e-4)
    ours = fit.val_accuracy
    assert ours == pytest.approx((reference.predict(vx) == vy).mean(), abs=0.0101)


def test_the_path_is_ordered_and_its_best_is_on_validation():
    (x, y), (vx, vy) = blobs(60, 1), blobs(200, 2)
    train, val = (jnp.asarray(x), jnp.asarray(y)), (jnp.asarray(vx), jnp.asarray(vy))
    path = lbfgs.fit_path(train, val, 3, (1e-4, 1.0, 1e-2))
    assert [f.l2 for f in path] == [1.0, 1e-2, 1e-4]
    # Weaker penalties fit the training features more closely.
    losses = [f.train_loss for f in path]
    assert losses == sorted(losses, reverse=True)
    assert all(f.iterations < lbfgs.MAX_ITERATIONS for f in path)
    chosen = lbfgs.best(path)
    assert chosen.val_accuracy == max(f.val_accuracy for f in path)
    logits = vx @ chosen.kernel + chosen.bias
    assert chosen.val_accuracy == pytest.approx((logits.argmax(1) == vy).mean(), abs=1e-6)


def test_a_run_with_lbfgs(tiny_data, tmp_path):
    options = tiny.config(tiny_data, tmp_path / "run", solver="lbfgs", epochs=None, lr=None)
    run = fit(options, tiny.quiet())
    assert run.summary["frozen_unchanged"] is True
    assert (run.summary["epochs"], run.summary["optimizer_bytes"]) == (1, 0)
    [line] = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    path = json.loads(line)["path"]
    assert len(path) == len(lbfgs.GRID) >= 20
    # The path's accuracies are float32 means.
    best = max(p["val_accuracy"] for p in path)
    assert run.summary["val_accuracy"] == pytest.approx(best, abs=1e-6)
    again = evaluate_run(classifier.load(run.folder), None, tiny.quiet()).scores
    for key in ("val_accuracy", "val_loss"):
        assert again[key] == run.summary[key]


def test_blas_has_one_thread_meanwhile(monkeypatch):
    """Its threads spin, and took a run three times as long beside XLA's."""
    threads, minimize = [], lbfgs.optimize.minimize

    def counted(*args, **options):
        threads.extend(pool["num_threads"] for pool in threadpool_info() if is_blas(pool))
        return minimize(*args, **options)

    def is_blas(pool):
        return pool["user_api"] == "blas"

    monkeypatch.setattr(lbfgs.optimize, "minimize", counted)
    (x, y) = blobs(60, 1)
    both = (jnp.asarray(x), jnp.asarray(y))
    with threadpool_limits(2, user_api="blas"):
        lbfgs.fit_path(both, both, 3, (1e-2,))
        after = {pool["num_threads"] for pool in threadpool_info() if is_blas(pool)}
    assert set(threads) == {1}
    assert after == {2}
