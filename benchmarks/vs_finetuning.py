"""Who has the better classifier after the same time: jtl, fastai or timm?

    python benchmarks/vs_finetuning.py                          # what is missing
    python benchmarks/vs_finetuning.py --data ants-bees --seeds 3 --times 1 3
    python benchmarks/vs_finetuning.py --fastai FOLDER/bin/python   # fastai in its own environment
    python benchmarks/vs_finetuning.py --redraw                 # table and plot of what is there
    python benchmarks/vs_finetuning.py --smoke                  # to see that it works

Everybody starts from the same weights and the same image files, at the same input size, and is
timed as a user waits: one process from its start to its end, nothing cached. jtl trains with the
defaults of each mask. The others train as their own users would write it (benchmarks/peers), for
as many epochs as fit into the time of jtl's `full`, and into `--times` as much; how many those
are is found by a training of one epoch with seed 0, which is kept as a result (`--times 0` does
that alone). Once it is known, more seeds need no quiet machine: `--busy` keeps no seconds. Test
accuracy is of the epoch that was best on validation (fastai: of the last one, as `fine_tune`
keeps no other). `jtl search` has the same time as its budget, which needs a quiet machine; of
data without a test split it is scored on the validation images, and chooses by a part of the
training images. A result is written as soon as it is there: stop the script when you like, and
start it again to go on.

fastai asks for versions that jtl's environment does not have, so it needs one of its own:
PyTorch and timm, `pip install --no-deps fastai`, then what it imports.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from accuracy import DATA
from harness import jtl_runs, machine, subsets, tables
from harness.finetuning_report import OURS, describe, draw
from harness.runs import timed
from harness.study import Keyed, Results
from weights_convert.catalogue.weights import timm_names

PEERS = {
    # Script and options of each peer, as the tables name it.
    "fastai, fine_tune at its default rate": ("fastai_finetune", ["--lr", "2e-3"]),
    "fastai, lr_find and fine_tune": ("fastai_finetune", []),
    "timm, batch statistics": ("timm_finetune", ["--bn", "train"]),
    "timm, BatchNorm in eval mode": ("timm_finetune", ["--bn", "eval"]),
    "timm, eval mode, 3 times the rate": ("timm_finetune", ["--bn", "eval", "--lr", "3e-4"]),
    "timm, eval mode, 10 times the rate": ("timm_finetune", ["--bn", "eval", "--lr", "1e-3"]),
    "PyTorch, tutorial": ("timm_finetune", ["--recipe", "tutorial"]),
}
SEARCH = "search"
"""`jtl search`, beside the peers."""
SIZES = {"ants-bees": 128, "sign-digits-600": 64, "cifar10-1000": 64, "trash-600": 96}
"""Data sets, and pixels: small ones, so that the time is minutes."""
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "crop_pct": 0.875}


@dataclasses.dataclass(frozen=True)
class Trial(Keyed):
    """One training.

    Attributes:
        data: Name of the data set.
        model: Backbone.
        size: Pixels.
        arm: A mask of jtl, `SEARCH`, or one of `PEERS`.
        times: How many times as long as jtl's `full` a peer may train; 0 for one epoch.
        seed: Of the training.
    """

    data: str
    model: str
    size: int
    arm: str
    times: float
    seed: int


class Trainings:
    """Trains, and keeps what was reached.

    Args:
        options: The script's.
        results: Where results are kept.
        scratch: A folder for images, weights and runs.
    """

    def __init__(self, options: argparse.Namespace, results: Results, scratch: Path):
        self._options, self._results, self._scratch = options, results, scratch

    def find(self, trial: Trial) -> dict[str, Any]:
        """The result of a trial, which is trained if it is not there."""
        found = self._results.find(trial)
        if found is None:
            print(f"{trial.data} seed {trial.seed}: {trial.arm}", file=sys.stderr, flush=True)
            train = self._by_jtl if trial.arm in OURS else self._by_peer
            train = self._by_search if trial.arm == SEARCH else train
            if self._options.busy and trial.seed == 0 and _sets_time(trial):
                sys.exit(f"{trial} tells the others how long to train: run it without --busy")
            found = train(trial)
            if self._options.busy:
                found |= {"seconds": None}
            self._results.add(trial, **found)
        return found

    def _folder(self, data: str) -> Path:
        folder = self._scratch / data
        if not folder.exists():
            spec, _, counts = DATA[data]
            source = subsets.opened(spec)
            train, val, test = counts or (subsets.ALL,) * 3
            sizes = {"train": train, "val": val, "test": test}
            sizes = {split: size for split, size in sizes.items() if split in source.splits}
            subsets.write(source, folder, sizes, files=True)
        return folder

    def _tested(self, data: str) -> int:
        """Images that the accuracy is of."""
        folders = (self._folder(data) / split for split in ("test", "val"))
        images = next(folder for folder in folders if folder.is_dir()).glob("*/*")
        return sum(1 for _ in images)

    def _by_jtl(self, trial: Trial) -> dict[str, Any]:
        flags = {
            "data": f"folder:{self._folder(trial.data)}",
            "model": trial.model,
            "weights": self._options.weights,
            "image-size": str(trial.size),
            "mask": trial.arm,
            "seed": str(trial.seed),
            **({"epochs": "1"} if self._options.smoke else {}),
        }
        words = [word for name, value in flags.items() for word in (f"--{name}", value)]
        with tempfile.TemporaryDirectory(dir=self._scratch) as cache:
            trained = jtl_runs.train(words, self._scratch, Path(cache))
        summary = trained.summary
        calibrated = summary["test_calibration"] or summary["val_calibration"]
        return {
            "val": summary["val_accuracy"],
            "test": summary["test_accuracy"],
            "tested": self._tested(trial.data),
            "probe": summary["probe_test_accuracy"] or summary["probe_val_accuracy"],
            "calibration_error": calibrated["expected_calibration_error"],
            "uncalibrated_error": calibrated["uncalibrated_error"],
            "epochs": len(trained.epochs),
            "seconds": round(trained.ended.seconds, 1),
            "versions": summary["versions"],
        }

    def _by_search(self, trial: Trial) -> dict[str, Any]:
        folder = self._folder(trial.data)
        if not (folder / "test").is_dir():
            given, folder = folder, folder.with_name(f"{folder.name}-tested")
            if not folder.exists():
                shutil.copytree(given / "train", folder / "train")
                shutil.copytree(given / "val", folder / "test")
        full = self.find(dataclasses.replace(trial, arm="full", times=1, seed=0))
        flags = {
            "model": trial.model,
            "weights": self._options.weights,
            "image-size": trial.size,
            "seed": trial.seed,
            "budget": f"{trial.times * full['seconds']:.0f}s",
        }
        words = [f"--{name}={value}" for name, value in flags.items()]
        with tempfile.TemporaryDirectory(dir=self._scratch) as cache:
            command = [sys.executable, "-m", "jtl.search", f"folder:{folder}", *words]
            out = Path(cache) / "search"
            environment = machine.environment(JTL_CACHE=str(Path(cache) / "cache"))
            ended = timed([*command, f"--out={out}"], environment)
            found = json.loads((out / "search.json").read_text(encoding="utf-8"))
        together = (found["ensemble"] or {}).get("test_accuracy")
        return {
            "val": found["val_metric"],
            "test": found["test_accuracy"] if together is None else together,
            "tested": found["num_test"],
            "winner": found["winner_name"] + ("" if together is None else ", in an ensemble"),
            "trials": sum(trial["number"] > 0 for trial in found["trials"]),
            "budget": found["budget"],
            "seconds": round(ended.seconds, 1),
        }

    def _by_peer(self, trial: Trial) -> dict[str, Any]:
        epochs = 1 if trial.times == 0 else self._fitting(trial)
        once = dataclasses.replace(trial, times=0.0)
        if epochs == 1 and trial.times and (found := self._results.find(once)) is not None:
            return {key: value for key, value in found.items() if key != "trial"}
        script, options = PEERS[trial.arm]
        result = self._scratch / f"{uuid.uuid4().hex}.json"
        weights, described = self._checkpoint(trial.model)
        flags = {
            "model": timm_names(trial.model)[0],
            "weights": weights,
            "features": self._features(trial.model),
            "data": self._folder(trial.data),
            "out": result,
            "epochs": epochs,
            "image-size": trial.size,
            "seed": trial.seed,
            "mean": ",".join(map(str, described["mean"])),
            "std": ",".join(map(str, described["std"])),
            "crop-pct": described["crop_pct"],
        }
        python = self._options.fastai if script.startswith("fastai") else sys.executable
        command = [str(python), str(machine.BENCHMARKS / "peers" / f"{script}.py"), *options]
        command += [f"--{name}={value}" for name, value in flags.items()]
        ended = timed(command, machine.environment())
        reached = json.loads(result.read_text(encoding="utf-8"))
        return {
            "val": reached["val"],
            "test": reached.get("test"),
            "epochs": epochs,
            "seconds": round(ended.seconds, 1),
            "epoch_seconds": reached["epoch_seconds"],
        }

    def _fitting(self, trial: Trial) -> int:
        """How many epochs end within the time."""
        full = self.find(dataclasses.replace(trial, arm="full", times=1, seed=0))
        arm = _as_fast(trial.arm)
        once = self.find(dataclasses.replace(trial, arm=arm, times=0.0, seed=0))
        left = trial.times * full["seconds"] - once["seconds"]
        fitting = 1 + int(left / once["epoch_seconds"])
        return max(min(fitting, self._options.most_epochs), 1)

    def _features(self, model: str) -> Path:
        """What the peers' backbones must give, so that everybody starts from the same network."""
        path, (weights, _) = self._scratch / f"{model}.npz", self._checkpoint(model)
        if not path.exists():
            folder = self._scratch / f"{model}-weights"
            script = machine.BENCHMARKS / "peers" / "jtl_features.py"
            source = folder if folder.exists() else weights
            words = [sys.executable, script, model, source, "64", path]
            subprocess.run(words, check=True, env=machine.environment())
        return path

    def _checkpoint(self, model: str) -> tuple[Path, dict[str, Any]]:
        """The weights in timm's format, and how they want their images."""
        path, folder = self._scratch / f"{model}.safetensors", self._scratch / f"{model}-weights"
        if self._options.weights == "random":
            if not path.exists():
                script = machine.BENCHMARKS / "peers" / "pytorch_weights.py"
                subprocess.run(
                    [sys.executable, script, model, path], check=True, env=machine.environment()
                )
            return path, IMAGENET
        if not path.exists():
            convert = [sys.executable, "-m", "weights_convert"]
            source = [self._options.weights, "--model", model, "--out", folder]
            back = ["export", folder, "--to", "timm", "--out", path]
            for words in (source, back):
                subprocess.run([*convert, *words], check=True, env=machine.environment())
        described = json.loads((folder / "weights.json").read_text(encoding="utf-8"))
        return path, described["preprocessing"]


def _as_fast(arm: str) -> str:
    """The first peer that differs from one in its learning rate at most, so in no second."""
    script, options = PEERS[arm]
    return next(
        name
        for name, (other, common) in PEERS.items()
        if other == script and common == options[: len(common)]
    )


def _sets_time(trial: Trial) -> bool:
    """Whether the others' numbers of epochs follow from how long this trial takes."""
    return trial.arm == "full" or trial.times == 0


def trials(options: argparse.Namespace) -> Iterator[Trial]:
    """Seed by seed, so that a part of them can be compared."""
    for seed in range(options.seeds):
        for data in options.data:
            base = Trial(data, options.model, options.sizes[data], "", 1, seed)
            for mask in options.masks:
                yield dataclasses.replace(base, arm=mask)
            for times in options.times:
                for peer in options.peers:
                    if peer == SEARCH and (not times or options.busy):
                        continue
                    yield dataclasses.replace(base, arm=peer, times=times)


def parse() -> argparse.Namespace:
    """The script's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", default="efficientnet_lite0", help="a backbone of jtl that timm has, too")
    add("--weights", default="default", help="as in --weights of python -m jtl.train")
    add("--data", nargs="+", default=list(SIZES), choices=SIZES)
    add("--seeds", type=int, default=1, help="trainings of each arm")
    add("--times", type=float, nargs="+", default=[1.0], help="the peers' time over jtl's full")
    arms = [SEARCH, *PEERS]
    add("--peers", nargs="*", default=arms, choices=arms, help="default all, and jtl search")
    add("--fastai", type=Path, default=Path(sys.executable), help="the Python that has fastai")
    add("--out", type=Path, help="folder of the results")
    add("--busy", action="store_true", help="other work runs beside: keep no seconds")
    add("--redraw", action="store_true", help="run nothing, draw what is there")
    add("--smoke", action="store_true", help="a small backbone, few images, timm alone")
    options = parser.parse_args()
    options.masks, options.sizes, options.most_epochs = OURS, SIZES, 10_000
    return options


def main() -> None:
    """Runs what is missing, and writes table and plot."""
    options = parse()
    with tempfile.TemporaryDirectory(prefix="jtl-bench-") as name:
        scratch = Path(name)
        if options.smoke:
            smoke(options, scratch)
        out = options.out or (scratch if options.smoke else machine.RESULTS)
        results = Results(out / "vs_finetuning.jsonl")
        if not options.redraw:
            trainings = Trainings(options, results, scratch)
            for trial in trials(options):
                trainings.find(trial)
        rows = [{**json.loads(row["trial"]), **row} for row in results.rows]
        base = out / "vs_finetuning"
        draw(rows, Path(f"{base}.png"))
        print(tables.write(Path(f"{base}.md"), describe(rows)))


def smoke(options: argparse.Namespace, scratch: Path) -> None:
    """Makes everything small: one mask, one peer, two epochs, a handful of generated images."""
    from harness import datasets

    options.model, options.weights, options.seeds, options.times = "resnet18", "random", 1, [1.0]
    options.masks, options.peers = ("full",), ["timm, BatchNorm in eval mode"]
    options.data, options.sizes, options.most_epochs = ["generated"], {"generated": 64}, 2
    images = datasets.generate(scratch / "images", 48, side=64)
    DATA["generated"] = (f"folder:{images.folder}", 64, None)


if __name__ == "__main__":
    main()
