"""TensorFlow's SavedModel, by JAX's own converter: the StableHLO program inside a TF function."""

from __future__ import annotations

import importlib.metadata
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jtl.export.formats import ExportedOutputs, facts, require
from jtl.export.stablehlo import PLATFORMS, exported

if TYPE_CHECKING:
    from jtl.predict.classifier import Classifier

LOADING = """\
import tensorflow as tf
logits = tf.saved_model.load("FILE").logits(images)  # uint8 RGB [N, H, W, 3], any N, H and W"""


def write(classifier: Classifier, path: Path, images: list[np.ndarray]) -> ExportedOutputs:
    """See `jtl.export.formats.ExportWriter`. `classes.json` among the assets tells its classes."""
    # Its remarks on the processor are none on the export.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    tf = require("tensorflow", "savedmodel", "savedmodel")
    from jax.experimental import jax2tf

    converted = jax2tf.convert(
        exported(classifier).call,
        polymorphic_shapes=["(batch, height, width, 3)"],
        native_serialization_platforms=PLATFORMS,
        with_gradient=False,
    )
    module = tf.Module()
    signature = [tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")]
    module.logits = tf.function(converted, input_signature=signature, autograph=False)
    tf.saved_model.save(module, str(path), signatures={"serving_default": module.logits})
    assets = path / "assets.extra"
    assets.mkdir(exist_ok=True)
    text = json.dumps(facts(classifier), indent=2, ensure_ascii=False)
    (assets / "classes.json").write_text(text + "\n", encoding="utf-8")
    loaded = tf.saved_model.load(str(path))
    logits = [np.asarray(loaded.logits(image[None]))[0] for image in images]
    version = importlib.metadata.version("jax")
    return ExportedOutputs(
        np.stack(logits), f"TensorFlow {tf.__version__}, jax {version}", LOADING, rounding=1e-2
    )
