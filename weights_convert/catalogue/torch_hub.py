"""torchvision's weights of networks that timm does not have, as its own cache keeps them.

jtl downloads nothing from there: torchvision does when it is asked for these weights, and so does
any other program, given the address.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from jtl.common.errors import UserError, suggest

ADDRESS = "https://download.pytorch.org/models/"
LICENCE = "bsd-3-clause"


class File(NamedTuple):
    """A model's weights there, as torchvision 0.29 lists them.

    Attributes:
        name: Of the file, which ends with the first digits of its SHA-256.
        top1: Published top-1 accuracy in percent.
    """

    name: str
    top1: float


FILES = {
    "alexnet": File("alexnet-owt-7be5be79.pth", 56.52),
    "squeezenet1_0": File("squeezenet1_0-b66bff10.pth", 58.09),
    "squeezenet1_1": File("squeezenet1_1-b8a52dc0.pth", 58.18),
}


def cached(name: str) -> Path:
    """The file of `torchvision:NAME` in PyTorch's cache.

    Raises:
        UserError: There are no weights of this name, or the file is not in the cache; the message
            says how to get it.
    """
    if name not in FILES:
        raise UserError(
            f"unknown weights 'torchvision:{name}'."
            f"{suggest(f'torchvision:{name}', known := [f'torchvision:{file}' for file in FILES])} "
            f"jtl reads {', '.join(known)} from PyTorch's cache; for other models use timm:NAME or "
            "the path of a file."
        )
    file = _folder() / FILES[name].name
    if not file.is_file():
        raise UserError(
            f"torchvision's weights of {name} are not in PyTorch's cache, '{file.parent}'. "
            f"Download {ADDRESS}{file.name} into that folder, or name it with --weights FILE; "
            "or train from random weights with --weights random."
        )
    return file


def _folder() -> Path:
    """Where `torch.hub` keeps downloads: under TORCH_HOME, else XDG_CACHE_HOME, else ~/.cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    home = os.environ.get("TORCH_HOME") or os.path.join(cache, "torch")
    return Path(os.path.expanduser(home)) / "hub" / "checkpoints"
