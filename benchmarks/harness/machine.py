"""What figures depend on: the machine, the versions, the project's source."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from jtl.common.measurements import processor

BENCHMARKS = Path(__file__).resolve().parents[1]
ROOT = BENCHMARKS.parent
RESULTS = BENCHMARKS / "results"
OURS = ("jtl", "jax", "jaxlib", "flax", "onednn-cpu-gomp")


def facts(*peers: str) -> dict[str, Any]:
    """Two measurements are comparable if these are equal.

    Args:
        peers: Packages that stand beside jtl.
    """
    versions = {"python": platform.python_version()}
    for package in (*OURS, *peers):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"cpu": processor(), "cores": cores(), "source": source_hash(), "versions": versions}


def cores() -> int:
    """Cores that a process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def source_hash() -> str:
    """Of the project's Python files: figures of other source are not this one's."""
    digest = hashlib.sha256()
    for package in ("jtl", "weights_convert"):
        for path in sorted((ROOT / package).rglob("*.py")):
            digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def environment(**variables: str) -> dict[str, str]:
    """The environment of every measured process: this checkout, the CPU, nobody's caches."""
    paths = [str(ROOT), str(BENCHMARKS), os.environ.get("PYTHONPATH", "")]
    inherited = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("JAX_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE"))
    }
    return {
        **inherited,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        **variables,
    }


def product_rate() -> float:
    """GFLOP/s of a float32 matrix product now, in a process of its own."""
    command = [sys.executable, "-m", "harness.product"]
    ran = subprocess.run(
        command, env=environment(), capture_output=True, text=True, check=True, cwd=ROOT
    )
    return float(ran.stdout)
