"""The freezing contract, for every mask and one small member of every family."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jtl import models
from jtl.cache.phase_inputs import PhaseInputs
from jtl.common.trees import ParamTree, leaf_paths, lookup, merge, prune, within
from jtl.config.options import Config, TrainConfig
from jtl.data.input_plan import InputPlan
from jtl.data.loader import Images
from jtl.data.preprocessing import Prepare
from jtl.data.sources.arrays import ArraySplit
from jtl.data.sources.registry import Dataset
from jtl.freeze import FROZEN, find_cut, label_tree, parse
from jtl.freeze.cut import trainable
from jtl.freeze.lora import Adapters, B
from jtl.freeze.phase_plan import plan_phases
from jtl.freeze.phases import Phase
from jtl.models import HeadSpec, ImageClassifier, NormSpec, Preprocessing
from jtl.models.families.alexnet import AlexNet
from jtl.models.families.bit import BiT
from jtl.models.families.convnext import ConvNeXt
from jtl.models.families.densenet import DenseNet
from jtl.models.families.efficientnet import EfficientNet, EfficientNetLite
from jtl.models.families.efficientnet_v2 import EfficientNetV2
from jtl.models.families.hgnet import HGNetV2
from jtl.models.families.inception import InceptionV3
from jtl.models.families.mobilenet import MobileNetV2
from jtl.models.families.mobilenet_v3 import MobileNetV3
from jtl.models.families.regnet import RegNetY
from jtl.models.families.resnet import ResNet
from jtl.models.families.squeezenet import SqueezeNet
from jtl.models.families.vgg import VGG
from jtl.models.families.vit import ViT
from jtl.models.inference import forward
from jtl.optim import optimizers
from jtl.optim.recipe import Rates, Recipe
from jtl.optim.schedules import Schedule
from jtl.train.setup import Setup
from jtl.train.state import init_state
from jtl.train.step import Batch, Constants, TrainStep, train_step
from jtl.train.trainer import Trainer
from support.networks import random_variables
from weights_convert.convert.rules import unflatten

pytestmark = pytest.mark.slow

SIZE, BATCH, CLASSES = 32, 4, 3  # Where `SIZES` says nothing else.
HEAD = HeadSpec(("linear:8", "bn", "relu", "dropout:.2"))
MODELS = {
    "resnet": ImageClassifier(ResNet("basic", (1, 2, 1, 1)), HEAD, CLASSES),
    "densenet": ImageClassifier(DenseNet((1, 2, 1, 1), growth=8), HEAD, CLASSES),
    "efficientnet_lite": ImageClassifier(
        EfficientNetLite(0.5, 0.3, NormSpec(epsilon=1e-3)), HEAD, CLASSES
    ),
    "vgg": ImageClassifier(VGG((1, 1, 1, 1, 1), True, (8, 8), dropout=0.1), HEAD, CLASSES),
    "alexnet": ImageClassifier(AlexNet((8, 8), dropout=0.1), HEAD, CLASSES),
    "squeezenet": ImageClassifier(
        SqueezeNet((16, 3), (1, 1, 1)), dataclasses.replace(HEAD, relu_logits=True), CLASSES
    ),
    "inception": ImageClassifier(InceptionV3(depths=(1, 2, 1)), HEAD, CLASSES),
    "mobilenet": ImageClassifier(MobileNetV2(0.25, (1, 2, 1, 0, 0, 0, 0)), HEAD, CLASSES),
    "efficientnet": ImageClassifier(EfficientNet(0.25, (1, 1, 0, 0, 0, 0, 0)), HEAD, CLASSES),
    "efficientnet_v2": ImageClassifier(EfficientNetV2("base", 0.25, 0.3, stages=2), HEAD, CLASSES),
    "regnet": ImageClassifier(RegNetY(((1, 16), (1, 24)), 8), HEAD, CLASSES),
    "hgnet": ImageClassifier(
        HGNetV2((8, 8), ((8, 16, 1), (8, 24, 1), (8, 24, 1)), 2, True, 16), HEAD, CLASSES
    ),
    "resnet_d": ImageClassifier(ResNet("basic", (1, 1), form_d=True), HEAD, CLASSES),
    "bit": ImageClassifier(BiT((1, 1)), HEAD, CLASSES),
    "mobilenet_v3": ImageClassifier(MobileNetV3("small", (1, 1, 0, 0, 0)), HEAD, CLASSES),
    "convnext": ImageClassifier(ConvNeXt((1, 1, 1, 1), (8, 8, 16, 16)), HEAD, CLASSES),
    "vit": ImageClassifier(ViT(64, 16, 4, grid=3, registers=1, layer_scale=True), HEAD, CLASSES),
}
FAMILIES = {
    models.get(name).family: name
    for name in sorted(models.names(), key=lambda name: -models.get(name).published_params)
}
"""The smallest network of each."""
MODELS |= {
    family: models.create(name, num_classes=CLASSES, head=HEAD, truncate_at="stage2")
    for family, name in FAMILIES.items()
    if family not in MODELS  # Those above only take less time.
}
SIZES = {"alexnet": 63, "inception": 75}
WITHOUT = {"alexnet": ("norm_only",), "squeezenet": ("norm_only",)}
WRAPPERS = ("adamw, clipped", "lion, accumulated", "adamw, accumulated")
MASKS = (
    "head_only",
    "last_stage",
    "last_stages:2",
    "from:stage2/block1",
    "first_stages:1",
    "norm_only",
    "bias_only",
    "full",
    "rules:stage2/.*=x0.5;head/.*=train;.*=frozen",
    "lora:4",
)


def leaves_of(tree: ParamTree) -> dict[tuple[str, ...], Any]:
    return {path: lookup(tree, path) for path in leaf_paths(tree)}


def variables_of(family: str) -> ParamTree:
    """Random throughout: a head of zeros would hide the gradients of all before it at first."""
    return random_variables(MODELS[family], SIZES.get(family, SIZE))


def optimizer(labels: ParamTree, wrapper: str) -> optax.GradientTransformation:
    """AdamW or Lion, both with decay; with clipping or accumulation around it.

    Neither lets a small gradient vanish in rounding: scales and biases have no decay to move them.
    """
    groups = sorted(set(jax.tree.leaves(labels)) - {FROZEN})
    if wrapper == "adamw, clipped":
        inner = optimizers.build(
            labels, {g: optimizers.transform("adamw", 1e-2, 0.1) for g in groups}
        )
        return optax.chain(optax.clip_by_global_norm(0.05), inner)
    name: Any = wrapper.removesuffix(", accumulated")
    inner = optimizers.build(labels, {g: optimizers.transform(name, 1e-2, 0.1) for g in groups})
    steps_of_two = optax.MultiSteps(inner, 2)
    return optax.GradientTransformation(steps_of_two.init, steps_of_two.update)


@functools.cache
def case(family: str, mask: str) -> Any:
    model, variables = MODELS[family], variables_of(family)
    if family == "vit":  # Its blocks are numbered through all stages.
        mask = mask.replace("stage2/block1", "stage2/block2")
    if mask.startswith("lora:"):  # B is not zero here, or A would not move at first.
        attached = Adapters(int(mask[5:]), 8.0).attached(variables["params"], 0)
        drawn = {k: x + 0.1 if k[-1] == B else x for k, x in leaves_of(attached).items()}
        variables = {**variables, "params": unflatten(drawn)}
    labels = label_tree(parse(mask, model.units()), variables["params"])
    cut = find_cut(labels, model.units())
    trains, live = trainable(labels), within(cut.stats_units)
    frozen = {
        "params": prune(variables["params"], lambda leaf: not trains(leaf)),
        "batch_stats": prune(variables["batch_stats"], lambda leaf: not live(leaf)),
    }
    params = prune(variables["params"], trains)
    return model, labels, cut, params, prune(variables["batch_stats"], live), frozen


def batches(
    count: int, dtype: str = "float32", size: int = SIZE, batch: int = BATCH
) -> list[tuple[jax.Array, jax.Array]]:
    rng = np.random.default_rng(1)
    return [
        (
            jnp.asarray(rng.normal(size=(batch, size, size, 3)), dtype),
            jnp.asarray(rng.integers(0, CLASSES, batch), jnp.int32),
        )
        for _ in range(count)
    ]


def paths(tree: ParamTree) -> set[str]:
    return {"/".join(path) for path in leaf_paths(tree)}


def arranged(family: str, mask: str) -> tuple[Any, Any]:
    """Optimizer, and the state that it begins with."""
    # Every mask meets every optimizer, in one family or another.
    turn = MASKS.index(mask) + list(MODELS).index(family)
    _, labels, _, params, stats, _ = case(family, mask)
    tx = optimizer(labels, WRAPPERS[turn % len(WRAPPERS)])

    def start() -> Any:
        return init_state(jax.tree.map(jnp.array, params), jax.tree.map(jnp.array, stats), tx)

    return tx, start


@pytest.mark.parametrize(
    ("family", "mask"),
    [(family, mask) for family in MODELS for mask in MASKS if mask not in WITHOUT.get(family, ())],
)
def test_only_what_trains_has_a_state(family: str, mask: str):
    _, _, _, params, stats, frozen = case(family, mask)
    state = jax.eval_shape(arranged(family, mask)[1])
    # No optimizer slot but for trainable leaves: scalars are counts, arrays have their shapes.
    slots = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    shapes = [leaf.shape for leaf in jax.tree.leaves(params)]
    assert len(slots) % len(shapes) == 0
    assert sorted(s.shape for s in slots) == sorted(shapes * (len(slots) // len(shapes)))
    assert paths(state.params) == paths(params)
    assert paths(state.batch_stats) == paths(stats)
    assert paths(state.params).isdisjoint(paths(frozen["params"]))
    assert paths(state.batch_stats).isdisjoint(paths(frozen["batch_stats"]))


@pytest.mark.parametrize(
    ("family", "mask"),
    [
        # All masks of the family that compiles fastest. Of each other one all leaves, a frozen
        # prefix, and frozen leaves among or after those that train: compiling is what costs.
        *(("densenet", mask) for mask in MASKS),
        *((family, "full") for family in MODELS if family != "densenet"),
        ("resnet", "from:stage2/block1"),
        ("resnet", "norm_only"),
        ("efficientnet_lite", "last_stages:2"),
        ("efficientnet_lite", "rules:stage2/.*=x0.5;head/.*=train;.*=frozen"),
        ("vgg", "last_stage"),
        ("vgg", "bias_only"),
        ("alexnet", "head_only"),
        ("alexnet", "bias_only"),
        ("squeezenet", "last_stages:2"),
        ("squeezenet", "first_stages:1"),
        ("inception", "last_stage"),
        ("inception", "norm_only"),
        ("mobilenet", "from:stage2/block1"),
        ("mobilenet", "first_stages:1"),
        ("convnext", "last_stage"),
        ("convnext", "norm_only"),
        ("vit", "last_stage"),
        ("vit", "lora:4"),
    ],
)
def test_a_mask_governs_everything(family: str, mask: str):
    model, _, cut, params, stats, frozen = case(family, mask)
    tx, start = arranged(family, mask)
    # Deep backward passes take XLA's convolutions of bfloat16 seconds.
    dtype = "bfloat16" if mask.startswith(("last", "from")) else "float32"
    state = start()
    step = TrainStep(model, tx, None, cut.train_units, cut.stats_units)
    compiled = train_step._cache_size()
    # An odd number of updates, also of two batches each: Lion's steps of one size cancel in pairs.
    for x, y in batches(3, dtype, SIZES.get(family, SIZE)):
        state, metrics = train_step(state, Constants(**frozen), Batch(x, y), step=step)
    assert train_step._cache_size() == compiled + 1
    assert np.isfinite(float(metrics.loss))

    # What trains has moved, all of it and nothing else.
    assert paths(state.params) == paths(params)
    assert paths(state.batch_stats) == paths(stats)
    for path, moved in jax.tree.leaves_with_path(state.params):
        original = functools.reduce(lambda tree, key: tree[key.key], path, params)
        assert not np.array_equal(moved, original), jax.tree_util.keystr(path)
        assert moved.dtype == jnp.float32
    for path, moved in jax.tree.leaves_with_path(state.batch_stats):
        original = functools.reduce(lambda tree, key: tree[key.key], path, stats)
        assert not np.array_equal(moved, original), jax.tree_util.keystr(path)
        assert moved.dtype == jnp.float32


def test_what_is_frozen_keeps_its_bits_through_the_trainer(
    monkeypatch: pytest.MonkeyPatch,
):
    """Params and running averages, as the trainer gives them back from the device."""
    family, mask, trained = "resnet", "first_stages:1", ("stem/", "stage1/", "head/")
    # Compiling the evaluation would take as long as all the rest.
    scores = {"loss": 0.0, "accuracy": 0.0}
    monkeypatch.setattr(Trainer, "evaluate", lambda _: (scores, None))
    model, variables = MODELS[family], variables_of(family)
    options = TrainConfig(mask=mask, batch_size=BATCH, optimizer="adamw", weight_decay=0.1)
    recipe = Recipe(Rates(1e-2), Schedule(warmup=0.1), weight_decay=0.1)
    plans = plan_phases(
        [(Phase(1, mask), recipe)],
        variables["params"],
        model.units(),
        bn="batch",
        translate=lambda name: name,
    )
    rng = np.random.default_rng(2)
    images = rng.integers(0, 256, (3 * BATCH, SIZE, SIZE, 3), np.uint8)
    labels = rng.integers(0, CLASSES, len(images)).astype(np.int32)
    data = ArraySplit("contract", images, labels, [str(i) for i in range(len(images))])
    dataset = Dataset("contract", tuple("abc"), data, data, None, (), "")
    inputs = InputPlan(None, Prepare(SIZE, Preprocessing(size=SIZE), "bfloat16"))
    setup = Setup(Config(train=options), dataset, model, variables, plans, inputs, {}, {})
    photos = {"train": Images(data, None, hold=True)}
    of_images = dataclasses.replace(PhaseInputs.of_images(model, inputs), examples=photos)
    trainer = Trainer(setup, plans[0], of_images, variables)
    trainer.epoch(1)
    after = jax.device_get(trainer.variables())
    assert after.keys() == variables.keys()
    for path in leaf_paths(variables):
        same = lookup(after, path).tobytes() == lookup(variables, path).tobytes()
        assert same != "/".join(path[1:]).startswith(trained), path


@pytest.mark.parametrize(
    ("family", "mask"),
    [
        *((family, "last_stage") for family in MODELS),
        ("densenet", "norm_only"),
        ("mobilenet", "norm_only"),
    ],
)
def test_the_update_is_plain_optax_on_the_trainable_leaves(family: str, mask: str):
    model, labels, cut, params, stats, frozen = case(family, mask)
    # Momentum and decay as of SGD: its update is linear in the gradient, so rounding stays
    # rounding, where Adam's first step would turn the sign of a noisy zero into a whole step.
    groups = sorted(set(jax.tree.leaves(labels)) - {FROZEN})
    sgd = {group: optimizers.transform("sgd", 1e-2, 0.1) for group in groups}
    tx = optax.chain(optax.clip_by_global_norm(0.05), optimizers.build(labels, sgd))
    plain = optax.chain(
        optax.clip_by_global_norm(0.05),
        optax.add_decayed_weights(0.1, lambda tree: jax.tree.map(lambda leaf: leaf.ndim > 1, tree)),
        optax.sgd(1e-2, momentum=0.9, nesterov=True),
    )
    # More pixels and images than elsewhere: statistics over four values amplify rounding.
    (x, y) = batches(1, size=96, batch=8)[0]
    state = init_state(jax.tree.map(jnp.array, params), jax.tree.map(jnp.array, stats), tx)
    rng = jax.random.fold_in(state.rng, 0)

    # As constants of the program, what is frozen would take long to compile.
    @jax.jit
    def reference(
        params: ParamTree, stats: ParamTree, frozen: dict[str, ParamTree]
    ) -> tuple[ParamTree, jax.Array]:
        def loss(params: ParamTree) -> jax.Array:
            logits, _ = model.apply(
                {
                    "params": merge(params, frozen["params"]),
                    "batch_stats": merge(stats, frozen["batch_stats"]),
                },
                x,
                train=cut.train_units,
                mutable=["batch_stats"],
                rngs={"dropout": rng},
            )
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        grads = jax.grad(loss)(params)
        updates, _ = plain.update(grads, plain.init(params), params)
        return optax.apply_updates(params, updates), optax.tree.norm(grads)

    expected, norm = reference(params, stats, frozen)
    assert float(norm) > 0.05, "clipping must act for this test to mean anything"
    step = TrainStep(model, tx, None, cut.train_units, cut.stats_units)
    state, _ = train_step(state, Constants(**frozen), Batch(x, y), step=step)
    for (path, got), want, start in zip(
        jax.tree.leaves_with_path(state.params),
        jax.tree.leaves(expected),
        jax.tree.leaves(params),
        strict=True,
    ):
        step = np.linalg.norm(np.asarray(want) - np.asarray(start))
        # No decay moves biases and scales, and a bias before a normalization has no gradient: what
        # is left there is rounding. Kernels always move.
        still = 1e-6 * np.linalg.norm(np.asarray(start))
        if step < still:
            assert path[-1].key != "kernel", jax.tree_util.keystr(path)
            assert np.linalg.norm(np.asarray(got) - np.asarray(start)) < still
            continue
        # By norm: where a normalized value lies on ReLU's kink, two compilations of one sum may
        # fall on different sides of it, and a channel or two get another gradient.
        apart = np.linalg.norm(np.asarray(got) - np.asarray(want))
        assert apart < 0.05 * step, jax.tree_util.keystr(path)


@pytest.mark.usefixtures("xla_only")
@pytest.mark.parametrize("family", MODELS)
def test_frozen_backward_is_not_computed(family: str):
    model, labels, cut, params, stats, frozen = case(family, "head_only")
    tx = optimizer(labels, "adamw, clipped")
    x, y = batches(1, size=SIZES.get(family, SIZE))[0]
    state = init_state(params, stats, tx)

    def flops(state: Any, frozen: ParamTree, tx: Any) -> float:
        step = TrainStep(model, tx, None, cut.train_units, cut.stats_units)
        lowered = train_step.lower(state, Constants(**frozen), Batch(x, y), step=step)
        return lowered.cost_analysis()["flops"]

    once = forward.lower(variables_of(family), x, model=model)
    forward_flops = once.cost_analysis()["flops"]
    masked = flops(state, frozen, tx)
    # The other arm: the same mask for the optimizer, but every leaf is differentiated.
    whole = {
        "params": merge(params, frozen["params"]),
        "batch_stats": merge(stats, frozen["batch_stats"]),
    }
    everything = optax.chain(
        optax.clip_by_global_norm(0.05), optimizers.build(labels, _groups(labels))
    )
    other = flops(
        init_state(whole["params"], stats, everything),
        {"params": {}, "batch_stats": frozen["batch_stats"]},
        everything,
    )
    assert masked < 1.1 * forward_flops
    assert other > 1.8 * masked


@pytest.mark.usefixtures("xla_only")
@pytest.mark.parametrize("family", ["resnet", "densenet"])
def test_a_frozen_prefix_has_no_backward(family: str):
    """The same for `last_stage`, by the operations of what is traced, not compiled."""
    model, labels, cut, params, stats, frozen = case(family, "last_stage")
    # Plain steps over larger images: the optimizer's own operations hardly count.
    x, y = batches(1, size=64)[0]
    groups = sorted(set(jax.tree.leaves(labels)) - {FROZEN})
    tx = optimizers.build(labels, {group: optax.sgd(1e-2) for group in groups})
    state = init_state(params, stats, tx)

    def flops(function: Any, *arguments: Any, **static: Any) -> float:
        return function.lower(*arguments, **static).cost_analysis()["flops"]

    step, batch = TrainStep(model, tx, None, cut.train_units, cut.stats_units), Batch(x, y)
    masked = flops(train_step, state, Constants(**frozen), batch, step=step)
    features = jax.eval_shape(
        functools.partial(forward, model=model, stop=cut.unit), variables_of(family), x
    )
    once = flops(forward, variables_of(family), x, model=model)
    suffix = flops(forward, variables_of(family), features, model=model, start=cut.unit)
    # The other arm differentiates every leaf; clipping by the norm of all needs it.
    step = dataclasses.replace(step, tx=optax.chain(optax.clip_by_global_norm(0.05), tx))
    whole = init_state(merge(params, frozen["params"]), stats, step.tx)
    others = Constants({}, frozen["batch_stats"])
    other = flops(train_step, whole, others, batch, step=step)
    assert masked < 1.1 * (once + 2 * suffix)
    assert other > 1.1 * (once + 2 * suffix)


def _groups(labels: ParamTree) -> dict[str, optax.GradientTransformation]:
    groups = sorted(set(jax.tree.leaves(labels)) - {FROZEN})
    return {group: optimizers.transform("adamw", 1e-2, 0.1) for group in groups}


def test_members_are_of_their_families():
    kinds = {family: type(models.get(name).backbone) for family, name in FAMILIES.items()}
    backbones: Any = {family: model.backbone for family, model in MODELS.items()}
    whole = {family: getattr(each, "backbone", each) for family, each in backbones.items()}
    assert {family: type(each) for family, each in whole.items()} == kinds


def test_an_auxiliary_head_adds_two_fifths_of_its_loss_and_is_no_result():
    size = 299
    model = ImageClassifier(InceptionV3(depths=(3, 1, 1), aux_classes=CLASSES), None, CLASSES)
    model = model.clone(head=HeadSpec())
    variables = random_variables(model, size)
    assert set(variables) == {"params", "batch_stats"}
    cases = {
        mask: label_tree(parse(mask, model.units()), variables["params"])
        for mask in ("rules:aux/.*=train;head/.*=train;.*=frozen", "last_stage")
    }
    labels = cases["rules:aux/.*=train;head/.*=train;.*=frozen"]
    assert "aux" not in find_cut(cases["last_stage"], model.units()).train_units
    cut = find_cut(labels, model.units())
    assert (cut.unit, cut.train_units) == ("aux", {"aux", "head"})
    trains, live = trainable(labels), within(cut.stats_units)
    params = prune(variables["params"], trains)
    stats = prune(variables["batch_stats"], live)
    frozen = {
        "params": prune(variables["params"], lambda leaf: not trains(leaf)),
        "batch_stats": prune(variables["batch_stats"], lambda leaf: not live(leaf)),
    }
    rng = np.random.default_rng(3)
    x = jnp.asarray(np.maximum(rng.normal(size=(4, 17, 17, 768)), 0), jnp.float32)
    y = jnp.asarray([0, 1, 2, 1], jnp.int32)
    tx = optimizers.build(
        labels, {group: optax.sgd(1.0) for group in set(jax.tree.leaves(labels)) - {FROZEN}}
    )
    state = init_state(jax.tree.map(jnp.array, params), jax.tree.map(jnp.array, stats), tx)
    step = TrainStep(model, tx, "aux", cut.train_units, cut.stats_units)
    state, _ = train_step(state, Constants(**frozen), Batch(x, y), step=step)
    _, beside = model.apply(
        variables,
        x,
        start="aux",
        stop="stage3",
        train=frozenset(["aux"]),
        mutable=["batch_stats", "auxiliary"],
    )
    (logits,) = beside["auxiliary"]["aux"]["output"]
    gradient = (jax.nn.softmax(logits) - jax.nn.one_hot(y, CLASSES)).mean(0)
    moved = state.params["aux"]["logits"]["bias"] - params["aux"]["logits"]["bias"]
    np.testing.assert_allclose(moved, -0.4 * gradient, rtol=0, atol=1e-6)
    assert float(jnp.abs(gradient).max()) > 1e-2
