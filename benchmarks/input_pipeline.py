"""How fast do images come, beside torch.utils.data, Grain and tf.data?

    python benchmarks/input_pipeline.py            # all arms and all peers that are installed
    python benchmarks/input_pipeline.py --arms gather --peers grain
    python benchmarks/input_pipeline.py --smoke    # to see that it works

Two arms. `decode`: JPEG files are read, decoded, resized and cropped as for ImageNet (shorter
side 256, the 224 x 224 pixels in the middle). `gather`: images of 32 x 32 pixels are taken from
memory. Both give uint8 batches, shuffled anew in every pass; what is done on the device is not
part of it. Every library runs in a process of its own; the processes take passes in turn. Results
are written after each pair; called again, the script goes on with what is missing.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import io
import statistics
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from harness import datasets, machine, plots, tables
from harness.steps import compare
from harness.store import Row, Store, add_options
from harness.workers import PAUSE, STEPS, Worker

PEERS = {"pytorch": "torch.utils.data", "grain": "Grain", "tensorflow": "tf.data"}
MODULES = {"pytorch": "torchvision", "grain": "grain", "tensorflow": "tensorflow"}
TARGETS = {"decode": 300, "gather": 100_000}
"""Images per second that jtl is to reach on two cores."""
SIZES = {"decode": 224, "gather": 32}
DEFAULT = machine.ROOT.parent / "shared" / "data" / "imagenet-sample.zip"
LONGER_SIDE, QUALITY = 500, 98
"""Of the files that are decoded: ImageNet's have 400 x 350 pixels and 110 kB on average."""
KEY = ("arm", "peer")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What every row was measured with."""

    images: int
    pictures: str
    size: int
    batch: int
    repeats: int


def files_of(archive: Path | None, folder: Path, images: int) -> str:
    """JPEG files in train/a and train/b, as large as ImageNet's; what they are.

    Args:
        archive: A zip with JPEG files anywhere in it, which are brought to `LONGER_SIDE`; None for
            generated ones.
        folder: Where they go; new.
        images: How many at the most.
    """
    if archive is None:
        return datasets.generate(folder, images + 2, side=LONGER_SIDE, val=2).source
    nbytes = []
    with zipfile.ZipFile(archive) as stored:
        names = sorted(n for n in stored.namelist() if n.lower().endswith((".jpg", ".jpeg")))
        chosen = np.linspace(0, len(names) - 1, min(images, len(names))).round().astype(int)
        for number, index in enumerate(chosen):
            target = folder / "train" / "ab"[number % 2] / f"{number:05}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            with Image.open(io.BytesIO(stored.read(names[index]))) as image:
                scale = LONGER_SIDE / max(image.size)
                size = (round(image.width * scale), round(image.height * scale))
                larger = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
            larger.save(target, "JPEG", quality=QUALITY)
            nbytes.append(target.stat().st_size)
    mean = sum(nbytes) / len(nbytes) / 1000
    return f"{archive.name}, longer side {LONGER_SIDE} pixels, {mean:.0f} kB on average"


def measure(arm: str, peer: str, settings: Settings, folder: Path) -> Row:
    """A row: both libraries' images per second, and how their memory grows."""
    key = (arm, settings.batch, settings.size, settings.images, folder)
    scripts = machine.BENCHMARKS / "peers"
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    peaks: dict[str, list[int]] = {"ours": [], "theirs": []}
    with (
        Worker(scripts / "jtl_input.py", *key) as ours,
        Worker(scripts / f"{peer}_input.py", *key) as theirs,
    ):
        workers = {"ours": ours, "theirs": theirs}
        if ours.told["images"] != theirs.told["images"]:
            raise SystemExit(f"{arm}: {ours.told} images of jtl, {theirs.told} of {peer}")
        for repeat in range(settings.repeats):
            for side in list(workers) if repeat % 2 == 0 else list(workers)[::-1]:
                answer = workers[side].ask("step")
                seconds[side].append(answer["seconds"])
                peaks[side].append(answer["peak_bytes"])
                time.sleep(PAUSE)
    row: Row = {
        "arm": arm,
        "peer": peer,
        "settings": dataclasses.asdict(settings),
        **compare(seconds["ours"], seconds["theirs"]),
    }
    for side, worker in workers.items():
        rate = worker.told["images"] / statistics.median(seconds[side])
        # Between the first turn and the last, a turn being one pass more than is timed.
        growth = peaks[side][-1] - peaks[side][0]
        row[side] |= {"images_per_second": rate, "peak_bytes": peaks[side][-1]}
        row[side] |= {"growth_bytes": growth, "passes": (settings.repeats - 1) * (STEPS + 1)}
    row["target"] = f"{TARGETS[arm]:,}/s"
    row["reached"] = row["ours"]["images_per_second"] >= TARGETS[arm]
    return row


def describe(store: Store) -> list[str]:
    """The table as people read it."""
    rows = ordered(store)
    lines = [
        "# Images per second, compared with other libraries",
        "",
        *tables.machine_lines(store.facts, store.commands, [row["product_gflops"] for row in rows]),
    ]
    for arm in dict.fromkeys(row["arm"] for row in rows):
        used = next(row["settings"] for row in rows if row["arm"] == arm)
        lines += [f"- `{arm}`: {used['images']:,} images ({used['pictures']}) to {used['size']} x "]
        lines[-1] += f"{used['size']} pixels, batches of {used['batch']}, {used['repeats']} turns"
        lines[-1] += f" of {STEPS} passes each"
    return [
        *lines,
        "",
        "Medians over the turns of each pair of processes. The ratio is jtl's speed over the "
        "other's, with its range; above 1 jtl is faster. Memory is that of the main process, from "
        "the first turn to the last; workers of torch.utils.data have memory of their own.",
        "",
        *tables.table(
            {
                "arm": [row["arm"] for row in rows],
                "beside": [PEERS[row["peer"]] for row in rows],
                "jtl, images/s": [f"{row['ours']['images_per_second']:,.0f}" for row in rows],
                "the other": [f"{row['theirs']['images_per_second']:,.0f}" for row in rows],
                "ratio (range)": [tables.ratio(row) for row in rows],
                "target of jtl": [tables.verdict(row) for row in rows],
                "memory's growth, MB: jtl": [
                    f"{row['ours']['growth_bytes'] / 1e6:.1f} in {row['ours']['passes']} passes"
                    for row in rows
                ],
                "the other's": [f"{row['theirs']['growth_bytes'] / 1e6:.1f}" for row in rows],
            }
        ),
    ]


def ordered(store: Store) -> list[Row]:
    """The rows by arm and peer."""
    return store.ordered(("arm", tuple(TARGETS)), ("peer", tuple(PEERS)))


def parse() -> argparse.Namespace:
    """The script's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    installed = [peer for peer, name in MODULES.items() if importlib.util.find_spec(name)]
    parser.add_argument("--arms", nargs="+", default=list(TARGETS), choices=TARGETS)
    parser.add_argument("--peers", nargs="+", default=installed, choices=PEERS)
    parser.add_argument("--data", type=Path, help="zip of JPEG files to decode")
    parser.add_argument("--files", type=int, default=500, help="how many of them")
    parser.add_argument("--images", type=int, default=50_000, help="images in memory to gather")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5, help="turns of each library")
    add_options(parser, "few images, few turns")
    options = parser.parse_args()
    if options.data is None and DEFAULT.is_file():
        options.data = DEFAULT
    if options.smoke:
        options.files, options.images, options.batch, options.repeats = 40, 2000, 8, 2
    return options


def main() -> None:
    """Measures what is not measured yet, and writes table, figures and plot."""
    options = parse()
    out = options.out or (
        Path(tempfile.mkdtemp(prefix="jtl-smoke-")) if options.smoke else machine.RESULTS
    )
    packages = ("pillow", "torch", "torchvision", "grain", "tensorflow")
    store = Store(out / "input_pipeline.json", machine.facts(*packages))
    command = " ".join(["python", "benchmarks/input_pipeline.py", *sys.argv[1:]])
    with tempfile.TemporaryDirectory(prefix="jtl-bench-") as name:
        folder = Path(name)
        source = files_of(options.data, folder, options.files)
        count = {"decode": len(list(folder.rglob("train/*/*.jpg"))), "gather": options.images}
        told = {"decode": source, "gather": "random, in memory"}
        for arm in options.arms:
            settings = Settings(count[arm], told[arm], SIZES[arm], options.batch, options.repeats)
            for peer in options.peers:
                stored = store.find(dataclasses.asdict(settings), arm=arm, peer=peer)
                if stored and not options.again:
                    continue
                rate = machine.product_rate()
                row = measure(arm, peer, settings, folder)
                store.put(KEY, {**row, "product_gflops": rate}, command)
                tables.write(out / "input_pipeline.md", describe(store))
                speed = row["ours"]["images_per_second"]
                print(
                    f"{arm} compared with {peer}: {speed:,.0f} images/s, {row['ratio']:.2f}x",
                    file=sys.stderr,
                    flush=True,
                )
    plots.input_pipeline(ordered(store), PEERS, TARGETS, store.facts, out / "input_pipeline.png")
    print(tables.write(out / "input_pipeline.md", describe(store)))
    print(f"written: {out / 'input_pipeline'}.{{md,json,png}}", file=sys.stderr)


if __name__ == "__main__":
    main()
