"""How long backbones take for an image: on one machine, by which any choice begins.

Of `python benchmarks/backbones.py`, whose results say which machine it was."""

from __future__ import annotations

REFERENCE = "efficientnet_lite0"
"""The default backbone."""
COST = {
    "resnet18": 1.70,
    "resnet34": 2.71,
    "resnet50": 3.59,
    "resnet101": 5.93,
    "resnet152": 8.66,
    "wide_resnet50_2": 8.56,
    "wide_resnet101_2": 16.60,
    "resnext50_32x4d": 3.75,
    "resnext101_32x8d": 13.23,
    "densenet121": 2.68,
    "densenet161": 7.09,
    "densenet169": 3.31,
    "densenet201": 4.76,
    "vgg11": 6.50,
    "vgg11_bn": 10.66,
    "vgg13": 15.30,
    "vgg13_bn": 15.50,
    "vgg16": 20.78,
    "vgg16_bn": 22.88,
    "vgg19": 26.21,
    "vgg19_bn": 29.63,
    "alexnet": 1.05,
    "squeezenet1_0": 2.08,
    "squeezenet1_1": 0.57,
    "inception_v3": 8.66,
    "mobilenet_v2": 0.92,
    "mobilenet_v3_large": 0.62,
    "mobilenet_v3_small": 0.14,
    "efficientnet_lite0": 1.00,
    "efficientnet_lite1": 1.67,
    "efficientnet_lite2": 2.19,
    "efficientnet_b0": 2.38,
    "efficientnet_b1": 3.26,
    "efficientnet_b2": 2.73,
    "efficientnet_b3": 11.44,
    "efficientnet_b4": 11.74,
    "efficientnet_v2_b0": 1.33,
    "efficientnet_v2_b1": 1.39,
    "efficientnet_v2_b2": 2.67,
    "efficientnet_v2_b3": 3.91,
    "efficientnet_v2_s": 9.54,
    "regnet_y_400mf": 0.90,
    "regnet_y_800mf": 2.36,
    "regnety_008": 1.68,
    "regnet_y_1_6gf": 3.16,
    "regnet_y_3_2gf": 5.77,
    "convnext_nano": 4.64,
    "convnext_tiny": 7.42,
}
"""The time of an image over that of `REFERENCE`, float32, at the default weights' size."""
