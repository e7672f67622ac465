"""Looking at every image of a source: what would spoil a training, and what one should know."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jtl.common.errors import UserError
from jtl.common.text import counted, listed
from jtl.config.data import OnBadImage
from jtl.data import equal_images, frames, near_duplicates
from jtl.data.batches import in_threads
from jtl.data.bit_depth import BitDepth, with_bit_depth
from jtl.data.decoding import decode_measured, deep_pixels
from jtl.data.description import Description, describe
from jtl.data.hold_out import NO_VALIDATION, too_few
from jtl.data.image_file import BadImage, open_image
from jtl.data.multilabel import class_counts, classes_of, is_multilabel, members
from jtl.data.sources.encoded import EncodedSplit
from jtl.data.splits import Advance, OpenedSource
from jtl.data.square_fit import crop_warning

TINY = 32
"""Pixels: a shorter side below holds little for networks that were trained at 224."""
FEW = 5
"""Train images; a class with fewer is told."""
IMBALANCE = 10
"""The largest class of train over the smallest, from which on it is told."""


@dataclasses.dataclass(frozen=True)
class SurveyedImage:
    """What one image is.

    Attributes:
        split: "train", "val" or "test".
        name: Its name in the split.
        classes: Its class index; of images with several classes, all of them.
        size: (height, width) in pixels, or None if it cannot be read.
        digest: Of its decoded pixels and size: equal images have equal ones.
        grey: Whether it is stored in grey.
        alpha: Whether it has transparency.
        fault: Why it cannot be read, as "name: reason", or None.
        deepest: The largest value of a 16-bit image; 0 of any other.
        perceptual: Its hash; see `jtl.data.near_duplicates`.
        several: Whether it has frames or pages after the first.
    """

    split: str
    name: str
    classes: tuple[int, ...]
    size: tuple[int, int] | None
    digest: bytes
    grey: bool
    alpha: bool
    fault: str | None
    deepest: int = 0
    perceptual: int = near_duplicates.UNKNOWN
    several: bool = False


@dataclasses.dataclass(frozen=True)
class Survey:
    """What a source holds.

    Attributes:
        spec: The source.
        class_names: The name of every label.
        counts: Images of every class by split, [K] each.
        sizes: {"smallest", "median", "largest"} (height, width) by area, or None of no image.
        problems: What spoils a training, in sentences; empty if nothing does.
        warnings: What may spoil it, in sentences.
        notes: What is good to know, in sentences.
        unreadable: "name: reason" of every unreadable image.
        duplicates: Groups of equal images, as "split: name".
        description: What was understood of the source.
    """

    spec: str
    class_names: tuple[str, ...]
    counts: Mapping[str, list[int]]
    sizes: dict[str, tuple[int, int]] | None
    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    unreadable: tuple[str, ...]
    duplicates: tuple[tuple[str, ...], ...]
    description: Description

    def to_dict(self) -> dict[str, Any]:
        """For JSON; counts are by split and class name."""
        facts = dataclasses.asdict(self)
        facts["counts"] = {
            split: dict(zip(self.class_names, counts, strict=True))
            for split, counts in self.counts.items()
        }
        facts["description"] = self.description.to_dict()
        return facts


def survey(
    spec: str,
    found: OpenedSource,
    advance: Advance,
    *,
    on_bad_image: OnBadImage = "error",
    bit_depth: BitDepth = "auto",
) -> Survey:
    """Decodes every image of a source.

    Args:
        spec: What the source is called.
        found: What it holds, as `jtl.data.sources.registry.find` gives it.
        advance: Told of every few images that are done.
        on_bad_image: Whether unreadable images are a problem, or left out.
        bit_depth: As of `jtl.data.bit_depth.with_bit_depth`.
    """
    looks = [look for split in found.splits for look in _looks(split, found.splits[split], advance)]
    names = found.class_names
    counts = {
        split: class_counts(images.labels, len(names)).tolist()
        for split, images in found.splits.items()
    }
    unreadable = tuple(look.fault for look in looks if look.fault is not None)
    problems, warnings = list(found.problems), []
    if unreadable and on_bad_image == "error":
        problems.append(
            f"{len(unreadable)} of {len(looks)} images cannot be read. Replace or remove them, "
            "or leave them out with --on-bad-image skip."
        )
    elif unreadable:
        warnings.append(f"{len(unreadable)} of {len(looks)} images cannot be read: left out.")
        problems += _without_readable(looks, found)
    groups = equal_images.groups_of(looks)
    problems += equal_images.across(groups)
    warnings += equal_images.within(
        groups, names, several=is_multilabel(found.splits["train"].labels)
    )
    warnings += _nearly_equal(found, looks)
    warnings += _unusual(looks)
    seen = [look for look in looks if look.size is not None]
    warnings += crop_warning([o.size for o in seen if o.size], [o.name for o in seen])
    warnings += _imbalance(names, counts["train"])
    warnings += too_few(found.splits)
    for split, images in found.splits.items():
        images.deepest = max((o.deepest for o in looks if o.split == split), default=0)
    notes = list(found.notes)
    try:
        notes = list(with_bit_depth(found, bit_depth)[0].notes)
    except UserError as error:
        problems.append(str(error))
    if animated := [look.name for look in looks if look.several]:
        notes.append(frames.told(animated))
    if "val" not in counts:
        notes.append(NO_VALIDATION)
    duplicates = tuple(tuple(f"{o.split}: {o.name}" for o in group) for group in groups)
    return Survey(
        spec, names, counts, _sizes(looks), tuple(problems), tuple(warnings), tuple(notes),
        unreadable, duplicates,
        describe(
            names, found.splits, found.labels_from, found.left_out,
            splits_from=found.splits_from, titles=found.titles,
        ),
    )  # fmt: skip


def _without_readable(looks: Iterable[SurveyedImage], found: OpenedSource) -> list[str]:
    """A sentence if leaving out unreadable images takes all of a class in train, or of a split."""
    train = found.splits["train"].labels
    readable = {(o.split, label) for o in looks if o.fault is None for label in o.classes or (-1,)}
    lost = [
        name
        for label, name in enumerate(found.class_names)
        if ("train", label) not in readable and len(members(train, label))
    ]
    lost += [f"the {s} split" for s in found.splits if s not in {split for split, _ in readable}]
    return [f"No image can be read of: {listed(lost)}. Replace these files."] if lost else []


def _looks(split: str, images: Any, advance: Advance) -> Iterable[SurveyedImage]:
    look = _at_file if isinstance(images, EncodedSplit) else _at_array

    def work(rows: range) -> list[SurveyedImage]:
        return [look(split, images, row) for row in rows]

    for part in in_threads(work, len(images)):
        advance(len(part))
        yield from part


def _at_file(split: str, images: EncodedSplit, row: int) -> SurveyedImage:
    name, classes = images.names[row], classes_of(images.labels, row)
    try:
        data = images.encoded(row)
        image, deepest = decode_measured(data, name)
        pixels = np.asarray(image)
    except BadImage as error:
        return SurveyedImage(split, name, classes, None, b"", False, False, str(error))
    with open_image(data) as stored:
        grey = stored.mode in ("1", "L", "LA", "La") or stored.mode.startswith("I")
        alpha = stored.has_transparency_data
        # Eight of 16 bits may be the same where few of them are used.
        digest = _digest(pixels if (deep := deep_pixels(data, stored)) is None else deep)
    size = pixels.shape[:2]
    perceptual = near_duplicates.perceptual_hash(image)
    return SurveyedImage(
        split, name, classes, size, digest, grey, alpha, None, deepest, perceptual,
        frames.has_more(data),
    )  # fmt: skip


def _at_array(split: str, images: Any, row: int) -> SurveyedImage:
    pixels = images.read(np.array([row]), None)[0]
    grey = bool((pixels == pixels[..., :1]).all())
    size, classes, digest = pixels.shape[:2], classes_of(images.labels, row), _digest(pixels)
    return SurveyedImage(split, images.names[row], classes, size, digest, grey, False, None)


def _digest(pixels: np.ndarray) -> bytes:
    shape = str(pixels.shape).encode()
    return hashlib.blake2b(pixels.tobytes(), digest_size=16, key=shape).digest()


def _sizes(looks: Sequence[SurveyedImage]) -> dict[str, tuple[int, int]] | None:
    ordered = sorted(
        (look.size for look in looks if look.size is not None), key=lambda s: (s[0] * s[1], s)
    )
    if not ordered:
        return None
    middle = ordered[len(ordered) // 2]
    return {"smallest": ordered[0], "median": middle, "largest": ordered[-1]}


def _nearly_equal(found: OpenedSource, looks: Sequence[SurveyedImage]) -> list[str]:
    """Sentences about images that are nearly the same across splits, equal ones aside."""
    by_split: dict[str, list[SurveyedImage]] = defaultdict(list)
    for look in looks:
        by_split[look.split].append(look)
    for name, images in found.splits.items():
        if isinstance(images, EncodedSplit):
            images.hashes = np.array([o.perceptual for o in by_split[name]], np.uint64)
    warnings = []
    for one, other in itertools.combinations(found.splits, 2):
        # Of `one`, the earlier split, there are more images: looked for are those of `other`.
        digests = {look.digest for look in by_split[one]}
        fresh = [row for row, o in enumerate(by_split[other]) if o.digest not in digests]
        near = near_duplicates.find(found.splits[other].subset(np.array(fresh, int)),
                                    found.splits[one])  # fmt: skip
        if near is not None:
            warnings.append(
                f"Some {other} images are nearly the same as {one} images ({near}), so accuracy "
                "there will look better than on new images. Put all images of one video, object or "
                "person into the same split."
            )
    train = found.splits["train"]
    if len(found.splits) == 1 and (near := near_duplicates.find(train, train)):
        warnings.append(
            f"Some training images are nearly the same ({near}). Validation images will be held "
            "out of them, so validation accuracy will look better than on new images. Make a val/ "
            "folder with all images of some videos, objects or people."
        )
    return warnings


def _unusual(looks: Sequence[SurveyedImage]) -> list[str]:
    kinds: list[tuple[Callable[[SurveyedImage], bool], str]] = [
        (lambda o: o.grey, "are grey; they are used as grey in all three colours"),
        (lambda o: o.alpha, "have transparency; they are laid over white"),
        (
            lambda o: o.size is not None and min(o.size) < TINY,
            f"are tiny: their shorter side is under {TINY} pixels",
        ),
    ]
    warnings = []
    for test, told in kinds:
        found = [look for look in looks if look.fault is None and test(look)]
        if found:
            warnings.append(
                f"{len(found)} of {len(looks)} images {told}, for example {found[0].name}."
            )
    return warnings


def _imbalance(class_names: Sequence[str], counts: Sequence[int]) -> list[str]:
    present = {name: n for name, n in zip(class_names, counts, strict=True) if n}
    warnings = []
    few = [name for name, n in present.items() if n < FEW]
    if few:
        warnings.append(
            f"{counted(len(few), 'class', 'classes')} with fewer than {FEW} training images: "
            f"{listed(few)}."
        )
    missing = [name for name, n in zip(class_names, counts, strict=True) if not n]
    if missing:
        warnings.append(
            f"{counted(len(missing), 'class', 'classes')} without training images: "
            f"{listed(missing)}."
        )
    if present and max(present.values()) >= IMBALANCE * min(present.values()):
        most, least = max(present, key=present.__getitem__), min(present, key=present.__getitem__)
        warnings.append(
            f"The classes are out of balance: {most} has {present[most]} training images, {least} "
            f"{present[least]}. --class-weights balanced makes them count the same in training."
        )
    return warnings
