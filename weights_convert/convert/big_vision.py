"""Vision transformers of Flax's first library and of big_vision, whose files become of one form.

The published `.npz` files (AugReg's, arXiv 2106.10270) have three layers for queries, keys and
values, with an axis for the heads; big_vision's number some modules otherwise, and may stack all
blocks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

_BLOCK = re.compile(r"(.*/)?Transformer/encoderblock(?:_(\d+))?/(.+)")
_MODULES = {
    "MultiHeadDotProductAttention_0": "MultiHeadDotProductAttention_1",
    "MlpBlock_0": "MlpBlock_3",
    "LayerNorm_1": "LayerNorm_2",
}
_PARTS = ("query", "key", "value")
POSITIONS = "Transformer/posembed_input/pos_embedding"
"""What AugReg's files call the positions; big_vision's have them at the top."""


def unified(tensors: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """The tensors under AugReg's names, queries, keys and values as one dense layer `qkv`.

    Args:
        tensors: By key, in Flax's layouts: attention's kernels [C, heads, C / heads], that of its
            output [heads, C / heads, C].
    """
    blocks = {key: match for key in tensors if (match := _BLOCK.fullmatch(key))}
    if not blocks:
        return tensors
    found: dict[str, np.ndarray] = {}
    for key, array in tensors.items():
        if key in blocks:
            root, number, rest = blocks[key].groups()
            each = array if number is None and array.ndim else [array]
            for index, part in enumerate(each):
                place = f"{root or ''}Transformer/encoderblock_{number or index}/"
                found[place + _renamed(rest)] = part
        elif key.endswith("pos_embedding") and not key.endswith(POSITIONS):
            found[key.removesuffix("pos_embedding") + POSITIONS] = array
        else:
            found[key] = array
    for key in [key for key in found if "MultiHeadDotProductAttention" in key]:
        _flatten(found, key)
    return found


def _renamed(rest: str) -> str:
    module, _, leaf = rest.partition("/")
    return f"{_MODULES.get(module, module)}/{leaf}"


def _flatten(tensors: dict[str, np.ndarray], key: str) -> None:
    """Takes the axis of the heads out of one of attention's tensors, and joins three layers."""
    array = tensors.get(key)
    parent, _, leaf = key.rpartition("/")
    attention, _, layer = parent.rpartition("/")
    if array is None:
        return
    if layer == "out" and leaf == "kernel" and array.ndim == 3:
        tensors[key] = array.reshape(-1, array.shape[-1])
    elif layer == _PARTS[0] and array.ndim == (3 if leaf == "kernel" else 2):
        keys = [f"{attention}/{name}/{leaf}" for name in _PARTS]
        parts = [tensors.get(name) for name in keys]
        if all(part is not None and part.shape == array.shape for part in parts):
            flat = [part.reshape(*part.shape[:-2], -1) for part in parts if part is not None]
            tensors[f"{attention}/qkv/{leaf}"] = np.concatenate(flat, -1)
            for name in keys:
                del tensors[name]
