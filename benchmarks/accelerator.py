r"""How fast is jtl on this accelerator, how near its peak, and how fast beside PyTorch?

    python benchmarks/accelerator.py                       # on a GPU or TPU; half an hour or so
    python benchmarks/accelerator.py --model efficientnet_lite0 --batch 64 256 1024
    python benchmarks/accelerator.py --peers               # jtl alone
    python benchmarks/accelerator.py --smoke               # on a CPU, to see that it works
    python benchmarks/accelerator.py --platform cpu --model resnet18 --arms full --dtype bfloat16 \
        --batch 2 --size 32 --steps 1 --repeats 1 --peers pytorch_compiled --out tried

The last one is `--smoke` of what that leaves out, `torch.compile`, which takes a minute or two.

For every mask, number format and batch size: images per second, share of the device's published
peak, and memory. jtl stands alone on TPUs; on NVIDIA's GPUs beside PyTorch + timm in channels_last,
with automatic mixed precision for bfloat16, eager (`pytorch`) and compiled (`pytorch_compiled`).
Images lie on the device, normalized: reading them is what input_pipeline.py measures.

Each row is measured in a process of its own, one after the other, so that each has the whole
device. A turn is `--steps` steps, queued one after the other, and ends when the last has ended. A
batch that does not fit is told as such. Results are written after each row; called again, the
script goes on with what is missing. Beside them stands the rate of a matrix product, 8192 x 8192,
on the same device: near its published peak, or something is wrong with the machine.

`head_only`, `last_stage` and `full` are training steps with SGD and momentum under jtl's mask of
that name, without cached features; `forward` is a frozen backbone with its head, in inference mode.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import device_plots, machine, tables
from harness.device import SCRIPTS, Device, find_device, usable_peers
from harness.peaks import Peak
from harness.steps import CLASSES
from harness.store import Row, Store, add_options
from harness.workers import STEPS, Worker

ARMS = ("forward", "head_only", "last_stage", "full")
DTYPES = ("bfloat16", "float32")
PEERS = {"pytorch": "eager", "pytorch_compiled": "compile"}
SIDES = {"jtl": "jtl", "pytorch": "PyTorch", "pytorch_compiled": "PyTorch, compiled"}
KEY = ("model", "arm", "dtype", "batch", "side")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What every row was measured with."""

    size: int
    steps: int
    repeats: int
    peak_tflops: float | None


def measure(
    model: str, arm: str, dtype: str, batch: int, side: str, settings: Settings, device: Device
) -> Row:
    """A row: seconds of a step, memory and rates; or that the batch does not fit."""
    key = (model, arm, dtype, batch, settings.size, CLASSES, settings.steps)
    script, more = "jtl_device.py", ()
    if side != "jtl":
        script = "pytorch_device.py"
        more = ("cpu" if device.platform == "cpu" else "cuda", PEERS[side])
    row: Row = {
        **{"model": model, "arm": arm, "dtype": dtype, "batch": batch, "side": side},
        "settings": dataclasses.asdict(settings),
    }
    with Worker(SCRIPTS / script, *key, *more, **device.variables) as worker:
        if worker.out_of_memory is not None:
            return {**row, "out_of_memory": worker.out_of_memory}
        turns = [worker.ask("step") for _ in range(settings.repeats)]
        seconds = [turn["seconds"] / settings.steps for turn in turns]
        row |= {
            "seconds": seconds,
            "images_per_second": batch / statistics.median(seconds),
            "first_seconds": worker.told["first_seconds"],
            "peak_bytes": turns[-1]["peak_bytes"],
            "optimizer_bytes": worker.told["optimizer_bytes"],
            "out_of_memory": None,
        }
        if side == "jtl":
            row["step_gflop"] = worker.ask("flops")["flops"] / 1e9
            product = worker.ask("product")
            if "gflops" in product:  # Beside a large batch even its matrices may not fit.
                rates = [product, *(worker.ask("product") for _ in range(2))]
                row["product_tflops"] = max(rate["gflops"] for rate in rates) / 1000
    return row


def rated(rows: Sequence[Row], peak: Peak | None) -> list[Row]:
    """The rows with TFLOP/s, share of the peak, and jtl's speed over each peer's.

    Operations are those of jtl's program, for a peer too: the work that is asked for.
    """

    def same(row: Row) -> tuple[Any, ...]:
        return tuple(row[name] for name in KEY if name != "side")

    ours = {same(row): row for row in rows if row["side"] == "jtl"}
    told = []
    for row in rows:
        jtl = ours.get(same(row), {})
        more = dict.fromkeys(("tflops", "share", "ratio"))
        if not row["out_of_memory"] and "step_gflop" in jtl:
            best = row["settings"]["peak_tflops"] or (peak.of(row["dtype"]) if peak else None)
            per_image = jtl["step_gflop"] / row["batch"]
            more["tflops"] = per_image * row["images_per_second"] / 1000
            more["share"] = more["tflops"] / best if best else None
            if row["side"] != "jtl":
                more["ratio"] = jtl["images_per_second"] / row["images_per_second"]
        told.append({**row, **more})
    return told


def describe(store: Store, peak: Peak | None) -> list[str]:
    """The table as people read it."""
    rows = rated(ordered(store), peak)
    used, device = rows[0]["settings"], store.facts["device"]

    def cells(form: str, key: str, scale: float = 1) -> list[str]:
        return ["-" if row.get(key) is None else format(row[key] * scale, form) for row in rows]

    rates = [
        f"{dtype} {max(found):.1f} TFLOP/s"
        for dtype in DTYPES
        if (
            found := [
                r["product_tflops"] for r in rows if r["dtype"] == dtype and "product_tflops" in r
            ]
        )
    ]
    return [
        "# jtl on an accelerator",
        "",
        *(f"    {command}" for command in store.commands),
        "",
        f"{device}; {used['size']} pixels; medians of {used['repeats']} turns of "
        f"{STEPS * used['steps']} steps, images on the device. {peak_told(peak, used, device)} "
        f"A matrix product on the same device: {', '.join(rates) or 'not measured'}. "
        + ", ".join(f"{name} {version}" for name, version in store.facts["versions"].items())
        + f"; jtl's source {store.facts['source']}.",
        "",
        "TFLOP/s are the operations of jtl's program (XLA's count) over the time, for PyTorch too. "
        "The ratio is jtl's speed over PyTorch's in that row; above 1 jtl is faster. Memory is "
        "what was in use at most: of a CPU the whole process's, of a device the arrays'.",
        "",
        *tables.table(
            {
                "backbone": [row["model"] for row in rows],
                "mask": [row["arm"] for row in rows],
                "format": [row["dtype"] for row in rows],
                "batch": [row["batch"] for row in rows],
                "by": [SIDES[row["side"]] for row in rows],
                "images/s": [
                    "out of memory" if row["out_of_memory"] else f"{row['images_per_second']:,.1f}"
                    for row in rows
                ],
                "TFLOP/s": cells(".2f", "tflops"),
                "share of peak, %": cells(".1f", "share", 100),
                "jtl is faster": cells(".2f", "ratio"),
                "memory, GB": cells(".2f", "peak_bytes", 1e-9),
                "first step, s": cells(".1f", "first_seconds"),
            }
        ),
    ]


def peak_told(peak: Peak | None, used: dict[str, Any], device: str) -> str:
    """What the shares are of."""
    if used["peak_tflops"]:
        return f"Peak as given: {used['peak_tflops']:g} TFLOP/s."
    if peak is None:
        return f"No peak known for {device}: no shares without --peak-tflops (harness/peaks.py)."
    half = f"{peak.bfloat16:g}" if peak.bfloat16 else "no"
    return (
        f"Peak: {half} TFLOP/s in bfloat16, {peak.float32:g} in what float32 is computed in "
        f"({peak.source})."
    )


def ordered(store: Store) -> list[Row]:
    """The rows by backbone, mask, number format, batch size and side."""
    names = list(dict.fromkeys(row["model"] for row in store.rows))
    sides = list(SIDES)
    return sorted(
        store.rows,
        key=lambda row: (
            names.index(row["model"]),
            ARMS.index(row["arm"]),
            DTYPES.index(row["dtype"]),
            row["batch"],
            sides.index(row["side"]),
        ),
    )


def parse() -> argparse.Namespace:
    """The script's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", nargs="+", default=["resnet50"], help="backbones of jtl")
    parser.add_argument("--arms", nargs="+", default=ARMS, choices=ARMS, help="masks, and forward")
    parser.add_argument("--dtype", nargs="+", default=DTYPES, choices=DTYPES)
    parser.add_argument("--batch", nargs="+", type=int, default=[32, 128, 256])
    parser.add_argument("--size", type=int, default=224, help="height and width in pixels")
    parser.add_argument("--steps", type=int, default=20, help="of a turn")
    parser.add_argument("--repeats", type=int, default=5, help="turns")
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=PEERS)
    parser.add_argument(
        "--peak-tflops", type=float, help="of a device that the table of peaks does not have"
    )
    parser.add_argument(
        "--platform", default="auto", choices=("auto", "cpu"), help="cpu to try it without one"
    )
    add_options(parser, "on a CPU: one small backbone, one mask, one batch size, few steps")
    options = parser.parse_args()
    from jtl import models

    for name in options.model:
        try:
            models.get(name)
        except ValueError as error:
            parser.error(str(error))
    if min(options.steps, options.repeats, options.size, *options.batch) < 1:
        parser.error("--batch, --size, --steps and --repeats are at least 1")
    if options.peak_tflops is not None and options.peak_tflops <= 0:
        parser.error("--peak-tflops is a positive number")
    if options.smoke:
        options.model, options.arms, options.batch = ["resnet18"], ["full"], [2]
        options.size, options.steps, options.repeats, options.platform = 32, 1, 2, "cpu"
        options.peers = [peer for peer in options.peers if peer == "pytorch"]
    return options


def main() -> None:
    """Measures what is not measured yet, and writes table, figures and plot."""
    options = parse()
    device = find_device(options.platform)
    out = options.out or (
        Path(tempfile.mkdtemp(prefix="jtl-smoke-")) if options.smoke else machine.RESULTS
    )
    sides = ["jtl", *usable_peers(options.peers, device)]
    facts = {**machine.facts("torch", "timm"), "device": device.kind}
    base = out / "accelerator"
    store = Store(base.with_suffix(".json"), facts)
    command = shlex.join(["python", "benchmarks/accelerator.py", *sys.argv[1:]])
    settings = Settings(options.size, options.steps, options.repeats, options.peak_tflops)
    stored = dataclasses.asdict(settings)
    for model in options.model:
        for arm in (arm for arm in ARMS if arm in options.arms):
            for dtype in options.dtype:
                for batch in options.batch:
                    for side in sides:
                        key: dict[str, Any] = dict(
                            zip(KEY, (model, arm, dtype, batch, side), strict=True)
                        )
                        if store.find(stored, **key) and not options.again:
                            continue
                        row = measure(**key, settings=settings, device=device)
                        store.put(KEY, row, command)
                        tables.write(base.with_suffix(".md"), describe(store, device.peak))
                        speed = "does not fit"
                        if not row["out_of_memory"]:
                            speed = f"{row['images_per_second']:,.1f} images/s"
                        told = f"{model} {arm} {dtype} batch {batch}, {SIDES[side]}: {speed}"
                        print(told, file=sys.stderr, flush=True)
    device_plots.draw(rated(ordered(store), device.peak), store.facts, base.with_suffix(".png"))
    print(tables.write(base.with_suffix(".md"), describe(store, device.peak)))
    print(f"written: {base}.{{md,json,png}}", file=sys.stderr)


if __name__ == "__main__":
    main()
