"""What jtl knows of a backbone: its configuration, published figures, preprocessing, weights."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from jtl.models.chain import Backbone
    from jtl.models.heads import HeadSpec

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
        build: Makes its configuration for PyTorch's conventions.
        published_params: Params with the 1000-class head, without batch statistics, as
            torchvision's model pages or timm's results tables state them.
        default_weights: As in `--weights`: a weight source of `jtl.weights`.
        preprocessing: Of `default_weights`, for sources that do not state their own.
        published_biases: Of the published params, how many are biases of the backbone's layers,
            other than of batch normalizations; with all others that are in no kernel.
    """

    name: str
    family: str
    build: Callable[[], Backbone]
    published_params: int
    default_weights: str
    preprocessing: Preprocessing
    published_biases: int = 0

    @functools.cached_property
    def backbone(self) -> Backbone:
        return self.build()

    @property
    def classifier(self) -> HeadSpec:
        """The head that published weights come with."""
        from jtl.models.heads import HeadSpec

        return HeadSpec(relu_logits=getattr(self.backbone, "relu_logits", False))
