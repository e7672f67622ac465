"""What is augmented, and how strongly."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

from jtl.common.errors import UserError

Preset = Literal["auto", "none", "crops", "light", "strong"]
Flip = Literal["none", "horizontal", "both"]
Policy = Literal["none", "trivial"]

LARGEST_HUE = 0.5
"""Half the colour circle; farther round comes back."""


def _check(flag: str, value: object, allowed: str, passes: bool) -> None:
    if not passes:
        raise UserError(f"{flag} must be {allowed}, not {value}.")


def _choice(kind: object) -> str:
    *first, last = get_args(kind)
    return f"{', '.join(first)} or {last}"


@dataclasses.dataclass(frozen=True)
class Augment:
    """Every option of the augmentation; compared by value, so that a compiled step can hold it.

    Attributes:
        crop_scale: The smallest share of an image's area that a random crop keeps, above 0; 1
            for no crop. See `geometric.crop_box`.
        flip: `horizontal` mirrors half of the images, `both` also turns half of them upside
            down. Text and digits should not be flipped.
        color_jitter: Strengths of (brightness, contrast, saturation, hue): factors are drawn
            from 1 - strength to 1 + strength, hue is turned by up to its strength, a share of
            the circle.
        policy: `trivial` applies one operation of TrivialAugment to each image.
        erasing: Probability that a rectangle of the image is blotted out.
        mixup: Both parameters of the Beta distribution that two images are mixed by; 0 for
            none.
        cutmix: The same for the area that is pasted from another image. With mixup too, each
            example gets one of the two.

    Raises:
        UserError: A value is out of bounds; the message names the flag.
    """

    crop_scale: float = 1.0
    flip: Flip = "none"
    color_jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    policy: Policy = "none"
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        _check("--crop-scale", self.crop_scale, "above 0 and up to 1", 0 < self.crop_scale <= 1)
        _check("--flip", self.flip, _choice(Flip), self.flip in get_args(Flip))
        _check("--policy", self.policy, _choice(Policy), self.policy in get_args(Policy))
        if len(self.color_jitter) != 4:
            raise UserError(
                "--color-jitter takes one strength, for brightness, contrast and saturation, or "
                f"four, such as 0.4,0.4,0.4,0.1, the last for hue; not {len(self.color_jitter)}."
            )
        *factors, hue = self.color_jitter
        for value in factors:
            _check("--color-jitter", value, "from 0 to 1", 0 <= value <= 1)
        _check(
            "--color-jitter, the fourth value (hue),",
            hue,
            f"from 0 to {LARGEST_HUE}",
            0 <= hue <= LARGEST_HUE,
        )
        _check("--erasing", self.erasing, "from 0 to 1", 0 <= self.erasing <= 1)
        for flag, value in (("--mixup", self.mixup), ("--cutmix", self.cutmix)):
            _check(flag, value, "0 or larger", 0 <= value < float("inf"))

    @property
    def crops(self) -> bool:
        return self.crop_scale < 1

    @property
    def mixes(self) -> bool:
        """Whether labels become shares of two classes."""
        return self.mixup > 0 or self.cutmix > 0

    @property
    def random(self) -> bool:
        """Whether anything is drawn at all."""
        return self != Augment()

    def describe(self) -> str:
        """What is on, in a few words."""
        words = []
        if self.crops:
            words.append(f"random crops of at least {100 * self.crop_scale:.3g} % of the area")
        if self.flip != "none":
            words.append("flip both ways" if self.flip == "both" else "horizontal flip")
        if any(self.color_jitter):
            words.append("colour jitter " + ",".join(f"{s:g}" for s in self.color_jitter))
        if self.policy == "trivial":
            words.append("TrivialAugment")
        for name in ("erasing", "mixup", "cutmix"):
            if value := getattr(self, name):
                words.append(f"{name} {value:g}")
        return ", ".join(words) or "none"


def color_jitter(text: str) -> tuple[float, ...]:
    """The strengths that `--color-jitter` says: one for all but hue, or four.

    Raises:
        UserError: These are no numbers.
    """
    try:
        strengths = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(
            f"--color-jitter takes numbers, such as 0.4 or 0.4,0.4,0.4,0.1, not '{text}'."
        ) from None
    return (*strengths * 3, 0.0) if len(strengths) == 1 else strengths


PRESETS: dict[Preset, Augment] = {
    "auto": Augment(),  # Until it is known what will be trained; see `jtl.config.defaults`.
    "none": Augment(),
    "crops": Augment(crop_scale=0.35),
    "light": Augment(crop_scale=0.35, flip="horizontal"),
    "strong": Augment(
        crop_scale=0.35, flip="horizontal", policy="trivial", erasing=0.1, mixup=0.2, cutmix=1.0
    ),
}
"""`light` is fastai's habit in fine-tuning (`RandomResizedCrop(min_scale=0.35)` and a flip);
`strong` adds what torchvision's recipe of 2021 for ResNet50 does beyond crop and flip."""


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Augmentation: random changes of the training images; see docs/augmentation.md.

    Attributes:
        augment: Random changes of the training images: none, crops, light or strong. crops: random
            crops; light: also horizontal flips; strong: also TrivialAugment, erasing, mixup and
            cutmix. The options below change single parts of it. auto, the default, is crops when
            --mask full fine-tunes pretrained weights, otherwise none.
        crop_scale: Random crops keep at least this fraction of an image's area; 1 for no crops.
        flip: Flip half of the images, horizontally or both ways. Choose none where left and right
            mean something, as in text.
        color_jitter: Strength of random changes of brightness, contrast and saturation, such as
            0.4; or four strengths, such as 0.4,0.4,0.4,0.1, the last one for hue.
        policy: trivial applies one random TrivialAugment operation to each image.
        erasing: Probability that a rectangle of an image is erased.
        mixup: Mix pairs of images and their labels; parameter of the Beta distribution, such as
            0.2.
        cutmix: Paste part of another image, with its label; parameter of the Beta distribution,
            such as 1.
    """

    augment: Preset = "auto"
    crop_scale: float | None = None
    flip: Literal["preset", "none", "horizontal", "both"] = "preset"
    color_jitter: str | None = None
    policy: Literal["preset", "none", "trivial"] = "preset"
    erasing: float | None = None
    mixup: float | None = None
    cutmix: float | None = None

    def resolved(self) -> Augment:
        """The preset with what is given beside it.

        Raises:
            UserError: A value is impossible; the message names the flag.
        """
        given = {
            key: value
            for key, value in dataclasses.asdict(self).items()
            if value not in (None, "preset")
        }
        preset = PRESETS[given.pop("augment")]
        if "color_jitter" in given:
            given["color_jitter"] = color_jitter(given["color_jitter"])
        return dataclasses.replace(preset, **given)
