"""How do time and memory grow with the number of images, and with how much is trained?

    python benchmarks/growth.py                          # ResNet50; about a quarter of an hour
    python benchmarks/growth.py --model efficientnet_lite0 --images 500 1000 2000
    python benchmarks/growth.py --smoke                  # to see that it works

Every figure is of `python -m jtl.train` in a process of its own with an empty cache folder, on
generated images: seconds from its start to its end, the peak of its resident memory, and the
optimizer's state. Two series: three numbers of images under `head_only`, and masks from the
latest cut to the earliest (`head_only` to `full`) over the middle number. `cached` keeps the
outputs of the frozen part (the default), `uncached` runs all layers in every epoch
(`--cache-budget 0`). Results are written after each run; called again, the script goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from harness import datasets, jtl_runs, machine, plots, tables
from harness.store import Row, Store, add_options

MODELS = ("resnet50", "densenet121", "efficientnet_lite0", "resnet18")
MASKS = ("head_only", "last_stage", "last_stages:2", "last_stages:3", "full")
CACHED, UNCACHED = "cached", "uncached"
KEY = ("model", "mask", "cache", "images")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What every row was measured with."""

    batch: int
    size: int
    epochs: int
    repeats: int


def points(masks: list[str], images: list[int]) -> list[tuple[str, str, int]]:
    """(mask, cached or not, images) of both series; what they share comes once."""
    middle = images[len(images) // 2]
    listed = [("head_only", cache, n) for n in images for cache in (CACHED, UNCACHED)]
    for mask in masks:
        # Under `full` there is no frozen part to keep.
        caches = (UNCACHED,) if mask == "full" else (CACHED, UNCACHED)
        listed += [(mask, cache, middle) for cache in caches]
    return list(dict.fromkeys(listed))


def train(
    model: str, mask: str, cache: str, data: Path, settings: Settings, scratch: Path
) -> jtl_runs.Trained:
    """One training with an empty cache folder."""
    kept = scratch / "cache"
    options = [f"--model={model}", "--weights=random", f"--mask={mask}", f"--data=folder:{data}"]
    options += [f"--epochs={settings.epochs}", f"--batch-size={settings.batch}"]
    options += [f"--image-size={settings.size}", *(["--cache-budget=0"] * (cache == UNCACHED))]
    trained = jtl_runs.train(options, scratch, kept)
    shutil.rmtree(kept)
    return trained


def measure(
    model: str, mask: str, cache: str, images: datasets.Images, settings: Settings, scratch: Path
) -> Row:
    """A row: medians over the repeats, and the largest memory."""
    seconds, peaks, epochs = [], [], []
    summary: dict[str, Any] = {}
    for _ in range(settings.repeats):
        trained = train(model, mask, cache, images.folder, settings, scratch)
        summary = trained.summary
        if summary["cached_prefix"] != (cache == CACHED):
            raise SystemExit(
                f"{model} {mask} with {images.count} images was to run {cache}, but did not: "
                "there is too little free memory."
            )
        seconds.append(trained.ended.seconds)
        peaks.append(trained.ended.peak_bytes)
        # The first epoch compiles.
        epochs.append(min(trained.values("seconds")[1:] or trained.values("seconds")))
    return {
        "model": model,
        "mask": mask,
        "cache": cache,
        "images": images.count,
        "settings": dataclasses.asdict(settings),
        "cut": summary["cut"],
        "trainable_params": summary["trainable_params"],
        "optimizer_bytes": summary["optimizer_bytes"],
        "seconds": statistics.median(seconds),
        "epoch_seconds": statistics.median(epochs),
        "peak_bytes": max(peaks),
    }


def describe(model: str, rows: list[Row], store: Store) -> list[str]:
    """The table as people read it."""
    used = rows[0]["settings"]
    return [
        f"# Growth with images and with the depth of the cut: {plots.NAMES[model]}",
        "",
        *tables.machine_lines(store.facts, store.commands, [row["product_gflops"] for row in rows]),
        f"float32, {used['size']} pixels, batch {used['batch']}, {used['epochs']} epochs; medians "
        f"of {used['repeats']} processes, each with an empty cache folder: imports, decoding, "
        "compilation, evaluation and saving included. An epoch is that of the training steps "
        "alone, the fastest after the first.",
        "",
        *tables.table(
            {
                "mask": [row["mask"] for row in rows],
                "frozen part": [row["cache"] if row["mask"] != "full" else "none" for row in rows],
                "images": [row["images"] for row in rows],
                "cut": [row["cut"] for row in rows],
                "trainable params": [f"{row['trainable_params']:,}" for row in rows],
                "process, s": [f"{row['seconds']:.1f}" for row in rows],
                "an epoch's steps, s": [f"{row['epoch_seconds']:.3f}" for row in rows],
                "peak memory, GB": [f"{row['peak_bytes'] / 1e9:.2f}" for row in rows],
                "optimizer state, MB": [f"{row['optimizer_bytes'] / 1e6:.2f}" for row in rows],
            }
        ),
    ]


def parse() -> argparse.Namespace:
    """The script's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="resnet50", choices=MODELS)
    parser.add_argument("--masks", nargs="+", default=list(MASKS), help="from late to early cuts")
    parser.add_argument("--images", nargs="+", type=int, default=[128, 256, 512])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=224, help="height and width in pixels")
    parser.add_argument("--repeats", type=int, default=1, help="processes of each kind")
    add_options(parser, "a small backbone, few images")
    options = parser.parse_args()
    if options.smoke:
        options.model, options.masks, options.images = "resnet18", ["head_only", "full"], [8, 12]
        options.epochs, options.batch, options.size = 2, 4, 64
    options.images.sort()
    return options


def main() -> None:
    """Measures what is not measured yet, and writes table, figures and plot."""
    options = parse()
    out = options.out or (
        Path(tempfile.mkdtemp(prefix="jtl-smoke-")) if options.smoke else machine.RESULTS
    )
    name = f"growth_{options.model}"
    store = Store(out / f"{name}.json", machine.facts())
    command = " ".join(["python", "benchmarks/growth.py", *sys.argv[1:]])
    settings = Settings(options.batch, options.size, options.epochs, options.repeats)
    with tempfile.TemporaryDirectory(prefix="jtl-bench-") as folder:
        scratch = Path(folder)
        made: dict[int, datasets.Images] = {}
        for mask, cache, count in points(options.masks, options.images):
            key: dict[str, Any] = dict(model=options.model, mask=mask, cache=cache, images=count)
            if not options.again and store.find(dataclasses.asdict(settings), **key):
                continue
            if count not in made:
                made[count] = datasets.generate(scratch / f"images{count}", count)
            rate = machine.product_rate()
            row = measure(options.model, mask, cache, made[count], settings, scratch)
            store.put(KEY, {**row, "product_gflops": rate}, command)
            told = f"{mask}, {cache}, {count} images: {row['seconds']:.1f} s"
            print(told, file=sys.stderr, flush=True)
    current = [row for row in store.rows if row["settings"] == dataclasses.asdict(settings)]
    order = points([*MASKS, *options.masks], options.images)
    rows = [
        row
        for point in order
        for row in current
        if (row["mask"], row["cache"], row["images"]) == point
    ]
    plots.growth(rows, store.facts, out / f"{name}.png")
    print(tables.write(out / f"{name}.md", describe(options.model, rows, store)))
    print(f"written: {out / name}.{{md,json,png}}", file=sys.stderr)


if __name__ == "__main__":
    main()
