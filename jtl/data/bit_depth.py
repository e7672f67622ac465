"""How many of their 16 bits images use: cameras and scanners often give 10, 12 or 14."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Literal

from jtl.common.errors import UserError
from jtl.data.decoding import BITS
from jtl.data.splits import OpenedSource

BitDepth = int | Literal["auto"]

_DEPTHS = (8, 10, 12, 14, BITS)


def with_bit_depth(found: OpenedSource, bit_depth: BitDepth) -> tuple[OpenedSource, int | None]:
    """Scales 16-bit images by the range that all of them together use.

    Args:
        found: A source whose images were looked at; see `jtl.data.verification.Verification`.
        bit_depth: How many bits are used; auto for the fewest of 8, 10, 12, 14 and 16 that hold
            the largest value.

    Returns:
        The source, with a note and another fingerprint where it is read otherwise than by all 16
        bits, and its depth; None where it has no such images.

    Raises:
        UserError: There are values beyond the depth.
    """
    deepest = max(split.deepest for split in found.splits.values())
    if not deepest:
        return found, None
    bits = next(b for b in _DEPTHS if deepest < 2**b) if bit_depth == "auto" else bit_depth
    if deepest >= 2**bits:
        raise UserError(
            f"--bit-depth {bits}: the 16-bit images have values up to {deepest:,}, and of {bits} "
            f"bits the largest is {2**bits - 1:,}. Give more bits."
        )
    if bits == BITS:
        return found, bits
    note = (
        f"The 16-bit images have values up to {deepest:,} of 65,535: they are read as images of "
        f"{bits} bits, whose largest value, {2**bits - 1:,}, is white. --bit-depth 16 reads them "
        "as they are."
    )
    splits = {name: split.with_bit_depth(bits) for name, split in found.splits.items()}
    fingerprint = hashlib.sha256(f"{found.fingerprint} {bits} bits".encode()).hexdigest()
    read = dataclasses.replace(
        found, splits=splits, notes=(*found.notes, note), fingerprint=fingerprint
    )
    return read, bits
