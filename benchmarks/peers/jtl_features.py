"""What jtl's frozen backbone gives for a few random images, for the peers to be held against.

python benchmarks/peers/jtl_features.py MODEL WEIGHTS SIZE FILE.npz

The file holds normalized images NHWC and the pooled features [N, C] of the last block.
"""

from __future__ import annotations

import sys

import numpy as np

if __name__ == "__main__":
    from jtl import models, weights
    from jtl.models.inference import forward

    name, source, size, path = sys.argv[1:]
    pretrained = weights.resolve(source, name, progress=lambda _: None)
    model = models.create(name, num_classes=2, conventions=dict(pretrained.conventions))
    shape = (4, int(size), int(size), 3)
    images = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    features = np.asarray(forward(pretrained.variables, images, model=model, stop="head"))
    np.savez(path, images=images, features=features)
