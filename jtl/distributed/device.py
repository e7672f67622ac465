"""The device that computes: what `--device` and JAX_PLATFORMS ask for, and what JAX finds."""

from __future__ import annotations

import os
import sys
from typing import Any

from jtl.common.errors import UserError
from jtl.config.run_options import DeviceName

_VARIABLE = "JAX_PLATFORMS"
_NEEDED = {
    "gpu": "For an NVIDIA GPU on Linux: pip install 'jtl[cuda12]', and driver 525 or newer.",
    "tpu": "For a TPU: pip install 'jax[tpu]'.",
}


def choose(name: DeviceName) -> None:
    """Tells JAX where to compute, before it computes anything; `check` says whether it can.

    Args:
        name: What `--device` says; `auto` leaves the choice to JAX_PLATFORMS, and that to JAX.
    """
    if name == "auto":
        return
    # JAX looks for GPUs and TPUs by itself, unless it is told not to.
    wanted = "cpu" if name == "cpu" else ""
    os.environ[_VARIABLE] = wanted
    if "jax" in sys.modules:
        import jax

        jax.config.update("jax_platforms", wanted)


def use(name: DeviceName) -> None:
    """Computes on a device; see `choose` and `check`."""
    choose(name)
    check(name)


def check(name: DeviceName) -> None:
    """Makes sure that JAX computes on the device that was asked for.

    Raises:
        UserError: There is none, or this process computes on another one already.
    """
    import jax

    try:
        found = jax.default_backend()
    except (RuntimeError, AssertionError) as error:
        asked: Any = jax.config.jax_platforms  # pyright: ignore[reportAttributeAccessIssue]
        # JAX skips CUDA without a word where it sees no NVIDIA GPU, and has nothing left then.
        why = str(error).partition("\n")[0] or "it finds no such device"
        raise UserError(
            f"JAX cannot compute on {_VARIABLE}={asked}: {why}. Unset {_VARIABLE} to use what "
            f"there is, or set it to cpu. {_NEEDED['gpu']}"
        ) from error
    if name in ("auto", found):
        return
    if name == "cpu":
        raise UserError(
            f"--device cpu: JAX already uses the {found} in this process. Start a new one."
        )
    raise UserError(
        f"--device {name}: JAX finds no {name.upper()} on this machine, only {found}. "
        f"{_NEEDED[name]} Or leave --device out to use what there is."
    )
