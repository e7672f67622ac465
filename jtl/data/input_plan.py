"""How images become a network's input: which size, and whether host or device resizes them."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

from jtl.common.errors import UserError
from jtl.config.data import Fit
from jtl.data.decoding import BITS, HostTransform
from jtl.data.preprocessing import Prepare
from jtl.data.square_fit import fill_of
from jtl.models import Preprocessing

if TYPE_CHECKING:  # Who only predicts does without.
    from jtl.data.augment import Augmentation
    from jtl.data.sources.registry import Dataset

ENLARGE = 4
"""How many times small images are enlarged by default, up to the weights' own input size."""
SMALLEST_INPUT = 96
"""What images are enlarged to at the least; below, a backbone's last maps get too small."""
CROPPED_FROM = 1.25
"""How many times the input's size the images are that random crops are cut from. At scales from
0.35 on, a crop is then as large as the input on average, neither enlarged nor reduced."""


@dataclasses.dataclass(frozen=True)
class InputPlan:
    """How images become the backbone's input.

    Attributes:
        host: Resizing while decoding; None where all images share a small square size and
            are enlarged on the device.
        device: What the compiled step does with uint8 batches.
        augmentation: What a training step does instead; None for the same.
        views: How many draws of it every image has where the frozen prefix's outputs are kept,
            one after the other by epoch; 0 for another draw in every epoch, and nothing kept.
        bit_depth: How many of the 16 bits of images are used, where there are any.
        fit: What is done to images that are no squares, also where training had none.
    """

    host: HostTransform | None
    device: Prepare
    augmentation: Augmentation | None = None
    views: int = 0
    bit_depth: int = BITS
    fit: Fit = "crop"

    def host_for(
        self, native: tuple[int, int] | None, *, training: bool = False
    ) -> HostTransform | None:
        """The resizing while decoding for images of a split, which may not be training's.

        Where training saw small images whole, larger or mixed ones are taken whole as well.

        Args:
            native: The (height, width) that the split's images share, or None.
            training: Whether the images are augmented. Random crops are cut on the device from
                the square in the middle of an image, as large as its shorter side, of
                `CROPPED_FROM` times the input's size.
        """
        if self.host is not None:
            if training and self.augmentation is not None and self.augmentation.options.crops:
                side = math.ceil(self.host.size * CROPPED_FROM)
                return dataclasses.replace(self.host, size=side, crop_pct=1.0)
            return self.host
        # Repeated pixels fill the input only from sizes that divide it.
        step = native[0] if native is not None and self.device.method == "nearest" else 1
        small = native is not None and native[0] == native[1] <= self.device.size
        if small and self.device.size % step == 0:
            return None
        pre = self.device.preprocessing
        how: Any = {"fit": self.fit, "fill": fill_of(pre.mean)} if self.fit != "crop" else {}
        return HostTransform(self.device.size, 1.0, pre.interpolation, **how)

    def bytes_per_image(self, native: tuple[int, int] | None, *, training: bool = False) -> int:
        """Memory of one image as uint8 on its way to the device."""
        host = self.host_for(native, training=training)
        side = self.device.size if host is None else host.size
        height, width = native if host is None and native else (side, side)
        return height * width * 3


def plan_input(
    native: tuple[int, int] | None,
    image_size: int | None,
    preprocessing: Preprocessing,
    dtype: str = "float32",
    upsample: str | None = None,
    scaled_jpeg: bool = False,
    fit: Fit = "crop",
) -> InputPlan:
    """Chooses where images are resized.

    Images that share one square size no larger than the input travel as they are and are
    enlarged on the device, whole: a centre crop would cut what little they hold. All others
    get the field's evaluation preprocessing while they are decoded.

    Args:
        native: The (height, width) that all images share, or None.
        image_size: The input's height and width. None for the weights' own; for images that
            share a smaller square size, `ENLARGE` times theirs within `SMALLEST_INPUT` and
            the weights' own: more pixels cost time, and hold no more than the image had.
        preprocessing: Of the weights.
        dtype: Of the backbone's computation.
        upsample: As in `--upsample`; see `DataConfig.check`.
        scaled_jpeg: As of `HostTransform`.
        fit: As of `--fit`.

    Raises:
        UserError: Pixels cannot be repeated, as the images have no common square size.
    """
    square = native is not None and native[0] == native[1]
    side = native[0] if native is not None and square else None
    method = upsample
    if upsample is not None and upsample.startswith("nearest:"):
        if side is None:
            raise UserError(
                f"--upsample {upsample} repeats the pixels of images that share one square "
                "size, and these do not. Leave it out, or resize them first."
            )
        image_size, method = int(upsample.partition(":")[2]) * side, "nearest"
    if image_size is None:
        image_size = preprocessing.size
        if side is not None:
            image_size = min(image_size, max(ENLARGE * side, SMALLEST_INPUT))
    device = Prepare(image_size, preprocessing, dtype, method)
    if side is not None and side <= image_size:
        return InputPlan(None, device, fit=fit)
    host = host_transform(image_size, preprocessing, scaled_jpeg, fit)
    return InputPlan(host, device, fit=fit)


def host_transform(
    size: int, preprocessing: Preprocessing, scaled_jpeg: bool = False, fit: Fit = "crop"
) -> HostTransform:
    """How images are resized while they are decoded, as the weights expect, or whole."""
    how: Any = {"fit": fit, "fill": fill_of(preprocessing.mean)} if fit != "crop" else {}
    crop_pct, interpolation = preprocessing.crop_pct, preprocessing.interpolation
    return HostTransform(size, crop_pct, interpolation, scaled_jpeg, **how)


def common_size(dataset: Dataset) -> tuple[int, int] | None:
    """The (height, width) that the images of all splits share, or None."""
    splits = [s for s in (dataset.train, dataset.val, dataset.test) if s is not None]
    size = splits[0].native_size()
    for split in splits[1:]:
        if size is None:
            return None
        if split.native_size() != size:
            size = None
    return size
