"""One train step of ConvNeXt beside timm's; its layers and logits are in test_ladder.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import timm

from jtl.common.trees import leaf_paths, lookup
from support.parity import (
    ROUNDING,
    UPDATE_BOUND,
    build,
    nchw,
    random_images,
    randomize,
    tensors,
    torch_train_step,
    train_step,
)
from weights_convert.convert.conversion import convert

pytestmark = [pytest.mark.slow, pytest.mark.peer]


def test_one_train_step():
    images, labels = random_images(4, 32, 32), np.arange(4)
    network: Any = randomize(timm.create_model("convnext_tiny", num_classes=10), nchw(images))
    converted = convert(tensors(network))
    loss, after = train_step(build(converted), converted.variables, images, labels)
    # In double precision, so that what is measured is jtl's rounding alone.
    expected_loss = torch_train_step(network.double(), images, labels)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-6)
    expected = convert(tensors(network)).variables
    for path in leaf_paths(expected):
        old, new, want = (lookup(tree, path) for tree in (converted.variables, after, expected))
        update = np.abs(want - old).max()
        allowed = UPDATE_BOUND * update + ROUNDING * np.abs(want).max()
        assert update > 10 * allowed, path
        assert np.abs(np.asarray(new) - want).max() <= allowed, path
