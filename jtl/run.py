"""A run's folder: what it holds, and that it holds either a run or nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jtl import checkpoint, metrics, onednn, report_page
from jtl.calibration import calibration
from jtl.config import Config
from jtl.drawing import curves_title
from jtl.errors import UserError
from jtl.files import replace_text
from jtl.freeze.split import Tree
from jtl.painter import Painter
from jtl.sinks import LEFTOVERS, Sinks
from jtl.task import Task

CONFIG, METRICS, SUMMARY, CURVES = "config.json", "metrics.jsonl", "summary.json", "curves.png"


@dataclasses.dataclass
class Run:
    """One training and the folder it writes.

    Attributes:
        folder: Where everything is.
        config: The resolved options.
        summary: The keys of `summary.json`; empty until the run is finished.
        history: A line for every epoch that is done.
        sinks: What else is told of every epoch and of the result.
    """

    folder: Path
    config: Config
    summary: dict[str, Any] = dataclasses.field(default_factory=dict)
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    sinks: Sinks | None = None

    def open(self, task: Task) -> None:
        """Writes `config.json`, if not there yet; from here on there is something to keep."""
        if (self.folder / CONFIG).exists():
            return
        stored = {
            **task.config.to_dict(),
            "phases": [dataclasses.asdict(plan.phase) for plan in task.plans],
            **_taken(task),
        }
        _write_json(self.folder / CONFIG, stored)

    def abandon(self) -> None:
        """Removes what was written, if there is no checkpoint to go on from."""
        checkpoints = self.folder / checkpoint.FOLDER
        parts = list(checkpoints.iterdir()) if checkpoints.is_dir() else []
        if any(path.name.isdecimal() for path in parts):
            return
        for part in parts:  # What a write has left that failed, as on a full disk.
            shutil.rmtree(part, ignore_errors=True)
        _remove_empty([checkpoints])
        for name in LEFTOVERS:
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for name in (CONFIG, METRICS, *LEFTOVERS):
            with contextlib.suppress(IsADirectoryError):
                (self.folder / name).unlink(missing_ok=True)

    def log(self, line: dict[str, Any]) -> None:
        """Appends an epoch's line to `metrics.jsonl`."""
        self.history.append(line)
        with (self.folder / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self.sinks is not None:
            self.sinks.log(line)

    def best_epoch(self, until: int | None = None) -> int:
        """The epoch of highest validation accuracy; among equals, of lowest loss.

        Args:
            until: The last epoch to look at; default all that are done.
        """
        best = max(
            self.history[:until], key=lambda e: (e["val_accuracy"], -e["val_loss"], -e["epoch"])
        )
        return best["epoch"]

    def check_same(self, task: Task) -> None:
        """Makes sure that a run goes on with what it began with.

        Raises:
            UserError: Data, classes, weights or a rules file are not those of the run.
        """
        stored = read_json(self.folder / CONFIG)
        now = _taken(task)
        stored["rules"] = [phase.get("rules") for phase in stored.get("phases", ())]
        now["rules"] = [plan.phase.rules for plan in task.plans]
        changed = [key for key, value in now.items() if stored.get(key) != value]
        if changed:
            told = "\n".join(f"  {key}: {stored.get(key)} then, {now[key]} now" for key in changed)
            raise UserError(
                f"'{self.folder}' cannot be resumed: what it was trained on has changed.\n{told}\n"
                "Bring it back, or start a new run."
            )

    def finish(
        self,
        task: Task,
        best: checkpoint.Restored,
        logits: dict[str, np.ndarray],
        **measured: Any,
    ) -> None:
        """Writes `summary.json` and `report.md`.

        Args:
            task: The run's fixed parts.
            best: The best checkpoint as it was read back from disk.
            logits: What its model says of the pictures of "val" and, if there is one, "test",
                each [N, num_classes].
            measured: `optimizer_bytes`, `test_accuracy`, `train_seconds`, `feature_seconds`,
                `features_reused`.
        """
        self.summary = summarize(task, best, self.history, logits, measured)
        _write_json(self.folder / SUMMARY, self.summary)
        report_page.write(self.folder, self.summary, self.config)
        if self.sinks is not None:
            self.sinks.close(self.summary)

    def draw(self, task: Task, painter: Painter) -> None:
        """Asks for `curves.png`, once all epochs are in the history."""
        best = self.best_epoch()
        title = curves_title(
            model=task.config.model.model,
            mask=task.plan_of(best).phase.mask,
            data=task.dataset.spec,
            accuracy=self.history[best - 1]["val_accuracy"],
        )
        path = self.folder / CURVES
        painter.draw("draw_curves", path, history=self.history, best_epoch=best, title=title)


def _taken(task: Task) -> dict[str, Any]:
    """What a run is made of and cannot change while it goes on."""
    weights = task.class_weights
    return {
        "class_names": list(task.dataset.class_names),
        # The JSON of float32 numbers reads back as the same ones.
        "class_weights": None if weights is None else weights.tolist(),
        "data_fingerprint": task.dataset.fingerprint,
        "weights_sha256": task.source.get("sha256"),
    }


@contextlib.contextmanager
def claimed_run(config: Config) -> Iterator[Run]:
    """Creates the run's folder now, and removes it again if the run fails before it opens.

    A folder that cannot be written is found out before minutes of work, not after.

    Raises:
        UserError: The folder holds a run already, is a file, or cannot be written.
    """
    folder = config.run.run_dir or _new_folder(config)
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(
            f"--run-dir '{folder}' is not empty. Give a new folder, or remove this one if it "
            "is of no use any more."
        )
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Permission bits do not tell all (read-only mounts, quotas, root): only writing does.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        _remove_empty(missing)
        raise UserError(
            f"cannot write the run's folder '{folder}': {error.strerror}. Choose another with "
            "--run-dir."
        ) from error
    run = Run(folder, config)
    try:
        yield run
    except BaseException:
        run.abandon()
        raise
    finally:
        _remove_empty(missing)


def _remove_empty(folders: list[Path]) -> None:
    """Removes the folders that hold nothing, given from the innermost outwards."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _new_folder(config: Config) -> Path:
    """runs/<data>-<model>-<mask>-<time>, numbered if two start in the same second."""
    scheme, _, rest = config.data.data.partition(":")
    data = _for_paths(Path(rest.partition(":")[0]).stem).strip("_") or scheme
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    mask = _for_paths(config.train.mask)
    name = f"{data}-{config.model.model}-{mask}-{now}"
    folder, number = Path("runs", name), 1
    while folder.exists():
        number += 1
        folder = Path("runs", f"{name}-{number}")
    return folder


def _for_paths(text: str) -> str:
    """Shortened, and without what rules and patterns of files hold and paths should not."""
    return re.sub(r"[^\w.=-]+", "_", text)[:40]


def summarize(
    task: Task,
    best: checkpoint.Restored,
    history: list[dict[str, Any]],
    logits: dict[str, np.ndarray],
    measured: dict[str, Any],
) -> dict[str, Any]:
    """The content of `summary.json`; counts include BatchNorm statistics, as Keras counts."""
    line = history[best.epoch - 1]
    # The mask and the counts of the phase that the best epoch belongs to, as all else below.
    plan = task.plan_of(best.epoch)
    total = _count(task.variables)
    trainable = _count(plan.trainable_params(task.variables))
    seconds = sum(entry["seconds"] for entry in history)
    images = sum(entry["images_per_second"] * entry["seconds"] for entry in history)
    return {
        "model": task.config.model.model,
        "weights": task.source,
        "mask": plan.phase.mask,
        "phases": [dataclasses.asdict(p.phase) for p in task.plans],
        "bn": task.config.train.bn,
        "head": task.config.model.head,
        "data": task.dataset.spec,
        "data_fingerprint": task.dataset.fingerprint,
        "notes": list(task.dataset.notes),
        "num_classes": len(task.dataset.class_names),
        "class_names": list(task.dataset.class_names),
        "class_weights": _taken(task)["class_weights"],
        "num_train": len(task.dataset.train),
        "num_val": len(task.dataset.val),
        "image_size": task.inputs.device.size,
        "augmentation": task.config.augment.options().told(),
        "total_params": total,
        "trainable_params": trainable,
        "frozen_params": total - trainable,
        "optimizer_bytes": measured["optimizer_bytes"],
        "epochs": len(history),
        "best_epoch": best.epoch,
        "val_accuracy": line["val_accuracy"],
        "val_loss": line["val_loss"],
        "test_accuracy": measured["test_accuracy"],
        **classes_told(task, logits),
        "train_seconds": round(measured["train_seconds"], 3),
        "feature_seconds": round(measured["feature_seconds"], 3),
        "features_reused": measured["features_reused"],
        "images_per_second": round(images / max(seconds, 1e-9), 1),
        "cached_prefix": line["cached_prefix"],
        "cut": line["cut"],
        "frozen_leaves": len(jax.tree.leaves(_untouched(task, best.epoch, task.variables))),
        "frozen_unchanged": frozen_unchanged(task, best),
        "seed": task.config.train.seed,
        "device": device(),
        "versions": versions(),
    }


def classes_told(task: Task, logits: dict[str, np.ndarray]) -> dict[str, Any]:
    """How well each class is recognized in val and test, and how well the model knows.

    None of a split that there is not.
    """
    told: dict[str, Any] = {}
    for split in ("val", "test"):
        scores = calibrated = None
        if split in logits:
            labels = getattr(task.dataset, split).labels
            scores = metrics.by_class(logits[split].argmax(-1), labels, task.dataset.class_names)
            calibrated = calibration(logits[split], labels)
        told[f"{split}_macro_f1"] = None if scores is None else metrics.macro_f1(scores)
        told[f"{split}_classes"] = scores
        told[f"{split}_calibration"] = calibrated
    return told


def frozen_unchanged(task: Task, best: checkpoint.Restored) -> bool:
    """Whether every leaf frozen in all phases so far has the bits that were loaded.

    Running statistics are leaves too. What an earlier phase has trained is not among them.
    """
    before, tree_before = jax.tree.flatten(_untouched(task, best.epoch, task.variables))
    after, tree_after = jax.tree.flatten(_untouched(task, best.epoch, best.variables))
    return tree_before == tree_after and all(
        a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        for a, b in zip(map(np.asarray, before), map(np.asarray, after), strict=True)
    )


def _untouched(task: Task, epoch: int, variables: Tree) -> Tree:
    """The leaves that no phase up to `epoch` trains."""
    for plan in task.plans:
        if plan.first_epoch <= epoch:
            variables = plan.frozen(variables)
    return variables


def versions() -> dict[str, str]:
    """Of what a result depends on."""
    from importlib.metadata import version

    packages = ("jtl", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "pillow")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def device() -> str:
    """What computes: the platform, the kind and number of its devices, and what convolves."""
    first, count = jax.devices()[0], jax.device_count()
    kind = f"{count} x {first.device_kind}"
    return f"{first.platform} ({kind})" + (", oneDNN" if onednn.installed() else "")


def _count(tree: Tree) -> int:
    return sum(int(leaf.size) for leaf in jax.tree.leaves(tree))


def read_json(path: Path) -> dict[str, Any]:
    """An object from a file of the run; UserError if that cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"'{path}' cannot be read: {error}.") from error
    if not isinstance(content, dict):
        raise UserError(f"'{path}' cannot be read: it holds no object of names and values.")
    return content


def _write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a file that is either the old one or the new one, never a part."""
    replace_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
