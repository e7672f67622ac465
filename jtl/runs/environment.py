"""What a run is computed by: the versions of libraries, and the device."""

from __future__ import annotations

import platform

import jax

from jtl import onednn


def versions() -> dict[str, str]:
    """The versions of what a result depends on."""
    from importlib.metadata import version

    packages = ("jtl", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "pillow")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def describe_device() -> str:
    """What computes: the platform, the kind and number of its devices, and what convolves."""
    first, count = jax.devices()[0], jax.device_count()
    told = first.platform
    if count > 1 or first.device_kind != told:  # "cpu (1 x cpu)" says nothing more.
        told += f" ({count} x {first.device_kind})"
    return told + (", oneDNN" if onednn.installed() else "")
