"""Vision transformers beside timm's: tokens, positions, poolings, a step, and others' layouts.

All on images of four patches, with timm's options for what its published networks differ in.
"""

from __future__ import annotations

import functools
import json
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import timm
import torch
from safetensors.numpy import save_file
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import checkpoint_filter_fn

from jtl import models
from jtl.common.errors import UserError
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
from weights_convert.convert.counting import counted
from weights_convert.convert.tables import TABLES
from weights_convert.read import readers
from weights_convert.source import source_conversion, sources

pytestmark = [pytest.mark.slow, pytest.mark.peer]

SIZE, CLASSES = 32, 10
PLAIN: dict[str, Any] = {}
# As DINOv2's with registers, as DeiT III, and as networks that average the patches.
REGISTERS = {"reg_tokens": 4, "no_embed_class": True, "init_values": 1e-5}
CLIP = {"pre_norm": True, "norm_layer": functools.partial(torch.nn.LayerNorm, eps=1e-5)}
AVERAGE = {"global_pool": "avg", "class_token": False}
# As SigLIP, and as timm has it without the pooling's own layers.
SIGLIP = {"global_pool": "map", "class_token": False}
GAP = {**AVERAGE, "fc_norm": False}


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
        (SIGLIP, {"pooling": "map", "class_token": False}),
        (GAP, {"pooling": "normed_avg", "class_token": False}),
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


@pytest.mark.parametrize("activation", ["gelu_tanh", "quick_gelu"])
def test_activations_that_no_key_shows(activation):
    network = peer(**SIGLIP, act_layer=activation)
    converted = convert(tensors(network))
    expected = logits_of(network, images())
    usual, _ = run_units(build(converted), converted.variables, images())
    assert relative_error(usual, expected) > 2 * LOGITS_BOUND
    converted.conventions["activation"] = activation
    logits, _ = run_units(build(converted), converted.variables, images())
    assert relative_error(logits, expected) <= LOGITS_BOUND


@pytest.mark.parametrize("pooling", [PLAIN, SIGLIP])
def test_images_of_another_size_and_a_step(pooling):
    network = peer(dynamic_img_size=True, **pooling)
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


def as_flax(timms: dict[str, np.ndarray], *, newer: bool) -> dict[str, np.ndarray]:
    """What AugReg's files hold; `newer` for big_vision's, with all blocks in one array."""
    heads = 3
    attention, mlp, norm2 = ("MultiHeadDotProductAttention_1", "MlpBlock_3", "LayerNorm_2")
    if newer:
        attention, mlp, norm2 = ("MultiHeadDotProductAttention_0", "MlpBlock_0", "LayerNorm_1")
    positions = "pos_embedding" if newer else "Transformer/posembed_input/pos_embedding"
    places = {"norm1": "LayerNorm_0", "norm2": norm2, "attn.proj": f"{attention}/out"}
    places |= {"mlp.fc1": f"{mlp}/Dense_0", "mlp.fc2": f"{mlp}/Dense_1"}
    blocks: dict[str, list[np.ndarray]] = {}
    found = {"cls": timms["cls_token"], positions: timms["pos_embed"]}
    for place, name in {
        "embedding": "patch_embed.proj",
        "Transformer/encoder_norm": "norm",
        "head": "head",
    }.items():
        kernel = timms[f"{name}.weight"]
        axes = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[kernel.ndim]
        leaf = "scale" if name == "norm" else "kernel"
        found[f"{place}/{leaf}"] = kernel.transpose(axes)
        found[f"{place}/bias"] = timms[f"{name}.bias"]
    for index in range(12):
        own: dict[str, np.ndarray] = {}
        for name, place in places.items():
            kernel, bias = (timms[f"blocks.{index}.{name}.{leaf}"] for leaf in ("weight", "bias"))
            leaf = "scale" if name.startswith("norm") else "kernel"
            own[f"{place}/{leaf}"] = kernel.T
            own[f"{place}/bias"] = bias
        out = own[f"{attention}/out/kernel"]
        own[f"{attention}/out/kernel"] = out.reshape(heads, -1, out.shape[-1])
        for leaf, name in (("kernel", "weight"), ("bias", "bias")):
            thirds = np.split(timms[f"blocks.{index}.attn.qkv.{name}"].T, 3, axis=-1)
            for part, third in zip(("query", "key", "value"), thirds, strict=True):
                own[f"{attention}/{part}/{leaf}"] = third.reshape(*third.shape[:-1], heads, -1)
        for place, array in own.items():
            blocks.setdefault(place, []).append(array)
    for place, arrays in blocks.items():
        if newer:
            found[f"Transformer/encoderblock/{place}"] = np.stack(arrays)
            continue
        found |= {f"Transformer/encoderblock_{i}/{place}": a for i, a in enumerate(arrays)}
    return {f"params/{key}" if newer else key: array for key, array in found.items()}


@pytest.mark.parametrize("newer", [False, True])
def test_the_npz_files_of_augreg_and_big_vision(newer, tmp_path):
    """Beside timm's own loader of such files."""
    timms = tensors(peer())
    np.savez(tmp_path / "a.npz", **as_flax(timms, newer=newer))  # pyright: ignore[reportArgumentType]
    converted = convert(readers.read(tmp_path / "a.npz").tensors)
    assert (converted.model, converted.library) == ("vit_tiny_patch16", "big_vision")
    assert (converted.num_classes, converted.shown["grid"]) == (CLASSES, 2)
    again: Any = peer()
    again.reset_classifier(CLASSES)
    again.load_pretrained(str(tmp_path / "a.npz"))
    logits, _ = run_units(build(converted), converted.variables, images())
    assert relative_error(logits, logits_of(again, images())) <= LOGITS_BOUND
    expected = convert(timms)
    for path in leaf_paths(expected.variables):
        np.testing.assert_array_equal(
            lookup(converted.variables, path), lookup(expected.variables, path)
        )


def test_an_npz_file_without_a_class_token_is_refused():
    source = as_flax(tensors(peer()), newer=False)
    del source["cls"]
    with pytest.raises(UserError, match="without a class token"):
        convert(source)


def test_layers_before_the_classifier_are_said():
    # AugReg's first files have a layer with tanh before it.
    source = as_flax(tensors(peer()), newer=False)
    source["pre_logits/kernel"] = np.eye(192, dtype=np.float32)
    source["pre_logits/bias"] = np.zeros(192, np.float32)
    converted = convert(source)
    assert converted.num_classes is None
    assert any("not one dense layer" in note for note in converted.notes)


def as_clip(timms: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The names of CLIP's own repository, without what is for texts."""
    found = {}
    for key, array in timms.items():
        name = re.sub(r"^blocks\.", "transformer.resblocks.", key)
        name = re.sub(r"\.norm([12])\.", r".ln_\1.", name).replace("attn.qkv.", "attn.in_proj_")
        name = name.replace("attn.proj.", "attn.out_proj.").replace("mlp.fc1.", "mlp.c_fc.")
        name = name.replace("mlp.fc2.", "mlp.c_proj.").replace("patch_embed.proj.", "conv1.")
        name = name.replace("norm_pre.", "ln_pre.").replace("cls_token", "class_embedding")
        name = name.replace("pos_embed", "positional_embedding")
        found[re.sub(r"^norm\.", "ln_post.", name)] = array
    found["class_embedding"] = found["class_embedding"].ravel()
    found["positional_embedding"] = found["positional_embedding"][0]
    return found


def test_the_layout_of_clips_repository(tmp_path):
    """Beside timm's own reading of it."""
    source = as_clip(tensors(peer(**CLIP, num_classes=0)))
    source["proj"] = np.random.default_rng(0).normal(size=(192, 16)).astype(np.float32)
    whole = {f"visual.{key}": array for key, array in source.items()}
    again = peer(**CLIP, num_classes=16)
    state = {key: torch.from_numpy(np.array(array)) for key, array in whole.items()}
    again.load_state_dict(checkpoint_filter_fn(state, again))
    with torch.no_grad():
        expected = again.eval().forward_features(nchw(images()))[:, 0].numpy()
    # And what is for texts, some of it under the names of the other transformer.
    whole["positional_embedding"] = np.ones((77, 64), np.float32)
    whole["logit_scale"] = np.ones((), np.float32)
    whole |= {f"transformer.resblocks.{i}.ln_1.weight": np.ones(64, np.float32) for i in range(12)}
    for arrays in (source, whole):
        converted = convert(arrays)
        assert (converted.model, converted.library) == ("vit_tiny_patch16", "timm")
        assert (converted.num_classes, converted.shown["norm_pre"]) == (None, True)
        bare = models.create(converted.model, head=None, conventions=converted.conventions)
        features: Any = jax.jit(bare.apply)(converted.variables, images())
        assert np.std(expected) > 0.1
        assert relative_error(features.reshape(expected.shape), expected) <= LOGITS_BOUND
    (keys,) = converted.ignored_because.values()
    assert {"visual.proj", "logit_scale", "transformer.resblocks.3.ln_1.weight"} <= set(keys)

    save_file({key: np.array(array) for key, array in whole.items()}, tmp_path / "a.safetensors")
    path = str(tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="OpenAI's own networks have QuickGELU: say so with --arc"):
        source_conversion.convert_source(sources.locate(path))
    named = sources.locate(path, architecture="vit_tiny_patch16")
    assert source_conversion.convert_source(named).model == "vit_tiny_patch16"


def as_transformers_tower(timms: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The names of transformers' CLIPVisionModel and SiglipVisionModel."""
    names = {"cls_token": "embeddings.class_embedding", "norm_pre.": "pre_layrnorm."}
    names |= {"pos_embed": "embeddings.position_embedding.weight", "norm.": "post_layernorm."}
    names |= {"patch_embed.proj.": "embeddings.patch_embedding.", "blocks.": "encoder.layers."}
    names |= {"attn_pool.latent": "head.probe", "attn_pool.": "head."}
    found: dict[str, np.ndarray] = {}
    for key, array in timms.items():
        start = next(start for start in names if key.startswith(start))
        name = "vision_model." + names[start] + key.removeprefix(start)
        name = re.sub(r"\.norm([12])\.", r".layer_norm\1.", name)
        name = name.replace(".attn.proj.", ".self_attn.out_proj.")
        name = name.replace("head.norm.", "head.layernorm.")
        name = re.sub(r"head\.proj\.", "head.attention.out_proj.", name)
        if ".attn.qkv." in name:
            for part, third in zip("qkv", np.split(array, 3), strict=True):
                found[name.replace(".attn.qkv.", f".self_attn.{part}_proj.")] = third
        else:
            found[name] = array
    for leaf in ("weight", "bias"):
        parts = [found.pop(f"vision_model.head.{part}.{leaf}", None) for part in ("q", "kv")]
        if parts[0] is not None:
            found[f"vision_model.head.attention.in_proj_{leaf}"] = np.concatenate(parts)
    if "vision_model.embeddings.class_embedding" in found:
        found["vision_model.embeddings.class_embedding"] = timms["cls_token"].ravel()
    found["vision_model.embeddings.position_embedding.weight"] = timms["pos_embed"][0]
    return found


@pytest.mark.parametrize(
    ("config", "options", "activation"),
    [
        ({"model_type": "clip", "vision_config": {}}, CLIP, "quick_gelu"),
        ({"model_type": "clip_vision_model", "hidden_act": "gelu"}, CLIP, "gelu"),
        ({"model_type": "siglip_vision_model"}, SIGLIP, "gelu_tanh"),
    ],
)
def test_the_vision_towers_of_transformers(config, options, activation, tmp_path):
    network = peer(**options, num_classes=0, act_layer=activation)
    source = as_transformers_tower(tensors(network))
    source["text_model.encoder.layers.0.layer_norm1.weight"] = np.ones(64, np.float32)
    source["logit_scale"] = np.ones((), np.float32)
    save_file({k: np.array(a) for k, a in source.items()}, tmp_path / "model.safetensors")
    if options is CLIP:  # Its configuration alone says which activation it has.
        with pytest.raises(UserError, match="OpenAI's own networks have QuickGELU"):
            source_conversion.convert_source(sources.locate(str(tmp_path)))
    (tmp_path / "config.json").write_text(json.dumps(config))
    converted = source_conversion.convert_source(sources.locate(str(tmp_path)))
    assert (converted.model, converted.num_classes) == ("vit_tiny_patch16", None)
    assert converted.conventions["activation"] == activation
    bare = models.create(converted.model, head=None, conventions=converted.conventions)
    features: Any = jax.jit(bare.apply)(converted.variables, images())
    expected = logits_of(network, images())
    assert relative_error(features.reshape(expected.shape), expected) <= LOGITS_BOUND


def test_what_the_configuration_of_a_tower_rules_out(tmp_path):
    source = as_transformers_tower(tensors(peer(**SIGLIP, num_classes=0)))
    source["classifier.weight"] = np.ones((5, 192), np.float32)
    source["classifier.bias"] = np.ones(5, np.float32)
    save_file({k: np.array(a) for k, a in source.items()}, tmp_path / "model.safetensors")
    config = {"model_type": "siglip", "vision_config": {"hidden_act": "relu"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"the activation is relu \(hidden_act\), which jtl's"):
        source_conversion.convert_source(sources.locate(str(tmp_path)))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "siglip"}))
    with pytest.raises(UserError, match="stands on the mean of the patches, as in transformers"):
        source_conversion.convert_source(sources.locate(str(tmp_path)))
    dropped = source_conversion.convert_source(sources.locate(str(tmp_path)), drop_head=True)
    assert dropped.num_classes is None


@pytest.mark.parametrize("name", ["vit_base_patch32", "vit_base_patch16", "vit_small_patch32"])
def test_a_bare_network_is_known_by_its_size(name):
    # Without a matrix, a ViT-B/32 is as large as a ViT-B/16.
    shapes = models.variable_shapes(models.create(name, head=None))
    (table,) = (t for t in TABLES if (t.family, t.library) == ("vit", "timm"))
    keys = table.source_keys(models.get(name).backbone, shapes)
    arrays = {
        key: table.to_source(path, np.broadcast_to(np.float32(0), lookup(shapes, path).shape))
        for path, key in keys.items()
    }
    assert counted(arrays) == name
