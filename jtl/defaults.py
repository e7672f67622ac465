"""What is trained how by default, by mask."""

from __future__ import annotations

import dataclasses

from jtl.freeze import masks


@dataclasses.dataclass(frozen=True)
class MaskDefaults:
    """What a mask trains with unless told otherwise; docs/freezing.md names the sources."""

    epochs: int = 10
    lr: float = 1e-4
    head_lr_mult: float = 10.0


_DEFAULTS = {
    "head_only": MaskDefaults(100, 3e-3, 1.0),
    "norm_only": MaskDefaults(10, 1e-3, 1.0),
    "bias_only": MaskDefaults(10, 1e-3, 1.0),
}


def mask_defaults(mask: str) -> MaskDefaults:
    """The defaults of a mask as `--mask` gives it."""
    return _DEFAULTS.get(masks.check_form(mask), MaskDefaults())
