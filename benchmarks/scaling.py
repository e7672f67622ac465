"""Does training on many devices give what one device gives, and what does dividing it cost?

    python benchmarks/scaling.py                   # some minutes
    python benchmarks/scaling.py --model resnet50 --size 224 --batch 64
    python benchmarks/scaling.py --smoke           # two devices, to see that it works

Every row is `python -m jtl.train` in a process of its own, which XLA is told to give 1, 2, 4 or 8
virtual CPU devices; jtl divides each batch among those that it finds. All of them share this
machine's cores, so a step cannot get faster with their number: what it gets slower by is the price
of dividing, and of adding gradients and statistics up. Beside it stands how far the losses of all
epochs are from those of one device. Exits 1 where they are further than float32 rounding explains.
oneDNN, which serves a single device alone, is left out of all. Steps are plain SGD: Adam's first
step moves each param by the sign of its gradient, whatever its size, so that rounding decides about
params whose gradient is nearly zero.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from harness import datasets, jtl_runs, machine, plots, tables
from harness.store import Row, Store, add_options

DEVICES = (1, 2, 4, 8)
MASKS = ("full", "head_only")
MODELS = ("resnet18", "resnet50", "densenet121", "efficientnet_lite0")
KEY = ("model", "mask", "devices")
RATES = {"full": 1e-4, "head_only": 1e-2}
"""Learning rates. All of a network from random weights runs away at the higher one, and rounding in
the first steps decides where to."""
TOLERANCE = 1e-4
"""Of the largest loss: sums in another order, through a few dozen steps."""
NAME = "scaling"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What every row was measured with."""

    images: int
    batch: int
    size: int
    epochs: int
    repeats: int


def flags(devices: int) -> str:
    """XLA's flags for so many virtual devices, with those that are set already."""
    option = "--xla_force_host_platform_device_count"
    others = re.sub(rf"{option}=\d+", "", os.environ.get("XLA_FLAGS", ""))
    return f"{others} {option}={devices}".strip()


def train(model: str, mask: str, devices: int, data: Path, settings: Settings, scratch: Path):
    """One training with an empty cache folder, so that features are computed by these devices.

    Raises:
        SystemExit: It did not see the devices.
    """
    kept = scratch / "cache"
    options = [f"--model={model}", "--weights=random", f"--mask={mask}", f"--data=folder:{data}"]
    options += [f"--epochs={settings.epochs}", f"--batch-size={settings.batch}"]
    options += [f"--image-size={settings.size}", "--optimizer=sgd", f"--lr={RATES[mask]}"]
    variables = {"XLA_FLAGS": flags(devices), "JTL_ONEDNN": "0"}
    trained = jtl_runs.train(options, scratch, kept, variables)
    shutil.rmtree(kept)
    if f"({devices} x " not in trained.summary["device"]:
        raise SystemExit(f"not on {devices} devices, but on {trained.summary['device']}")
    return trained


def measure(
    model: str, mask: str, devices: int, data: Path, settings: Settings, scratch: Path
) -> Row:
    """A row: the median over the repeats of a step's seconds, and the losses of every epoch."""
    found = [train(model, mask, devices, data, settings, scratch) for _ in range(settings.repeats)]
    each = []
    for trained in found:
        # The first epoch compiles.
        epochs = trained.epochs[1:] or trained.epochs
        each.append(min(settings.batch / line["images_per_second"] for line in epochs))
    return {
        "model": model,
        "mask": mask,
        "devices": devices,
        "settings": dataclasses.asdict(settings),
        "step_seconds": statistics.median(each),
        "images_per_second": settings.batch / statistics.median(each),
        "seconds": statistics.median(trained.ended.seconds for trained in found),
        "peak_bytes": max(trained.ended.peak_bytes for trained in found),
        "train_loss": found[0].values("train_loss"),
        "val_loss": found[0].values("val_loss"),
    }


def apart(row: Row, one: Row) -> float:
    """The largest difference of a loss from that of one device, over the largest of its kind."""
    return max(
        abs(a - b) / max(one[name])
        for name in ("train_loss", "val_loss")
        for a, b in zip(row[name], one[name], strict=True)
    )


def columns(rows: list[Row]) -> dict[str, list[Any]]:
    """The table of docs/scaling.md; every mask's first row is that of one device."""
    ones = {row["mask"]: row for row in rows if row["devices"] == 1}
    return {
        "mask": [f"`{row['mask']}`" for row in rows],
        "devices": [row["devices"] for row in rows],
        "step, ms": [f"{1e3 * row['step_seconds']:.2f}" for row in rows],
        "images/s": [f"{row['images_per_second']:,.0f}" for row in rows],
        "step over that of one device": [
            f"{row['step_seconds'] / ones[row['mask']]['step_seconds']:.2f}" for row in rows
        ],
        "last training loss": [f"{row['train_loss'][-1]:.6f}" for row in rows],
        "losses apart, at most": [
            "-" if row["devices"] == 1 else f"{apart(row, ones[row['mask']]):.1e}" for row in rows
        ],
        "peak memory, GB": [f"{row['peak_bytes'] / 1e9:.2f}" for row in rows],
    }


def describe(rows: list[Row], store: Store) -> list[str]:
    """The table as people read it."""
    used = rows[0]["settings"]
    return [
        f"# {plots.NAMES[rows[0]['model']]} on virtual devices",
        "",
        *tables.machine_lines(store.facts, store.commands, [row["product_gflops"] for row in rows]),
        f"float32, {used['size']} pixels, {used['batch']} images a step in all, "
        f"{used['images']} images, {used['epochs']} epochs, SGD; medians of {used['repeats']} "
        "processes, without oneDNN. A step is that of the fastest epoch after the first. All "
        "devices share the machine's cores.",
        "",
        *tables.table(columns(rows)),
    ]


def parse() -> argparse.Namespace:
    """The script's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="resnet18", choices=MODELS)
    parser.add_argument("--masks", nargs="+", default=list(MASKS))
    parser.add_argument("--devices", nargs="+", type=int, default=list(DEVICES))
    parser.add_argument("--images", type=int, default=512, help="for training and validation")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32, help="images of all devices together")
    parser.add_argument("--size", type=int, default=96, help="height and width in pixels")
    parser.add_argument("--repeats", type=int, default=1, help="processes of each kind")
    add_options(parser, "one and two devices, few images")
    options = parser.parse_args()
    if options.smoke:
        options.devices, options.images, options.epochs = [1, 2], 16, 1
        options.batch, options.size = 4, 32
    if 1 not in options.devices:
        parser.error("--devices must have 1, which the others are compared with")
    if any(options.batch % count for count in options.devices):
        parser.error("--batch must be a multiple of each of --devices")
    options.devices.sort()
    return options


def main() -> int:
    """The exit code: 1 if losses differ."""
    options = parse()
    out = options.out or (
        Path(tempfile.mkdtemp(prefix="jtl-smoke-")) if options.smoke else machine.RESULTS
    )
    store = Store(out / f"{NAME}.json", machine.facts())
    command = " ".join(["python", "benchmarks/scaling.py", *sys.argv[1:]])
    settings = Settings(
        options.images, options.batch, options.size, options.epochs, options.repeats
    )
    used = dataclasses.asdict(settings)
    wanted = [(mask, count) for mask in options.masks for count in options.devices]
    with tempfile.TemporaryDirectory(prefix="jtl-bench-") as folder:
        scratch = Path(folder)
        data = datasets.generate(scratch / "images", options.images, options.size)
        for mask, count in wanted:
            key: dict[str, Any] = dict(model=options.model, mask=mask, devices=count)
            if not options.again and store.find(used, **key):
                continue
            rate = machine.product_rate()
            row = measure(options.model, mask, count, data.folder, settings, scratch)
            store.put(KEY, {**row, "product_gflops": rate}, command)
            told = f"{mask}, {count} devices: {1e3 * row['step_seconds']:.2f} ms a step"
            print(told, file=sys.stderr, flush=True)
    rows = [
        row
        for mask, count in wanted
        if (row := store.find(used, model=options.model, mask=mask, devices=count))
    ]
    print(tables.write(out / f"{NAME}.md", describe(rows, store)))
    print(f"written: {out / NAME}.{{md,json}}", file=sys.stderr)
    ones = {row["mask"]: row for row in rows if row["devices"] == 1}
    far = [row for row in rows if apart(row, ones[row["mask"]]) > TOLERANCE]
    for row in far:
        told = f"{row['mask']} on {row['devices']} devices: losses differ by"
        print(f"{told} {apart(row, ones[row['mask']]):.1e}", file=sys.stderr)
    return 1 if far else 0


if __name__ == "__main__":
    sys.exit(main())
