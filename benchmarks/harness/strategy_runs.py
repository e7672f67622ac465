"""Measures freeze strategies on one data set, row by row, and goes on where it stopped."""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import jtl_runs, machine, steps, strategies, subsets
from harness.store import Row, Store
from harness.strategies import EPOCHS, SECONDS

KEY = ("kind", "strategy", "budget", "seed", "per_class")
MOST_EPOCHS = 100


class Measurement:
    """The rows of one model on one data set: those that are there, and those to come."""

    def __init__(self, options: argparse.Namespace, store: Store, source: Any, scratch: Path):
        """Takes the options, where rows are kept, the opened data, and a folder for runs."""
        self.options, self.store, self.source, self.scratch = options, store, source, scratch
        self.spec = options.data
        limits = (options.train_per_class, options.eval_per_class)
        if any(limits):
            counts = {name: limits[name != "train"] for name in source.splits}
            self.spec = subsets.write(source, scratch / "limited", counts)
        self.settings = {
            "model": options.model,
            "weights": options.weights,
            "data": options.name,
            "fingerprint": source.fingerprint[:12],
            "limits": list(limits),
            "batch": options.batch,
            "image_size": options.image_size,
        }

    def trainings(self, budget: str, epochs: dict[str, int], seconds: float | None) -> None:
        """Every strategy and seed under a budget.

        Args:
            budget: `epochs` or `seconds`.
            epochs: Of each strategy.
            seconds: The budget of seconds; None for that of epochs.
        """
        for strategy in self.options.masks:
            settings = {**self.settings, "epochs": epochs[strategy], "seconds": seconds}
            cache = self.scratch / f"cache-{budget}-{strategy.replace(':', '_')}"
            for seed in range(self.options.seeds):
                key: dict[str, Any] = dict(
                    kind="training", strategy=strategy, budget=budget, seed=seed, per_class=None
                )
                if not self._wanted(settings, key):
                    continue
                same = self._same_training(key, settings)
                row = same or self._train(strategy, epochs[strategy], seed, cache, self.spec)
                self._put({**row, **key, "settings": settings})
            shutil.rmtree(cache, ignore_errors=True)

    def costs(self, size: int, classes: int) -> None:
        """A single step of every mask that the strategies need."""
        settings = steps.StepSettings(self.options.batch, size, self.options.repeats)
        stored = {**self.settings, **dataclasses.asdict(settings)}
        for mask in {mask: 0 for s in self.options.masks for mask in strategies.masks(s)}:
            key: dict[str, Any] = dict(
                kind="step", strategy=mask, budget=None, seed=None, per_class=None
            )
            if self._wanted(stored, key):
                told = steps.cost(self.options.model, mask, settings, classes)
                self._put({**told, **key, "settings": stored})

    def images(self, size: int) -> None:
        """Accuracy against the number of training images, for every strategy, size and seed."""
        most = self.source.smallest_class
        counts = [*(n for n in sorted(self.options.per_class) if n < most), subsets.ALL]
        if self.options.no_all:
            counts.remove(subsets.ALL)
        for seed in range(self.options.images_seeds):
            for per_class in counts:
                self._of_size(per_class, seed, size)

    def _of_size(self, per_class: int, seed: int, size: int) -> None:
        settings = {**self.settings, "image_size": size, "steps": self.options.steps}
        spec, folder = None, self.scratch / "part"
        for strategy in self.options.images_strategies:
            key: dict[str, Any] = dict(
                kind="images", strategy=strategy, budget=None, seed=seed, per_class=per_class
            )
            if not self._wanted(settings, key):
                continue
            if spec is None:
                limits = {"train": per_class, "val": self.options.eval_per_class}
                if per_class == subsets.ALL:
                    limits["train"] = self.options.train_per_class
                spec = subsets.write(self.source, folder, limits, seed)
                count = subsets.count(self.source, "train", limits["train"])
            epochs = -(-self.options.steps // max(count // self.options.batch, 1))
            epochs = min(
                max(epochs, strategies.fewest_epochs(strategy, self.options.model)), MOST_EPOCHS
            )
            cache = self.scratch / "cache-part"
            row = self._train(strategy, epochs, seed, cache, spec, [f"--image-size={size}"])
            shutil.rmtree(cache)
            row |= {"val_accuracy": row["val"][-1], "train_images": row["num_train"]}
            self._put({**row, **key, "settings": settings})
        shutil.rmtree(folder, ignore_errors=True)

    def _train(
        self,
        strategy: str,
        epochs: int,
        seed: int,
        cache: Path,
        spec: str,
        more: Sequence[str] = (),
    ) -> Row:
        """A training's row; its seconds are of a first run if the cache folder is not there."""
        cold = not cache.exists()
        rate = machine.product_rate()
        told = [f"--model={self.options.model}", f"--data={spec}", f"--seed={seed}"]
        told += [f"--weights={self.options.weights}", f"--batch-size={self.options.batch}"]
        if self.options.image_size and not more:
            told.append(f"--image-size={self.options.image_size}")
        # What a strategy says comes last and holds.
        chosen = strategies.options(strategy, epochs)
        if any(option.startswith("--weights") for option in chosen):
            told = [option for option in told if not option.startswith("--weights")]
        trained = jtl_runs.train([*told, *more, *chosen], self.scratch, cache)
        summary = trained.summary
        facts = (
            "best_epoch", "val_accuracy", "test_accuracy", "optimizer_bytes", "image_size",
            "num_classes", "num_train", "num_val", "feature_seconds",
        )  # fmt: skip
        return {
            **{fact: summary[fact] for fact in facts},
            "num_test": subsets.count(self.source, "test", self.options.eval_per_class),
            "val_given": self.source.val_given or spec != self.options.data,
            "epochs": summary["epochs"],
            "cold": cold,
            "seconds": trained.ended.seconds,
            "peak_bytes": trained.ended.peak_bytes,
            "at": trained.values("at"),
            "val": trained.values("val_accuracy"),
            "product_gflops": rate,
        }

    def _wanted(self, settings: dict[str, Any], key: dict[str, Any]) -> bool:
        return self.options.again or self.store.find(settings, **key) is None

    def _same_training(self, key: dict[str, Any], settings: dict[str, Any]) -> Row | None:
        """The row of the budget of epochs, where as many epochs fit in the seconds."""
        if key["budget"] == EPOCHS:
            return None
        return self.store.find({**settings, "seconds": None}, **{**key, "budget": EPOCHS})

    def _put(self, row: Row) -> None:
        command = " ".join(["python", "benchmarks/freeze_strategies.py", *sys.argv[1:]])
        self.store.put(KEY, row, command)
        told = [str(row[name]) for name in KEY if row[name] is not None]
        if "val" in row:
            told.append(f"{row['seconds']:.1f} s, validation accuracy {row['val_accuracy']:.4f}")
        print(", ".join(told), file=sys.stderr, flush=True)


def current(store: Store) -> list[Row]:
    """The stored rows that were measured under the settings of the newest of their kind."""

    def setting(row: Row) -> dict[str, Any]:
        # In the budget of seconds every strategy has epochs of its own.
        own = {"epochs"} if row["budget"] == SECONDS else set()
        return {key: value for key, value in row["settings"].items() if key not in own}

    newest = {(row["kind"], row["budget"]): setting(row) for row in store.rows}
    return [row for row in store.rows if setting(row) == newest[row["kind"], row["budget"]]]
