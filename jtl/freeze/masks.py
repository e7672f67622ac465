"""Masks: ordered rules from param paths to labels.

A label names the optimizer group a leaf belongs to; `frozen` leaves belong to none. The form
is that of big_vision's learning-rate rules: the first rule whose pattern matches the whole
path decides, and every leaf must be decided.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

from jtl.common.errors import UserError, suggest
from jtl.common.quantities import whole
from jtl.common.trees import FROZEN
from jtl.freeze import lora
from jtl.freeze.rules import Rule, read_rules
from jtl.models.chain import Unit, locate


@dataclasses.dataclass(frozen=True)
class Mask:
    """A named way to freeze.

    Attributes:
        name: As in `--mask`.
        rules: The first that matches a leaf decides.
        inside: Path of a layer or leaf that the mask names and that params must have; None
            where it names none.
        text: The content of the file that the rules come from; None for other masks.
    """

    name: str
    rules: tuple[Rule, ...]
    inside: str | None = None
    text: str | None = None

    @property
    def adapts(self) -> bool:
        """Whether it trains adapters; under other masks they stay as they are."""
        return any(rule.label == lora.NAME for rule in self.rules)


_HEAD = Rule(r"head/.*", "head")
_REST_FROZEN = Rule(r".*", FROZEN)

FORMS = {
    "head_only": "linear probe: only the head",
    "last_stage": "the last stage, what follows it, and the head",
    "last_stages:K": "the same for the last K stages, such as last_stages:2",
    "from:PATH": "everything from a stage or block to the end, such as from:stage3/block1",
    "first_stages:K": "the stem, the first K stages and the head, such as first_stages:1",
    "norm_only": "scales and biases of normalization, and the head",
    "bias_only": "biases, and the head (BitFit)",
    "lora:RANK": "low-rank adapters of the backbone's dense layers and 1x1 convolutions, and the "
    "head (LoRA), such as lora:8",
    "full": "everything",
    "rules:FILE": "your own rules, such as rules:my-rules.txt with one per line, or directly "
    "'rules:stage4/.*=train;head/.*=train;.*=frozen'",
}
"""Every mask in the form it is given, with its meaning."""


def names() -> tuple[str, ...]:
    """The masks' names without their arguments, such as `head_only` and `from`."""
    return tuple(form.partition(":")[0] for form in FORMS)


def check_form(text: str) -> str:
    """The name of the mask that `text` gives, without its argument.

    Raises:
        UserError: No mask has this name, or its argument is missing or too much.
    """
    name, colon, argument = text.partition(":")
    if name in names():
        wanted = next(form for form in FORMS if form.partition(":")[0] == name)
        if (":" in wanted) == bool(colon and argument):
            return name
        raise UserError(f"mask '{text}': write it as {wanted} ({FORMS[wanted]}).")
    raise UserError(
        f"unknown mask '{text}'.{suggest(name, names())} The masks are: {', '.join(FORMS)}. K is a "
        "number of stages, PATH a stage or block such as stage3/block1, RANK a number such as 8, "
        "FILE holds your own rules."
    )


def parse(
    text: str,
    units: Sequence[Unit] = (),
    translate: Callable[[str], str] = lambda path: path,
) -> Mask:
    """The mask that `text` names, for a chain of units.

    Args:
        text: As in `--mask`; see `FORMS`.
        units: The model's chain; masks that name stages or units need it.
        translate: From another library's layer names to paths; paths stay as they are.

    Raises:
        UserError: No mask is called so, or its argument is not one of this model's.
    """
    name = check_form(text)
    argument = text.partition(":")[2]
    if name in _SIMPLE:
        return Mask(text, _SIMPLE[name](units))
    if name == lora.NAME:
        lora.rank_of(text)
        return Mask(text, (_HEAD, Rule(lora.PATTERN, lora.NAME), _REST_FROZEN))
    if name == "rules":
        rules, content = read_rules(argument, translate)
        return Mask(text, rules, text=content)
    if name == "from":
        path = translate(argument)
        _check_path(units, path, text)
        inside = path if any(path.startswith(unit.path + "/") for unit in units) else None
        return Mask(text, (_HEAD, *_units_train(_from(units, path))), inside)
    return Mask(text, (_HEAD, *_units_train(_stages(units, name, argument))))


def _units_train(paths: Sequence[str]) -> tuple[Rule, ...]:
    # Units without params, such as pooling, may be among them.
    trained = [Rule(f"{re.escape(path)}/.*", "backbone", may_idle=True) for path in paths]
    return (*trained, dataclasses.replace(_REST_FROZEN, may_idle=True))


def _from(units: Sequence[Unit], path: str) -> list[str]:
    paths = [unit.path for unit in units]
    inside = [unit for unit in paths if path.startswith(unit + "/")]
    return paths[locate(units, inside[0] if inside else path) :]


def _check_path(units: Sequence[Unit], path: str, text: str) -> None:
    """Makes sure that `from:PATH` names a stage, a unit, or something inside a unit.

    Raises:
        UserError: It does not.
    """
    places = [*_stage_names(units), *(unit.path for unit in units)]
    if path in places or any(path.startswith(unit.path + "/") for unit in units):
        return
    # A stage that does not exist is not a misspelling of one that does.
    close = "" if re.fullmatch(r"stage\d+", path) else suggest(path, places, 0.7)
    raise UserError(
        f"mask '{text}': no unit is called '{path}'.{close} This model has: "
        f"{', '.join(_outline(units))}."
    )


def _outline(units: Sequence[Unit]) -> list[str]:
    """The units' names, in short: of a stage's the first and the last."""
    names: dict[str, list[str]] = {}
    for unit in units:
        names.setdefault(unit.stage or unit.path, []).append(unit.path)
    return [
        paths[0] if len(paths) == 1 else f"{paths[0]} to {paths[-1].split('/')[-1]}"
        for paths in names.values()
    ]


def _stage_names(units: Sequence[Unit]) -> list[str]:
    return list(dict.fromkeys(unit.stage for unit in units if unit.stage is not None))


def _stages(units: Sequence[Unit], name: str, argument: str) -> list[str]:
    stages = _stage_names(units)
    if not stages:
        listed = ", ".join(unit.path for unit in units)
        raise UserError(
            "masks by stage do not work here, because this model has no stages. Its units are: "
            f"{listed}. Use head_only, full or from:UNIT."
        )
    count = whole(argument)
    if count is None or not 1 <= count <= len(stages):
        raise UserError(
            f"mask '{name}:{argument}': the number of stages must be from 1 to {len(stages)}, as "
            f"this model has {len(stages)}."
        )
    if name == "last_stages":
        return _from(units, stages[-count])
    chosen = stages[:count]
    return [u.path for u in units if u.stage in chosen or u.path == "stem"]


_SIMPLE: dict[str, Callable[[Sequence[Unit]], tuple[Rule, ...]]] = {
    "head_only": lambda units: (_HEAD, _REST_FROZEN),
    "last_stage": lambda units: (_HEAD, *_units_train(_stages(units, "last_stages", "1"))),
    "norm_only": lambda units: (
        _HEAD,
        Rule(r"(.*/)?(bn|norm)\d*/(scale|bias)", "norm"),
        _REST_FROZEN,
    ),
    "bias_only": lambda units: (_HEAD, Rule(r".*/bias", "bias"), _REST_FROZEN),
    "full": lambda units: (_HEAD, Rule(r".*", "backbone")),
}


def label_tree(mask: Mask, params: dict[str, Any]) -> dict[str, Any]:
    """Labels every leaf of `params`.

    Args:
        mask: The rules.
        params: Nested dicts with arrays or their shapes as leaves.

    Returns:
        The same nesting with a label (str) for every leaf.

    Raises:
        UserError: The mask names what is not there, a leaf matches no rule, a rule decides no
            leaf, or nothing is trainable.
    """
    decided: set[Rule] = set()
    paths: list[str] = []
    uncovered: list[str] = []

    def decide(path: str) -> str:
        if lora.is_adapter(path) and not mask.adapts:
            return FROZEN
        paths.append(path)
        for rule in mask.rules:
            if re.fullmatch(rule.pattern, path):
                decided.add(rule)
                return rule.label
        uncovered.append(path)
        return FROZEN

    def walk(tree: dict[str, Any], prefix: str) -> dict[str, Any]:
        return {
            key: walk(value, f"{prefix}{key}/") if isinstance(value, dict) else decide(prefix + key)
            for key, value in tree.items()
        }

    labels = walk(params, "")
    if mask.inside and not any(f"{path}/".startswith(f"{mask.inside}/") for path in paths):
        raise UserError(
            f"mask '{mask.name}': there is no layer '{mask.inside}' with "
            f"parameters.{_nearest(mask.inside, paths)}"
        )
    if uncovered:
        raise UserError(
            f"mask '{mask.name}': no rule matches {len(uncovered)} of the parameter arrays, such "
            f"as '{uncovered[0]}'. End the rules with one that matches everything, such as "
            "'.*=frozen'."
        )
    idle = [rule for rule in mask.rules if rule not in decided and not rule.may_idle]
    if idle:
        listed = "\n".join(
            f"  {r.pattern.removesuffix('(/.*)?')}: {_why_idle(r, mask.rules, paths)}" for r in idle
        )
        raise UserError(f"mask '{mask.name}': these rules have no effect:\n{listed}")
    if not any(rule.label != FROZEN for rule in decided):
        raise UserError(f"mask '{mask.name}' leaves nothing to train.")
    return labels


def _why_idle(rule: Rule, rules: Sequence[Rule], paths: Sequence[str]) -> str:
    """Why a rule decides no leaf: it comes too late, or nothing is called so."""
    matched = [path for path in paths if re.fullmatch(rule.pattern, path)]
    if not matched:
        return f"matches nothing.{_nearest(rule.pattern, paths)}"
    firsts = (next(r.pattern for r in rules if re.fullmatch(r.pattern, p)) for p in matched)
    earlier = ", ".join(f"'{pattern}'" for pattern in dict.fromkeys(firsts))
    more = f" and {len(matched) - 1} more" if len(matched) > 1 else ""
    return (
        f"comes too late: earlier rules already match all of it ({matched[0]}{more}): {earlier}. "
        "Move it up."
    )


def _nearest(pattern: str, paths: Sequence[str]) -> str:
    """A phrase with the paths that look most like a pattern."""
    import difflib

    plain = re.sub(r"[\\^$.*+?()\[\]{}|]", "", pattern)
    modules = list(dict.fromkeys(p.rsplit("/", depth)[0] for p in paths for depth in (0, 1, 2)))
    close = difflib.get_close_matches(plain, modules, n=3, cutoff=0.3)
    return f" Similar paths: {', '.join(close)}." if close else ""
