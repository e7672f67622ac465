"""TensorFlow's side of an input pipeline, tf.data; see peers/jtl_input.py."""

from __future__ import annotations

from pathlib import Path

from harness import product, workers
from peers.jtl_input import CROP, arguments, files, in_memory, told


def main(arm: str, batch: int, size: int, images: int, folder: Path) -> None:
    """Serves the passes of an arm."""

    def prepare() -> workers.Prepared:
        import tensorflow as tf

        def load(path):
            image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
            sides = tf.cast(tf.shape(image)[:2], tf.float32)
            new = tf.cast(sides * (int(size / CROP) / tf.reduce_min(sides)), tf.int32)
            new = tf.maximum(new, size)
            image = tf.image.resize(image, new, method="bicubic", antialias=True)
            top, left = (new[0] - size) // 2, (new[1] - size) // 2
            image = tf.image.crop_to_bounding_box(image, top, left, size, size)
            return tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)

        if arm == "decode":
            paths = files(folder)
            dataset = tf.data.Dataset.from_tensor_slices(paths).shuffle(len(paths), seed=0)
            dataset = dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE)
        else:
            dataset = tf.data.Dataset.from_tensor_slices(in_memory(images, size))
            dataset = dataset.shuffle(images, seed=0)
        dataset = dataset.batch(batch, drop_remainder=True).prefetch(tf.data.AUTOTUNE)

        def one_pass() -> int:
            return sum(len(part) for part in dataset.as_numpy_iterator())

        return one_pass, told(one_pass())

    workers.serve(prepare, product.of_jax)


if __name__ == "__main__":
    main(*arguments())
