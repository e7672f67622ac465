"""The chain of units: names, counts, running parts, batch statistics, values."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.errors import ScopeParamNotFoundError, ScopeParamShapeError

from jtl import models
from jtl.common.errors import UserError
from jtl.common.platforms import everywhere
from jtl.common.trees import lookup
from jtl.models import HeadSpec, ImageClassifier, NormSpec
from jtl.models.families.alexnet import AlexNet
from jtl.models.families.bit import BiT
from jtl.models.families.convnext import ConvNeXt
from jtl.models.families.densenet import DenseNet
from jtl.models.families.efficientnet import EfficientNet, EfficientNetLite
from jtl.models.families.efficientnet_v2 import EfficientNetV2
from jtl.models.families.hgnet import HGNetV2
from jtl.models.families.inception import InceptionV3
from jtl.models.families.mnasnet import MnasNet
from jtl.models.families.mobilenet import MobileNetV2
from jtl.models.families.mobilenet_v3 import MobileNetV3
from jtl.models.families.regnet import RegNetY
from jtl.models.families.resnet import ResNet
from jtl.models.families.squeezenet import SqueezeNet
from jtl.models.families.vgg import VGG
from jtl.models.families.vit import ViT
from jtl.models.layers import blocks
from support import tiny
from support.networks import random_variables
from weights_convert.convert.rules import leaf_paths

# A model of each family, the first of the registry.
FAMILIES = {models.get(name).family: name for name in reversed(models.names())}
SMALL = ("resnet18", "densenet121", "efficientnet_lite0")
each_small = pytest.mark.parametrize("name", SMALL)
# A shallow member of each family, where a test needs many runs.
SHALLOW = (
    ImageClassifier(ResNet("bottleneck", (1, 2, 2, 1)), num_classes=5),
    ImageClassifier(DenseNet((2, 1, 2, 1), growth=8), num_classes=5),
    ImageClassifier(EfficientNetLite(depth=0.5), num_classes=5),
)
# The rest of them, for what costs little.
OTHERS = (
    ImageClassifier(VGG((1, 1, 2, 1, 1), True, (8, 8)), num_classes=5),
    ImageClassifier(AlexNet((8, 8)), num_classes=5),
    ImageClassifier(SqueezeNet((16, 3), (2, 1, 1)), HeadSpec(relu_logits=True), num_classes=5),
    ImageClassifier(InceptionV3(depths=(1, 1, 1)), num_classes=5),
    ImageClassifier(MobileNetV2(0.25, (1, 2, 1, 0, 0, 0, 0)), num_classes=5),
    ImageClassifier(MobileNetV3("small", (1, 0, 1, 0, 0)), num_classes=5),
    ImageClassifier(EfficientNet(0.25, (1, 0, 1, 0, 0, 0, 0)), num_classes=5),
    ImageClassifier(EfficientNetV2("base", 0.25, 0.3, stages=3), num_classes=5),
    ImageClassifier(RegNetY(((1, 8), (1, 16), (1, 24)), 8), num_classes=5),
    ImageClassifier(ConvNeXt((1, 1, 2, 1), (8, 8, 16, 16)), num_classes=5),
    ImageClassifier(ViT(64, patch=8, depth=4, registers=1), num_classes=5),
    ImageClassifier(MnasNet("small", stages=3), num_classes=5),
    ImageClassifier(
        HGNetV2((8, 8), ((8, 16, 1), (8, 24, 1), (8, 24, 1)), 2, True, 16), num_classes=5
    ),
    ImageClassifier(ResNet("basic", (1, 1, 1), form_d=True), num_classes=5),
    ImageClassifier(BiT((1, 1, 1)), num_classes=5),
)
each_family = pytest.mark.parametrize(
    "model", SHALLOW, ids=lambda model: type(model.backbone).__name__
)


def random_images(count: int = 2, height: int = 32, width: int = 32) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((count, height, width, 3)).astype(np.float32)


def count(tree: object) -> int:
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", models.names())
def test_published_param_counts(name):
    shapes = models.variable_shapes(models.create(name, head=models.get(name).classifier))
    assert set(shapes) == {"params", "batch_stats"}
    assert count(shapes["params"]) == models.get(name).published_params


@pytest.mark.parametrize(
    ("name", "leaves"),
    [
        (
            "resnet50",
            {
                "params/stem/conv1/kernel": (7, 7, 3, 64),
                "params/stage1/block1/conv1/kernel": (1, 1, 64, 64),
                "params/stage1/block1/down/conv/kernel": (1, 1, 64, 256),
                "params/stage4/block3/conv2/kernel": (3, 3, 512, 512),
                "batch_stats/stage3/block6/bn3/mean": (1024,),
                "params/head/logits/kernel": (2048, 1000),
            },
        ),
        (
            "densenet121",
            {
                "params/stem/conv/kernel": (7, 7, 3, 64),
                "params/stage1/block1/conv1/kernel": (1, 1, 64, 128),
                "params/stage3/block24/conv2/kernel": (3, 3, 128, 32),
                "params/stage3/transition/conv/kernel": (1, 1, 1024, 512),
                "batch_stats/final/bn/var": (1024,),
                "params/head/logits/bias": (1000,),
            },
        ),
        (
            "vgg16_bn",
            {
                "params/stage1/block1/conv/kernel": (3, 3, 3, 64),
                "batch_stats/stage5/block3/bn/var": (512,),
                "params/fc1/conv/kernel": (7, 7, 512, 4096),
                "params/fc2/conv/bias": (4096,),
            },
        ),
        (
            "inception_v3",
            {
                "params/stem/conv5/conv/kernel": (3, 3, 80, 192),
                "params/stage2/block3/branch7x7dbl_4/conv/kernel": (7, 1, 160, 160),
                "batch_stats/stage3/block3/branch3x3_2b/bn/mean": (384,),
            },
        ),
        (
            "squeezenet1_1",
            {
                "params/stage3/block4/expand3x3/kernel": (3, 3, 64, 256),
                "params/head/logits/kernel": (512, 1000),
            },
        ),
        (
            "mobilenet_v2",
            {
                "params/stage3/block3/conv_pw/kernel": (1, 1, 32, 192),
                "params/stage6/block1/conv_dw/kernel": (3, 3, 1, 576),
                "params/final/conv/kernel": (1, 1, 320, 1280),
            },
        ),
        (
            "mobilenet_v3_large",
            {
                "params/stage1/block1/conv_pw/kernel": (1, 1, 16, 16),
                "params/stage4/block2/conv_dw/kernel": (3, 3, 1, 200),
                "params/stage3/block1/se/conv_reduce/kernel": (1, 1, 72, 24),
                "params/stage5/block2/se/conv_expand/bias": (672,),
                "batch_stats/final/bn/mean": (960,),
                "params/fc/conv/bias": (1280,),
            },
        ),
        (
            "efficientnet_lite0",
            {
                "params/stem/conv/kernel": (3, 3, 3, 32),
                "params/stage1/block1/conv_dw/kernel": (3, 3, 1, 32),
                "params/stage3/block2/conv_dw/kernel": (5, 5, 1, 240),
                "params/stage7/block1/conv_pwl/kernel": (1, 1, 1152, 320),
                "batch_stats/stage2/block1/bn3/mean": (24,),
                "params/final/conv/kernel": (1, 1, 320, 1280),
            },
        ),
        (
            "convnext_tiny",
            {
                "params/stem/norm/scale": (96,),
                "params/stage1/block1/conv_dw/kernel": (7, 7, 1, 96),
                "params/stage3/block9/fc1/kernel": (1, 1, 384, 1536),
                "params/stage3/downsample/conv/kernel": (2, 2, 192, 384),
                "params/stage4/block3/layer_scale/gamma": (768,),
                "params/final/norm/bias": (768,),
            },
        ),
        (
            "vit_small_patch14",
            {
                "params/stem/conv/kernel": (14, 14, 3, 384),
                "params/stem/pos_embed": (1, 1370, 384),
                "params/stem/cls_token": (1, 1, 384),
                "params/stage1/block1/qkv/kernel": (1, 1, 384, 1152),
                "params/stage3/block9/layer_scale2/gamma": (384,),
                "params/stage4/block12/fc2/kernel": (1, 1, 1536, 384),
                "params/final/norm/scale": (384,),
            },
        ),
        (
            "efficientnet_b3",
            {
                "params/stem/conv/kernel": (3, 3, 3, 40),
                "params/stage1/block2/se/conv_reduce/kernel": (1, 1, 24, 6),
                "params/stage5/block1/conv_dw/kernel": (5, 5, 1, 576),
                "params/stage6/block6/se/conv_expand/bias": (1392,),
                "params/final/conv/kernel": (1, 1, 384, 1536),
            },
        ),
        (
            "efficientnet_v2_b3",
            {
                # Rounded to the nearest multiples of 8, though 16 is less than 0.9 times 19.2.
                "params/stage1/block2/conv/kernel": (3, 3, 16, 16),
                "params/stage2/block1/conv_exp/kernel": (3, 3, 16, 64),
                "params/stage3/block3/conv_pwl/kernel": (1, 1, 224, 56),
                "params/stage6/block12/se/conv_reduce/kernel": (1, 1, 1392, 58),
            },
        ),
        (
            "semnasnet_100",
            {
                "params/stage1/block1/conv_dw/kernel": (3, 3, 1, 32),
                "params/stage3/block1/se/conv_reduce/kernel": (1, 1, 72, 6),
                "params/final/conv/kernel": (1, 1, 320, 1280),
            },
        ),
        (
            "hgnetv2_b1",
            {
                "params/stem/layer2a/conv/kernel": (2, 2, 24, 12),
                "params/stem/layer3/conv/kernel": (3, 3, 48, 24),
                "params/stage2/downsample/conv/kernel": (3, 3, 1, 64),
                "params/stage3/block2/layer1/conv_pw/conv/kernel": (1, 1, 512, 96),
                "params/stage3/block2/squeeze/conv/kernel": (1, 1, 800, 256),
                "params/stage4/block1/excite/affine/factor": (1,),
                "params/fc/conv/kernel": (1, 1, 1024, 2048),
            },
        ),
        (
            "resnetv2_50x1_bit",
            {
                "params/stem/conv/kernel": (7, 7, 3, 64),
                "params/stage2/block1/norm1/scale": (256,),
                "params/stage3/block1/down/conv/kernel": (1, 1, 512, 1024),
                "params/final/norm/bias": (2048,),
            },
        ),
        (
            "resnet50d",
            {
                "params/stem/conv3/kernel": (3, 3, 32, 64),
                "params/stage2/block1/down/conv/kernel": (1, 1, 256, 512),
            },
        ),
        (
            "regnet_y_800mf",
            {
                "params/stem/conv/kernel": (3, 3, 3, 32),
                "params/stage2/block1/se/conv_reduce/kernel": (1, 1, 144, 16),
                "params/stage3/block8/conv2/kernel": (3, 3, 16, 320),
                "params/stage4/block1/down/conv/kernel": (1, 1, 320, 784),
            },
        ),
    ],
)
def test_paths_of_leaves(name, leaves):
    shapes = models.variable_shapes(models.create(name))
    for path, shape in leaves.items():
        assert lookup(shapes, tuple(path.split("/"))).shape == shape


@pytest.mark.slow
@pytest.mark.parametrize("size", [75, 96])
@pytest.mark.parametrize("name", FAMILIES.values())
def test_shapes_without_a_program_are_those_of_the_program(name, size):
    model = models.create(name, head=None)
    key, images = jax.random.key(0), jnp.zeros((1, size, size, 3))
    shapes = jax.make_jaxpr(model.init_with_output, return_shape=True)
    with everywhere():
        traced, (features, variables) = shapes(key, images)
    assert "conv_general_dilated" in str(traced)
    found = models.variable_shapes(model, size), models.feature_shape(model, size)
    assert found == ({"batch_stats": {}, **variables}, features)
    stop = model.units()[3].path
    part = jax.eval_shape(lambda v, x: model.apply(v, x, stop=stop), variables, images)
    assert models.output_shape(model, variables, images, stop) == part
    assert part != features


@pytest.mark.parametrize("name", models.names())
def test_every_module_has_a_chosen_name(name):
    # Linen numbers what has no name: `Conv_0`.
    paths = leaf_paths(models.variable_shapes(models.create(name)))
    assert not [path for path in paths if any(part[0].isupper() for part in path)]


@pytest.mark.slow
@each_family
def test_every_boundary_splits_without_a_trace(model):
    variables, images = random_variables(model), random_images()
    # Operation by operation, so that equal means bit for bit: compiled programs may fuse, and
    # so round, the two parts differently from the whole.
    with jax.disable_jit():
        whole = model.apply(variables, images)
        assert float(jnp.std(whole)) > 1e-3
        for unit in model.units():
            before = model.apply(variables, images, stop=unit.path)
            after = model.apply(variables, before, start=unit.path)
            np.testing.assert_array_equal(after, whole, err_msg=unit.path)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0"])
def test_every_unit_runs_alone(name):
    model = models.create(name, num_classes=5)
    variables, images = random_variables(model), random_images()
    paths = [unit.path for unit in model.units()]
    with jax.disable_jit():
        whole, state = model.apply(
            variables,
            images,
            capture_intermediates=lambda module, _: "/".join(module.path) in paths,
        )
        x = images
        for path, after in zip(paths, [*paths[1:], None], strict=True):
            x = model.apply(variables, x, start=path, stop=after)
            (inside,) = lookup(state["intermediates"], (*path.split("/"), "__call__"))
            np.testing.assert_array_equal(x, inside, err_msg=path)
    np.testing.assert_array_equal(x, whole)


@pytest.mark.slow
@pytest.mark.parametrize("model", SHALLOW + OTHERS, ids=lambda model: type(model.backbone).__name__)
def test_stages_are_boundaries(model):
    size = max(32, getattr(model.backbone, "min_size", 1))
    variables, images = random_variables(model), random_images(2, size, size)
    features = jax.jit(functools.partial(model.apply, stop="stage3"))(variables, images)
    begin = next(unit.path for unit in model.units() if unit.stage == "stage3")
    first = functools.partial(model.apply, stop=begin)
    assert features.shape == jax.eval_shape(first, variables, images).shape
    # A part needs only its own variables.
    own = {
        collection: {k: v for k, v in tree.items() if k not in ("stem", "stage1", "stage2")}
        for collection, tree in variables.items()
    }
    logits = jax.jit(functools.partial(model.apply, start="stage3"))(own, features)
    whole = jax.jit(model.apply)(variables, images)
    np.testing.assert_allclose(logits, whole, rtol=0, atol=1e-6 * float(jnp.abs(whole).max()))


def test_an_empty_part_is_the_identity():
    model = models.create("resnet18")
    features = random_images()
    same = model.apply({}, features, start="stage2", stop="stage2/block1")
    np.testing.assert_array_equal(same, features)


def test_a_bare_backbone_ends_with_its_feature_map():
    bare = models.create("resnet18", head=None)
    assert bare.units()[-1].path == "stage4/block2"
    variables = models.variable_shapes(bare)
    assert "head" not in variables["params"]
    out = jax.eval_shape(bare.apply, variables, random_images(2, 64, 96))
    assert out.shape == (2, 2, 3, 512)


@pytest.mark.parametrize("end", ["start", "stop"])
@pytest.mark.parametrize(
    ("wrong", "right"),
    [("stage2/blok1", "stage2/block1"), ("stage1/block11", "stage1/block1"), ("haed", "head")],
)
def test_unknown_units_name_the_nearest(end, wrong, right):
    model = models.create("resnet18")
    with pytest.raises(UserError, match=f"no unit is called '{wrong}'.*Did you mean '{right}'"):
        jax.eval_shape(
            functools.partial(model.apply, **{end: wrong}),
            models.variable_shapes(model),
            random_images(),
        )


def test_a_prefix_of_a_name_is_no_unit():
    # `stage` and `stage1/block` begin names without being one.
    units = models.create("resnet18").units()
    for wrong in ("stage", "stage1/block", "stage1/"):
        with pytest.raises(UserError, match="no unit is called"):
            models.locate(units, wrong)
    assert [models.locate(units, n) for n in ("stem", "stage1", "stage1/block2", "head")] == [
        0,
        1,
        2,
        10,
    ]


def test_unknown_models_name_the_nearest():
    with pytest.raises(UserError, match=r"unknown model 'resnet5'.*Did you mean 'resnet50'\?"):
        models.create("resnet5")


@pytest.mark.slow
@each_family
def test_train_mode_updates_the_statistics_of_the_named_units_only(model):
    variables, images = random_variables(model), random_images()
    units = [unit.path for unit in model.units()]
    trained = {units[1], next(p for p in units if p.startswith("stage3")), units[-3]}

    @functools.partial(jax.jit, static_argnames="train")
    def statistics(variables, train):
        return model.apply(variables, images, train=train, mutable="batch_stats")[1]

    def changed(train):
        after = statistics(variables, train)["batch_stats"]
        return {
            "/".join(path[:-2])
            for path in leaf_paths(after)
            if not np.array_equal(lookup(after, path), lookup(variables["batch_stats"], path))
        }

    def owners(modules):
        return {next(u for u in units if f"{m}/".startswith(f"{u}/")) for m in modules}

    assert owners(changed(frozenset(trained))) == trained
    with_norms = {"/".join(p[:-2]) for p in leaf_paths(variables["batch_stats"])}
    assert changed(True) == with_norms
    assert changed(False) == set()


@pytest.mark.slow
def test_train_mode_by_names_equals_train_mode_by_flag():
    model = SHALLOW[0]
    variables, images = random_variables(model), random_images()
    run = jax.jit(functools.partial(model.apply, mutable="batch_stats"), static_argnames="train")
    by_name = run(variables, images, train=frozenset(unit.path for unit in model.units()))
    by_flag = run(variables, images, train=True)
    jax.tree.map(np.testing.assert_array_equal, by_flag, by_name)
    with pytest.raises(AssertionError):
        np.testing.assert_array_equal(by_flag[0], run(variables, images, train=False)[0])


def test_models_are_equal_by_value_and_compile_once():
    traced = []

    @functools.partial(jax.jit, static_argnums=0)
    def forward(model, variables, images):
        traced.append(model)
        return model.apply(variables, images, stop="stage1")

    first, second = (models.create("resnet18", num_classes=5) for _ in range(2))
    assert first is not second
    assert first == second
    assert hash(first) == hash(second)
    for model in (first, second):
        forward(model, random_variables(first), random_images())
    assert len(traced) == 1
    other = models.create("resnet18", num_classes=5, conventions={"norm": NormSpec(epsilon=1e-3)})
    assert other != first
    forward(other, random_variables(first), random_images())
    assert len(traced) == 2


@pytest.mark.slow
@each_small
@pytest.mark.parametrize(
    ("height", "width", "feature_map"), [(33, 47, (2, 2)), (65, 64, (3, 2)), (1, 1, (1, 1))]
)
def test_odd_sizes(name, height, width, feature_map):
    model = models.create(name, num_classes=5)
    height, width = (max(n, getattr(model.backbone, "min_size", 1)) for n in (height, width))
    variables = models.variable_shapes(model)
    images = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    out = jax.eval_shape(functools.partial(model.apply, stop="pool"), variables, images)
    if name == "densenet121":
        # Average pooling drops a last partial window, as in PyTorch.
        feature_map = {33: (1, 1), 65: (2, 2), 29: (1, 1)}[height]
    assert out.shape[1:3] == feature_map
    assert jax.eval_shape(model.apply, variables, images).shape == (1, 5)


def test_bfloat16_runs_in_bfloat16_and_gives_float32_logits():
    model = models.create("efficientnet_lite0", num_classes=5)
    variables = models.variable_shapes(model)
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.bfloat16)
    for stop in ("stage1", "stage5", "pool", "head"):
        part = functools.partial(model.apply, stop=stop)
        assert jax.eval_shape(part, variables, images).dtype == jnp.bfloat16
    assert jax.eval_shape(model.apply, variables, images).dtype == jnp.float32
    _, update = jax.eval_shape(
        functools.partial(model.apply, train=True, mutable="batch_stats"), variables, images
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(update)} == {jnp.dtype(jnp.float32)}


def test_a_new_head_predicts_uniformly():
    model = models.create("resnet18", num_classes=5)
    head = jax.jit(functools.partial(model.init, start="head"))(
        jax.random.key(0), jnp.ones((2, 512))
    )
    logits = model.apply(head, np.ones((2, 512), np.float32), start="head")
    np.testing.assert_array_equal(logits, np.zeros((2, 5), np.float32))


IMAGES = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)


def test_params_that_are_given_are_not_initialized_once_more(monkeypatch):
    """Tracing initializers takes as long as tracing a network, and nobody asks for them."""
    variables = tiny.MODEL.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))

    def refuse(*args: object) -> None:
        raise AssertionError("traced an initializer")

    monkeypatch.setattr(blocks, "conv_init", refuse)
    monkeypatch.setattr(blocks.nn.initializers, "zeros_init", lambda: refuse)
    monkeypatch.setattr(blocks.nn.initializers, "ones_init", lambda: refuse)
    logits = jax.eval_shape(functools.partial(tiny.MODEL.apply, stop="head"), variables, IMAGES)
    assert logits.shape == (2, 16)
    with pytest.raises(AssertionError, match="initializer"):
        jax.eval_shape(tiny.MODEL.init, jax.random.key(0), IMAGES)


def test_params_of_another_shape_are_refused():
    variables = tiny.MODEL.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    variables["params"]["stage1"]["block1"]["conv"]["kernel"] = jnp.zeros((3, 3, 5, 8))
    with pytest.raises(ScopeParamShapeError, match="stage1/block1/conv"):
        jax.eval_shape(tiny.MODEL.apply, variables, IMAGES)
    del variables["params"]["stage1"]["block1"]["conv"]["kernel"]
    with pytest.raises(ScopeParamNotFoundError, match="kernel"):
        jax.eval_shape(tiny.MODEL.apply, variables, IMAGES)
