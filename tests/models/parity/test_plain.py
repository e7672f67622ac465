"""The parity of networks without shortcuts, and of some others, with torchvision and timm.

The dense layers of VGG and AlexNet are narrowed to 32 channels, here and there: the published ones
have a hundred million params, and one test for all of them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest
import timm
import torch
import torchvision
from timm.layers import ClassifierHead
from timm.models.vgg import ConvMlp
from torchvision.models.squeezenet import Fire

from jtl import models
from jtl.common.errors import UserError
from jtl.models import registry
from jtl.models.families import inception, squeezenet
from jtl.models.families.inception import InceptionV3
from jtl.models.layers import sequential
from jtl.models.layers.pool import avg_pool
from support.parity import (
    LEARNING_RATE,
    LOGITS_BOUND,
    away_from_kinks,
    build,
    check_counts_and_shapes,
    check_step,
    check_units,
    nchw,
    random_images,
    randomize,
    relative_error,
    run_units,
    tensors,
    torch_train_step,
    train_step,
)
from weights_convert.convert.conversion import convert
from weights_convert.convert.filling import fill
from weights_convert.convert.tables import TABLES

pytestmark = [pytest.mark.slow, pytest.mark.peer]

WIDTH, CLASSES = 32, 10


@pytest.fixture(scope="module", autouse=True)
def _narrow():
    """Beside the registry's members with dense layers the same with narrow ones."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("vgg11", "vgg11_bn", "alexnet"):
            entry = models.get(name)
            backbone: Any = dataclasses.replace(entry.backbone, widths=(WIDTH, WIDTH))
            build = functools.partial(dataclasses.replace, backbone)
            narrow = dataclasses.replace(entry, name=f"narrow_{name}", build=build)
            patch.setitem(registry.ENTRIES, narrow.name, narrow)
        yield


def torchvision_peer(name: str) -> Any:
    options = {"aux_logits": False} if name == "inception_v3" else {}
    if name.startswith(("inception", "narrow_vgg")):
        options["init_weights"] = False
    full = name.removeprefix("narrow_")
    peer: Any = torchvision.models.get_model(full, num_classes=CLASSES, **options)
    if full != name:
        first, second, third = (
            i for i, m in enumerate(peer.classifier) if isinstance(m, torch.nn.Linear)
        )
        peer.classifier[first] = torch.nn.Linear(peer.classifier[first].in_features, WIDTH)
        peer.classifier[second] = torch.nn.Linear(WIDTH, WIDTH)
        peer.classifier[third] = torch.nn.Linear(WIDTH, CLASSES)
    return peer


def timm_peer(name: str) -> Any:
    peer: Any = timm.create_model(name.removeprefix("narrow_"), num_classes=CLASSES)
    if name.startswith("narrow_"):
        peer.pre_logits = ConvMlp(512, WIDTH, 7, drop_rate=0.0)
        peer.head = ClassifierHead(WIDTH, CLASSES)
    return peer


PEERS = {"torchvision": torchvision_peer, "timm": timm_peer}


def module_of(peer: Any, model: models.ImageClassifier) -> Callable[[str], str]:
    """The peer's module whose output is a unit's, by the order of layers alone."""
    paths = [unit.path for unit in model.units()]
    if hasattr(peer, "Mixed_5b"):
        timms = hasattr(peer, "global_pool")
        ends = ["Pool2" if timms else "maxpool2"]
        ends += [name for name, _ in peer.named_children() if name.startswith("Mixed_")]
        ends += ["global_pool" if timms else "avgpool", "fc"]
    else:
        kinds = (torch.nn.ReLU, torch.nn.MaxPool2d, Fire)
        layers = enumerate(peer.features)
        ends = [f"features.{i}" for i, layer in layers if isinstance(layer, kinds)]
        if any(isinstance(layer, Fire) for layer in peer.features):
            ends = [*ends[1:], ""]  # The stem's ReLU lies inside; what the model gives is last.
        elif hasattr(peer, "pre_logits"):
            ends += ["pre_logits.act1", "pre_logits.act2", "head.global_pool", "head.fc"]
        else:
            dense = enumerate(peer.classifier)
            relus = [f"classifier.{i}" for i, m in dense if isinstance(m, torch.nn.ReLU)]
            ends += [*relus, relus[-1], "classifier.6"]
    return dict(zip(paths, ends, strict=True)).__getitem__


@pytest.mark.parametrize(
    ("library", "name", "height", "width"),
    [
        ("torchvision", "narrow_vgg11", 67, 97),
        ("torchvision", "narrow_vgg11_bn", 256, 288),
        ("timm", "narrow_vgg11", 256, 288),
        ("timm", "narrow_vgg11_bn", 67, 257),
        ("torchvision", "narrow_alexnet", 99, 67),
        ("torchvision", "narrow_alexnet", 256, 227),
        ("torchvision", "squeezenet1_0", 67, 96),
        ("timm", "inception_v3", 75, 80),
    ],
)
def test_units(library, name, height, width):
    images = random_images(2, height, width)
    peer = randomize(PEERS[library](name), nchw(images))
    source = tensors(peer)
    converted = convert(source, name)
    assert converted.library in (library, "timm/torchvision")
    check_counts_and_shapes(peer, source, converted)
    model = build(converted)
    check_units(peer, model, converted.variables, images, module_of(peer, model))


def test_vgg16_of_full_width():
    images = random_images(1, 64, 64)
    peer = torchvision.models.vgg16(init_weights=False).eval()
    for layer in peer.modules():
        if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear)):
            fan_in = layer.weight[0].numel()
            layer.weight.data.uniform_(-((6 / fan_in) ** 0.5), (6 / fan_in) ** 0.5)
            layer.bias.data.uniform_(-0.1, 0.1)
    converted = convert({key: tensor.numpy() for key, tensor in peer.state_dict().items()})
    assert (converted.model, converted.library) == ("vgg16", "torchvision")
    logits, _ = run_units(build(converted), converted.variables, images)
    with torch.no_grad():
        expected = peer(nchw(images)).numpy()
    assert expected.std() > 0.1
    assert relative_error(logits, expected) <= LOGITS_BOUND


@pytest.fixture
def _smooth_pooling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Averages in the place of max pooling, here and there.

    Among a million windows there are some whose two largest values are within rounding of one
    another; which of the two gets the gradient is chance, and a few such flips are a hundredth of
    the gradients of the layers before. Max pooling's gradient has tests of its own.
    """
    average = torch.nn.functional.avg_pool2d
    monkeypatch.setattr(
        torch.nn.functional,
        "max_pool2d",
        lambda x, kernel_size, stride, *_, **__: average(x, kernel_size, stride),
    )
    for module in (inception, sequential, squeezenet):
        monkeypatch.setattr(
            module, "max_pool", lambda x, window, stride, _: avg_pool(x, window, stride)
        )


@pytest.mark.usefixtures("_smooth_pooling")
@pytest.mark.parametrize(
    ("name", "size"),
    [
        *(("narrow_vgg11", 64), ("squeezenet1_1", 64), ("inception_v3", 128)),
        *(("mobilenet_v2", 64), ("mobilenet_v3_small", 64), ("efficientnet_v2_s", 64)),
        ("regnet_y_400mf", 64),
        ("mnasnet0_5", 64),
    ],
)
def test_one_train_step_equals_torchvisions(name, size):
    images = random_images(8, size, size)
    labels = np.random.default_rng(3).integers(0, CLASSES, 8)
    peer = away_from_kinks(randomize(torchvision_peer(name), nchw(images), offset=3.0))
    converted = convert(tensors(peer), name)
    model = build(converted)
    if hasattr(model.backbone, "dropout"):
        model = model.clone(backbone=dataclasses.replace(model.backbone, dropout=0.0))
    # Without normalization the first layers' gradients are small beside their kernels.
    rate = 1e3 if converted.variables["batch_stats"] == {} else LEARNING_RATE
    loss, after = train_step(model, converted.variables, images, labels, rate)
    # In double precision: PyTorch's own rounding is as large as the bound for InceptionV3.
    expected_loss = torch_train_step(peer.double(), images, labels, rate)
    expected = convert(tensors(peer), name).variables
    # MobileNetV3's last stage has four pixels here, and small gradients.
    moved = 400 if name == "mobilenet_v3_small" else 500
    check_step(loss, after, converted.variables, expected_loss, expected, moved)


@pytest.mark.parametrize(
    ("name", "layers"),
    [("narrow_vgg11", ()), ("narrow_alexnet", ()), ("squeezenet1_1", ("dropout:0.5",))],
)
def test_dropout_is_where_torchvision_has_it(name, layers, monkeypatch):
    # This stands for dropping: at another place, or at another rate, results differ.
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda self, x: (x + self.p) ** 2)
    images = random_images(2, 64, 80)
    peer = randomize(torchvision_peer(name), nchw(images))
    converted = convert(tensors(peer), name)
    head = dataclasses.replace(models.get(name).classifier, layers=layers)
    model = build(converted).clone(head=head)
    paths = frozenset(unit.path for unit in model.units())
    without, _ = run_units(model, converted.variables, images)

    def dropped(self: nn.Dropout, x: jax.Array) -> jax.Array:
        return x if self.deterministic else (x + self.rate) ** 2

    monkeypatch.setattr(nn.Dropout, "__call__", dropped)
    logits = model.apply(converted.variables, images, train=paths)
    with torch.no_grad():
        expected = peer.train()(nchw(images)).numpy()
    assert relative_error(without, expected) > 1e-2
    assert relative_error(logits, expected) <= LOGITS_BOUND


def test_the_auxiliary_head_of_torchvision_is_named_as_ignored():
    peer = torchvision.models.inception_v3(num_classes=CLASSES, init_weights=False)
    source = tensors(peer)
    converted = convert(source)
    assert converted.model == "inception_v3"
    assert set(converted.ignored) == {key for key in source if key.startswith("AuxLogits.")}
    assert len(converted.ignored) == 14


def test_the_auxiliary_head_is_torchvisions():
    rng = np.random.default_rng(5)
    x = np.maximum(rng.standard_normal((4, 17, 17, 768)), 0).astype(np.float32)
    peer = torchvision.models.inception.InceptionAux(768, CLASSES).train()
    randomize(peer, nchw(x))
    backbone = InceptionV3(aux_classes=CLASSES)
    table = next(t for t in TABLES if (t.family, t.library) == ("inception", "timm/torchvision"))
    model = models.ImageClassifier(backbone, num_classes=CLASSES)
    shapes = models.variable_shapes(model, 299)
    shapes = {collection: {"aux": tree["aux"]} for collection, tree in shapes.items()}
    source = {f"AuxLogits.{key}": array for key, array in tensors(peer).items()}
    strict = dataclasses.replace(table, ignored=(r".*\.num_batches_tracked",))
    variables = fill(strict, backbone, shapes, source)
    options = dict(start="aux", stop="stage3", train=frozenset(["aux"]))
    y, state = model.apply(variables, x, mutable=["batch_stats", "auxiliary"], **options)
    (logits,) = state["auxiliary"]["aux"]["output"]
    np.testing.assert_array_equal(y, x)
    expected = peer.train()(nchw(x)).detach().numpy()
    assert relative_error(logits, expected) <= 1e-5  # Over four values a channel at the end.
    y, state = model.apply(variables, x, mutable=["auxiliary"], start="aux", stop="stage3")
    np.testing.assert_array_equal(y, x)
    assert "auxiliary" not in state


@pytest.mark.parametrize(
    ("name", "least"),
    [
        *(("vgg11", 32), ("alexnet", 63), ("squeezenet1_0", 21), ("squeezenet1_1", 17)),
        *(("inception_v3", 75), ("densenet121", 29)),
    ],
)
def test_the_smallest_images(name, least):
    model = models.create(name, num_classes=CLASSES, head=models.get(name).classifier)
    shapes = models.variable_shapes(model)

    def run(size):
        images = jax.ShapeDtypeStruct((1, size, size, 3), np.float32)
        return jax.eval_shape(model.apply, shapes, images).shape

    assert run(least) == (1, CLASSES)
    with pytest.raises(
        UserError, match=f"images of {least - 1} x {least - 1} pixels are too small"
    ):
        run(least - 1)
    torchvision_s = torchvision.models.get_model_weights(name).DEFAULT.meta["min_size"]
    assert torchvision_s == (least, least)
