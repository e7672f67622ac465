"""The backbones by name. What only lists them needs neither JAX nor Flax."""

from __future__ import annotations

from jtl.common.errors import UserError, suggest
from jtl.models.entry import ModelEntry
from jtl.models.table import ENTRIES


def names() -> tuple[str, ...]:
    return tuple(ENTRIES)


def get(name: str) -> ModelEntry:
    """The entry called `name`.

    Raises:
        UserError: There is none; the message names the nearest.
    """
    if name not in ENTRIES:
        raise UserError(
            f"unknown model '{name}'.{suggest(name, ENTRIES)} The models are: {', '.join(ENTRIES)}."
        )
    return ENTRIES[name]
