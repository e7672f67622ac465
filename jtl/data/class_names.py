"""Names of classes that hardly are classes of their own."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping

from jtl.common.text import counted

_ALTERED = (
    "aug(?:mented|mentations?)?|flip(?:ped)?|rotated|mirrored|cropped|resized|rescaled|"
    "pre-?processed|normali[sz]ed|enhanced|backup"
)
_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|sep|oct|nov|dec)[a-z]*"
_COPY = re.compile(
    rf"(?!{_MONTH}[ _-]aug$)"
    rf"(?:(?:copy of |(?:{_ALTERED})[ _-]+)(.+)"
    rf"|(.+?)(?: - copy|[ _-](?:{_ALTERED}))?(?: ?\(\d+\))?)",
    re.IGNORECASE,
)
"""The name of a copy, and of what: `cats - Copy (2)`, `cats_augmented`, `cats (1)`."""


def copied_classes(where: str, class_names: Iterable[str]) -> list[str]:
    """A sentence if class folders look like copies of others."""
    class_names = dict.fromkeys(class_names)
    copies = {
        name: base
        for name in class_names
        if (match := _COPY.fullmatch(name))
        and (base := match[1] or match[2]) != name
        and base in class_names
    }
    if not copies:
        return []
    told = ", ".join(f"{name!r} of {base!r}" for name, base in list(copies.items())[:5])
    return [
        f"{where} has classes that look like copies of others: {told}. Move their images into one "
        "folder each, remove them, or rename them. If they are classes: --classes top."
    ]


def alike_classes(where: str, class_names: Iterable[str]) -> list[str]:
    """A sentence if classes differ only in how they are written.

    Single letters may differ in case: `A` and `a` are two characters.
    """
    by_text: dict[str, list[str]] = {}
    for name in dict.fromkeys(class_names):
        text = unicodedata.normalize("NFC", name)
        text = " ".join(text.split())
        by_text.setdefault(text if len(text) == 1 else text.casefold(), []).append(name)
    alike = [names for names in by_text.values() if len(names) > 1]
    if not alike:
        return []
    told = "; ".join(" and ".join(map(repr, sorted(names))) for names in alike[:5])
    return [
        f"{where} has {counted(len(alike), 'class', 'classes')} under several names that differ "
        f"only in case, spaces or Unicode form: {told}. Make them one class, or give them names "
        "that differ more.",
    ]


def with_title(name: str, titles: Mapping[str, str]) -> str:
    """A class as people read it: `n01440764 (tench)`, by the first of the words for it.

    Args:
        name: The class.
        titles: What classes are called that have numbers for names; see
            `jtl.data.sources.class_titles`.
    """
    title = titles.get(name, "").partition(",")[0].strip()
    return f"{name} ({title})" if title and title != name else name
