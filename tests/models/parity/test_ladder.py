"""The parity ladder that a conversion table gets by itself: its smallest model beside PyTorch's.

Counts and shapes, every layer that owns params, and the logits, by the table's own names; units and
train steps are compared in the other tests of parity.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision

from jtl import models
from support.parity import (
    bound_beside,
    build,
    check_counts_and_shapes,
    check_layers,
    nchw,
    random_images,
    randomize,
    relative_error,
    run_units,
    tensors,
)
from support.weights_samples import smallest
from weights_convert.catalogue.weights import timm_names
from weights_convert.convert.conversion import convert
from weights_convert.convert.rules import Table
from weights_convert.convert.tables import TABLES, torchvision_name

pytestmark = [pytest.mark.slow, pytest.mark.peer]

CLASSES = 10


def torchvision_peer(name: str) -> Any:
    # What no model of jtl has by default, and what would take a minute.
    options = {"aux_logits": False, "init_weights": False} if name == "inception_v3" else {}
    return torchvision.models.get_model(torchvision_name(name), num_classes=CLASSES, **options)


def timm_peer(name: str) -> Any:
    return timm.create_model(timm_names(name)[0], num_classes=CLASSES)


PEERS = {
    "timm/torchvision": torchvision_peer,
    "torchvision": torchvision_peer,
    "timm": timm_peer,
    "timm (1x1 convolutions)": timm_peer,
}


def cases() -> dict[str, tuple[Table, str]]:
    """All but those with dense layers, of a hundred million params: see test_parity_plain.py."""
    found = [(table, smallest(table)) for table in TABLES if table.library in PEERS]
    return {
        f"{name}-{table.library}": (table, name)
        for table, name in found
        if not hasattr(models.get(name).backbone, "widths")
    }


@pytest.mark.parametrize(("table", "name"), cases().values(), ids=cases())
def test_ladder(table, name):
    backbone: Any = models.get(name).backbone
    least = max(64, getattr(backbone, "min_size", 1))
    images = random_images(2, least + 3, least + 33)
    if size := getattr(backbone, "image_size", None):  # The peers resize no positions.
        images = random_images(2, size, size)
    peer = randomize(PEERS[table.library](name), nchw(images))
    source = tensors(peer)
    converted = convert(source)
    assert (converted.model, converted.library) == (name, table.library)
    check_counts_and_shapes(peer, source, converted)
    model = build(converted)
    check_layers(peer, model, converted.variables, images, table)
    logits, _ = run_units(model, converted.variables, images)
    with torch.no_grad():
        expected = peer(nchw(images)).numpy()
    assert np.std(expected) > 0.1
    assert relative_error(logits, expected) <= bound_beside(peer)
