"""Names of classes that hardly are classes of their own."""

from __future__ import annotations

import difflib
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


_DASH = re.compile("[\u2010-\u2015\u2212]")
_WHOLE = re.compile(r"0*(\d+)(?:\.0*)?")
_BETWEEN = re.compile(r"(?<=\w)[_-]+(?=\w)|_")
_ANSWERS = tuple(
    (frozenset(a.split()), frozenset(b.split()))
    for a, b in (
        ("yes y true t 1", "no n false f 0"),
        ("positive pos p + 1", "negative neg n - 0"),
        ("male m man", "female f w woman"),
        ("ja j wahr", "nein n falsch"),
        ("oui o vrai", "non n faux"),
        ("s\u00ed si s sim", "no n n\u00e3o nao"),
    )
)
"""Words for the two answers to a question."""
_FURTHER = 2
"""So many other classes may be beside them, such as `unknown`."""
_RARE, _OFTEN = 3, 4
"""Images of a class that may be misspelt, and how many times as many the other one has."""
_CLOSE, _SHORT, _MOST_COMPARED = 0.85, 4, 300
"""How alike misspelt names are, from which length on, and among how many classes."""


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
    """A sentence if classes differ only in how they are written, or mean the same.

    So do `Yes`, `yes`, `1` and `Y` beside `no`, `golden_retriever` and `golden retriever`, `1` and
    `01`. Single letters may differ in case: `A` and `a` are two characters.
    """
    class_names = list(dict.fromkeys(class_names))
    by_text: dict[str, list[str]] = {}
    for name in class_names:
        by_text.setdefault(_key(name), []).append(name)
    alike = [names for names in by_text.values() if len(names) > 1]
    if alike:
        return [
            f"{where} has {counted(len(alike), 'class', 'classes')} under several names that "
            f"differ only in case, spaces, signs or Unicode form: {_sets(alike)}. Make them one "
            "class, or give them names that differ more."
        ]
    same = _same_answers(by_text)
    if not same:
        return []
    return [
        f"{where} has {counted(len(same), 'class', 'classes')} under several names that mean the "
        f"same: {_sets(same)}. Write each answer in one way, or give the classes other names."
    ]


def _key(name: str) -> str:
    """What names have in common that are written differently."""
    text = "".join(c for c in unicodedata.normalize("NFC", name) if unicodedata.category(c) != "Cf")
    if len(text) == 1:
        return text
    text = " ".join(_DASH.sub("-", text).split())
    if len(text) > 2 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1].strip()
    if number := _WHOLE.fullmatch(text):
        return number[1]
    text = " ".join(_BETWEEN.sub(" ", text).split())
    return text if len(text) == 1 else text.casefold()


def _same_answers(by_text: Mapping[str, list[str]]) -> list[list[str]]:
    """Sets of classes that are one answer to a question, where both of its answers are there."""
    for answers in _ANSWERS:
        found = [[by_text[text][0] for text in by_text if text.casefold() in a] for a in answers]
        if all(found) and len(by_text) - sum(map(len, found)) <= _FURTHER:
            return [names for names in found if len(names) > 1]
    return []


def _sets(sets: Iterable[list[str]]) -> str:
    return "; ".join(" and ".join(map(repr, sorted(names))) for names in list(sets)[:5])


def misspelt_classes(counts: Mapping[str, int]) -> list[str]:
    """A note if classes of few images are called nearly as others of many.

    Args:
        counts: Training images by class.
    """
    if len(counts) > _MOST_COMPARED:
        return []
    often = [name for name, count in counts.items() if count >= _RARE * _OFTEN]
    pairs = {
        name: found[0]
        for name, count in counts.items()
        if 0 < count <= _RARE
        and len(name) > _SHORT
        and not name[-1].isdigit()
        and (found := difflib.get_close_matches(name, often, 1, _CLOSE))
    }
    if not pairs:
        return []
    told = ", ".join(
        f"{name!r} ({counts[name]}) of {other!r} ({counts[other]})"
        for name, other in list(pairs.items())[:5]
    )
    return [
        f"Classes of few images may be others misspelt: {told}. If so, correct the labels: each "
        "spelling is a class of its own."
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
