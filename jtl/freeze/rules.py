"""The user's own freezing rules, from a file or from the command line.

A rule is `PATTERN=WHAT`. PATTERN is a regular expression that must match a param's whole path
(`stage4/.*`), or the name of a unit, stage or layer, which stands for all params below it.
WHAT is `frozen`, `train`, `x0.1` (train at this multiple of the learning rate) or a number
(train at this learning rate). The first rule that matches a param decides.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

from jtl.common.errors import UserError
from jtl.common.trees import FROZEN


@dataclasses.dataclass(frozen=True)
class Rule:
    """Leaves whose whole path, such as `stage1/block1/conv1/kernel`, matches get the label.

    Attributes:
        pattern: A regular expression, matched against the whole path.
        label: The optimizer group, or `frozen`.
        lr: The group's learning rate; None for the run's.
        lr_mult: Multiplies the learning rate.
        may_idle: Whether deciding no leaf is no error: for a mask's own rules, that hold for
            some families only.
    """

    pattern: str
    label: str
    lr: float | None = None
    lr_mult: float = 1.0
    may_idle: bool = False


_FORM = (
    "A rule is PATTERN=WHAT, where WHAT is frozen, train, x0.1 (a multiple of the learning "
    "rate) or 1e-4 (a learning rate)."
)


def read_rules(source: str, translate: Callable[[str], str]) -> tuple[tuple[Rule, ...], str | None]:
    """Reads rules.

    Args:
        source: Rules separated by `;`, or the path of a file with a rule a line, where empty
            lines and lines that begin with `#` do not count.
        translate: From another library's layer names to paths.

    Returns:
        (rules, the file's content); None for the latter where the rules are in place.

    Raises:
        UserError: The file cannot be read, or something is no rule; every bad line is named.
    """
    content = None
    if "=" in source:
        lines = source.split(";")
    else:
        try:
            content = Path(source).read_text(encoding="utf-8")
            lines = content.splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise UserError(
                f"cannot read the rules file '{source}': {reason}. Name a text file with one "
                "rule per line, or write the rules directly: rules:head/.*=train;.*=frozen. "
                f"{_FORM}"
            ) from error
    rules, wrong = [], []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        try:
            rules.append(_rule(text, translate))
        except ValueError as error:
            wrong.append(f"  {number}: {text} ({error})")
    if wrong or not rules:
        listed = "\n".join(wrong) or "  there are none"
        raise UserError(f"the rules in '{source}' cannot be used:\n{listed}\n{_FORM}")
    return tuple(rules), content


def _rule(text: str, translate: Callable[[str], str]) -> Rule:
    pattern, equals, what = (part.strip() for part in text.rpartition("="))
    if not equals or not pattern:
        raise ValueError("there is no '=' between PATTERN and WHAT")
    path = translate(pattern)
    # A plain name means what is below it, or the leaf itself; a pattern is taken as it is.
    if re.fullmatch(r"[\w/]+", path):
        path = f"{path}(/.*)?"
    try:
        re.compile(path)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    if what == FROZEN:
        return Rule(path, FROZEN)
    # Of the backbone until `param_groups.assign` sees which leaves it decides.
    if what == "train":
        return Rule(path, "backbone")
    multiple = what.startswith("x")
    try:
        number = float(what.removeprefix("x"))
    except ValueError:
        raise ValueError(f"'{what}' is not one of the four") from None
    if not 0 < number < float("inf"):
        raise ValueError("a rate or multiple must be positive")
    label = f"backbone {what}"
    if multiple:
        return Rule(path, label, lr_mult=number)
    return Rule(path, label, lr=number)
