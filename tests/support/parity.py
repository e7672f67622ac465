"""Peers for the parity tests: PyTorch models with weights that make every layer matter."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
import optax
import torch
import torchvision
from timm.layers import StdConv2d
from timm.models.hgnet import LearnableAffineBlock

from jtl import models
from jtl.common.trees import lookup
from jtl.models.layers.blocks import unfused_layers
from weights_convert.convert.conversion import Converted
from weights_convert.convert.rules import Table, leaf_paths

# Largest difference of a unit's output from timm's, relative to the unit's largest value.
# Measured over all units of the eight models below: jtl 1.4e-6 and timm's own float32 1.4e-6
# from timm in float64, 1.6e-6 from one another. That depends on the processor: where oneDNN 3.2
# has AVX-512's blocked kernels, sums of 25,088 terms (narrow_vgg11_bn's head) are 5.5e-6 from
# float64 and EfficientNet-Lite0's last units 5.8e-6 from timm, and XLA's 1.9e-6.
UNIT_BOUND = 8e-6
LOGITS_BOUND = 8e-6

# Largest difference after a train step, relative to a tensor's largest update, plus what
# rounding to float32 costs on both sides, relative to its largest value. Measured over the four
# models below, in units of this sum: jtl 0.38 and timm's float32 0.31 from timm in float64,
# 0.45 from one another.
UPDATE_BOUND = 2e-4
ROUNDING = 2.0**-22

LEARNING_RATE, MOMENTUM = 0.1, 0.9

_NORMS = (torch.nn.BatchNorm2d, torch.nn.LayerNorm, torch.nn.GroupNorm)
_FACTORS = ("gamma", "layer_scale")  # Of residual branches: nearly zero in a new network.


def randomize(
    model: torch.nn.Module, images: torch.Tensor, seed: int = 0, *, offset: float = 0.0
) -> torch.nn.Module:
    """Gives every leaf of `model` values that a wrong conversion could not hide behind.

    The initial values would: scales of one and biases of zero make normalizations alike, and
    running averages of zero and one are no averages. Each convolution is scaled to outputs of
    unit spread over `images`, so that 50 residual blocks neither vanish nor explode. Where there
    is no normalization, each layer has biases around `offset`, every fourth around its negative.
    """
    rng = torch.Generator().manual_seed(seed)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.GroupNorm):  # BiT's, whose kernels have no scale
            large = 8 if name.endswith("norm2") else 4  # Before 3x3 kernels.
            module.weight.data.uniform_(0.5, 1.5, generator=rng).div_(large)
            module.bias.data.normal_(0, 0.1, generator=rng).div_(large)
        elif isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=rng)
            module.bias.data.normal_(0, 0.1, generator=rng)
            module.running_mean.normal_(0, 0.1, generator=rng)
            module.running_var.uniform_(0.5, 1.5, generator=rng)
        elif isinstance(module, torch.nn.LayerNorm):
            module.weight.data.uniform_(0.5, 1.5, generator=rng)
            module.bias.data.normal_(0, 0.1, generator=rng)
        elif isinstance(module, torch.nn.Conv2d):
            module.weight.data.normal_(0, 1, generator=rng)
        elif isinstance(module, torch.nn.Linear):
            module.weight.data.normal_(0, module.in_features**-0.5, generator=rng)
            module.bias.data.normal_(0, 0.1, generator=rng)
        elif isinstance(module, LearnableAffineBlock):  # HGNetV2's
            module.scale.data.uniform_(0.7, 1.3, generator=rng)
            module.bias.data.normal_(0, 0.1, generator=rng)
        for name, array in module.named_parameters(recurse=False):
            if name in _FACTORS:
                array.data.uniform_(0.5, 1.5, generator=rng)
            elif array.ndim == 3:  # Tokens and the embeddings of their positions.
                array.data.normal_(0, 0.5, generator=rng)
            elif name.startswith("in_proj_"):
                scale = 0.1 if array.ndim == 1 else array.shape[1] ** -0.5
                array.data.normal_(0, scale, generator=rng)

    layers = [m for m in model.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))]
    normalized = any(isinstance(module, _NORMS) for module in model.modules())

    if not normalized:
        for layer in layers:
            layer.bias.data.zero_()
            if offset:
                # Of inputs that are all positive the mean would be most of what a layer gives, and
                # little would be left of the rest, and of its gradient, some layers on.
                inner = tuple(range(1, layer.weight.ndim))
                layer.weight.data -= layer.weight.data.mean(inner, keepdim=True)

    def to_unit_spread(layer: torch.nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        spread = output.std()
        layer.weight.data /= spread
        if normalized:
            if layer.bias is not None:
                layer.bias.data /= spread
            return output / spread
        layer.bias.data.normal_(offset, 0.3, generator=rng)
        layer.bias.data[::4] *= -1
        return output / spread + layer.bias.data.reshape(1, -1, *[1] * (output.ndim - 2))

    if normalized:
        layers = [layer for layer in layers if isinstance(layer, torch.nn.Conv2d)]
        # PyTorch's own would depend on what was drawn before, in other tests.
        own = torch.Generator().manual_seed(seed + 1)
        for layer in layers:
            if layer.bias is not None:
                layer.bias.data.normal_(0, 0.1, generator=own)
    scaled = [layer for layer in layers if not isinstance(layer, StdConv2d)]
    hooks = [layer.register_forward_hook(to_unit_spread) for layer in scaled]
    with torch.no_grad():
        model.eval()(images)
    for hook in hooks:
        hook.remove()
    return model


def away_from_kinks(model: torch.nn.Module, seed: int = 2) -> torch.nn.Module:
    """Draws normalizations whose outputs lie three to six standard deviations from zero.

    For the train step. ReLU's gradient jumps at zero, and a step at these sizes evaluates
    millions of ReLUs, so with ordinary biases some of them fall so close to zero that float32
    decides by its rounding, in PyTorch as in XLA; each such flip alone changes the gradients of
    all layers before it by a hundredth. Here channels are well on, or off (a quarter of every
    block's first normalization), with a tail that crosses. The forward ladder has the
    ordinary biases, as have those here whose outputs hard-swish activates.
    """
    rng = torch.Generator().manual_seed(seed)
    norm = torch.nn.BatchNorm2d
    modules = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, norm) or not list(module.children())
    ]
    for (name, module), (_, following) in zip(modules, [*modules[1:], ("", None)], strict=True):
        if isinstance(module, norm):
            module.weight.data.uniform_(0.5, 0.85, generator=rng)
            module.bias.data.normal_(3, 0.1, generator=rng)
            # timm's normalizations have their activation within.
            if isinstance(getattr(module, "act", following), torch.nn.Hardswish):
                module.bias.data -= 3  # Its kinks are at -3 and 3.
            elif name.endswith(("bn1", "norm1")):
                module.bias.data[::4] *= -1
    return model


def random_images(count: int, height: int, width: int, seed: int = 1) -> np.ndarray:
    """Smooth random images with noise, NHWC float32 of about unit spread."""
    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal((count, -(-height // 8), -(-width // 8), 3))
    smooth = coarse.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width]
    return (0.8 * smooth + 0.6 * rng.standard_normal(smooth.shape)).astype(np.float32)


def nchw(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


def nhwc(tensor: torch.Tensor) -> np.ndarray:
    array = tensor.detach().numpy()
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array


def tensors(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """The state dict as copies in NumPy."""
    return {key: value.numpy().copy() for key, value in model.state_dict().items()}


def build(converted: Converted) -> models.ImageClassifier:
    return models.create(
        converted.model,
        num_classes=converted.num_classes,
        head=models.get(converted.model).classifier,
        conventions=converted.conventions,
    )


@functools.partial(jax.jit, static_argnums=0)
def run_units(
    model: models.ImageClassifier, variables: dict, images: jax.Array
) -> tuple[jax.Array, dict]:
    """Logits, and every unit's output in the tree of intermediates."""
    paths = {unit.path for unit in model.units()}
    logits, state = model.apply(
        variables,
        images,
        capture_intermediates=lambda module, _: "/".join(module.path) in paths,
    )
    return logits, state["intermediates"]


@functools.partial(jax.jit, static_argnums=0)
def run_layers(model: models.ImageClassifier, variables: dict, images: jax.Array) -> dict:
    """Every layer's output, nothing fused, in the tree of intermediates."""
    with unfused_layers():
        _, state = model.apply(variables, images, capture_intermediates=True)
    return state["intermediates"]


@functools.partial(jax.jit, static_argnums=0)
def train_step(
    model: models.ImageClassifier,
    variables: dict,
    images: jax.Array,
    labels: jax.Array,
    learning_rate: float = LEARNING_RATE,
) -> tuple[jax.Array, dict]:
    """The loss, and the variables after one step of SGD with momentum."""

    def loss_of(params: dict) -> tuple[jax.Array, dict]:
        logits, update = model.apply(
            {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), update

    params = variables["params"]
    (loss, update), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
    tx = optax.sgd(learning_rate, momentum=MOMENTUM)
    updates, _ = tx.update(gradients, tx.init(params), params)
    return loss, {"batch_stats": {}, "params": optax.apply_updates(params, updates), **update}


def torch_train_step(
    model: torch.nn.Module,
    images: np.ndarray,
    labels: np.ndarray,
    learning_rate: float = LEARNING_RATE,
) -> float:
    """The same step in PyTorch, in place; returns the loss."""
    model.train()
    for module in model.modules():
        if isinstance(module, (torch.nn.Dropout, torchvision.ops.StochasticDepth)):
            module.p = 0.0
    tx = torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=MOMENTUM)
    dtype = next(model.parameters()).dtype
    logits = model(nchw(images).to(dtype))
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels))
    loss.backward()
    tx.step()
    return loss.item()


def relative_error(actual: jax.Array, expected: np.ndarray) -> float:
    # A layer over one pixel may be dense there: [N, C] for [N, 1, 1, C], or the other way round.
    assert expected.squeeze().shape == actual.squeeze().shape
    expected = expected.reshape(actual.shape)
    return float(np.abs(np.asarray(actual) - expected).max() / np.abs(expected).max())


def hooked_outputs(
    model: torch.nn.Module, names: list[str], images: np.ndarray
) -> dict[str, np.ndarray]:
    """What the modules called `names` give in inference, NHWC."""
    outputs = {}

    def keep(name: str):
        def hook(_module: torch.nn.Module, _inputs: object, output: torch.Tensor) -> None:
            outputs[name] = nhwc(output.clone())

        return hook

    modules = dict(model.named_modules())
    hooks = [modules[name].register_forward_hook(keep(name)) for name in names]
    with torch.no_grad():
        model.eval()(nchw(images))
    for hook in hooks:
        hook.remove()
    return outputs


def bound_beside(peer: torch.nn.Module) -> float:
    """How far a layer's output or the logits may be from a peer's, relative to the largest value.

    Where each image normalizes for itself, PyTorch's own float32 is as far from its float64: 1.6e-5
    in BiT's last block and 7.9e-6 in its logits. Measured between the two: 2.2e-5 and 1.1e-5.
    """
    by_image = any(isinstance(module, torch.nn.GroupNorm) for module in peer.modules())
    return 3e-5 if by_image else UNIT_BOUND


def layer_outputs(
    model: torch.nn.Module, names: Iterable[str], images: np.ndarray
) -> dict[str, np.ndarray]:
    """What the layers called `names` give in inference, before what timm activates them with."""
    outputs: dict[str, np.ndarray] = {}

    def keep(name: str, tensor: torch.Tensor) -> None:
        outputs[name] = nhwc(tensor.clone())  # The next layer may work in place.

    hooks = []
    for name in names:
        layer = model.get_submodule(name)
        if (activation := getattr(layer, "act", None)) is None:
            hook = functools.partial(lambda name, _layer, _inputs, y: keep(name, y), name)
            hooks.append(layer.register_forward_hook(hook))
        else:
            hook = functools.partial(lambda name, _layer, inputs: keep(name, inputs[0]), name)
            hooks.append(activation.register_forward_pre_hook(hook))
    with torch.no_grad():
        model.eval()(nchw(images))
    for hook in hooks:
        hook.remove()
    return outputs


def check_layers(
    peer: torch.nn.Module,
    model: models.ImageClassifier,
    variables: dict,
    images: np.ndarray,
    table: Table,
) -> None:
    """Compares every layer that owns params with the peer's, called as the table says."""
    layers = list(dict.fromkeys(path[1:-1] for path in leaf_paths(variables)))
    names = table.layer_names(layers, model.backbone)
    expected = layer_outputs(peer, names.values(), images)
    ours = run_layers(model, variables, images)
    errors = {}
    for layer, name in names.items():
        want = expected[name]
        assert np.abs(want).max() < 100, f"{name} explodes"
        assert want.std() > 0.1, f"{name} vanishes"
        actual = lookup(ours, (*layer, "__call__"))[0]
        if want.ndim == 4 and want.size == actual.size and want.shape != actual.shape:
            want = want.transpose(0, 3, 1, 2)  # With channels last there, too.
        errors[name] = relative_error(actual, want)
    bound = bound_beside(peer)
    wrong = {name: error for name, error in errors.items() if error > bound}
    assert wrong == {}, wrong


def check_counts_and_shapes(
    peer: torch.nn.Module, source: dict[str, np.ndarray], converted: Converted
) -> None:
    # Counts: the peer's own, and every source key in exactly one leaf.
    sizes = [leaf.size for leaf in jax.tree.leaves(converted.variables["params"])]
    assert sum(sizes) == sum(p.numel() for p in peer.parameters())
    keys = [key for key in source if not key.endswith("num_batches_tracked")]
    assert len(leaf_paths(converted.variables)) == len(keys)
    # Shapes: those of the model, all of them, in float32.
    shapes = models.variable_shapes(build(converted))
    assert jax.tree.map(lambda x: x.shape, converted.variables) == jax.tree.map(
        lambda x: x.shape, shapes
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(converted.variables)} == {np.dtype("float32")}


def check_units(
    peer: torch.nn.Module,
    model: models.ImageClassifier,
    variables: dict,
    images: np.ndarray,
    module_of: Callable[[str], str],
) -> None:
    """Compares every unit and the logits with those of the peer's modules."""
    paths = [unit.path for unit in model.units()]
    names = {path: module_of(path) for path in paths}
    expected = hooked_outputs(peer, list(names.values()), images)
    logits, intermediates = run_units(model, variables, images)
    errors, before = {}, None
    for path in paths:
        (actual,) = lookup(intermediates, (*path.split("/"), "__call__"))
        want = expected[names[path]]
        assert np.abs(want).max() < 100, f"{path} explodes"
        assert want.std() > 0.1, f"{path} vanishes"
        if "denselayer" in names[path]:
            # timm's layers give only what they add; what was there must pass untouched.
            new = want.shape[-1]
            np.testing.assert_array_equal(actual[..., :-new], before)
            errors[path] = relative_error(actual[..., -new:], want)
        else:
            errors[path] = relative_error(actual, want)
        before = actual
    wrong = {path: error for path, error in errors.items() if error > UNIT_BOUND}
    assert wrong == {}, wrong
    assert relative_error(logits, expected[names["head"]]) <= LOGITS_BOUND


def check_step(
    loss: jax.Array,
    after: dict,
    before: dict,
    expected_loss: float,
    expected: dict,
    moved: float = 500,
) -> None:
    """Compares the variables after a train step from `before` with the peer's.

    Each kernel and statistic must have moved by `moved` times what it may differ by.
    """
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-6)
    assert jax.tree.structure(after) == jax.tree.structure(expected)
    wrong = {}

    def bound(path: tuple[str, ...]) -> tuple[float, float]:
        """(the peer's largest update, what an update may differ by)."""
        old, want = lookup(before, path), lookup(expected, path)
        update = np.abs(want - old).max()
        return update, UPDATE_BOUND * update + ROUNDING * np.abs(want).max()

    for path in leaf_paths(expected):
        new, want = lookup(after, path), lookup(expected, path)
        update, allowed = bound(path)
        if path[-2:] == ("affine", "bias"):
            # HGNetV2's, whose gradient is the sum of those of the normalization's offsets before:
            # the normalization after the next convolution takes both away, and leaves rounding.
            terms = ("bn", "bias") if path[-3] != "fc" else ("affine", "factor")
            allowed = max(allowed, bound((*path[:-2], *terms))[1])
        error = np.abs(np.asarray(new) - want).max()
        if error > allowed:
            wrong["/".join(path)] = (error, allowed)
        # The step moved it by far more than the bound. Not so for some scales and biases: an
        # offset that a normalization after a 1x1 convolution takes away has no gradient.
        if path[-1] in ("kernel", "mean", "var"):
            assert update > moved * allowed, (path, update / allowed)
    assert wrong == {}, wrong
