"""Images of a source that have the same pixels, in words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from jtl.common.text import counted
from jtl.data.multilabel import class_text

if TYPE_CHECKING:
    from jtl.data.survey import SurveyedImage


def groups_of(looks: Iterable[SurveyedImage]) -> list[list[SurveyedImage]]:
    """The groups of images with the same pixels."""
    groups = defaultdict(list)
    for look in looks:
        if look.fault is None:
            groups[look.digest].append(look)
    return [group for group in groups.values() if len(group) > 1]


def across(groups: Sequence[Sequence[SurveyedImage]]) -> list[str]:
    """Sentences about equal images in several splits."""
    shared: dict[tuple[str, ...], list[Sequence[SurveyedImage]]] = defaultdict(list)
    for group in groups:
        names = tuple(r for r in ("train", "val", "test") if any(o.split == r for o in group))
        if len(names) > 1:
            shared[names].append(group)
    return [
        f"{counted(len(found), 'image')} in both {' and '.join(names)}, so accuracy there will "
        "look better than it is. For example "
        f"{' = '.join(f'{o.split}: {o.name}' for o in found[0][:3])}. Remove them from one of "
        "the two."
        for names, found in shared.items()
    ]


def within(
    groups: Sequence[Sequence[SurveyedImage]], class_names: Sequence[str], *, several: bool
) -> list[str]:
    """Sentences about images that a split has twice, and those with several labels."""
    warnings = []
    twice = 0
    for split in ("train", "val", "test"):
        twice += sum(max(sum(o.split == split for o in group) - 1, 0) for group in groups)
    if twice:
        warnings.append(f"{counted(twice, 'duplicate image')} within a split.")
    torn = [group for group in groups if len({look.classes for look in group}) > 1]
    if torn:
        named = [f"{o.name} ({class_text(o.classes, class_names)})" for o in torn[0][:3]]
        told = f"For example, {', '.join(named[:-1])} and {named[-1]} are identical"
        if several:
            count = f"{counted(len(torn), 'image')} several times with different labels"
            warnings.append(f"{count}. {told}: some labels may be missing.")
        else:
            count = f"{counted(len(torn), 'image')} {'is' if len(torn) == 1 else 'are'}"
            warnings.append(f"{count} in several classes. {told}.")
    return warnings
