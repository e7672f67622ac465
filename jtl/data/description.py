"""What was understood of a source, in up to four lines: before a training, and in `data check`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jtl.common.text import for_terminal, shortened
from jtl.data.class_names import with_title
from jtl.data.multilabel import class_counts, class_text, classes_of
from jtl.data.splits import LONG_NAMES, LeftOut, image_name

_EXAMPLES = 5
_LONGEST = 32
"""Letters of their names, so that all five fit into a few lines of a terminal."""
_CLASSES = 10
"""Named with their counts; of more classes the largest and the smallest."""
_NAMED = 3
"""Of what is left out."""


@dataclasses.dataclass(frozen=True)
class Description:
    """What was understood.

    Attributes:
        splits: The number of images by split.
        classes: The number of images of every class, in all splits.
        examples: (image, class) of some training images.
        labels_from: What the labels come from, in words.
        left_out: What is not used.
        held_out: Whether the validation images are a part of train.
        splits_from: The lists that divide the images; empty where there are none.
        titles: What classes are called that have numbers for names.
    """

    splits: dict[str, int]
    classes: dict[str, int]
    examples: tuple[tuple[str, str], ...]
    labels_from: str
    left_out: tuple[LeftOut, ...]
    held_out: bool = False
    splits_from: str = ""
    titles: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def lines(self) -> list[str]:
        """Splits and classes, where both come from, and, if any is, what is left out."""
        splits = [
            f"{count:,} {LONG_NAMES.get(split, split)}"
            + (" (held out)" if self.held_out and split == "val" else "")
            for split, count in self.splits.items()
        ]
        examples = ", ".join(
            f"{shortened(name, _LONGEST)} = {shortened(with_title(label, self.titles), _LONGEST)}"
            for name, label in self.examples
        )
        told = f"{', '.join(split.rstrip() for split in splits)} images"
        lines = [f"data:     {told} of {len(self.classes):,} classes: {_counts(self._named())}"]
        if self.splits_from:
            lines.append(f"splits:   {self.splits_from}")
        if self.labels_from:
            lines.append(f"labels:   from {self.labels_from}")
            lines[-1] += f", such as {examples}" if examples else ""
        if self.left_out:
            lines.append(f"left out: {'; '.join(_left_out(each) for each in self.left_out)}")
        return [for_terminal(line) for line in lines]

    def _named(self) -> dict[str, int]:
        return {with_title(name, self.titles): count for name, count in self.classes.items()}

    def to_dict(self) -> dict[str, Any]:
        return {
            "splits": self.splits,
            "classes": self.classes,
            "examples": [list(pair) for pair in self.examples],
            "labels_from": self.labels_from,
            "splits_from": self.splits_from,
            "left_out": [
                {"what": what, "count": len(names), "examples": list(names[:_EXAMPLES])}
                for what, names in self.left_out
            ],
            **({"titles": dict(self.titles)} if self.titles else {}),
        }


def describe(
    class_names: Sequence[str],
    splits: Mapping[str, Any],
    labels_from: str,
    left_out: tuple[LeftOut, ...],
    *,
    held_out: bool = False,
    splits_from: str = "",
    titles: Mapping[str, str] | None = None,
) -> Description:
    """Describes labelled splits.

    Args:
        class_names: The name of every label.
        splits: By name, each a `jtl.data.splits.Split`, train first; those that are None are left
            out. Images without splits have the name "".
        labels_from: What the labels come from.
        left_out: What is not used.
        held_out: Whether the validation images are a part of train.
        splits_from: The lists that divide the images; empty where there are none.
        titles: What classes are called that have numbers for names.
    """
    splits = {name: split for name, split in splits.items() if split is not None}
    labels = np.concatenate([split.labels for split in splits.values()])
    counts = class_counts(labels, len(class_names)).tolist()
    train = next(iter(splits.values()))
    rows: list[int] = []
    if len(train):  # A folder may hold classes and no image.
        rows = np.unique(np.linspace(0, len(train) - 1, _EXAMPLES).round().astype(int)).tolist()
    told = [class_text(classes_of(train.labels, row), class_names) for row in rows]
    examples = tuple(zip((image_name(train.names[row]) for row in rows), told, strict=True))
    return Description(
        {name: len(split) for name, split in splits.items()},
        dict(zip(class_names, counts, strict=True)),
        examples,
        labels_from,
        left_out,
        held_out,
        splits_from,
        titles or {},
    )


def _counts(classes: Mapping[str, int]) -> str:
    if len(classes) <= _CLASSES:
        return ", ".join(f"{name} ({count:,})" for name, count in classes.items())
    ordered = sorted(classes.items(), key=lambda item: -item[1])
    half = _CLASSES // 2
    most, least = ([f"{n} ({c:,})" for n, c in part] for part in (ordered[:half], ordered[-half:]))
    return f"{', '.join(most)}, ..., {', '.join(least)}"


def _left_out(left: LeftOut) -> str:
    named = ", ".join(left.names[:_NAMED]) + (", ..." if len(left.names) > _NAMED else "")
    return f"{left.what}: {len(left.names):,} ({named})"
