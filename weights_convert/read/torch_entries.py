"""Which entry of a PyTorch checkpoint holds a network's tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from jtl.common.errors import UserError
from jtl.common.text import listed
from weights_convert.printable import shown
from weights_convert.read.torch_pickle import Dropped, Tensor

# The plain weights come before their moving average: they are what most sources publish as the
# result, and the average is taken only where it is all there is.
_WRAPPERS = (
    *("state_dict", "model", "model_state_dict", "model_state", "net", "network", "weights"),
    *("state_dict_ema", "model_ema", "ema", "ema_state_dict", "shadow"),
    *("classy_state_dict", "base_model", "trunk"),  # Of VISSL, in one another.
)
# Entries that hold tensors of a training, never a network's.
_NOT_WEIGHTS = re.compile(
    r"(?i).*(optim|sched|scaler|rng|criterion|loss|metric|callback).*|(max_)?exp_avg\w*|"
    r"momentum_buffers?|fisher\w*|grad(ient)?s?|\w*task_vectors?|deltas?|importances?|omegas?"
)
# Single tensors beside a state dict, such as DINO's center and MoCo's queue.
_OF_TRAINING = re.compile(
    r"(?i)center|queue\w*|epoch|(global_)?step|iter\w*|best\w*|acc\w*|loss\w*"
)
MAX_WRAPPERS = 4
_MODULE = "module."
# A file may name anything beside its weights, any number of times.
_MAX_LEFT_OUT = 100


class Unwrapped(NamedTuple):
    """A network's tensors, the entries that led to them, and what was beside these."""

    tensors: dict[str, Tensor]
    wrappers: tuple[str, ...]
    left_out: tuple[str, ...]
    entries: tuple[str, ...]


def unwrap(
    value: object,
    entry: str | None,
    same: Callable[[dict[str, Tensor], dict[str, Tensor]], bool] = lambda one, other: False,
) -> Unwrapped:
    """The named tensors inside a checkpoint's value, and the keys that led to them.

    Args:
        value: What the file holds.
        entry: The entry to take; None for the usual one.
        same: Whether two dictionaries hold equal tensors: of several such entries, none of which
            is a usual one, the first is taken, and the others are not named.

    Raises:
        UserError: There are no tensors by name, or several entries could be meant.
    """
    wrappers: list[str] = []
    left_out: list[object] = []
    entries: list[str] = []
    there: list[str] = []
    wanted = entry
    while isinstance(value, dict) and len(wrappers) < MAX_WRAPPERS:
        holding = [name for name in value if _may_hold_weights(value, name)]
        usual = next((name for name in _WRAPPERS if name in holding), None)
        if usual is None and holding and not _has_weights(value):
            first, *others = (_inner(value[name]) for name in holding)
            if all(same(first, other) for other in others):
                usual = holding[0]
        wrapper = wanted if wanted in holding else usual
        if wrapper is None:
            break
        wanted = None if wrapper == wanted else wanted
        wrappers.append(wrapper)
        left_out += [key for key in value if key != wrapper]
        there += holding
        taken = _inner(value[wrapper])
        entries += [
            name for name in holding if name != wrapper and not same(taken, _inner(value[name]))
        ]
        value = value[wrapper]
    if wanted is not None:
        have = (
            ", ".join(repr(shown(name, 40)) for name in dict.fromkeys((*wrappers, *there)))
            or "none"
        )
        raise UserError(
            f"it has no entry '{shown(wanted, 40)}' with tensors by name. Entries with tensors "
            f"are: {have}. Name one of them with --entry, or leave it out"
        )
    if not isinstance(value, dict):
        raise UserError(
            f"it holds {kind_of(value)} instead of a state dict. Save `model.state_dict()`, a "
            "dictionary of tensors by name"
        )
    tensors = {key: entry for key, entry in value.items() if isinstance(entry, Tensor)}
    unnamed = [key for key in tensors if type(key) is not str]
    if unnamed:
        raise UserError(
            f"it holds tensors under {first_names(unnamed)}, which are not names. Save "
            "`model.state_dict()`, a dictionary of tensors by name"
        )
    if not tensors:
        nested = [key for key in value if _may_hold_weights(value, key)]
        if any(isinstance(entry, Dropped) for entry in value.values()) and not nested:
            raise UserError(
                f"what it holds by name is no tensor, perhaps NumPy arrays: {first_names(value)}. "
                "Save tensors: torch.save({k: torch.from_numpy(v) for k, v in arrays.items()}, "
                "'weights.pth')"
            )
        where = (
            f" Tensors are inside {first_names(nested)}: name one with --entry." if nested else ""
        )
        raise UserError(f"it holds no tensors by name, but {first_names(value)}.{where}")
    left_out += [key for key in value if key not in tensors]
    names = tuple(shown(name) if isinstance(name, str) else repr(name)[:60] for name in left_out)
    if len(names) > _MAX_LEFT_OUT:
        names = (*names[:_MAX_LEFT_OUT], f"and {len(names) - _MAX_LEFT_OUT} more")
    return Unwrapped(tensors, tuple(wrappers), names, tuple(entries))


def _inner(entry: object) -> dict[str, Tensor]:
    """The tensors of an entry, without the prefix of a module that wrapped the network."""
    for _ in range(MAX_WRAPPERS):
        if not isinstance(entry, dict):
            return {}
        if has_tensors(entry):
            break
        entry = next((entry[name] for name in _WRAPPERS if name in entry), None)
    if not isinstance(entry, dict):
        return {}
    tensors = {key: t for key, t in entry.items() if isinstance(t, Tensor) and type(key) is str}
    if all(key.startswith(_MODULE) for key in tensors):
        return {key.removeprefix(_MODULE): tensor for key, tensor in tensors.items()}
    return tensors


def _may_hold_weights(value: dict[Any, Any], name: object, depth: int = MAX_WRAPPERS) -> bool:
    """Whether the entry `name` is a dictionary of tensors, or of something that wraps one."""
    entry = value[name]
    if not isinstance(entry, dict) or not isinstance(name, str) or _NOT_WEIGHTS.fullmatch(name):
        return False
    wrapping = depth > 1 and any(
        inner in entry and _may_hold_weights(entry, inner, depth - 1) for inner in _WRAPPERS
    )
    return wrapping or has_tensors(entry)


def _has_weights(entry: dict[Any, Any]) -> bool:
    """Whether there are tensors by names, other than those of a training."""
    names = [name for name, value in entry.items() if isinstance(value, Tensor)]
    return any(not isinstance(name, str) or not _OF_TRAINING.fullmatch(name) for name in names)


def has_tensors(entry: dict[Any, Any]) -> bool:
    return any(isinstance(value, Tensor) for value in entry.values())


def kind_of(value: object) -> str:
    """What `value` is, for a message; stand-ins have no name that a user knows."""
    if isinstance(value, Tensor):
        return "a single tensor"
    return f"a {type(value).__name__}" if type(value).__module__ == "builtins" else "an object"


def first_names(names: Iterable[object]) -> str:
    """The first few of `names` for a message; they come from a file, so each may be anything."""
    short = (name[:40] if isinstance(name, str) else type(name).__name__ for name in names)
    return listed(map(repr, short), 5) or "nothing"
