"""Test-time augmentation: the average of what a classifier says of several versions of an image."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import get_args

import jax
import numpy as np

from jtl.common.errors import UserError
from jtl.config.run_options import TtaName
from jtl.data.input_plan import InputPlan
from jtl.data.preprocessing import Prepare
from jtl.runs import multilabel

_LEAST = 1e-12
"""The lowest probability whose logarithm is taken."""


@dataclasses.dataclass(frozen=True)
class Version:
    """One version of every image of a batch; a static argument of compiled programs.

    Attributes:
        prepare: From uint8 images to the backbone's input.
        flip: Whether it is the mirror image.
        corner: The first row and column of the square that is cut out; None for all of the image.
    """

    prepare: Prepare
    flip: bool = False
    corner: tuple[int, int] | None = None

    def __call__(self, images: jax.Array) -> jax.Array:
        """uint8 RGB [N, H, W, 3] -> normalized [N, size, size, 3]."""
        if self.corner is not None:
            (top, left), side = self.corner, self.prepare.size
            images = images[:, top : top + side, left : left + side]
        return self.prepare(images[:, :, ::-1] if self.flip else images)


def kinds(text: str | None) -> tuple[str, ...]:
    """The kinds that `--tta` names, such as `flip,crops`; none for None.

    Raises:
        UserError: There is no such kind.
    """
    if text is None:
        return ()
    if text not in get_args(TtaName):
        raise UserError(f"tta must be flip, crops or flip,crops, not {text!r}.")
    return tuple(text.split(","))


def versions(inputs: InputPlan, named: Sequence[str]) -> tuple[InputPlan, tuple[Version, ...]]:
    """How images are read, and the versions of each that are averaged.

    `flip` is the image and its mirror image. `crops` are the middle, as without it, and the four
    corners of the square around it, of which validation cuts the middle out.

    Args:
        inputs: How images become the network's input without.
        named: `flip`, `crops` or both.

    Raises:
        UserError: Images are taken whole, so that nothing can be cut out.
    """
    size = inputs.device.size
    corners: tuple[tuple[int, int] | None, ...] = (None,)
    if "crops" in named:
        host = inputs.host
        side = size if host is None else math.floor(host.size / host.crop_pct)
        if host is None or side == size or inputs.fit != "crop":
            raise UserError(
                "--tta crops: this classifier takes images whole, so there is nothing to cut out. "
                "Use --tta flip."
            )
        last, middle = side - size, round((side - size) / 2)
        corners = ((middle, middle), (0, 0), (0, last), (last, 0), (last, last))
        inputs = dataclasses.replace(
            inputs, host=dataclasses.replace(host, size=side, crop_pct=1.0)
        )
    flips = (False, True) if "flip" in named else (False,)
    each = tuple(Version(inputs.device, flip, corner) for corner in corners for flip in flips)
    return inputs, each


def averaged(
    logits: Sequence[np.ndarray], temperature: float, *, several: bool = False
) -> np.ndarray:
    """Logits of the average probabilities, at a temperature of 1.

    Args:
        logits: Of each version, float [N, num_classes].
        temperature: What they are divided by before they become probabilities.
        several: Whether images may have several classes.

    Returns:
        float32 [N, num_classes].
    """
    if several:
        mean = np.mean([multilabel.sigmoid(each).astype(np.float64) for each in logits], 0)
        mean = np.clip(mean, _LEAST, 1 - 1e-9)
        return (np.log(mean) - np.log1p(-mean)).astype(np.float32)
    shares = [jax.nn.softmax(each.astype(np.float32) / np.float32(temperature)) for each in logits]
    mean = np.mean([np.asarray(share, np.float64) for share in shares], 0)
    return np.log(np.maximum(mean, _LEAST)).astype(np.float32)
