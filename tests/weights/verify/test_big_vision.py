"""BiT's `.npz` files beside timm, which reads them by itself."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch

from jtl import models
from jtl.common.trees import leaf_paths, lookup
from support.parity import bound_beside, nchw, random_images, randomize, relative_error, tensors
from weights_convert.__main__ import main
from weights_convert.convert.conversion import convert
from weights_convert.convert.tables import TABLES
from weights_convert.source import source_conversion, sources

pytestmark = [pytest.mark.slow, pytest.mark.peer]

MODEL = "resnetv2_50x1_bit"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A file as the authors publish them, of a network with values of its own."""
    images = random_images(2, 64, 64)
    peer = randomize(timm.create_model(MODEL, num_classes=7), nchw(images))
    variables = convert(tensors(peer)).variables
    table = next(t for t in TABLES if (t.family, t.library) == ("bit", "big_vision"))
    keys = table.source_keys(models.get(MODEL).backbone, variables)
    path = tmp_path_factory.mktemp("bit") / "BiT-M-R50x1.npz"
    arrays = {key: table.to_source(place, lookup(variables, place)) for place, key in keys.items()}
    np.savez(path, **arrays)
    return path


def test_timm_reads_the_file_alike(file):
    found = source_conversion.convert_source(sources.locate(str(file)))
    assert (found.model, found.library, found.num_classes) == (MODEL, "big_vision", 7)
    assert found.preprocessing == models.Preprocessing(
        (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), interpolation="bilinear"
    )
    with np.load(file) as archive:
        assert len(archive.files) == len(leaf_paths(found.variables)) == 153
        assert archive["resnet/head/conv2d/kernel"].shape == (1, 1, 2048, 7)
        assert archive["resnet/block2/unit03/b/group_norm/gamma"].shape == (128,)
    peer = timm.create_model(MODEL, num_classes=7)
    peer.load_pretrained(str(file))
    images = random_images(2, 75, 64)
    model = models.create(MODEL, num_classes=7, conventions=found.conventions)
    with torch.no_grad():
        expected = peer.eval()(nchw(images)).numpy()
    assert np.std(expected) > 0.1
    assert relative_error(model.apply(found.variables, images), expected) <= bound_beside(peer)


def test_verify(file, tmp_path, capsys):
    words = [str(file), "--out", str(tmp_path / "bit"), "--verify", "--input-size", "64"]
    assert main(words) == 0
    assert f"{MODEL} of timm" in capsys.readouterr().out
