"""Exports: each is run by its library, and predicts as the run does, or is not written."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import subprocess
import sys
import types
import typing
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from jtl import models
from jtl.common.errors import UserError
from jtl.config.options import Config, DataConfig, ModelConfig, RunConfig, TrainConfig
from jtl.data.decoding import HostTransform
from jtl.data.input_plan import InputPlan
from jtl.data.preprocessing import Prepare
from jtl.export import command as export
from jtl.export import formats, inference, libraries, stablehlo, writing
from jtl.models import Preprocessing
from jtl.predict import classifier as evaluation
from jtl.train.fit import fit
from support import tiny
from support import weights_samples as samples
from support.commands import main, python
from weights_convert.checkpoint import folder as converted_folder
from weights_convert.convert.rules import unflatten
from weights_convert.convert.tables import TABLES


@pytest.fixture(scope="module")
def classifier(tiny_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    return evaluation.load(fit(tiny.config(tiny_data, folder, epochs=5), tiny.quiet()))


def random_run(model: str, mask: str, scratch: Path) -> evaluation.Classifier:
    """A random network with three classes, as a run of one epoch on images of 32 pixels."""
    data = tiny.write_folder(scratch / "data", train=2, val=1, size=40)
    config = Config(
        ModelConfig(model, "random"),
        DataConfig(f"folder:{data}", image_size=32),
        TrainConfig(mask, epochs=1, batch_size=4),
        RunConfig(scratch / "run"),
    )
    return evaluation.load(fit(config, tiny.quiet()))


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    return random_run("resnet18", "full", tmp_path_factory.mktemp("resnet"))


def images_of(*sizes: tuple[int, int]) -> list[np.ndarray]:
    """Of noise that is not too fine, as in photographs."""
    random = np.random.default_rng(0)
    found = []
    for height, width in sizes:
        small = random.integers(0, 256, (max(height // 4, 2), max(width // 4, 2), 3), np.uint8)
        found.append(np.asarray(Image.fromarray(small).resize((width, height))))
    return found


def test_the_command_lists_all_forms():
    assert set(typing.get_args(export.Form)) == set(formats.FORMATS)


# Preprocessing inside a program.


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(50, 80), (80, 50), (37, 37), (9, 14), (200, 75), (24, 24)])
def test_resizing_in_the_program_is_pillows(interpolation, size):
    (image,) = images_of(size)
    expected = HostTransform(24, 0.875, interpolation)(Image.fromarray(image))
    x = image[None].astype(np.float32)
    found = np.asarray(inference._cropped(jax.numpy.asarray(x), 24, 0.875, interpolation))[0]
    difference = np.abs(found - expected.astype(np.float32))
    # Pillow rounds after each direction, and begins with the vertical one of some tall images.
    assert difference.max() <= 3
    assert difference.mean() < 0.25
    assert found.std() > 10


@pytest.mark.parametrize("method", [None, "bilinear", "nearest"])
@pytest.mark.parametrize("size", [(6, 6), (24, 24), (25, 25), (30, 20), (7, 7)])
def test_small_images_are_enlarged_in_the_program(method, size):
    device = Prepare(24, Preprocessing(), method=method)
    inputs = InputPlan(None, device)
    (image,) = images_of(size)
    host = inputs.host_for(size)
    seen = image if host is None else host(Image.fromarray(image))
    expected = np.asarray(device.resize(jax.numpy.asarray(seen[None])))
    found = np.asarray(inference._fitted(jax.numpy.asarray(image[None]), inputs))
    assert np.abs(found - expected).max() <= (1 if host is not None else 1e-3)
    assert (np.abs(found - expected) > 1e-3).mean() < 0.01


# StableHLO.


def answers_of(lines: str, given: list[np.ndarray], folder: Path) -> list[np.ndarray]:
    """What the lines that the command prints give, in a process that does not import jtl."""
    np.savez(folder / "in.npz", *given)
    *loading, call = lines.splitlines()
    code = "\n".join(
        [
            "import sys, numpy as np",
            *loading,
            "given, found = np.load('in.npz'), []",
            "for name in given.files:",
            "    images = given[name]",
            f"    {call}",
            "    found.append(logits)",
            "np.savez('out.npz', *found)",
            "assert 'jtl' not in sys.modules",
        ]
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=folder, timeout=120)
    with np.load(folder / "out.npz") as found:
        return [found[name] for name in found.files]


@pytest.mark.process
def test_stablehlo_runs_where_jtl_is_not(classifier, tmp_path, capsys):
    out = tmp_path / "model.stablehlo"
    assert main("export", classifier.folder, "--to", "stablehlo", "--out", out, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["same_class"] == told["count"] == 9
    assert told["logit_difference"] < 1e-5
    facts = json.loads((tmp_path / "model.stablehlo.json").read_text())
    assert facts["class_names"] == list(tiny.CLASSES)
    assert {path.name for path in tmp_path.iterdir()} == {out.name, f"{out.name}.json"}
    given = [np.stack(images_of((8, 8)) * 3), *(p[None] for p in images_of((20, 31), (8, 8)))]
    found = answers_of(told["loading"], given, tmp_path)
    for logits, images in zip(found, given, strict=True):
        own = classifier.predict(images).logits
        np.testing.assert_allclose(logits, own, rtol=0.02, atol=0.02)


def test_one_program_for_all_platforms_and_sizes(classifier):
    program = stablehlo.exported(classifier)
    assert program.platforms == ("cpu", "cuda", "tpu")
    assert str(program.in_avals[0].str_short()) == "uint8[batch,height,width,3]"
    assert str(program.out_avals[0].str_short()) == "float32[batch,3]"
    assert "custom_call @jtl" not in program.mlir_module()


# Other libraries.


@pytest.mark.peer
@pytest.mark.parametrize("to", ["timm", "torchvision"])
def test_torch_forms(resnet, to, tmp_path):
    done = writing.export(resnet, to, tmp_path / f"m{formats.FORMATS[to].suffix}")
    assert done.logit_difference <= 1e-4
    assert done.count == 3
    assert Path(done.path).is_file()
    assert [path.name for path in tmp_path.iterdir()] == [Path(done.path).name]


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """Its images have another size than its table of positions."""
    return random_run("vit_tiny_patch16", "head_only", tmp_path_factory.mktemp("vit"))


@pytest.mark.peer
def test_a_vision_transformer_of_another_size(vit, tmp_path):
    assert writing.export(vit, "timm", tmp_path / "m.safetensors").logit_difference <= 1e-4
    with pytest.raises(UserError, match="torchvision's vision transformers take images of one"):
        libraries.torchvision_options(vit)  # Whose smallest is ViT-B, a long way to build.


@pytest.mark.peer
@pytest.mark.parametrize(("to", "aux"), [("torchvision", False), ("timm", True)])
def test_inception_v3_is_loaded_with_what_was_written(to, aux, tmp_path, monkeypatch):
    """Its libraries differ in whether there is an auxiliary head unless told."""
    import torch
    import torchvision
    from safetensors.torch import save_file

    source = torchvision.models.inception_v3(num_classes=2, aux_logits=aux, init_weights=False)

    def written(_folder: typing.Any, _to: str, path: Path) -> types.SimpleNamespace:
        save_file(source.state_dict(), path)
        return types.SimpleNamespace(architecture="inception_v3")

    monkeypatch.setattr("weights_convert.export.writer.export", written)
    run: typing.Any = types.SimpleNamespace(
        folder=tmp_path,
        class_names=("a", "b"),
        meta={"head": {"pool": "avg"}},
        model=models.create("inception_v3", num_classes=2),
    )
    network, _ = libraries.torch_network(run, tmp_path / "x.safetensors", to)
    images = torch.rand(1, 3, 75, 75)
    with torch.no_grad():
        torch.testing.assert_close(network(images), source.eval()(images))


def of_keras(model: str, family: str, folder: Path) -> evaluation.Classifier:
    """A network as Keras has it, its weights drawn, with a new head; as a run."""
    table = next(t for t in TABLES if (t.family, t.library) == (family, "keras"))
    conventions = dict(table.conventions)
    source = models.create(model, num_classes=5, conventions=conventions)
    leaves = tiny.drawn(models.variable_shapes(source))
    for path in leaves:  # Or 16 blocks would explode, and all images be of one class for sure.
        leaves[path] *= 0.3 if path[-2:] == ("bn3", "scale") else 1.0
    found = samples.checkpoint(
        model=model,
        library="keras",
        variables=unflatten(leaves),
        conventions=conventions,
        num_classes=5,
        class_names=None,
        preprocessing=table.preprocessing_of(model),
    )
    converted_folder.write(folder / "weights", found)
    data = tiny.write_folder(folder / "d", train=2, val=1, size=40)
    config = Config(
        ModelConfig(model, str(folder / "weights")),
        DataConfig(f"folder:{data}", image_size=32),
        TrainConfig("head_only", epochs=1, batch_size=6, lr=1e-3),
        RunConfig(folder / "run"),
    )
    return evaluation.load(fit(config, tiny.quiet()))


@pytest.fixture(scope="module")
def resnet_of_keras(tmp_path_factory):
    return of_keras("resnet50", "resnet", tmp_path_factory.mktemp("keras"))


@pytest.mark.slow
@pytest.mark.usefixtures("keras_drawn")
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")
def test_keras_predicts_as_a_run_from_its_weights(resnet_of_keras, tmp_path):
    run = resnet_of_keras
    scope: dict[str, typing.Any] = {}
    photos, _ = writing.samples(run)
    with jax.numpy_rank_promotion("allow"):  # Keras relies on broadcasting.
        done = writing.export(run, "keras", tmp_path / "m.weights.h5")
        exec(done.loading, scope)  # The printed lines, as they are.
        scope["model"].layers[-1].activation = None  # Of probabilities near 1 little is seen.
        logits = np.asarray(scope["model"](libraries._normalized(run, photos), training=False))
    assert done.reference.startswith("keras ")
    assert "float32 [N, 32, 32, 3]: RGB / 255, minus (0.485, 0.458, 0.4076)" in done.loading
    assert done.loading.endswith(", then BGR.")
    assert done.logit_difference <= 1e-4
    assert done.same_class == done.count == 3
    assert [path.name for path in tmp_path.iterdir()] == ["m.weights.h5"]
    own = run.predict(photos).logits
    assert np.ptp(own, axis=0).max() > 0.01 * np.abs(own).max()  # Images are told apart.
    np.testing.assert_allclose(logits, own, rtol=0, atol=1e-4 * np.abs(own).max())


@pytest.mark.slow
@pytest.mark.usefixtures("keras_drawn")
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")
@pytest.mark.parametrize(
    ("model", "family", "told"),
    [
        ("mobilenet_v3_small", "mobilenet_v3", "include_preprocessing=False"),
        ("efficientnet_b0", "efficientnet", "float32 [N, 32, 32, 3]: RGB from 0 to 255."),
    ],
)
def test_keras_scales_images_once(tmp_path, model, family, told):
    with jax.numpy_rank_promotion("allow"):
        run = of_keras(model, family, tmp_path)
        done = writing.export(run, "keras", tmp_path / "m.weights.h5")
    assert told in done.loading
    assert done.logit_difference <= 1e-4


# SavedModel.


@pytest.fixture
def tensorflow(monkeypatch):
    """What is asked of TensorFlow, and of `jax2tf` as its bridge, done without it.

    As `jax2tf` does, it makes StableHLO of the function for all platforms and for symbolic
    shapes; that is kept where TensorFlow would wrap it.
    """

    def convert(function, *, polymorphic_shapes, native_serialization_platforms, with_gradient):
        assert not with_gradient
        [shape] = polymorphic_shapes
        images = jax.ShapeDtypeStruct(jax.export.symbolic_shape(shape[1:-1]), np.uint8)
        platforms = native_serialization_platforms
        return jax.export.export(jax.jit(function), platforms=platforms)(images)

    def save(module, path, signatures):
        assert signatures == {"serving_default": module.logits}
        Path(path).mkdir()
        Path(path, "saved_model.pb").write_bytes(module.logits.serialize())

    def load(path):
        program = jax.export.deserialize(bytearray(Path(path, "saved_model.pb").read_bytes()))
        return types.SimpleNamespace(logits=program.call)

    def function(program, *, input_signature, autograph):
        assert input_signature == [([None, None, None, 3], "uint8", "images")]
        assert not autograph
        return program

    saved_model = types.SimpleNamespace(save=save, load=load)
    stand_in = types.SimpleNamespace(
        __version__="none",
        uint8="uint8",
        Module=types.SimpleNamespace,
        TensorSpec=lambda shape, dtype, name: (shape, dtype, name),
        function=function,
        saved_model=saved_model,
    )
    monkeypatch.setitem(sys.modules, "tensorflow", stand_in)
    jax2tf = types.SimpleNamespace(convert=convert)
    monkeypatch.setitem(sys.modules, "jax.experimental.jax2tf", jax2tf)
    monkeypatch.setattr(jax.experimental, "jax2tf", jax2tf, raising=False)


def test_a_savedmodel_is_written_with_its_classes_and_replaced(classifier, tensorflow, tmp_path):
    out = tmp_path / "saved"
    done = writing.export(classifier, "savedmodel", out)
    assert done.reference == f"TensorFlow none, jax {jax.__version__}"
    assert done.same_class == done.count == 9
    assert done.logit_difference < 1e-5
    facts = json.loads((out / "assets.extra" / "classes.json").read_text())
    assert facts["class_names"] == list(tiny.CLASSES)
    (out / "old").touch()
    with pytest.raises(UserError, match="already exists"):
        writing.export(classifier, "savedmodel", out)
    writing.export(classifier, "savedmodel", out, overwrite=True)
    assert sorted(path.name for path in out.iterdir()) == ["assets.extra", "saved_model.pb"]
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


@pytest.mark.process
@pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None,
    reason="TensorFlow is not installed (pip install 'jtl[savedmodel]')",
)
def test_tensorflow_runs_a_savedmodel(resnet, tmp_path):
    arguments = [resnet.folder, "--to", "savedmodel", "--out", tmp_path / "saved", "--json"]
    ran = python("-m", "jtl.export", *arguments, PYTHONWARNINGS="default")
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert told["reference"].startswith("TensorFlow ")
    assert told["same_class"] == told["count"] == 3
    given = [np.stack(images_of((40, 40)) * 3), *(p[None] for p in images_of((50, 31)))]
    found = answers_of(told["loading"], given, tmp_path)
    for logits, images in zip(found, given, strict=True):
        own = resnet.predict(images).logits
        np.testing.assert_allclose(logits, own, atol=0.01 * np.abs(own).max())


@pytest.mark.peer
def test_default_places(resnet):
    done = writing.export(resnet, "timm")
    assert Path(done.path) == resnet.folder / "exports" / "timm.safetensors"
    with pytest.raises(UserError, match="already exists"):
        writing.export(resnet, "timm")
    assert writing.export(resnet, "timm", overwrite=True).path == done.path


def test_nothing_is_exported_through_a_link_of_a_run(classifier, tmp_path):
    mine, exports = tmp_path / "mine", classifier.folder / "exports"
    mine.mkdir()
    exports.symlink_to(mine)
    try:
        with pytest.raises(UserError, match="exports' is a link, and nothing is written through"):
            writing.export(classifier, "stablehlo", overwrite=True)
        assert list(mine.iterdir()) == []
    finally:
        exports.unlink()


@pytest.mark.peer
def test_what_does_not_predict_as_the_run_is_not_written(resnet, tmp_path, monkeypatch):
    original = libraries.torch_network

    def damaged(*args):
        network, found = original(*args)
        network.fc.bias.data += 1
        return network, found

    monkeypatch.setattr(libraries, "torch_network", damaged)
    with pytest.raises(UserError, match=r"does not predict what the run does: run with timm"):
        writing.export(resnet, "timm", tmp_path / "a" / "m.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_run_whose_data_are_gone_is_compared_on_noise(classifier, tmp_path):
    gone = dataclasses.replace(classifier.config, data=DataConfig("folder:/no/such/place"))
    moved = dataclasses.replace(classifier, config=gone)
    done = writing.export(moved, "stablehlo", tmp_path / "m.stablehlo")
    assert done.images == "16 images of random noise, because folder:/no/such/place cannot be read"
    assert done.count == 16


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--to", "timm", "--out", "x.pth"], "--out 'x.pth' must end in .safetensors"),
        (["--to", "stablehlo", "--out", "/proc/x.stablehlo"], "cannot write '/proc/x.stablehlo'"),
        (["--precision", "int8"], "--precision int8: no effect with --to stablehlo, only with"),
        (["--to", "savedmodel", "--out", ".", "--overwrite"], "'.' is not a SavedModel"),
        pytest.param(["--to", "timm"], "tiny cannot be exported to timm", marks=pytest.mark.peer),
    ],
)
def test_what_cannot_be_exported(classifier, args, told, capsys, monkeypatch, elsewhere):
    assert main("export", classifier.folder, *args) == 2
    assert told in capsys.readouterr().err
    assert list(elsewhere.iterdir()) == []
    assert not (classifier.folder / "exports").exists()


@pytest.mark.parametrize(
    ("to", "module", "extra"),
    [
        ("tflite", "litert_converter", "litert"),
        ("onnx", "onnxruntime", "onnx"),
        ("savedmodel", "tensorflow", "savedmodel"),
        ("keras", "keras", "keras"),
    ],
)
def test_libraries_that_are_missing(resnet, to, module, extra, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"pip install 'jtl\[{extra}\]'"):
        writing.export(resnet, to, tmp_path / f"m{formats.FORMATS[to].suffix}")
    assert list(tmp_path.iterdir()) == []
