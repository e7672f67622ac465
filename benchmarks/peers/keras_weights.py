"""Writes a Keras checkpoint with random weights, from which both sides start.

python benchmarks/peers/keras_weights.py MODEL FILE.weights.h5
"""

from __future__ import annotations

import sys

from peers.keras_model import backbone, keras

if __name__ == "__main__":
    keras.utils.set_random_seed(0)
    backbone(sys.argv[1], 224).save_weights(sys.argv[2])
