"""Schedules: shares of the highest rate by step, against formulas and against Keras."""

from __future__ import annotations

import math

import numpy as np
import pytest

from jtl.optim.schedules import Schedule, plateau_scale


def shares(schedule: Schedule, steps: int, offset: int = 0) -> np.ndarray:
    curve = schedule.over(steps, offset)
    return np.array([float(np.asarray(curve(offset + step))) for step in range(steps + 1)])


def cosine(step: int, steps: int) -> float:
    return (1 + math.cos(math.pi * step / steps)) / 2


EXPECTED = {
    "constant": (Schedule("constant"), lambda step: 1.0),
    "cosine": (Schedule("cosine"), lambda step: cosine(step, 40)),
    "plateau": (Schedule("plateau"), lambda step: 1.0),
    "step": (
        Schedule("step", decay_at=(0.25, 0.5), decay_rate=0.2),
        lambda step: 0.2 ** ((step >= 10) + (step >= 20)),
    ),
    "two decays in one step": (
        Schedule("step", decay_at=(0.5, 0.501), decay_rate=0.5),
        lambda step: 0.25 if step >= 20 else 1.0,
    ),
    "warmed cosine": (
        Schedule("cosine", warmup=0.25),
        lambda step: (step + 1) / 11 if step < 10 else cosine(step - 10, 30),
    ),
    "warmed step": (
        Schedule("step", warmup=0.1, decay_at=(0.5,)),
        lambda step: min((step + 1) / 5, 1.0) * (0.1 if step >= 20 else 1.0),
    ),
    "one_cycle": (
        Schedule("one_cycle", warmup=0.25),
        lambda step: (
            1 / 25 + (1 - 1 / 25) * (1 - cosine(step, 10))
            if step <= 10
            else 4e-6 + (1 - 4e-6) * cosine(step - 10, 30)
        ),
    ),
}


@pytest.mark.parametrize("offset", [0, 7])
@pytest.mark.parametrize("name", EXPECTED)
def test_shares(name, offset):
    schedule, expected = EXPECTED[name]
    # Of float32; the one cycle's end is a difference of numbers near 1.
    np.testing.assert_allclose(
        shares(schedule, 40, offset), [expected(step) for step in range(41)], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
@pytest.mark.parametrize("name", EXPECTED)
def test_the_shortest_phases_have_finite_rates_and_teach(name, steps):
    values = shares(EXPECTED[name][0], steps)[:-1]
    assert np.isfinite(values).all()
    assert (values > 0).all()


LOSSES = {
    "falls": [1.0, 0.9, 0.8, 0.7, 0.6, 0.5],
    "stays": [1.0] * 12,
    "hardly falls": [1.0 - 5e-5 * n for n in range(9)],
    "rises, falls, rises": [1.0, 1.1, 1.2, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1],
}


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # In Keras.
@pytest.mark.parametrize("patience", [1, 3])
@pytest.mark.parametrize("name", LOSSES)
def test_plateau_is_keras_s(name, patience, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    import keras  # Reads its backend once.

    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile(optimizer=keras.optimizers.SGD(1.0))
    callback = keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=patience)
    callback.set_model(model)
    callback.on_train_begin()
    for epoch, loss in enumerate(LOSSES[name]):
        callback.on_epoch_end(epoch, {"val_loss": loss})
        ours = plateau_scale(LOSSES[name][: epoch + 1], 0.5, patience)
        assert ours == float(np.asarray(model.optimizer.learning_rate)), epoch
