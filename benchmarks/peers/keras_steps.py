"""Keras's side of a step, on its JAX backend: a worker process.

python benchmarks/peers/keras_steps.py MODEL ARM BATCH SIZE CLASSES

ARM is `forward` (predict_on_batch), `head_only` or `full` (train_on_batch).
"""

from __future__ import annotations

import sys

from harness import product, workers
from peers.jtl_steps import random_images


def main(name: str, arm: str, batch: int, size: int, classes: int) -> None:
    """Serves the steps of an arm."""

    def prepare() -> workers.Prepared:
        from peers.keras_model import backbone, classifier, keras

        images, labels = random_images(batch, size, classes)
        model = classifier(backbone(name, size), classes, arm)
        if arm == "forward":
            return lambda: model.predict_on_batch(images), {"optimizer_bytes": 0}
        model.compile(
            optimizer=keras.optimizers.SGD(0.01, momentum=0.9),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        trained = sum(int(v.value.size) for v in model.trainable_variables)
        # Gives the loss as a number, so the step has ended.
        return lambda: float(model.train_on_batch(images, labels)), {"optimizer_bytes": 4 * trained}

    workers.serve(prepare, product.of_jax)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6]))
