"""What may be chosen of some forms of an export."""

from __future__ import annotations

import dataclasses
from typing import Literal

Precision = Literal["float32", "float16", "int8"]
InGraph = Literal["normalize", "resize", "none"]
"""What of the preprocessing is in an exported graph; `resize` includes normalizing."""


@dataclasses.dataclass(frozen=True)
class How:
    """What may be chosen of some forms.

    Attributes:
        precision: The numbers that it computes with.
        preprocessing: What of the preprocessing is in the graph.
    """

    precision: Precision = "float32"
    preprocessing: InGraph = "normalize"


AS_USUAL = How()
