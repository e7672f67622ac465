"""Keras Applications' networks on JAX, frozen as jtl's masks freeze them."""

from __future__ import annotations

import os

# Before the first import of Keras, which reads it once.
os.environ["KERAS_BACKEND"] = "jax"

import keras

BUILDERS = {"resnet50": "ResNet50", "densenet121": "DenseNet121"}


def backbone(name: str, size: int) -> keras.Model:
    """A backbone with random weights that gives pooled features."""
    build = getattr(keras.applications, BUILDERS[name])
    return build(weights=None, include_top=False, pooling="avg", input_shape=(size, size, 3))


def classifier(base: keras.Model, classes: int, mask: str) -> keras.Model:
    """A new head on a backbone, which is frozen unless the mask is `full`.

    Called with `training=False`, as Keras's guide to transfer learning does it, a frozen
    backbone normalizes with its running averages.
    """
    base.trainable = mask == "full"
    inputs = keras.Input(base.input_shape[1:])
    features = base(inputs) if mask == "full" else base(inputs, training=False)
    return keras.Model(inputs, keras.layers.Dense(classes)(features))
