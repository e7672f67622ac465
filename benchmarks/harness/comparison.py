"""jtl and a peer: measures what is not measured yet, and writes table, figures and plot."""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from harness import datasets, machine, plots, steps, tables, trainings
from harness.store import Row, Store, add_options

KEY = ("kind", "model", "arm")


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What stands beside what.

    Attributes:
        script: Name of the script and of its results.
        peer: As in `peers/PEER_steps.py`.
        label: What readers call the peer.
        packages: Whose versions matter.
        models: Backbones of jtl.
        smoke: A small backbone.
        steps: Arms of single steps.
        trainings: Arms of whole trainings.
        targets: For an arm, the least ratio to reach.
        limits: For an arm, the most seconds that jtl may take.
        weights: Suffix of the peer's checkpoints.
        conventions: Whose networks jtl builds in single steps.
        notes: Sentences below the tables.
        others: Backbones that are measured where `--model` names them.
        more_steps: Arms of single steps that are measured where `--arms` names them.
    """

    script: str
    peer: str
    label: str
    packages: tuple[str, ...]
    models: tuple[str, ...]
    smoke: str
    steps: tuple[str, ...]
    trainings: tuple[str, ...]
    targets: dict[str, float]
    limits: dict[str, float]
    weights: str
    conventions: str
    notes: tuple[str, ...]
    others: tuple[str, ...] = ()
    more_steps: tuple[str, ...] = ()

    @property
    def arms(self) -> tuple[str, ...]:
        """Those that are measured unless others are named."""
        return (*self.steps, *self.trainings)

    @property
    def all_steps(self) -> tuple[str, ...]:
        """Arms of single steps."""
        return (*self.steps, *self.more_steps)


def main(what: Comparison, doc: str) -> None:
    """The script: reads its options and measures."""
    options = parse(what, doc)
    out = options.out or (
        Path(tempfile.mkdtemp(prefix="jtl-smoke-")) if options.smoke else machine.RESULTS
    )
    store = Store(out / f"{what.script}.json", machine.facts(*what.packages))
    command = " ".join(["python", f"benchmarks/{what.script}.py", *sys.argv[1:]])

    def put(row: Row) -> None:
        store.put(KEY, judged(what, row), command)
        table = describe(what, store)
        tables.write(out / f"{what.script}.md", table)
        seconds = row["ours"]["seconds"]
        print(
            f"{row['model']} {row['arm']}: {row['ratio']:.2f}x, {min(seconds):.3f} s at best",
            file=sys.stderr,
            flush=True,
        )

    measure_steps(what, options, store, put)
    measure_trainings(what, options, store, put)
    rows = ordered(what, store)
    plots.comparison(rows, what.label, what.targets, store.facts, out / f"{what.script}.png")
    print(tables.write(out / f"{what.script}.md", describe(what, store)))
    print(f"written: {out / what.script}.{{md,json,png}}", file=sys.stderr)


def parse(what: Comparison, doc: str) -> argparse.Namespace:
    """The options of a comparison's script."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", nargs="+", default=what.models, choices=(*what.models, *what.others)
    )
    parser.add_argument(
        "--arms", nargs="+", default=what.arms, choices=(*what.all_steps, *what.trainings)
    )
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=224, help="height and width in pixels")
    parser.add_argument("--repeats", type=int, default=7, help="steps of each library")
    parser.add_argument(
        "--training-repeats", type=int, default=2, help="whole trainings of each library"
    )
    parser.add_argument("--data", type=Path, help="zip of train/ and val/ with class folders")
    parser.add_argument("--images", type=int, default=320, help="how many of its images; 0 for all")
    add_options(parser, "one small backbone, few steps")
    options = parser.parse_args()
    if options.data is not None and not zipfile.is_zipfile(options.data):
        parser.error(f"--data {options.data} is no zip archive")
    if options.smoke:
        options.model, options.batch, options.size, options.images = [what.smoke], 4, 64, 14
        options.repeats, options.training_repeats = 2, 1
    return options


def measure_steps(
    what: Comparison, options: argparse.Namespace, store: Store, put: Callable[[Row], None]
) -> None:
    """The arms of single steps that are asked for and not there yet."""
    settings = steps.StepSettings(options.batch, options.size, options.repeats)
    stored = dataclasses.asdict(settings)
    for model in options.model:
        for arm in what.all_steps:
            if arm not in options.arms:
                continue
            if options.again or not store.find(stored, kind="step", model=model, arm=arm):
                put(steps.measure(model, arm, settings, what.peer, conventions=what.conventions))


def measure_trainings(
    what: Comparison, options: argparse.Namespace, store: Store, put: Callable[[Row], None]
) -> None:
    """The same for whole trainings; what is measured together is there together."""
    asked = set(options.arms) & set(what.trainings)
    if not asked:
        return
    with tempfile.TemporaryDirectory(prefix="jtl-bench-") as name:
        scratch = Path(name)
        images = datasets.prepare(scratch / "images", options.data, options.images)
        few = datasets.generate(scratch / "few", options.batch + 4, val=4)
        settings = trainings.TrainingSettings(
            images.count, images.source, options.batch, options.size, options.training_repeats
        )
        stored = dataclasses.asdict(settings)
        for model in options.model:
            job = None
            for group, arms in trainings.GROUPS.items():
                if not asked & set(arms):
                    continue
                found = [store.find(stored, kind="training", model=model, arm=arm) for arm in arms]
                if all(found) and not options.again:
                    continue
                if job is None:
                    weights = scratch / f"{model}{what.weights}"
                    make_weights(what.peer, model, weights)
                    job = trainings.Job(
                        model, weights, images, few, options.batch, options.size, what.peer, scratch
                    )
                for row in trainings.measure(job, group, settings):
                    put(row)


def make_weights(peer: str, model: str, path: Path) -> None:
    """A checkpoint of random weights in the peer's format."""
    script = machine.BENCHMARKS / "peers" / f"{peer}_weights.py"
    command = [sys.executable, str(script), model, str(path)]
    subprocess.run(command, env=machine.environment(), check=True, stdout=subprocess.DEVNULL)


def judged(what: Comparison, row: Row) -> Row:
    """The row with its target and whether it is reached."""
    if row["arm"] in what.targets:
        least = what.targets[row["arm"]]
        return {**row, "target": f"at least {least:g}x", "reached": row["ratio"] >= least}
    if row["arm"] in what.limits:
        most = what.limits[row["arm"]]
        reached = row["ours"]["median_seconds"] < most
        return {**row, "target": f"under {most:g} s", "reached": reached}
    return {**row, "target": None, "reached": None}


def ordered(what: Comparison, store: Store) -> list[Row]:
    """The rows by kind, backbone and arm."""
    return store.ordered(
        ("kind", ("step", "training")),
        ("model", (*what.models, *what.others, what.smoke)),
        ("arm", (*what.all_steps, *what.trainings)),
    )


def describe(what: Comparison, store: Store) -> list[str]:
    """Both tables as people read them."""
    rows = ordered(what, store)
    lines = [f"# jtl compared with {what.label}", ""]
    rates = [row["product_gflops"] for row in rows]
    lines += tables.machine_lines(store.facts, store.commands, rates)
    for kind, show in (("step", step_lines), ("training", training_lines)):
        chosen = [row for row in rows if row["kind"] == kind]
        if chosen:
            lines += [*show(chosen, what.label), ""]
    return [*lines, *(f"- {note}" for note in what.notes)]


def step_lines(rows: list[Row], peer: str) -> list[str]:
    """The table of single steps."""

    def both(form: str, key: str, scale: float = 1) -> list[str]:
        return [
            f"{format(row['ours'][key] * scale, form)}, {format(row['theirs'][key] * scale, form)}"
            for row in rows
        ]

    size, batch, repeats = (plots.used(rows, name) for name in ("size", "batch", "repeats"))
    return [
        "## Single steps",
        "",
        f"float32 unless the arm says otherwise, {size} pixels, batch {batch}; medians of "
        f"{repeats} steps of each in turn. Pairs are: jtl, {peer}. The ratio is jtl's speed over "
        "the other's, with the range over the pairs of steps; above 1 jtl is faster.",
        "",
        *tables.table(
            {
                "backbone": [row["model"] for row in rows],
                "arm": [row["arm"] for row in rows],
                "pixels": [row["settings"]["size"] for row in rows],
                "images/s": both(".1f", "images_per_second"),
                "ratio (range)": [tables.ratio(row) for row in rows],
                "target": [tables.verdict(row) for row in rows],
                "GFLOP": [f"{row['step_gflop']:.0f}" for row in rows],
                "GFLOP/s": both(".0f", "gflops"),
                "share of the product's rate, %": both(".0f", "share_of_limit", 100),
                "first step, s": both(".1f", "first_seconds"),
                "peak memory, GB": both(".2f", "peak_bytes", 1e-9),
                "optimizer state, MB": both(".1f", "optimizer_bytes", 1e-6),
            }
        ),
    ]


def training_lines(rows: list[Row], peer: str) -> list[str]:
    """The table of whole trainings."""
    used = rows[0]["settings"]

    def both(form: str, key: str, scale: float = 1) -> list[list[str]]:
        sides = ("ours", "theirs")
        return [[format(row[side][key] * scale, form) for row in rows] for side in sides]

    seconds, peaks = both(".1f", "median_seconds"), both(".2f", "peak_bytes", 1e-9)
    return [
        "## Whole trainings, as the user waits",
        "",
        f"float32, {used['size']} pixels, batch {used['batch']}, {used['images']} images "
        f"({used['pictures']}; training and validation together); medians of {used['repeats']} "
        "processes of each in turn, from the start of the process to its end: imports, decoding, "
        "compilation, evaluation after each epoch and saving included.",
        "",
        *tables.table(
            {
                "backbone": [row["model"] for row in rows],
                "arm": [row["arm"] for row in rows],
                "jtl, s": seconds[0],
                f"{peer}, s": seconds[1],
                "ratio (range)": [tables.ratio(row) for row in rows],
                "target": [tables.verdict(row) for row in rows],
                "peak memory, GB: jtl": peaks[0],
                peer: peaks[1],
            }
        ),
    ]
