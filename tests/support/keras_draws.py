"""Random weights of Keras's networks, as Keras draws them but for who draws."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest


def by_numpy(patch: pytest.MonkeyPatch) -> None:
    """Lets layers take first weights from NumPy, uniform with the variance that they ask for.

    JAX compiles a program for each shape, which takes four seconds for ResNet50.
    """
    from keras import initializers

    def scaled(self: Any, shape: tuple[int, ...], dtype: str | None = None) -> np.ndarray:
        *window, inputs, outputs = (1, 1, *shape)[-max(len(shape), 2) :]
        fans = {"fan_in": inputs, "fan_out": outputs, "fan_avg": (inputs + outputs) / 2}
        bound = math.sqrt(3 * self.scale / math.prod(window) / fans[self.mode])
        drawn = np.random.default_rng(self.seed).random(shape, np.float32)
        return ((2 * drawn - 1) * np.float32(bound)).astype(dtype or "float32")

    def zeros(_self: Any, shape: tuple[int, ...], dtype: str | None = None) -> np.ndarray:
        return np.zeros(shape, dtype or "float32")

    def ones(_self: Any, shape: tuple[int, ...], dtype: str | None = None) -> np.ndarray:
        return np.ones(shape, dtype or "float32")

    kinds = {"VarianceScaling": scaled, "Zeros": zeros, "Ones": ones}
    for name, draw in kinds.items():
        patch.setattr(getattr(initializers, name), "__call__", draw)


def randomize(model: Any, seed: int = 0) -> None:
    """Values that a wrong conversion could not hide behind; activations keep their scale."""
    from keras import layers

    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, layers.Normalization):
            continue  # New ones, which have seen no images, do nothing.
        for variable in layer.weights:
            shape: Any = variable.shape
            name = variable.name
            if name == "kernel":
                depthwise = isinstance(layer, layers.DepthwiseConv2D)
                fan_in = np.prod(shape[:2] if depthwise else shape[:-1])
                value = rng.normal(0, (2 / fan_in) ** 0.5, shape)
            elif name == "gamma":
                # The last of a residual branch is small, or 16 blocks would explode.
                scale = 0.4 if layer.name.endswith(("_3_bn", "project_bn")) else 1
                value = scale * rng.uniform(0.5, 1.5, shape)
            elif name == "moving_variance":
                value = rng.uniform(0.5, 1.5, shape)
            else:
                value = rng.normal(0, 0.1, shape)
            variable.assign(value.astype(np.float32))
