"""Libraries that not every installation has."""

from __future__ import annotations

import importlib
import shlex
from typing import Any

from jtl.common.errors import UserError


def require(name: str, purpose: str, package: str, otherwise: str = "") -> Any:
    """A module that may be missing.

    Args:
        name: Of the module.
        purpose: What needs it, as a sentence begins.
        package: What pip installs to have it.
        otherwise: How the sentence that says so goes on.

    Raises:
        UserError: It cannot be imported.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"{purpose} needs {name}, which isn't installed ({error}). Install it with: pip "
            f"install {shlex.quote(package)}{otherwise}."
        ) from error
