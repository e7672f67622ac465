"""Vision transformers beside timm's: tokens, positions, poolings, a step, and others' layouts.

All on images of four patches, with timm's options for what its published networks differ in.
"""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import timm
import torch
from timm.layers import resample_abs_pos_embed

from jtl.common.trees import leaf_paths, lookup
from jtl.models.layers.attention import resized_positions
from support.parity import (
    LEARNING_RATE,
    LOGITS_BOUND,
    UPDATE_BOUND,
    build,
    check_counts_and_shapes,
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

pytestmark = [pytest.mark.slow, pytest.mark.peer]

SIZE, CLASSES = 32, 10
PLAIN: dict[str, Any] = {}
# As DINOv2's with registers, as DeiT III, and as networks that average the patches.
REGISTERS = {"reg_tokens": 4, "no_embed_class": True, "init_values": 1e-5}
CLIP = {"pre_norm": True, "norm_layer": functools.partial(torch.nn.LayerNorm, eps=1e-5)}
AVERAGE = {"global_pool": "avg", "class_token": False}


@functools.cache
def images() -> np.ndarray:
    return random_images(4, SIZE, SIZE)


def peer(**options: Any) -> Any:
    options = {"img_size": SIZE, "num_classes": CLASSES, **options}
    return randomize(timm.create_model("vit_tiny_patch16_224", **options), nchw(images()))


def logits_of(network: Any, inputs: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return network.eval()(nchw(inputs)).numpy()


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        (REGISTERS, {"registers": 4, "embeds_class": False, "layer_scale": True, "grid": 2}),
        (CLIP, {"norm_pre": True, "epsilon": 1e-5}),
        (AVERAGE, {"pooling": "avg", "class_token": False, "layer_scale": False}),
        ({"global_pool": "avg"}, {"pooling": "avg", "class_token": True, "embeds_class": True}),
    ],
)
def test_logits(options, shown):
    network = peer(**options)
    converted = convert(tensors(network))
    assert (converted.model, converted.library) == ("vit_tiny_patch16", "timm")
    assert shown.items() <= converted.shown.items()
    check_counts_and_shapes(network, tensors(network), converted)
    logits, _ = run_units(build(converted), converted.variables, images())
    expected = logits_of(network, images())
    assert np.std(expected) > 0.1
    assert relative_error(logits, expected) <= LOGITS_BOUND


def test_images_of_another_size_and_a_step():
    network = peer(dynamic_img_size=True)
    converted = convert(tensors(network))
    model = build(converted)
    larger = random_images(1, 64, 48)
    logits, _ = run_units(model, converted.variables, larger)
    assert relative_error(logits, logits_of(network, larger)) <= LOGITS_BOUND
    labels = np.arange(len(images())) % CLASSES
    loss, after = train_step(model, converted.variables, images(), labels)
    expected_loss = torch_train_step(network.double(), images(), labels)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-6)
    expected = convert(tensors(network)).variables
    for path in leaf_paths(expected):
        old, new, want = (lookup(tree, path) for tree in (converted.variables, after, expected))
        update = np.abs(want - old).max()
        assert update > 1e-3 * LEARNING_RATE, path
        # A key's bias moves all of a query's products alike, which softmax takes away: its
        # gradient is nothing but rounding, and a third of these.
        allowed = UPDATE_BOUND * update + 2.0**-22 * np.abs(want).max()
        assert np.abs(np.asarray(new) - want).max() <= allowed, path


@pytest.mark.parametrize("size", [(5, 5), (14, 14), (3, 4), (16, 9), (37, 37)])
def test_positions_are_resized_as_timm_does(size):
    table = np.random.default_rng(0).normal(size=(1, 196, 8)).astype(np.float32)
    expected = resample_abs_pos_embed(
        torch.from_numpy(table), list(size), [14, 14], num_prefix_tokens=0
    )
    actual = resized_positions(jnp.asarray(table.reshape(14, 14, 8)), size)
    expected = expected.numpy().reshape(*size, 8)
    # Sums of up to 16 products, with weights computed in float32.
    np.testing.assert_allclose(actual, expected, rtol=0, atol=16 * 2.0**-23 * np.abs(table).max())


def test_the_layout_of_dinov2s_repository():
    """Its class token has a position, and its registers none."""
    timms = tensors(peer(**REGISTERS))
    own = np.random.default_rng(0).normal(size=(1, 1, 192)).astype(np.float32)
    theirs = dict(timms)
    theirs["register_tokens"] = theirs.pop("reg_token")
    theirs["cls_token"] = timms["cls_token"] - own
    theirs["pos_embed"] = np.concatenate([own, timms["pos_embed"]], 1)
    theirs["mask_token"] = np.zeros((1, 192), np.float32)
    found, expected = convert(theirs), convert(timms)
    assert (found.model, found.shown) == ("vit_tiny_patch16", expected.shown)
    for path in leaf_paths(expected.variables):
        np.testing.assert_allclose(
            lookup(found.variables, path), lookup(expected.variables, path), rtol=0, atol=1e-6
        )


@pytest.mark.parametrize("kind", ["vit", "vit, newer", "dinov2_with_registers"])
def test_the_layouts_of_transformers(kind):
    timms = tensors(peer(**(REGISTERS if kind.startswith("dinov2") else PLAIN)))
    root = kind.partition(",")[0]
    layers = f"{root}.layers" if kind == "vit, newer" else f"{root}.encoder.layer"
    attention = "attention" if kind == "vit, newer" else "attention.attention"
    names = {"patch_embed.proj.": f"{root}.embeddings.patch_embeddings.projection."}
    names |= {"cls_token": f"{root}.embeddings.cls_token", "norm.": f"{root}.layernorm."}
    names |= {"pos_embed": f"{root}.embeddings.position_embeddings", "head.": "classifier."}
    names |= {"reg_token": f"{root}.embeddings.register_tokens"}
    inner = {"norm1.": "layernorm_before.", "norm2.": "layernorm_after."}
    inner |= {"mlp.fc1.": "intermediate.dense.", "mlp.fc2.": "output.dense."}
    inner |= {"attn.proj.": "attention.output.dense."}
    if kind == "vit, newer":
        inner |= {"mlp.fc1.": "mlp.fc1.", "mlp.fc2.": "mlp.fc2."}
        inner |= {"attn.proj.": "attention.o_proj."}
    if root.startswith("dinov2"):
        inner |= {"norm1.": "norm1.", "norm2.": "norm2.", "mlp.fc1.": "mlp.fc1."}
        inner |= {"mlp.fc2.": "mlp.fc2.", "ls1.gamma": "layer_scale1.lambda1"}
        inner |= {"ls2.gamma": "layer_scale2.lambda1"}
        own = np.zeros((1, 1, 192), np.float32)
        timms["pos_embed"] = np.concatenate([own, timms["pos_embed"]], 1)
    theirs = {f"{root}.pooler.dense.weight": np.zeros((192, 192), np.float32)}
    for key, array in timms.items():
        block, rest = ".".join(key.split(".")[:2]), ".".join(key.split(".")[2:])
        if not key.startswith("blocks."):
            name = next(name for start, name in names.items() if key.startswith(start))
            start = next(start for start in names if key.startswith(start))
            theirs[name + key.removeprefix(start)] = array
            continue
        parent = f"{layers}.{block.removeprefix('blocks.')}."
        if rest.startswith("attn.qkv."):
            parts = ("q_proj", "k_proj", "v_proj") if attention == "attention" else ()
            for part, third in zip(
                parts or ("query", "key", "value"), np.split(array, 3), strict=True
            ):
                theirs[f"{parent}{attention}.{part}.{rest.removeprefix('attn.qkv.')}"] = third
            continue
        start = next(start for start in inner if rest.startswith(start))
        theirs[parent + inner[start] + rest.removeprefix(start)] = array
    if root.startswith("dinov2"):
        timms["register_tokens"] = timms.pop("reg_token")
    found, expected = convert(theirs), convert(timms)
    assert (found.model, found.num_classes) == ("vit_tiny_patch16", CLASSES)
    assert found.shown == expected.shown
    for path in leaf_paths(expected.variables):
        np.testing.assert_array_equal(
            lookup(found.variables, path), lookup(expected.variables, path)
        )
