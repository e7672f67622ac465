"""How fast is a training step and a frozen forward, beside PyTorch + timm?

    python benchmarks/vs_pytorch.py                      # three backbones, 224 pixels, batch 16
    python benchmarks/vs_pytorch.py --smoke              # seconds, to see that it works

Both libraries run in processes of their own, as their users run them (PyTorch with channels_last
and all cores; jtl as its commands start it), on the same cores, the same pictures in memory, in
turn, so that the ratio holds when the machine's speed drifts. Beside them stands the machine's
own limit: the rate of a float32 matrix product in the same run.

Arms: `forward` is a frozen backbone with its head, in inference mode; `last_stage` and `full` are
training steps with SGD and momentum under jtl's mask of that name, without cached features.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

MODELS = ("resnet50", "densenet121", "efficientnet_lite0")
ARMS = ("forward", "last_stage", "full")
LIBRARIES = ("jtl", "pytorch")
CLASSES = 10
PRODUCT = 2048
"""Rows and columns of the matrices whose product shows the machine's limit."""


def pictures(batch: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Normalized pictures NHWC and labels, random."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch, size, size, 3), dtype=np.float32)
    return images, rng.integers(0, CLASSES, batch).astype(np.int32)


def jtl_arm(name: str, arm: str, batch: int, size: int):
    """A function that takes one step and waits for it, and the bytes of optimizer state."""
    import jax
    import jax.numpy as jnp
    import optax

    from jtl import models, optim, steps
    from jtl.freeze import FROZEN, label_tree, parse, split
    from jtl.freeze.split import prune, trainable, within
    from jtl.initialize import initialize

    images, labels = map(jnp.asarray, pictures(batch, size))
    model = models.create(name, num_classes=CLASSES)
    variables = initialize(model, None, size=size, seed=0)
    if arm == "forward":
        on_device = jax.device_put(variables)
        return lambda: steps.forward(on_device, images, model=model).block_until_ready(), 0
    tree = label_tree(parse(arm, model.units()), variables["params"])
    groups = set(jax.tree.leaves(tree)) - {FROZEN}
    tx = optim.build(tree, {group: optax.sgd(0.01, momentum=0.9) for group in groups})
    cut = split(tree, model.units())
    trains, live = trainable(tree), within(cut.train_units)
    params, stats, frozen = jax.tree.map(
        jnp.array,
        (
            prune(variables["params"], trains),
            prune(variables["batch_stats"], live),
            {
                "params": prune(variables["params"], lambda leaf: not trains(leaf)),
                "batch_stats": prune(variables["batch_stats"], lambda leaf: not live(leaf)),
            },
        ),
    )
    state = steps.init_state(params, stats, tx)
    size_of_state = sum(leaf.nbytes for leaf in jax.tree.leaves(state.opt_state))
    options: dict[str, Any] = dict(model=model, tx=tx, start=None, train_units=cut.train_units)

    def step() -> None:
        nonlocal state
        state, metrics = steps.train_step(state, frozen, images, labels, **options)
        metrics.loss.block_until_ready()

    return step, size_of_state


def pytorch_arm(name: str, arm: str, batch: int, size: int):
    """The same with timm's model."""
    import timm
    import torch

    images, labels = pictures(batch, size)
    # A NHWC array seen as NCHW is what PyTorch calls channels_last.
    inputs = torch.from_numpy(images).permute(0, 3, 1, 2)
    targets = torch.from_numpy(labels).long()
    name = name.replace("efficientnet_lite", "tf_efficientnet_lite")
    model = timm.create_model(name, num_classes=CLASSES).to(memory_format=torch.channels_last)
    if arm == "forward":
        model.eval()

        def forward() -> None:
            with torch.inference_mode():
                model(inputs)

        return forward, 0
    model.train()
    if arm == "last_stage":
        frozen = frozen_modules(model, name)
        for module in frozen:
            module.requires_grad_(False)
            module.eval()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, 0.01, momentum=0.9)
    loss = torch.nn.CrossEntropyLoss()

    def step() -> None:
        optimizer.zero_grad()
        loss(model(inputs), targets).backward()
        optimizer.step()

    return step, 4 * sum(p.numel() for p in trained)


def frozen_modules(model: Any, name: str) -> list[Any]:
    """What lies before the last stage in timm's models, as in jtl's mask `last_stage`."""
    if name.startswith("resnet"):
        return [model.conv1, model.bn1, model.layer1, model.layer2, model.layer3]
    if name.startswith("densenet"):
        children = dict(model.features.named_children())
        return [m for key, m in children.items() if key not in ("denseblock4", "norm5")]
    return [model.conv_stem, model.bn1, *list(model.blocks)[:-1]]


def product_rate(repeats: int = 5) -> float:
    """GFLOP/s of XLA's float32 matrix product, the best of some."""
    import jax
    import jax.numpy as jnp

    a = jnp.ones((PRODUCT, PRODUCT))
    multiply = jax.jit(lambda a: a @ a)
    multiply(a).block_until_ready()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        multiply(a).block_until_ready()
        seconds.append(time.perf_counter() - began)
    return 2 * PRODUCT**3 / min(seconds) / 1e9


def work(library: str, name: str, arm: str, batch: int, size: int) -> None:
    """A process of its own: prepares, then answers each line on stdin with a step's seconds."""
    import resource

    began = time.perf_counter()
    step, optimizer_bytes = {"jtl": jtl_arm, "pytorch": pytorch_arm}[library](
        name, arm, batch, size
    )
    step()
    first = time.perf_counter() - began
    step()
    print(json.dumps({"first": first, "optimizer_bytes": optimizer_bytes}), flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        step()
        seconds = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"seconds": seconds, "peak_bytes": peak}), flush=True)


class Worker:
    """The process of one library and arm."""

    def __init__(self, *args: object):
        """Starts it, and waits until its first two steps are taken."""
        command = [sys.executable, __file__, "--work", *map(str, args)]
        tunables = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"} if args[0] == "jtl" else {}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **tunables},
        )
        self.ready = self._read()

    def step(self) -> dict[str, float]:
        """Takes one step; its seconds and the process's peak memory."""
        assert self._process.stdin is not None
        self._process.stdin.write("step\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _read(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a worker ended: {' '.join(map(str, self._process.args))}")
        return json.loads(line)


@dataclasses.dataclass
class Row:
    """One arm of one backbone; seconds are medians of a step."""

    model: str
    arm: str
    jtl_images_per_second: float
    pytorch_images_per_second: float
    ratio: float
    ratio_min: float
    ratio_max: float
    jtl_first_seconds: float
    pytorch_first_seconds: float
    jtl_peak_bytes: int
    pytorch_peak_bytes: int
    optimizer_bytes: int


def measure(name: str, arm: str, batch: int, size: int, repeats: int) -> Row:
    """Steps of both libraries in turn, and the ratio of each pair."""
    workers = {library: Worker(library, name, arm, batch, size) for library in LIBRARIES}
    taken: dict[str, list[dict[str, float]]] = {library: [] for library in LIBRARIES}
    for _ in range(repeats):
        for library, worker in workers.items():
            taken[library].append(worker.step())
            time.sleep(0.05)  # The other's threads may still spin.
    for worker in workers.values():
        worker.close()
    ours, theirs = ([step["seconds"] for step in taken[library]] for library in LIBRARIES)
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    return Row(
        name,
        arm,
        batch / statistics.median(ours),
        batch / statistics.median(theirs),
        *(statistics.median(ratios), min(ratios), max(ratios)),
        *(workers[library].ready["first"] for library in LIBRARIES),
        *(int(taken[library][-1]["peak_bytes"]) for library in LIBRARIES),
        int(workers["jtl"].ready["optimizer_bytes"]),
    )


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    packages = ("jtl", "jax", "flax", "onednn-cpu-gomp", "torch", "timm")
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(encoding="utf-8").splitlines()
        cpu = next((s.split(":")[1].strip() for s in lines if s.startswith("model name")), cpu)
    return {"cpu": cpu, "cores": os.cpu_count(), "versions": versions}


def markdown(rows: list[Row], facts: dict[str, Any]) -> str:
    """The table as people read it."""
    lines = [
        "# A step beside PyTorch + timm",
        "",
        f"{facts['command']}",
        "",
        f"{facts['cpu']}, {facts['cores']} cores; float32, {facts['size']} pixels, batch "
        f"{facts['batch']}; medians of {facts['repeats']} steps of each in turn. Matrix product "
        f"in the same run: {facts['product_gflops']:.0f} GFLOP/s.",
        "",
        "| backbone | arm | jtl, images/s | PyTorch, images/s | ratio (min-max) | first step, s: "
        "jtl, PyTorch | peak memory, GB | optimizer state, MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row.model} | {row.arm} | {row.jtl_images_per_second:.1f} | "
            f"{row.pytorch_images_per_second:.1f} | **{row.ratio:.2f}** ({row.ratio_min:.2f}-"
            f"{row.ratio_max:.2f}) | {row.jtl_first_seconds:.1f}, {row.pytorch_first_seconds:.1f} "
            f"| {row.jtl_peak_bytes / 1e9:.2f}, {row.pytorch_peak_bytes / 1e9:.2f} | "
            f"{row.optimizer_bytes / 1e6:.1f} |"
        )
    versions = ", ".join(f"{k} {v}" for k, v in facts["versions"].items() if v)
    return "\n".join([*lines, "", f"Versions: {versions}.", ""])


def draw(rows: list[Row], facts: dict[str, Any], path: Path) -> None:
    """Bars of the ratios; above 1 jtl is faster."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    models = list(dict.fromkeys(row.model for row in rows))
    for offset, arm in enumerate(dict.fromkeys(row.arm for row in rows)):
        chosen = {row.model: row for row in rows if row.arm == arm}
        where = [index + 0.26 * (offset - 1) for index in range(len(models))]
        bars = axes.bar(where, [chosen[m].ratio for m in models], 0.24, label=arm)
        axes.bar_label(bars, fmt="%.2f", fontsize=8)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xticks(range(len(models)), models)
    axes.set_ylabel("speed of jtl over PyTorch + timm")
    axes.set_title(
        f"Images per second, {facts['size']} px, batch {facts['batch']}, {facts['cores']} cores"
    )
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    """Measures, and writes the table, its figures and a plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", nargs="+", default=MODELS, help="backbones of jtl")
    parser.add_argument("--arms", nargs="+", default=ARMS, choices=ARMS)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=224, help="height and width in pixels")
    parser.add_argument("--repeats", type=int, default=7, help="steps of each library")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--smoke", action="store_true", help="one small backbone, few steps")
    parser.add_argument("--work", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        library, name, arm, batch, size = options.work
        work(library, name, arm, int(batch), int(size))
        return
    if options.smoke:
        options.model, options.batch, options.size, options.repeats = ["resnet18"], 2, 64, 2
    rows = []
    for name in options.model:
        for arm in options.arms:
            rows.append(measure(name, arm, options.batch, options.size, options.repeats))
            last = rows[-1]
            print(f"{name} {arm}: {last.ratio:.2f}x", file=sys.stderr, flush=True)
    facts = {
        "command": "python " + " ".join(["benchmarks/vs_pytorch.py", *sys.argv[1:]]),
        **machine(),
        "product_gflops": product_rate(),
        **{key: getattr(options, key) for key in ("batch", "size", "repeats")},
    }
    options.out.mkdir(parents=True, exist_ok=True)
    table = markdown(rows, facts)
    (options.out / "vs_pytorch.md").write_text(table, encoding="utf-8")
    stored = {**facts, "rows": [dataclasses.asdict(row) for row in rows]}
    (options.out / "vs_pytorch.json").write_text(json.dumps(stored, indent=2) + "\n")
    draw(rows, facts, options.out / "vs_pytorch.png")
    print(table)


if __name__ == "__main__":
    main()
