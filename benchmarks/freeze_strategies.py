"""What does freezing cost and buy: which strategy for these data, on this machine?

    python benchmarks/freeze_strategies.py                             # Lite0, ants and bees
    python benchmarks/freeze_strategies.py --data folder:my-images   # what --data of jtl takes
    python benchmarks/freeze_strategies.py --data digits --masks head_only,last_stage,full --seeds 3
    python benchmarks/freeze_strategies.py --smoke                     # to see that it works

Strategies are masks (head_only, last_stage, last_stages:K, norm_only, bias_only, full, ...), phases
(lp_ft, gradual, freeze_unfreeze:EPOCHS) and `scratch`: everything from random weights. Each is
trained under two budgets: as many epochs for all, and as many seconds for all, the epochs chosen
to fit. Every training is `python -m jtl.train` in a process of its own. The first seed's begins
with an empty cache folder, and the seconds are its; the other seeds tell the spread of accuracies.

Also: accuracy against the number of training images (`--per-class`, `--images-strategies`). And a
recommendation, with its reasons. Rows are stored as soon as they are measured; called again, the
script goes on with what is missing. `--redraw` makes tables and plots of what is stored.
"""

from __future__ import annotations

import argparse
import re
import shlex
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from harness import (
    datasets,
    machine,
    strategies,
    strategy_plots,
    strategy_report,
    subsets,
    tables,
)
from harness.plots import NAMES
from harness.store import Store, add_options
from harness.strategies import EPOCHS, SCRATCH, SECONDS
from harness.strategy_runs import MOST_EPOCHS, Measurement, current

MASKS = "head_only,last_stage,norm_only,bias_only,full,lp_ft,gradual"
IMAGES = f"head_only,last_stage,full,{SCRATCH}"


def measure(options: argparse.Namespace, store: Store, scratch: Path) -> None:
    """Measures what is not there yet."""
    if options.smoke:
        options.data = f"folder:{datasets.generate(scratch / 'made', 24, side=64).folder}"
    source = subsets.opened(options.data)
    work = Measurement(options, store, source, scratch)
    epochs: int = options.epochs
    work.trainings(EPOCHS, dict.fromkeys(options.masks, epochs), None)
    firsts = {
        row["strategy"]: row
        for row in current(store)
        if (row["kind"], row["budget"], row["seed"]) == ("training", EPOCHS, 0)
    }
    median = statistics.median(row["seconds"] for row in firsts.values())
    seconds = float(f"{median:.2g}") if options.seconds is None else options.seconds
    fitting: dict[str, int] = {
        s: strategies.fitting(
            firsts[s], seconds, strategies.fewest_epochs(s, options.model), options.most_epochs
        )
        for s in options.masks
    }
    if seconds:
        work.trainings(SECONDS, fitting, seconds)
    first = next(iter(firsts.values()))
    work.costs(first["image_size"], first["num_classes"])
    if options.images_strategies and options.per_class:
        work.images(first["image_size"])


def write(options: argparse.Namespace, store: Store, base: Path) -> str:
    """Tables and plots of what is stored; the tables' text."""
    rows = current(store)
    order = list(dict.fromkeys([*MASKS.split(","), *options.masks, *(r["strategy"] for r in rows)]))
    order.sort(key=lambda s: s == SCRATCH)
    listed = strategies.arms(rows, order)
    first = listed[0].rows[0]
    told = f"{NAMES.get(options.model, options.model)} on {options.name}"
    below = (
        f"{first['num_train']:,} training images, {first['image_size']} px, "
        f"{store.facts['cores']} CPU cores"
    )
    advice = strategies.advise(listed)
    reach = options.reach or strategies.marks(listed)
    rates = [row["product_gflops"] for row in rows]
    lines = [f"# Freeze strategies: {told}", ""]
    lines += tables.machine_lines(store.facts, store.commands, rates)
    lines += [strategy_report.data_line(first, first["settings"]), ""]
    lines += [*strategy_report.advice_lines(advice, command_of(options, advice.arm)), ""]
    for budget in (EPOCHS, SECONDS):
        mine = [arm for arm in listed if arm.budget == budget]
        if mine:
            value = mine[0].rows[0]["settings"][budget]
            lines += [f"## The same budget of {budget}: {value:g}", ""]
            lines += [*strategy_report.result_lines(mine, reach, advice.arm), ""]
    lines += [*NOTES, ""]
    costs = {row["strategy"]: row for row in rows if row["kind"] == "step"}
    if all(mask in costs for arm in listed for mask in strategies.masks(arm.strategy)):
        lines += [*strategy_report.cost_lines(listed, costs), ""]
    sizes = [row for row in rows if row["kind"] == "images"]
    if sizes:
        steps_taken = sizes[-1]["settings"]["steps"]
        lines += strategy_report.images_lines(sizes, order, steps_taken)
        strategy_plots.images(
            sizes, order, f"{told}: what more images buy", Path(f"{base}_images.png")
        )
    strategy_plots.pareto(listed, order, f"{told}: {below}", Path(f"{base}_pareto.png"))
    strategy_plots.curves(listed, order, f"{told}: {below}", Path(f"{base}_curves.png"))
    return tables.write(Path(f"{base}.md"), lines)


NOTES = (
    "- Accuracies are means over the seeds, with their range; the best epoch is chosen on the "
    "validation images, which flatters validation accuracy a little and test accuracy not.",
    "- Seconds are the whole process's, from an empty cache folder: imports, decoding, converting "
    "weights, compiling, computing the frozen layers' outputs, training, evaluating after each "
    "epoch, saving. Seconds to an accuracy end with the epoch that reaches it.",
    "- The budget of seconds sets the number of epochs, judged by the other budget's training.",
)


def command_of(options: argparse.Namespace, arm: strategies.Arm) -> str:
    """What trains a model by the recommended strategy."""
    words = ["python", "-m", "jtl.train", "--model", options.model, "--data", options.data]
    if options.weights != "default" and arm.strategy != SCRATCH:
        words += ["--weights", options.weights]
    if options.batch != 32:
        words += ["--batch-size", options.batch]
    if options.image_size:
        words += ["--image-size", options.image_size]
    return shlex.join(map(str, [*words, *strategies.options(arm.strategy, arm.epochs)]))


def name_of(spec: str) -> str:
    """A short name of a data set, for files and titles."""
    scheme, _, rest = spec.partition(":")
    name = rest.partition(":")[0] if scheme == "tfds" else Path(rest.split(",")[0]).stem
    return re.sub(r"[^\w.=-]+", "_", name).strip("_") or scheme


def parse(args: Sequence[str] | None = None) -> argparse.Namespace:
    """The script's options."""

    def words(text: str) -> list[str]:
        return [word for word in text.split(",") if word]

    default = "folder:../shared/data/ants-bees.zip" if datasets.DEFAULT.is_file() else "digits"
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", default="efficientnet_lite0", help="a backbone of jtl")
    add("--weights", default="default", help="as in --weights of python -m jtl.train")
    add("--data", default=default, help=f"as in --data of python -m jtl.train; default {default}")
    add("--name", help="of the data, for titles and file names; default of its path")
    add("--masks", type=words, default=words(MASKS), help=f"strategies, by commas; default {MASKS}")
    add("--epochs", type=int, default=10, help="the budget of epochs")
    add("--seconds", type=float,
        help="that of seconds, 0 for none; default the median of the other's")  # fmt: skip
    add("--most-epochs", type=int, default=MOST_EPOCHS, help="in the budget of seconds")
    add("--seeds", type=int, default=1, help="trainings of each kind")
    add("--batch", type=int, default=32)
    add("--image-size", type=int, help="pixels; default what jtl takes for these images")
    add("--reach", type=lambda text: [float(word) for word in words(text)], default=[],
        help="accuracies to time, by commas; default some near the best")  # fmt: skip
    add("--train-per-class", type=int, default=subsets.ALL, help="fewer train images; 0 for all")
    add("--eval-per-class", type=int, default=subsets.ALL, help="of val and test; 0 for all")
    add("--per-class", type=lambda text: [int(word) for word in words(text)], default=[5, 20, 100],
        help="training images per class, with commas, besides all; default 5,20,100")  # fmt: skip
    add("--no-all", action="store_true", help="no training on all images with --per-class")
    add("--images-strategies", type=words, default=words(IMAGES),
        help=f"for accuracy against images; default {IMAGES}; '' for none")  # fmt: skip
    add("--images-seeds", type=int, help="trainings of each kind; default as --seeds")
    add("--steps", type=int, default=300, help="at least, in accuracy against images")
    add("--repeats", type=int, default=5, help="timed single steps")
    add_options(parser, "a small backbone, few images", redraw=True)
    options = parser.parse_args(args)
    if options.smoke:
        options.model, options.weights, options.name = "resnet18", "random", "generated"
        options.masks, options.images_strategies = ["head_only", "lp_ft"], ["head_only", SCRATCH]
        options.epochs, options.most_epochs, options.batch, options.image_size = 2, 2, 4, 64
        options.per_class, options.no_all, options.steps, options.repeats = [3], True, 2, 1
    if options.images_seeds is None:
        options.images_seeds = options.seeds
    options.name = options.name or name_of(options.data)
    return options


def main() -> None:
    """Measures, and writes table, figures and plots."""
    options = parse()
    out = options.out or (
        Path(tempfile.mkdtemp(prefix="jtl-smoke-")) if options.smoke else machine.RESULTS
    )
    base = out / f"freeze_strategies_{options.name}_{options.model}"
    # Dots in a name are no suffix.
    store = Store(Path(f"{base}.json"), None if options.redraw else machine.facts())
    if not options.redraw:
        with tempfile.TemporaryDirectory(prefix="jtl-bench-") as folder:
            measure(options, store, Path(folder))
    print(write(options, store, base))
    print(f"written: {base}.{{md,json}}, _{{pareto,curves,images}}.png", file=sys.stderr)


if __name__ == "__main__":
    main()
