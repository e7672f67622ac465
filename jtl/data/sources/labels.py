"""Labels as data files give them: integers or strings, with or without names of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jtl.common.errors import UserError

UNLABELLED = -1
"""What many data sets put where a test label is kept secret."""


def plain_labels(values: np.ndarray, where: str) -> np.ndarray:
    """Labels as integers [N] or, as objects, strings [N].

    Args:
        values: One label for each image, [N]: integers, floats that are whole numbers (as of
            tables with gaps), booleans, or strings.
        where: What they belong to, for messages.

    Raises:
        UserError: They are something else.
    """
    if values.dtype.kind == "O" and all(isinstance(v, (bool, np.bool_)) for v in values):
        values = values.astype(bool)
    if values.dtype.kind in "USO":
        texts = [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in values]
        wrong = [v for v in texts if not isinstance(v, str)]
        if wrong:
            raise UserError(
                f"The labels of {where} are objects such as {wrong[0]!r}; labels are integers or "
                "strings."
            )
        if "" in texts:
            row = texts.index("")
            raise UserError(f"Row {row} of {where} has an empty label. Fill or remove it.")
        return np.array(texts, dtype=object)
    if values.dtype.kind == "b":
        return np.where(values, "True", "False").astype(object)
    if values.dtype.kind == "f":
        broken = np.flatnonzero(~(np.isfinite(values) & (values == np.round(values))))
        if len(broken):
            raise UserError(
                f"The labels of {where} are numbers such as {values[broken[0]]:g} (row "
                f"{broken[0]}), no classes: jtl classifies, and does no regression. Name another "
                "column or array, or make classes of it."
            )
        return values.astype(np.int64)
    return values


def indexed(
    labels: Mapping[str, np.ndarray], class_names: Sequence[str] | None, where: str
) -> tuple[tuple[str, ...], dict[str, np.ndarray], list[str]]:
    """Class names, and labels that index them.

    Args:
        labels: The labels of every split, [N]: integers, or objects that are strings.
        class_names: The name of every integer label, or None.
        where: What they belong to, for messages.

    Returns:
        (class names, labels int32 [N] of every split, notes). Strings become the sorted classes
        of all splits. A test split without labels (all -1) is left out, with a note.

    Raises:
        UserError: If labels are no class of `class_names`, or, without names, do not count
            from 0 to K - 1 in train.
    """
    if any(values.dtype.kind in "OU" for values in labels.values()):
        return _from_strings(labels)
    labels = dict(labels)
    notes = []
    if "test" in labels and len(labels["test"]) and (labels["test"] == UNLABELLED).all():
        del labels["test"]
        notes.append(f"The test split of {where} has no labels: it is not used for testing.")
    if class_names is None:
        present = np.unique(labels["train"])
        if not np.array_equal(present, np.arange(len(present))):
            raise UserError(
                f"The train labels of {where} must count from 0 to K - 1 with every one used, or "
                f"the classes must have names. They are {len(present)} different ones from "
                f"{present[0]} to {present[-1]}. Renumber them, such as with "
                "np.unique(labels, return_inverse=True)."
            )
        class_names = [str(label) for label in range(len(present))]
        told = "train has labels"
    else:
        told = "the classes are"
    count = len(class_names)
    wrong = []
    for split, values in labels.items():
        outside = np.flatnonzero((values < 0) | (values >= count))
        if len(outside):
            wrong.append(
                f"  {split}: {len(outside)} of {len(values)}, for example {values[outside[0]]} at "
                f"row {outside[0]}"
            )
    if wrong:
        raise UserError(
            "\n".join([f"Labels of {where} are out of range; {told} 0 to {count - 1}:", *wrong])
        )
    return tuple(class_names), {split: v.astype(np.int32) for split, v in labels.items()}, notes


def _from_strings(
    labels: Mapping[str, np.ndarray],
) -> tuple[tuple[str, ...], dict[str, np.ndarray], list[str]]:
    words = {split: values.astype(str) for split, values in labels.items()}
    names = np.unique(np.concatenate(list(words.values())))
    found = {split: np.searchsorted(names, v).astype(np.int32) for split, v in words.items()}
    return tuple(map(str, names)), found, []


def plain_names(values: np.ndarray, place: Path) -> list[str]:
    """Class names from an array of strings.

    Raises:
        UserError: It is no vector of distinct strings.
    """
    if values.ndim != 1 or values.dtype.kind not in "US":
        raise UserError(
            f"class_names of {place} must be a vector of strings, not {values.dtype} of the shape "
            f"{list(values.shape)}."
        )
    names = [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in values.tolist()]
    return distinct(names, str(place))


def distinct(names: Sequence[str], where: str) -> list[str]:
    """The names; raises `UserError` if two are the same."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"Two classes of {where} have one name: {', '.join(twice[:10])}.")
    return list(names)
