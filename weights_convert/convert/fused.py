"""Tensors that vision transformers of different sources divide differently, made timm's."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from weights_convert.convert.big_vision import unified

_QUERY = re.compile(r"(.*\.)(?:query|(q_proj))\.(weight|bias)")
_REGISTERS = "register_tokens"
_CLASS = "class_embedding"
_POSITIONS = "embeddings.position_embedding.weight"
_POOLING = re.compile(r"(.*head\.attention\.)in_proj_(weight|bias)")


def fused(tensors: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """The tensors as timm has them.

    * Queries, keys and values of three layers, as in transformers, become one layer `qkv`.
    * Those of Flax's libraries, with names of their own: see `big_vision`.
    * CLIP's class token and positions, which have no axis for the images of a batch, get one.
    * Of SigLIP's pooling in transformers, queries are parted from keys and values.
    * DINOv2's registers: its class token has a position embedding and they have none, so that
      timm adds it to the token.

    Args:
        tensors: By key, in PyTorch's layouts.
    """
    found = dict(unified(tensors))
    for key in tensors:
        if match := _QUERY.fullmatch(key):
            _join(found, key, match)
        elif key.endswith(_REGISTERS):
            _add_position(found, key.removesuffix(_REGISTERS))
        elif key.endswith(_CLASS) and tensors[key].ndim == 1:
            found[key] = tensors[key][None, None]
            positions = key.removesuffix(_CLASS) + "positional_embedding"
            if positions in tensors and tensors[positions].ndim == 2:
                found[positions] = tensors[positions][None]
        elif key.endswith(_POSITIONS) and tensors[key].ndim == 2:
            found[key] = tensors[key][None]
        elif match := _POOLING.fullmatch(key):
            _part(found, key, match)
    changed = len(found) != len(tensors) or any(found.get(k) is not a for k, a in tensors.items())
    return found if changed else tensors


def _join(tensors: dict[str, np.ndarray], key: str, match: re.Match[str]) -> None:
    parent, short, leaf = match.groups()
    names = ("q_proj", "k_proj", "v_proj") if short else ("query", "key", "value")
    keys = [f"{parent}{name}.{leaf}" for name in names]
    parts = [tensors.get(name) for name in keys]
    joined = f"{parent}qkv.{leaf}"
    shape = tensors[key].shape
    if joined in tensors or any(part is None or part.shape != shape for part in parts):
        return
    for name in keys:
        del tensors[name]
    tensors[joined] = np.concatenate([part for part in parts if part is not None])


def _part(tensors: dict[str, np.ndarray], key: str, match: re.Match[str]) -> None:
    parent, leaf = match.groups()
    array = tensors[key]
    if len(array) % 3:
        return
    del tensors[key]
    third = len(array) // 3
    tensors[f"{parent}q.{leaf}"] = array[:third]
    tensors[f"{parent}kv.{leaf}"] = array[third:]


def _add_position(tensors: dict[str, np.ndarray], parent: str) -> None:
    token = tensors.get(f"{parent}cls_token")
    for name in ("pos_embed", "position_embeddings"):
        positions = tensors.get(parent + name)
        if token is None or positions is None or positions.ndim != 3 or token.ndim != 3:
            continue
        wide = np.promote_types(token.dtype, np.float32)
        tensors[f"{parent}cls_token"] = token.astype(wide) + positions[:, :1].astype(wide)
        tensors[parent + name] = positions[:, 1:]
        tensors[f"{parent}reg_token"] = tensors.pop(f"{parent}{_REGISTERS}")
