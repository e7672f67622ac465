"""Tensors that are not what a layer computes with: those it computes its weight from, or parts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import numpy as np

from weights_convert.printable import shown

# How a key ends of a weight that PyTorch computes -> what makes it a plain one.
_REPARAMETRIZED = {
    ".weight_mask": "torch.nn.utils.prune.remove(layer, 'weight')",
    ".parametrizations.weight.original0": "torch.nn.utils.parametrize.remove_parametrizations"
    "(layer, 'weight')",
    ".parametrizations.weight.original": "torch.nn.utils.parametrize.remove_parametrizations"
    "(layer, 'weight')",
    ".weight_g": "torch.nn.utils.remove_weight_norm(layer)",
    ".weight_u": "torch.nn.utils.remove_spectral_norm(layer)",
}
# What stands in a key of weights that are not all of a layer -> what makes it whole.
_INCOMPLETE = {
    r"\blora_[AB]\b": "is of an adapter (LoRA) next to the weights it changes. Merge them, such as "
    "with PEFT's merge_and_unload(), and save the state dict again",
    r"\b(weight_fake_quant|activation_post_process)\b": "is of training for quantization, which "
    "changes what layers compute. Take the weights from before it",
}


def not_plain(tensors: Mapping[str, np.ndarray]) -> str:
    """What to do where PyTorch keeps other tensors than a layer computes with."""
    if found := computed(tensors):
        return (
            f"\n'{shown(found[0], 80)}' is of a layer whose weight is computed from others. Call "
            f"{found[1]} for each such layer, then save the state dict again."
        )
    for pattern, told in _INCOMPLETE.items():
        if key := next((key for key in tensors if re.search(pattern, key)), None):
            return f"\n'{shown(key, 80)}' {told}."
    if key := next((key for key, array in tensors.items() if not array.size), None):
        return (
            f"\n'{shown(key, 80)}' is empty, as in a part of a network that was trained on several "
            "devices (DeepSpeed's ZeRO-3, FSDP). Gather the weights first; DeepSpeed's checkpoints "
            "have a zero_to_fp32.py for it."
        )
    return ""


def computed(keys: Iterable[str]) -> tuple[str, str] | None:
    """A key of what PyTorch computes a weight from, and the call that makes it a plain one."""
    keys = list(keys)
    return next(
        ((key, call) for end, call in _REPARAMETRIZED.items() for key in keys if key.endswith(end)),
        None,
    )
