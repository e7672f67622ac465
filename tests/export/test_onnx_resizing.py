"""Images of any size into an ONNX file, which resizes and crops them as Pillow does."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from jtl.common.errors import UserError
from jtl.config.options import Config, DataConfig, ModelConfig, RunConfig, TrainConfig
from jtl.data.decoding import HostTransform
from jtl.export import onnx_resizing, writing
from jtl.export.how import How
from jtl.predict import classifier as evaluation
from jtl.predict.classifier import Classifier
from jtl.train.fit import fit
from support import tiny

onnx = pytest.importorskip("onnx", reason="onnx is not installed (pip install 'jtl[onnx]')")
runtime = pytest.importorskip(
    "onnxruntime", reason="onnxruntime is not installed (pip install 'jtl[onnx]')"
)
SIZE = 24


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Classifier:
    """A random network whose images are larger than its input."""
    data = tiny.write_folder(tmp_path_factory.mktemp("data") / "d", train=4, val=3, size=40)
    for number, path in enumerate(sorted(data.rglob("*.png"))):  # Not square, of several sizes.
        Image.open(path).resize((40 + number % 7, 50)).save(path)
    config = Config(
        ModelConfig("resnet18", "random"),
        DataConfig(f"folder:{data}", image_size=32),
        TrainConfig("head_only", epochs=1, batch_size=6),
        RunConfig(tmp_path_factory.mktemp("runs") / "net"),
    )
    return evaluation.load(fit(config, tiny.quiet()))


def resizing(classifier: Classifier, host: HostTransform) -> runtime.InferenceSession:
    """What is put before a graph, alone."""
    image = onnx.helper.make_tensor_value_info("images", 2, ["batch", SIZE, SIZE, 3])
    out = onnx.helper.make_tensor_value_info("pixels", 2, ["batch", SIZE, SIZE, 3])
    node = onnx.helper.make_node("Identity", ["images"], ["pixels"])
    graph = onnx.helper.make_graph([node], "pixels", [image], [out])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
    device = dataclasses.replace(classifier.inputs.device, size=SIZE)
    inputs = dataclasses.replace(classifier.inputs, host=host, device=device, fit=host.fit)
    onnx_resizing.prepend(onnx, model, inputs)
    return runtime.InferenceSession(model.SerializeToString())


@pytest.mark.parametrize("fit", ["crop", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_pixels_are_those_of_pillow(run, interpolation, fit):
    host = HostTransform(SIZE, 0.875, interpolation, fit=fit)
    session, random = resizing(run, host), np.random.default_rng(0)
    for height, width in [(24, 24), (50, 41), (33, 90), (300, 122), (9, 13), (27, 27), (28, 31)]:
        images = random.integers(0, 256, (2, height, width, 3), np.uint8)
        images[1] //= 2
        (found,) = session.run(None, {"images": images})
        own = np.stack([host(Image.fromarray(image)) for image in images])
        assert found.shape == own.shape
        differences = np.abs(found.astype(int) - own)
        # A value in between may be rounded to the other side, after each of two directions; and
        # Pillow takes the rows of the tall image first.
        assert differences.max() <= 2, (height, width)
        assert differences.mean() < 0.2, (height, width)


def test_a_run_that_takes_images_as_they_are(run, tmp_path):
    done = writing.export(run, "onnx", tmp_path / "m.onnx", how=How(preprocessing="resize"))
    assert done.same_class == done.count == 9
    assert 0 < done.logit_difference <= 1e-2
    assert "uint8 RGB [N, height, width, 3], any N" in done.loading
    session = runtime.InferenceSession(tmp_path / "m.onnx")
    assert session.get_modelmeta().custom_metadata_map["input"] == "resize"
    assert json.loads(session.get_modelmeta().custom_metadata_map["class_names"])
    images = np.random.default_rng(0).integers(0, 256, (3, 61, 47, 3), np.uint8)
    (logits,) = session.run(None, {"images": images})
    own = run.predict([Image.fromarray(image) for image in images]).logits
    np.testing.assert_allclose(logits, own, rtol=0, atol=1e-2 * np.abs(own).max())


def test_what_it_does_not_resize(run, tmp_path):
    how = How(preprocessing="resize")
    for changes, told in (({"fit": "pad"}, "--fit pad"), ({"host": None}, "enlarges small images")):
        inputs = dataclasses.replace(run.inputs, **changes)
        with pytest.raises(UserError, match=f"--preprocessing resize: .*{told}"):
            writing.export(
                dataclasses.replace(run, inputs=inputs), "onnx", tmp_path / "m.onnx", how=how
            )
    assert not list(tmp_path.iterdir())
