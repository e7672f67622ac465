"""A backbone up to any of its layers, for heads on earlier features."""

from __future__ import annotations

import dataclasses

from jtl.models.chain import Backbone, Unit, locate


@dataclasses.dataclass(frozen=True)
class Truncated:
    """The part of a backbone up to and with a layer.

    Attributes:
        backbone: The whole.
        at: Path of a stage, a unit or a layer inside a unit: `stage3`, `stage3/block1`,
            `stage3/block1/conv3` (the convolution's own output, before its normalization).
    """

    backbone: Backbone
    at: str

    @property
    def min_size(self) -> int:
        """That of the whole."""
        return getattr(self.backbone, "min_size", 1)

    def units(self) -> tuple[Unit, ...]:
        """The chain up to `at`.

        Raises:
            UserError: `at` names no unit; a layer that its unit does not have is found out
                when the model is traced.
        """
        units = self.backbone.units()
        for index, unit in enumerate(units):
            if self.at.startswith(unit.path + "/"):
                inner = self.at.removeprefix(unit.path + "/")
                return (*units[:index], dataclasses.replace(unit, until=inner))
        last = locate(units, self.at)
        while last + 1 < len(units) and units[last + 1].stage == self.at:
            last += 1
        return units[: last + 1]
