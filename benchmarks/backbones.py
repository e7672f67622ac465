"""Which backbone? Published accuracy against measured speed, for all of them.

    python benchmarks/backbones.py                    # what is missing; two minutes for ten
    python benchmarks/backbones.py --models resnet50 efficientnet_b0
    python benchmarks/backbones.py --again            # once more; the faster of both counts
    python benchmarks/backbones.py --redraw           # table and plot of what is there
    python benchmarks/backbones.py --smoke            # to see that it works

Speed is of a frozen forward with the weights' own classifier, float32, at the input size of the
default weights, compiled, in batches of 8: what `jtl weights list --measure` measures. Each
backbone has a process of its own, and its result is written as soon as it is there. Accuracies are
those that the weights' authors publish.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import machine, tables
from harness.plots import plt
from harness.store import add_options
from harness.study import Keyed, Results
from jtl.models import registry
from weights_convert.catalogue.cost import REFERENCE
from weights_convert.catalogue.weights import catalogue, published_accuracy

CODE = (
    "import sys; from weights_convert.catalogue import speed; "
    "print(speed.images_per_second(sys.argv[1]))"
)


def measured(name: str) -> float:
    """Images a second of a backbone, by a process of its own."""
    command = [sys.executable, "-c", CODE, name]
    ended = subprocess.run(
        command, check=True, env=machine.environment(), stdout=subprocess.PIPE, text=True
    )
    return float(ended.stdout.split()[-1])


@dataclasses.dataclass(frozen=True)
class Measurement(Keyed):
    """The speed of one backbone.

    Attributes:
        model: Its name.
    """

    model: str


def fastest(results: Results) -> dict[str, float]:
    """Images a second by backbone: the fastest of several, as other work only slows them."""
    rates: dict[str, float] = {}
    for row in results.rows:
        name = json.loads(row["trial"])["model"]
        rates[name] = max(row["images_per_second"], rates.get(name, 0.0))
    return rates


def joined(rates: Mapping[str, float]) -> list[dict[str, Any]]:
    """A row for each backbone that was measured, the most accurate first."""
    reference = rates.get(REFERENCE) or max(rates.values())
    rows = [
        {**entry, "top1": published_accuracy(entry), "rate": rates[entry["model"]]}
        for entry in catalogue()
        if entry["model"] in rates
    ]
    for row in rows:
        row["cost"] = reference / row["rate"]
    return sorted(rows, key=lambda row: (-(row["top1"] or 0.0), row["cost"]))


def front(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those than which none is both faster and more accurate; the fastest first."""
    found: list[Mapping[str, Any]] = []
    known = [row for row in rows if row["top1"] is not None]
    for row in sorted(known, key=lambda row: (row["cost"], -row["top1"])):
        if not found or row["top1"] > found[-1]["top1"]:
            found.append(row)
    return found


def describe(rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> list[str]:
    """Lines of the table."""
    best = {row["model"] for row in front(rows)}
    return [
        "# Backbones: published accuracy and measured speed",
        "",
        "    python benchmarks/backbones.py",
        "",
        f"{facts['cpu']}, {facts['cores']} cores. Frozen forward with the classifier, float32, at "
        "the input size of the default weights, in batches of 8, the shortest of several; cost is "
        f"the time of an image over that of {REFERENCE}, the default. Top-1 accuracy (ImageNet) "
        "is that of the default weights as published. Bold: none is both faster and more accurate.",
        "",
        *tables.table(
            {
                "": [f"**{r['model']}**" if r["model"] in best else r["model"] for r in rows],
                "top-1": ["-" if r["top1"] is None else f"{r['top1']:.1f} %" for r in rows],
                "pixels": [r["input_size"] for r in rows],
                "parameters": [f"{r['params'] / 1e6:.1f} M" for r in rows],
                "images/s": [f"{r['rate']:.1f}" for r in rows],
                "cost": [f"{r['cost']:.2f}" for r in rows],
                "licence": [r["weights"][0]["licence"] or "-" for r in rows],
            }
        ),
    ]


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Accuracy against speed, a colour a family, the names of those on the front."""
    known = [row for row in rows if row["top1"] is not None]
    families = list(dict.fromkeys(row["family"] for row in known))
    figure, axes = plt.subplots(figsize=(9, 6), layout="constrained")
    colours = plt.get_cmap("tab20")
    for index, family in enumerate(families):
        members = [row for row in known if row["family"] == family]
        axes.scatter(
            [row["rate"] for row in members],
            [row["top1"] for row in members],
            s=34,
            color=colours(index % 20),
            marker="os^D"[index % 4],
            label=family,
        )
    best = front(rows)
    # What is at least as fast as x reaches y; the fastest comes first.
    rates, accuracies = [r["rate"] for r in best], [r["top1"] for r in best]
    axes.step(rates, accuracies, "k-", lw=0.8, alpha=0.5, where="post")
    last: Mapping[str, Any] | None = None
    for row in best:
        if last is None or row["rate"] < 0.85 * last["rate"] or row["top1"] > last["top1"] + 1:
            axes.annotate(
                row["model"], (row["rate"], row["top1"]), xytext=(5, 4),
                textcoords="offset points", fontsize=8,
            )  # fmt: skip
            last = row
    axes.set_xscale("log")
    axes.set_xlim(right=3.2 * max(rates))  # Room for the last name.
    axes.set_xlabel("images a second on 2 cores (frozen forward, float32)")
    axes.set_ylabel("published top-1 accuracy on ImageNet, %")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, ncols=2, loc="lower left")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    """Measures what is missing, and writes table and plot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(registry.names()), metavar="MODEL")
    add_options(parser, "two small backbones", redraw=True)
    options = parser.parse_args()
    out: Path = options.out or (
        Path(tempfile.mkdtemp(prefix="jtl-smoke-"))
        if options.smoke
        else machine.RESULTS / "backbones"
    )
    if options.smoke:
        options.models = [REFERENCE, "squeezenet1_1"]
    results = Results(out / "speed.jsonl")
    facts = machine.facts()
    for trial in map(Measurement, options.models):
        if options.again or (results.find(trial) is None and not options.redraw):
            print(trial.model, file=sys.stderr, flush=True)
            rate = round(measured(trial.model), 2)
            results.add(trial, images_per_second=rate, cpu=facts["cpu"], cores=facts["cores"])
    rows = joined(fastest(results))
    draw(rows, out / "speed.png")
    print(tables.write(out / "speed.md", describe(rows, results.rows[0])))


if __name__ == "__main__":
    main()
