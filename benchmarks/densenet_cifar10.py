"""The DenseNet121 tutorial's experiment on CIFAR-10, arm by arm: how accurate, after how long?

    python benchmarks/densenet_cifar10.py                                # needs timm's weights
    python benchmarks/densenet_cifar10.py --weights random --arms frozen # time needs no weights
    python benchmarks/densenet_cifar10.py --model efficientnet_lite0 --train-images 10000 --epochs 5
    python benchmarks/densenet_cifar10.py --smoke                        # to see that it works

`base` trains everything at 32 pixels, with global max pooling; `optimized_head` everything at 155
pixels, with a head of two hidden layers; `frozen` a larger head on a frozen backbone at 155 pixels.
Adam at 1e-3, batch 128, at most 32 epochs, early stopping, learning rate reduced on a plateau; the
test images are for validation, as in the tutorial. DenseNet121's param counts are asserted to be
the tutorial's, and its published figures stand beside ours; what was scaled down is told with them.

Each arm is `python -m jtl.train` in a process of its own with an empty cache folder, on an .npz of
the images. Arms are stored as they end; called again, the script goes on with what is missing.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import experiment, jtl_runs, machine, subsets, tables
from harness.experiment import ARMS, EPOCHS
from harness.store import Row, Store, add_options

KEY = ("model", "arm")
BATCH = 128
PATIENCE = 6
"""Epochs without a better validation accuracy before an arm ends."""
PLATEAU_PATIENCE = 3
"""Epochs without a lower validation loss before the learning rate falls to a tenth."""
DATA = "folder:../shared/data/cifar10.zip"


def train(
    options: argparse.Namespace, name: str, settings: dict[str, Any], spec: str, scratch: Path
) -> Row:
    """One arm's row."""
    rate = machine.product_rate()
    cache = scratch / "cache"
    told = [f"--model={options.model}", f"--weights={options.weights}", f"--data={spec}"]
    told += [f"--epochs={settings['epochs']}", f"--batch-size={BATCH}", f"--seed={options.seed}"]
    told += ["--optimizer=adam", "--lr=1e-3", "--head-lr-mult=1", f"--patience={PATIENCE}"]
    told += ["--weight-decay=0", "--warmup=0", f"--schedule={settings['schedule']}"]
    if settings["schedule"] == "plateau":
        told.append(f"--plateau-patience={PLATEAU_PATIENCE}")
    told += ARMS[name].options()
    if ARMS[name].mask == "head_only":
        told.append(f"--cache-dtype={options.cache_dtype}")
    trained = jtl_runs.train(told, scratch, cache)
    shutil.rmtree(cache)
    summary, epochs = trained.summary, trained.values("seconds")
    published = ARMS[name].published
    if options.model == "densenet121":
        got = (summary["trainable_params"], summary["total_params"])
        assert got == (published.trainable, published.total), (name, got)
    facts = (
        "trainable_params", "total_params", "val_accuracy", "best_epoch", "epochs",
        "feature_seconds", "num_train", "num_val", "cached_prefix", "seed",
    )  # fmt: skip
    return {
        "model": options.model,
        "arm": name,
        "settings": settings,
        **{fact: summary[fact] for fact in facts},
        "weights": summary["weights"]["name"],
        "last_accuracy": trained.epochs[-1]["val_accuracy"],
        "seconds": trained.ended.seconds,
        # The first epoch compiles.
        "epoch_seconds": statistics.median(epochs[1:] or epochs),
        "peak_bytes": trained.ended.peak_bytes,
        "at": trained.values("at"),
        "val": trained.values("val_accuracy"),
        "product_gflops": rate,
    }


def measure(options: argparse.Namespace, store: Store, scratch: Path) -> None:
    """The arms that are asked for and not there yet."""
    settings = {
        "weights": options.weights,
        "data": Path(options.data.partition(":")[2] or options.data).name,
        "train_images": options.train_images,
        "val_images": options.val_images,
        "epochs": options.epochs,
        # A plateau takes more epochs to show.
        "schedule": options.schedule if options.epochs > PLATEAU_PATIENCE else "constant",
        "cache_dtype": options.cache_dtype,
        "seed": options.seed,
    }
    command = " ".join(["python", "benchmarks/densenet_cifar10.py", *sys.argv[1:]])
    spec = None
    for name in options.arms:
        if not options.again and store.find(settings, model=options.model, arm=name):
            continue
        spec = spec or prepare(options, scratch)
        row = train(options, name, settings, spec, scratch)
        store.put(KEY, row, command)
        print(
            f"{options.model} {name}: {row['seconds'] / 60:.1f} minutes, accuracy "
            f"{row['val_accuracy']:.4f}",
            file=sys.stderr,
            flush=True,
        )


def prepare(options: argparse.Namespace, scratch: Path) -> str:
    """The images as an .npz file, `--data` of every arm."""
    if options.smoke:
        return subsets.generated(scratch / "images.npz", classes=10, train=4, val=2)
    source = subsets.opened(options.data, test_as_val=True)
    classes = len(source.class_names)
    per_class = {"train": options.train_images // classes, "val": options.val_images // classes}
    return subsets.write(source, scratch / "images", per_class, options.seed)


def notes(options: argparse.Namespace) -> list[str]:
    """What readers should know."""
    return [
        "Minutes are those of the whole process, from an empty cache folder: imports, converting "
        "weights, compiling, one pass of the frozen layers, training, evaluating after each epoch, "
        "saving. Reading the images into one array file comes before, as in the tutorial.",
        "The tutorial's figures of Adam, early stopping and the plateau schedule are not known: "
        f"here they are a rate of 1e-3, {PATIENCE} epochs without better validation accuracy, and "
        f"a tenth of the rate after {PLATEAU_PATIENCE} epochs without a lower validation loss.",
        "The validation images are CIFAR-10's test images, and the best epoch is chosen on them, "
        "as in the tutorial: this flatters a little. The last epoch's accuracy does not choose.",
        "The 50,000-image column multiplies the measured epoch; it was not run.",
    ]


def parse(args: Sequence[str] | None = None) -> argparse.Namespace:
    """The script's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", default="densenet121", help="a backbone of jtl")
    add("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    add("--weights", default="default", help="as in --weights of python -m jtl.train")
    add("--data", default=DATA, help=f"with train and test images; default {DATA}")
    add("--train-images", type=int, default=subsets.ALL, help="fewer; 0 for all")
    add("--val-images", type=int, default=subsets.ALL, help="fewer; 0 for all")
    add("--epochs", type=int, default=EPOCHS, help="at most")
    add("--schedule", default="plateau", help="of the learning rate")
    add("--cache-dtype", default="computed", help="as in --cache-dtype of python -m jtl.train")
    add("--seed", type=int, default=0)
    add_options(parser, "a small backbone, few images, one epoch", redraw=True)
    options = parser.parse_args(args)
    if options.smoke:
        options.model, options.weights, options.epochs = "resnet18", "random", 1
    return options


def main() -> None:
    """Measures, and writes table, figures and plot."""
    options = parse()
    sys.path.insert(0, str(machine.ROOT))
    out = options.out or (
        Path(tempfile.mkdtemp(prefix="jtl-smoke-")) if options.smoke else machine.RESULTS
    )
    base = out / f"densenet_cifar10_{options.model}"
    store = Store(base.with_suffix(".json"), None if options.redraw else machine.facts())
    experiment.check_counts()
    if not options.redraw:
        with tempfile.TemporaryDirectory(prefix="jtl-bench-") as folder:
            measure(options, store, Path(folder))
    rows = store.ordered(("arm", tuple(ARMS)))
    experiment.plot(rows, store.facts, base.with_suffix(".png"))
    lines = experiment.describe(rows, store.facts, store.commands, notes(options))
    print(tables.write(base.with_suffix(".md"), lines))
    print(f"written: {base}.{{md,json,png}}", file=sys.stderr)


if __name__ == "__main__":
    main()
