"""Several backbones in one search: which can be had here, and which of them go on."""

from __future__ import annotations

import dataclasses
from typing import Any

from jtl import weights
from jtl.common.errors import UserError, first_line
from jtl.common.progress import Display
from jtl.common.text import indented, listed
from jtl.config import walk
from jtl.config.model import ModelConfig
from jtl.config.options import Config
from jtl.models import registry
from jtl.search.options import Options, several_refused

LONG = 1200.0
"""Seconds of a budget from which on backbones beside the default one are compared by themselves."""
_LOCAL = ("package:", "torchvision:")
"""What default weights begin with that are never downloaded."""


@dataclasses.dataclass(frozen=True)
class Backbones:
    """The backbones of a search.

    Attributes:
        names: As in `--model`; the first one is that of all trials that name no other.
        left_out: Why others that were asked for are not among them, by name.
    """

    names: tuple[str, ...]
    left_out: dict[str, str] = dataclasses.field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """For `search.json`."""
        return {"models": list(self.names), "models_left_out": self.left_out}


def find(options: Options, base: Config, seconds: float, display: Display) -> Backbones:
    """The backbones to compare: those of `--models` whose weights can be had.

    Without `--models` it is that of `--model`; if it and its weights are the default ones and the
    budget is `LONG` or longer, also all others whose default weights need no download.

    Args:
        options: Of the search.
        base: The options that all trials have in common.
        seconds: The budget.
        display: Told what takes time, and what is left out.

    Raises:
        UserError: The weights of none can be had.
    """
    names = tuple(dict.fromkeys(options.search.models))
    if not names:
        own = base.model.model
        return Backbones((own, *(_local(display) if _long(base, seconds) else ())))
    if len(names) == 1 or base.model.weights == "random":
        return Backbones(names)
    found, left_out = [], {}
    for name in names:
        try:
            weights.resolve(base.model.weights, name, progress=display.message)
            found.append(name)
        except UserError as error:
            left_out[name] = first_line(error)
    if not found:
        told = indented([f"{name}: {why}" for name, why in left_out.items()], len(left_out))
        raise UserError("\n".join(["--models: no weights can be had for any of them:", *told]))
    for name, why in left_out.items():
        display.message(f"note: {name} is left out: {why}")
    return Backbones(tuple(found), left_out)


def _long(base: Config, seconds: float) -> bool:
    usual = ModelConfig()
    named = (base.model.model, base.model.weights) == (usual.model, usual.weights)
    return named and seconds >= LONG and not several_refused(base.model)


def _local(display: Display) -> list[str]:
    """Backbones beside the default one whose default weights are here."""
    found = []
    for name in registry.names():
        if name == ModelConfig().model or not registry.get(name).default_weights.startswith(_LOCAL):
            continue
        try:
            weights.resolve("default", name, progress=display.message)
        except UserError:
            continue
        found.append(name)
    return found


def again(options: Options, given: Config, before: dict[str, Any]) -> Config:
    """The options of a session that goes on, where it names the search's backbones again.

    Args:
        options: Of this session.
        given: What all trials have in common, by those.
        before: The content of `search.json`.

    Raises:
        UserError: `--models` names others than the search began with.
    """
    asked = options.search.models
    if not asked:
        return given
    known = before.get("models", [])
    if {*asked} != {*known, *before.get("models_left_out", {})}:
        raise UserError(
            f"--models {','.join(asked)}: the search in '{options.search.out}' compares "
            f"{listed(known) or 'one backbone'}. Leave it out to continue, or start a new search."
        )
    return walk.replace(given, {"model": known[0]})


def of_stored(before: dict[str, Any], base: Config) -> Backbones:
    """The backbones that a search began with, by its `search.json`; older ones had one."""
    names = before.get("models", [base.model.model])
    return Backbones(tuple(names), before.get("models_left_out", {}))
