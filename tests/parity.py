"""Peers for the parity tests: PyTorch models with weights that make every layer matter."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
import optax
import torch

from jtl import models
from weights_convert.convert import Converted

LEARNING_RATE, MOMENTUM = 0.1, 0.9

# Compiled once and run once, so most of a parity test's time would be LLVM's optimizer.
_QUICK_COMPILE: Any = {"xla_backend_optimization_level": 0}


def randomize(model: torch.nn.Module, images: torch.Tensor, seed: int = 0) -> torch.nn.Module:
    """Gives every leaf of `model` values that a wrong conversion could not hide behind.

    The initial values would: scales of one and biases of zero make normalizations alike, and
    running averages of zero and one are no averages. Each convolution is scaled to outputs of
    unit spread over `images`, so that 50 residual blocks neither vanish nor explode.
    """
    rng = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=rng)
            module.bias.data.normal_(0, 0.1, generator=rng)
            module.running_mean.normal_(0, 0.1, generator=rng)
            module.running_var.uniform_(0.5, 1.5, generator=rng)
        elif isinstance(module, torch.nn.Conv2d):
            module.weight.data.normal_(0, 1, generator=rng)
        elif isinstance(module, torch.nn.Linear):
            module.weight.data.normal_(0, module.in_features**-0.5, generator=rng)
            module.bias.data.normal_(0, 0.1, generator=rng)

    def to_unit_spread(conv: torch.nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        spread = output.std()
        conv.weight.data /= spread
        return output / spread

    convs = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    hooks = [conv.register_forward_hook(to_unit_spread) for conv in convs]
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
    ordinary biases.
    """
    rng = torch.Generator().manual_seed(seed)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 0.85, generator=rng)
            module.bias.data.normal_(3, 0.1, generator=rng)
            if name.endswith(("bn1", "norm1")):
                module.bias.data[::4] *= -1
    return model


def random_images(count: int, height: int, width: int, seed: int = 1) -> np.ndarray:
    """Smooth random pictures with noise, NHWC float32 of about unit spread."""
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
        converted.model, num_classes=converted.num_classes, conventions=converted.conventions
    )


@functools.partial(jax.jit, static_argnums=0, compiler_options=_QUICK_COMPILE)
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


@functools.partial(jax.jit, static_argnums=0, compiler_options=_QUICK_COMPILE)
def train_step(
    model: models.ImageClassifier, variables: dict, images: jax.Array, labels: jax.Array
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
    tx = optax.sgd(LEARNING_RATE, momentum=MOMENTUM)
    updates, _ = tx.update(gradients, tx.init(params), params)
    return loss, {"params": optax.apply_updates(params, updates), **update}


def torch_train_step(model: torch.nn.Module, images: np.ndarray, labels: np.ndarray) -> float:
    """The same step in PyTorch, in place; returns the loss."""
    model.train()
    tx = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    dtype = next(model.parameters()).dtype
    logits = model(nchw(images).to(dtype))
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels))
    loss.backward()
    tx.step()
    return loss.item()
