"""Which defaults give the best classifier? One factor at a time, on real images.

    python benchmarks/accuracy.py                       # everything that is missing
    python benchmarks/accuracy.py --factors BatchNorm --data sign-digits cifar10-1000
    python benchmarks/accuracy.py --redraw              # table and plot of what is there
    python benchmarks/accuracy.py --smoke               # to see that it works

Each trial runs `python -m jtl.train` in its own process. The accuracy is measured on the test
images (on the validation images if there are none), at the epoch that was best on the validation
images. Each result is saved as soon as its trial ends, so you can stop the script at any time and
start it again to continue. Images and data sets are small, so a trial takes minutes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from harness import datasets, jtl_runs, machine, study, subsets, tables
from harness.study_plot import draw

SHARED = datasets.DEFAULT.parent
CIFAR10 = f"folder:{SHARED / 'cifar10.zip'}"
DATA = {
    # Where the images come from, pixels, and images of each class of train, val and test.
    "ants-bees": (f"folder:{SHARED / 'ants-bees.zip'}", 96, None),
    "sign-digits": (f"folder:{SHARED / 'sign-digits.zip'}", 64, None),
    "sign-digits-600": (f"folder:{SHARED / 'sign-digits.zip'}", 64, (60, 30, subsets.ALL)),
    "trash": (f"folder:{SHARED / 'trash.zip'}", 96, None),
    "trash-600": (f"folder:{SHARED / 'trash.zip'}", 96, (100, subsets.ALL, subsets.ALL)),
    "digits": ("digits", 64, None),
    "cifar10-1000": (CIFAR10, 64, (100, 30, 100)),
    "cifar10-2000": (CIFAR10, 64, (200, 50, 200)),
    "cifar10-5000": (CIFAR10, 64, (500, 125, 200)),
}
SMALL = "ants-bees sign-digits-600 cifar10-1000"
STEPS = "mask=head_only solver=sgd"
FEW = "epochs=5 bn=frozen"
CROPS = "mask=full bn=frozen lr=1e-4 augment=crops"
LIGHT = "mask=full bn=frozen lr=1e-4 augment=light"
FULL = "mask=full bn=frozen lr=1e-4 augment=none"
FACTORS = {
    # What is compared: {arm: options}. The first arm is what the others are held against.
    "head_only: solver": {
        "L-BFGS": "mask=head_only solver=lbfgs",
        "Adam 1e-3, 10 epochs": f"{STEPS} epochs=10 lr=1e-3",
        "Adam 1e-3, 20 epochs": f"{STEPS} epochs=20 lr=1e-3",
        "Adam 1e-3, 30 epochs": f"{STEPS} epochs=30 lr=1e-3",
        "Adam 3e-3, 20 epochs": f"{STEPS} epochs=20 lr=3e-3",
        "Adam 3e-3, 100 epochs": f"{STEPS} epochs=100 lr=3e-3",
    },
    "last_stages:2: BatchNorm": {
        "linear probe": "mask=head_only solver=lbfgs",
        "frozen": f"mask=last_stages:2 {FEW} lr=1e-4",
        "batch statistics": "mask=last_stages:2 epochs=5 bn=batch lr=1e-4",
    },
    "last_stages:2: where the head starts": {
        "at zero, 3e-4": f"mask=last_stages:2 {FEW} lr=3e-4",
        "as the linear probe, 3e-4": f"mask=last_stages:2 {FEW} lr=3e-4 head-init=probe",
        "at zero, 1e-4": f"mask=last_stages:2 {FEW} lr=1e-4",
        "as the linear probe, 1e-4": f"mask=last_stages:2 {FEW} lr=1e-4 head-init=probe",
    },
    "last_stages:2: learning rate": {
        "1e-4": f"mask=last_stages:2 {FEW} lr=1e-4",
        "3e-4": f"mask=last_stages:2 {FEW} lr=3e-4",
        "1e-3": f"mask=last_stages:2 {FEW} lr=1e-3",
    },
    "full: learning rate": {
        "1e-4": f"mask=full {FEW} augment=none lr=1e-4",
        "3e-4": f"mask=full {FEW} augment=none lr=3e-4",
        "1e-3": f"mask=full {FEW} augment=none lr=1e-3",
    },
    "full: augmentation and epochs": {
        "none, 10 epochs": f"{FULL} epochs=10",
        "crops, 10 epochs": f"{CROPS} epochs=10",
        "crops and flips, 10 epochs": f"{LIGHT} epochs=10",
        "none, 20 epochs": f"{FULL} epochs=20",
        "crops, 20 epochs": f"{CROPS} epochs=20",
        "crops and flips, 20 epochs": f"{LIGHT} epochs=20",
    },
    "full: learning rate with crops": {
        "1e-4": f"{CROPS} epochs=10",
        "2e-4": "mask=full bn=frozen lr=2e-4 augment=crops epochs=10",
        "5e-5": "mask=full bn=frozen lr=5e-5 augment=crops epochs=10",
    },
    "full: learning rate of the head": {
        "the backbone's": f"{CROPS} epochs=10 head-lr-mult=1",
        "3 times": f"{CROPS} epochs=10 head-lr-mult=3",
        "10 times": f"{CROPS} epochs=10",
        "30 times": f"{CROPS} epochs=10 head-lr-mult=30",
    },
    "full: regularization": {
        "weight decay 1e-3 only": f"{CROPS} epochs=10",
        "weight decay 0.05": f"{CROPS} epochs=10 weight-decay=0.05",
        "label smoothing 0.1": f"{CROPS} epochs=10 label-smoothing=0.1",
        "average of parameters, 0.99": f"{CROPS} epochs=10 ema=0.99",
        "layer decay 0.75": f"{CROPS} epochs=10 layer-decay=0.75",
    },
    "how many layers are trained": {
        "linear probe": "mask=head_only solver=lbfgs",
        "last_stage": "mask=last_stage bn=frozen lr=3e-4 epochs=10",
        "last_stages:2": "mask=last_stages:2 bn=frozen lr=3e-4 epochs=10",
        "full": f"{CROPS} epochs=10",
    },
    "last_stage: learning rate": {
        "1e-4": f"mask=last_stage {FEW} lr=1e-4",
        "3e-4": f"mask=last_stage {FEW} lr=3e-4",
        "1e-3": f"mask=last_stage {FEW} lr=1e-3",
    },
}
"""The study. Add a line to ask another question."""
REJECTED = {"head-init"}
"""Options that were tried with a patch, and did not earn their place: what was measured stays."""


def trials(options: argparse.Namespace, factor: str) -> list[study.Trial]:
    """The trainings of one factor, seed by seed, so that a part of them can be compared."""
    return [
        study.Trial(data, options.model, DATA[data][1], study.options_of(arm), seed)
        for seed in range(options.seeds)
        for data in options.data
        for arm in options.factors[factor].values()
    ]


def run(options: argparse.Namespace, results: study.Results, scratch: Path) -> None:
    """Runs the trials that are missing."""
    for factor in options.factors:
        for trial in trials(options, factor):
            if results.find(trial) is not None or REJECTED & dict(trial.options).keys():
                continue
            flags = trial.flags(spec_of(trial.data, options, scratch))
            print(f"{factor}: {' '.join(flags)}", file=sys.stderr, flush=True)
            trained = jtl_runs.train([*flags, "--weights", options.weights], scratch, options.cache)
            summary = trained.summary
            tested = summary["test_accuracy"]
            results.add(
                trial,
                test_accuracy=summary["val_accuracy"] if tested is None else tested,
                val_accuracy=summary["val_accuracy"],
                best_epoch=summary["best_epoch"],
                val_accuracies=trained.values("val_accuracy"),
                train_accuracies=trained.values("train_accuracy"),
                seconds=round(trained.ended.seconds, 1),
                versions=summary["versions"],
            )


def spec_of(data: str, options: argparse.Namespace, scratch: Path) -> str:
    """What `--data` of jtl takes; a part of a data set is written first."""
    if options.smoke:
        return subsets.generated(scratch / "images.npz", classes=2, train=8, val=4, side=64)
    spec, _, counts = DATA[data]
    if counts is None:
        return spec
    folder = scratch / data
    if not folder.exists():
        train, val, test = counts
        sizes = {"train": train, "val": val, "test": test}
        return subsets.write(subsets.opened(spec), folder, sizes)
    arrays = folder / "images.npz"
    return f"npz:{arrays}" if arrays.exists() else f"folder:{folder}"


def write(options: argparse.Namespace, results: study.Results, base: Path) -> str:
    """The tables and the plot of what is there; the tables' text."""
    lines = ["# Which training defaults give the best accuracy", ""]
    command = f"--model {options.model} --seeds {options.seeds} --data {' '.join(options.data)}"
    lines += [f"    python benchmarks/accuracy.py {command}", ""]
    lines += [
        "Accuracy on the test images (ants-bees: on the validation images). With more than one "
        f"seed (at most {options.seeds}), it is their mean, with the range in brackets. The first "
        "row of each table is what the others are compared with.",
        "",
    ]
    compared = {}
    for factor, arms in options.factors.items():
        found = study.by_arm(results, arms, trials(options, factor))
        found = {arm: accuracies for arm, accuracies in found.items() if accuracies}
        if len(found) < 2:
            continue
        compared[factor] = found
        arms = {arm: arms[arm] for arm in found}
        columns = {"setting": list(arms), "options": [f"`{text}`" for text in arms.values()]}
        columns |= {
            data: [study.mean_and_range(found[arm].get(data, [])) for arm in arms]
            for data in options.data
            if any(data in accuracies for accuracies in found.values())
        }
        lines += [f"## {factor}", "", *tables.table(columns), ""]
    if compared:
        draw(compared, Path(f"{base}.png"))
    return tables.write(Path(f"{base}.md"), lines)


def parse() -> argparse.Namespace:
    """The script's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", default="efficientnet_lite0", help="a backbone of jtl")
    add("--weights", default="default", help="as in --weights of python -m jtl.train")
    add("--data", nargs="+", default=SMALL.split(), choices=DATA, help=f"default {SMALL}")
    add("--factors", nargs="+", default=list(FACTORS), help="parts of their names; default all")
    add("--seeds", type=int, default=2, help="trainings of each arm")
    add("--out", type=Path, help="folder of the results")
    add("--cache", type=Path, help="JTL_CACHE of the trials, which stays; default a temporary one")
    add("--redraw", action="store_true", help="run nothing, draw what is there")
    add("--smoke", action="store_true", help="a small backbone, few images")
    options = parser.parse_args()
    options.factors = {
        name: arms
        for name, arms in FACTORS.items()
        if any(part in name for part in options.factors)
    }
    if options.smoke:
        options.model, options.weights, options.seeds = "resnet18", "random", 1
        options.data = ["digits"]
        options.factors = {
            "smoke": {"one": "mask=head_only epochs=1 solver=sgd", "two": "epochs=1"}
        }
    return options


def main() -> None:
    """Runs what is missing, and writes table, plot and lines."""
    options = parse()
    with tempfile.TemporaryDirectory(prefix="jtl-bench-") as folder:
        scratch = Path(folder)
        out = options.out or (scratch if options.smoke else machine.RESULTS)
        options.cache = options.cache or scratch / "cache"
        results = study.Results(out / "accuracy.jsonl")
        if not options.redraw:
            run(options, results, scratch)
        print(write(options, results, out / "accuracy"))


if __name__ == "__main__":
    main()
