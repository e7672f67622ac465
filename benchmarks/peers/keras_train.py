"""Transfer learning as Keras's own guide writes it, with the images in memory.

Images are decoded once, by all cores; the frozen backbone is called with `training=False`;
`fit` evaluates every epoch. No features are kept.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from peers.keras_model import BUILDERS, backbone, classifier, keras
from peers.options import parse

MODULES = {"resnet50": "resnet", "densenet121": "densenet"}


def load(folder: Path, size: int) -> tuple[np.ndarray, np.ndarray]:
    """All images of a split, float32 [N, size, size, 3] from 0 to 255, and labels [N]."""
    names = sorted(path.name for path in folder.iterdir())
    files = [(path, names.index(path.parent.name)) for path in sorted(folder.glob("*/*"))]

    def read(path: Path) -> np.ndarray:
        with Image.open(path) as image:
            return np.asarray(ImageOps.fit(image.convert("RGB"), (size, size)), np.float32)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        images = np.stack(list(pool.map(read, [path for path, _ in files])))
    return images, np.array([label for _, label in files])


class FirstStep(keras.callbacks.Callback):
    """Notes when the first step has ended, and each epoch's score."""

    def __init__(self, path: Path):
        super().__init__()
        self._log = path.open("w", encoding="utf-8")
        self._seen = False

    def on_train_batch_end(self, batch, logs=None):
        """Writes the first line."""
        if not self._seen:
            self._seen = True
            self._write(first_loss=float((logs or {})["loss"]))

    def on_epoch_end(self, epoch, logs=None):
        """Writes an epoch's line."""
        self._write(epoch=epoch + 1, val_accuracy=float((logs or {})["val_accuracy"]))

    def _write(self, **content: float) -> None:
        print(json.dumps(content), file=self._log, flush=True)


def main() -> None:
    """Trains, and writes a line per epoch."""
    options = parse(BUILDERS)
    keras.utils.set_random_seed(0)
    images, labels = load(options.data / "train", options.image_size)
    val_images, val_labels = load(options.data / "val", options.image_size)
    preprocess = getattr(keras.applications, MODULES[options.model]).preprocess_input
    images, val_images = preprocess(images), preprocess(val_images)
    base = backbone(options.model, options.image_size)
    base.load_weights(options.weights)
    model = classifier(base, len(set(labels.tolist())), options.mask)
    steps = max(len(labels) // options.batch_size, 1)
    rate: Any = keras.optimizers.schedules.CosineDecay(options.lr, options.epochs * steps)
    model.compile(
        optimizer=keras.optimizers.Adam(rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    options.out.mkdir(parents=True)
    silent: Any = 0
    model.fit(
        images,
        labels,
        batch_size=options.batch_size,
        epochs=options.epochs,
        validation_data=(val_images, val_labels),
        validation_batch_size=32,
        callbacks=[FirstStep(options.out / "log.jsonl")],
        verbose=silent,
    )
    model.save_weights(options.out / "model.weights.h5")


if __name__ == "__main__":
    main()
