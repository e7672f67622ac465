"""What does freezing cost and gain: which layers to train for these images, on this machine?

    python benchmarks/freeze_strategies.py                             # Lite0, ants and bees
    python benchmarks/freeze_strategies.py --data my-images --budget 20m --seeds 3
    python benchmarks/freeze_strategies.py --smoke                     # to see that it works

`jtl search` answers it, once for each seed, in a process of its own that begins with an empty cache
folder. The first seed's page tells what every trial reached and took, what each choice and what
more images would gain; a table above it, how much that varies with the seed. Searches are stored as
soon as they end; called again, the script goes on with the seeds that are missing. `--redraw` makes
the page of what is stored.
"""

from __future__ import annotations

import argparse
import re
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import datasets, machine, subsets, tables
from harness.runs import timed
from harness.store import Row, Store, add_options

KEY = ("seed",)
STORED, PAGE = "searches.json", "search.md"


def measure(options: argparse.Namespace, store: Store, scratch: Path) -> None:
    """Searches with the seeds that are not there yet."""
    if options.smoke:
        options.data = f"folder:{datasets.generate(scratch / 'made', 24, side=64).folder}"
    source, spec = subsets.opened(options.data), options.data
    limits = (options.train_per_class, options.eval_per_class)
    if any(limits):
        counts = {name: limits[name != "train"] for name in source.splits}
        spec = subsets.write(source, scratch / "limited", counts)
    settings = {
        **{name: getattr(options, name) for name in ("model", "weights", "budget", "image_size")},
        "data": options.name,
        "fingerprint": source.fingerprint[:12],
        "limits": list(limits),
    }
    called = " ".join(["python", "benchmarks/freeze_strategies.py", *sys.argv[1:]])
    for seed in range(options.seeds):
        if not options.again and store.find(settings, seed=seed) is not None:
            continue
        print(f"seed {seed}: searching for {options.budget}", file=sys.stderr, flush=True)
        row = search(options, spec, seed, scratch)
        store.put(KEY, {**row, "seed": seed, "settings": settings}, called)


def search(options: argparse.Namespace, spec: str, seed: int, scratch: Path) -> Row:
    """One search from an empty cache folder: what it found, and the seconds of the process."""
    from jtl.runs.files import SEARCH, read_json

    folder, cache, rate = scratch / f"search-{seed}", scratch / "cache", machine.product_rate()
    told = [f"--{name}={getattr(options, name)}" for name in ("model", "weights", "budget")]
    told += [f"--image-size={options.image_size}"] if options.image_size else []
    command = [sys.executable, "-m", "jtl.search", spec, *told, f"--seed={seed}"]
    ended = timed([*command, f"--out={folder}"], machine.environment(JTL_CACHE=str(cache)))
    found = read_json(folder / SEARCH)
    for name in (folder, cache):
        shutil.rmtree(name, ignore_errors=True)
    return {
        "found": anywhere(found, spec, options),
        "seconds": ended.seconds,
        "peak_bytes": ended.peak_bytes,
        "product_gflops": rate,
    }


def anywhere(found: dict[str, Any], spec: str, options: argparse.Namespace) -> dict[str, Any]:
    """The content of `search.json` without what is of one machine; `spec` is what was read."""
    trials = [{k: v for k, v in trial.items() if k != "owner"} for trial in found["trials"]]
    kept = {k: v for k, v in found.items() if k not in ("folder", "options")}
    command = found["command"].replace(spec, options.data)
    return {**kept, "data": options.name, "trials": trials, "command": command}


def write(store: Store, folder: Path) -> str:
    """The page of the searches that are stored under the newest settings; its text."""
    from jtl.common.text import counted
    from jtl.search import document, page, plot

    settings = store.rows[-1]["settings"]
    rows = sorted((r for r in store.rows if r["settings"] == settings), key=lambda r: r["seed"])
    found = rows[0]["found"]
    plot.draw(folder / page.PLOT, found)
    blocks = page.page(found, (folder / page.PLOT).read_bytes(), runs=False)
    rates = [row["product_gflops"] for row in rows]
    lines = [
        document.markdown(blocks[:1]),
        *tables.machine_lines(store.facts, store.commands, rates),
        f"{settings['budget']} for each search, from an empty cache folder, with "
        f"{counted(len(rows), 'seed')}; the processes took {_seconds(rows)}. The page is "
        "of the first seed.",
        "",
        *over_seeds(rows),
        "",
        document.markdown(blocks[1:], title=False),
    ]
    return tables.write(folder / PAGE, lines)


def _seconds(rows: Sequence[Row]) -> str:
    return ", ".join(f"{row['seconds']:.0f}" for row in rows) + " s"


def over_seeds(rows: Sequence[Row]) -> list[str]:
    """A table of the trials that every seed has, and of what the searches chose."""
    listed: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        for trial in row["found"]["trials"]:
            if trial["metric"] is not None:
                # In a time that is short, the same strategy has fewer epochs.
                listed.setdefault(f"{trial['stage']}: {trial['name']}", []).append(trial)
    shared = {name: trials for name, trials in listed.items() if len(trials) == len(rows)}
    columns: dict[str, list[str]] = {
        "trial": list(shared),
        "validation": [_mean([t["metric"] for t in trials]) for trials in shared.values()],
        "seconds": [f"{_mean_of(trials, 'seconds'):.0f}" for trials in shared.values()],
    }
    chosen = tables.table(
        {
            "seed": [row["seed"] for row in rows],
            "the winner": [row["found"]["winner_name"] for row in rows],
            "validation": [f"{row['found']['val_metric']:.3f}" for row in rows],
            "test": [_accuracy(row["found"]["test_accuracy"]) for row in rows],
        }
    )
    return [*tables.table(columns), "", *chosen]


def _mean(values: list[float]) -> str:
    told = f"{statistics.mean(values):.3f}"
    return told if len(values) == 1 else f"{told} ({min(values):.3f} to {max(values):.3f})"


def _mean_of(trials: Sequence[dict[str, Any]], key: str) -> float:
    return statistics.mean(trial[key] for trial in trials)


def _accuracy(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def name_of(spec: str) -> str:
    """A short name of a data set, for files and titles."""
    scheme, _, rest = spec.rpartition(":")
    name = rest.partition(":")[0] if scheme == "tfds" else Path(rest.split(",")[0]).stem
    return re.sub(r"[^\w.=-]+", "_", name).strip("_") or scheme


def parse(args: Sequence[str] | None = None) -> argparse.Namespace:
    """The script's options."""
    default = "folder:../shared/data/ants-bees.zip" if datasets.DEFAULT.is_file() else "digits"
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", default="efficientnet_lite0", help="a backbone of jtl")
    add("--weights", default="default", help="as in --weights of jtl search")
    add("--data", default=default, help=f"as in --data of jtl search; default {default}")
    add("--name", help="of the data, for titles and file names; default of its path")
    add("--budget", default="5m", help="of each search; default 5m")
    add("--seeds", type=int, default=1, help="searches; default 1")
    add("--image-size", type=int, help="pixels; default what the search tries")
    add("--train-per-class", type=int, default=subsets.ALL, help="fewer train images; 0 for all")
    add("--eval-per-class", type=int, default=subsets.ALL, help="of val and test; 0 for all")
    add_options(parser, "a small backbone, few images, seconds", redraw=True)
    options = parser.parse_args(args)
    if options.smoke:
        options.model, options.weights, options.name = "resnet18", "random", "generated"
        options.budget, options.image_size = "10s", 64
    options.name = options.name or name_of(options.data)
    return options


def main() -> None:
    """Searches, and writes the page."""
    options = parse()
    out = options.out or (
        Path(tempfile.mkdtemp(prefix="jtl-smoke-")) if options.smoke else machine.RESULTS
    )
    folder = out / f"search_{options.name}_{options.model}"
    store = Store(folder / STORED, None if options.redraw else machine.facts())
    if not options.redraw:
        with tempfile.TemporaryDirectory(prefix="jtl-bench-") as scratch:
            measure(options, store, Path(scratch))
    print(write(store, folder))
    print(f"written: {folder}", file=sys.stderr)


if __name__ == "__main__":
    main()
