"""How long does a conversion take, and how much memory, beside PyTorch and a loop?

    python benchmarks/convert_speed.py --out results/convert_speed

Converts a ResNet50 with random weights, made in a temporary folder. Each arm is a process of its
own; time is that of the whole process, start and imports included, and memory is the peak of its
resident set above that of a process that only imports what the arm imports.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from harness import machine, tables
from harness.runs import timed
from jtl.common.files import replace_text

MODEL = "resnet50"

_IMPORTS = """\
import jax, flax, optax, numpy, safetensors, orbax.checkpoint
import weights_convert.__main__, weights_convert.source.sources, weights_convert.checkpoint
import weights_convert.export.writer
"""

# What people write by hand: every tensor transposed by its rank, names kept, shapes unchecked.
_LOOP_IMPORTS = "import torch, jax, numpy, orbax.checkpoint as ocp\n"
_LOOP = (
    _LOOP_IMPORTS
    + """\
import sys
state = torch.load(sys.argv[1], map_location="cpu", weights_only=True)
tree = {}
for name, tensor in state.items():
    array = tensor.numpy()
    if array.ndim in (2, 4):
        array = array.T if array.ndim == 2 else array.transpose(2, 3, 1, 0)
    tree[name.replace(".", "/")] = numpy.ascontiguousarray(array)
with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(sys.argv[2], tree)
"""
)


def make_sources(folder: Path, model: str) -> tuple[Path, Path]:
    """A .safetensors and a .pth file of the same random weights."""
    import numpy as np
    from safetensors.numpy import save_file

    from jtl import models
    from jtl.common.trees import leaf_paths, lookup
    from weights_convert.convert.rules import unflatten
    from weights_convert.convert.tables import TABLES
    from weights_convert.export.writer import source_tensors

    network = models.create(model)
    shapes = models.variable_shapes(network)
    rng = np.random.default_rng(0)
    variables = unflatten(
        {p: rng.random(lookup(shapes, p).shape, np.float32) for p in leaf_paths(shapes)}
    )
    family = models.get(model).family
    table = next(t for t in TABLES if t.family == family)
    tensors = source_tensors(table, network.backbone, variables)
    save_file(tensors, folder / "source.safetensors")
    script = (
        "import sys, torch, safetensors.torch\n"
        "torch.save(safetensors.torch.load_file(sys.argv[1]), sys.argv[2])\n"
    )
    paths = (folder / "source.safetensors", folder / "source.pth")
    # In another process, so that PyTorch's memory is not this one's.
    subprocess.run([sys.executable, "-c", script, *map(str, paths)], check=True)
    return paths


def measure(arguments: list[str], repeats: int) -> dict[str, float]:
    """Median seconds and largest peak of resident memory (MB) of a command's process."""
    taken = []
    for repeat in range(repeats):
        command = [argument.replace("{repeat}", str(repeat)) for argument in arguments]
        taken.append(timed(command, machine.environment()))
    return {
        "seconds": statistics.median(ended.seconds for ended in taken),
        "peak_mb": max(ended.peak_bytes for ended in taken) / 1e6,
    }


def run(model: str, repeats: int) -> dict[str, Any]:
    """All arms; JSON."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, pth = make_sources(folder, model)
        python = [sys.executable, "-c"]
        convert = [sys.executable, "-m", "weights_convert", "--model", model]
        loop = [*python, _LOOP, str(pth), str(folder / "loop-{repeat}")]
        arms = {
            "weights_convert, .safetensors": (
                [*convert, str(source), "--out", str(folder / "a-{repeat}")],
                _IMPORTS,
            ),
            "weights_convert, .pth": (
                [*convert, str(pth), "--out", str(folder / "b-{repeat}")],
                _IMPORTS,
            ),
            "torch.load and a loop, .pth": (loop, _LOOP_IMPORTS),
        }
        size = source.stat().st_size / 1e6
        rows = []
        for arm, (command, imports) in arms.items():
            bare = measure([*python, imports], repeats)
            whole = measure(command, repeats)
            above = whole["peak_mb"] - bare["peak_mb"]
            rows.append(
                {
                    "arm": arm,
                    "seconds": round(whole["seconds"], 3),
                    "import_seconds": round(bare["seconds"], 3),
                    "peak_mb": round(whole["peak_mb"], 1),
                    "peak_above_imports_mb": round(above, 1),
                    "peak_above_imports_per_file_size": round(above / size, 2),
                }
            )
    facts = {"cores": machine.cores(), "python": platform.python_version()}
    return {"model": model, "file_mb": round(size, 1), "repeats": repeats, **facts, "rows": rows}


def markdown(result: dict[str, Any]) -> str:
    """The result as a table."""
    rows = result["rows"]
    lines = [
        f"# Conversion of a {result['model']} ({result['file_mb']} MB), {result['cores']} cores",
        "",
        *tables.table(
            {
                "arm": [row["arm"] for row in rows],
                "seconds, whole process": [f"{row['seconds']:.2f}" for row in rows],
                "of them imports": [f"{row['import_seconds']:.2f}" for row in rows],
                "peak memory above the imports, MB": [
                    f"{row['peak_above_imports_mb']:.0f}" for row in rows
                ],
                "of the file's size": [
                    f"{row['peak_above_imports_per_file_size']:.2f}" for row in rows
                ],
            }
        ),
        "",
        f"Medians of {result['repeats']} processes. The loop checks nothing and keeps PyTorch's "
        "names; weights_convert checks every key, shape and number, hashes source and result, and "
        "waits for the disk.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Runs everything and writes FILE.md and FILE.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="name of the results, without suffix")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="a small model, once")
    options = parser.parse_args()
    sys.path.insert(0, str(machine.ROOT))
    result = run("resnet18" if options.smoke else MODEL, 1 if options.smoke else options.repeats)
    print(markdown(result))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        replace_text(options.out.with_suffix(".md"), markdown(result))
        replace_text(options.out.with_suffix(".json"), json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
