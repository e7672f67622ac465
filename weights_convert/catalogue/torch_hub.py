"""torchvision's own files of weights, as its own cache keeps them.

jtl downloads nothing from there: torchvision does when it is asked for these weights, and so does
any other program, given the address.
"""

from __future__ import annotations

import os
from pathlib import Path

from jtl.common.errors import UserError, suggest
from jtl.models import registry
from weights_convert.convert import tables
from weights_convert.convert.published import TorchvisionFile

ADDRESS = "https://download.pytorch.org/models/"
LICENCE = "bsd-3-clause"


def files() -> dict[str, TorchvisionFile]:
    """The files by model."""
    found = {name: tables.published(name).torchvision for name in registry.names()}
    return {name: file for name, file in found.items() if file is not None}


def cached(name: str) -> Path:
    """The file of `torchvision:NAME` in PyTorch's cache.

    Raises:
        UserError: There are no weights of this name, or the file is not in the cache; the message
            says how to get it.
    """
    known = files()
    if name not in known:
        forms = [f"torchvision:{model}" for model in known]
        raise UserError(
            f"unknown weights 'torchvision:{name}'."
            f"{suggest(f'torchvision:{name}', forms)} jtl reads {', '.join(forms)} from PyTorch's "
            "cache; for other models use timm:NAME or the path of a file."
        )
    file = _folder() / known[name].name
    if not file.is_file():
        raise UserError(
            f"torchvision's weights of {name} are not in PyTorch's cache, '{file.parent}'. "
            f"Download {ADDRESS}{file.name} into that folder, or name it with --weights FILE; "
            "or train from random weights with --weights random."
        )
    return file


def is_cached(name: str) -> bool:
    """Whether the file of `torchvision:NAME` is in PyTorch's cache."""
    known = files().get(name)
    return known is not None and (_folder() / known.name).is_file()


def _folder() -> Path:
    """Where `torch.hub` keeps downloads: under TORCH_HOME, else XDG_CACHE_HOME, else ~/.cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    home = os.environ.get("TORCH_HOME") or os.path.join(cache, "torch")
    return Path(os.path.expanduser(home)) / "hub" / "checkpoints"
