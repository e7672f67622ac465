"""The device that `accelerator.py` measures, and what can be measured on it."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from harness import machine
from harness.peaks import Peak, peak_of
from jtl.common.measurements import processor

SCRIPTS = machine.BENCHMARKS / "peers"
"""Where the worker processes' scripts are."""


@dataclasses.dataclass(frozen=True)
class Device:
    """What is measured.

    Attributes:
        platform: `gpu`, `tpu` or `cpu`, as JAX calls it.
        kind: The device's name.
        peak: Its published rates; None where they are not known.
    """

    platform: str
    kind: str
    peak: Peak | None

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables of its processes."""
        return platforms("cpu" if self.platform == "cpu" else "auto")


def platforms(platform: str) -> dict[str, str]:
    """Environment variables for a CPU, or for what JAX, or the user, prefers."""
    chosen = "cpu" if platform == "cpu" else os.environ.get("JAX_PLATFORMS", "")
    return {"JAX_PLATFORMS": chosen}


def ask(script: str, **variables: str) -> dict[str, Any]:
    """What a worker's library says of the device."""
    ran = subprocess.run(
        [sys.executable, str(SCRIPTS / script), "-"],
        env=machine.environment(**variables),
        capture_output=True,
        text=True,
    )
    if ran.returncode:
        raise SystemExit(f"{script} does not run:\n{ran.stderr.strip()}")
    return json.loads(ran.stdout.splitlines()[-1])


def find_device(platform: str) -> Device:
    """The device that JAX computes on.

    Args:
        platform: `auto` for an accelerator, or `cpu`.
    """
    told = ask("jtl_device.py", **platforms(platform))
    if told["platform"] == "cpu" and platform != "cpu":
        raise SystemExit(
            "error: JAX finds no accelerator on this machine, only its CPU. For an NVIDIA GPU "
            "(driver 525 or newer): pip install 'jtl[cuda12]'; for a TPU: pip install 'jax[tpu]'. "
            "To see on a CPU what this script does: --platform cpu, or --smoke."
        )
    kind = processor() if told["platform"] == "cpu" else told["kind"]
    return Device(told["platform"], kind, peak_of(kind))


def usable_peers(asked: Sequence[str], device: Device) -> list[str]:
    """The peers that can be measured beside jtl; says why others cannot."""
    if not asked:
        return []
    missing = [name for name in ("torch", "timm") if importlib.util.find_spec(name) is None]
    why = ""
    if missing:
        why = f"{' and '.join(missing)} not installed (pip install 'jtl[timm]')"
    elif device.platform == "tpu":
        why = "PyTorch has no TPUs of its own"
    elif device.platform == "gpu" and ask("pytorch_device.py")["kind"] is None:
        why = "PyTorch finds no GPU; it needs a build for CUDA (https://pytorch.org)"
    if why:
        print(f"jtl is measured alone: {why}", file=sys.stderr, flush=True)
        return []
    if "pytorch_compiled" in asked and not compiler(device.platform):
        told = "pytorch_compiled is left out: torch.compile finds no compiler (CXX and CC name one)"
        print(told, file=sys.stderr, flush=True)
        return [peer for peer in asked if peer != "pytorch_compiled"]
    return list(asked)


def compiler(platform: str) -> str | None:
    """The path of what `torch.compile` compiles with; None if it is not there.

    On a CPU its kernels, by PyTorch's choice; on a GPU what starts them, by Triton's.
    """
    usual = "clang++" if sys.platform == "darwin" else "g++"
    if platform == "cpu":
        return shutil.which(os.environ.get("CXX", usual))
    names = [os.environ["CC"]] if "CC" in os.environ else ["gcc", "clang"]
    return next(filter(None, map(shutil.which, names)), None)
