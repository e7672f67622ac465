"""The tutorial's experiment: its three arms, its published figures, the table and the plot."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import tables
from harness.plots import NAMES, plt
from harness.store import Row

FULL = 50_000
"""Training images of CIFAR-10."""
EPOCHS = 32
UPSAMPLED = 155


@dataclasses.dataclass(frozen=True)
class Published:
    """What the tutorial reports of an arm, with DenseNet121 on a cloud GPU.

    Attributes:
        accuracy: On 10,000 validation images, at the end.
        best: Of the best epoch, where that is told.
        minutes: Of the training.
        trainable: Params.
        total: Params and running statistics.
    """

    accuracy: float
    best: float | None
    minutes: float
    trainable: int
    total: int


@dataclasses.dataclass(frozen=True)
class Arm:
    """One of the three trainings.

    Attributes:
        size: Height and width of the network's input; larger than 32 is upsampled.
        head: As in `--head`.
        pool: As in `--head-pool`.
        mask: As in `--mask`.
        published: Of the tutorial.
    """

    size: int
    head: str
    pool: str
    mask: str
    published: Published

    def options(self) -> list[str]:
        """What `python -m jtl.train` is told."""
        told = [f"--image-size={self.size}", f"--head={self.head}", f"--head-pool={self.pool}"]
        return [*told, "--upsample=bilinear", "--augment=none", f"--mask={self.mask}"]


_FROZEN = "bn,dense:256,dropout:.2,dense:128,bn,dropout:.2,bn"
ARMS = {
    "base": Arm(32, "linear", "max", "full", Published(0.8659, None, 13.8, 6_964_106, 7_047_754)),
    "optimized_head": Arm(
        UPSAMPLED,
        "bn,dense:256,dense:128,bn,dropout:.2",
        "max",
        "full",
        Published(0.9535, None, 139.5, 7_252_746, 7_338_698),
    ),
    "frozen": Arm(
        UPSAMPLED,
        _FROZEN,
        "flatten",
        "head_only",
        Published(0.9272, 0.9288, 44.1, 4_262_026, 11_332_810),
    ),
}
TOLD = {
    "base": "base: all trains, 32 px",
    "optimized_head": "optimized head: all trains, 155 px",
    "frozen": "frozen backbone, custom head, 155 px",
}


def counts(model: str, arm: Arm, classes: int) -> tuple[int, int]:
    """Trainable params, and all params with running statistics, from shapes alone."""
    import jax
    import numpy as np

    from jtl import models
    from jtl.config.model import ModelConfig
    from jtl.models import heads

    head = heads.from_options(ModelConfig(head=arm.head, head_pool=arm.pool))  # type: ignore[arg-type]
    network = models.create(model, num_classes=classes, head=head)
    shapes = models.variable_shapes(network, arm.size)

    def count(tree: Any) -> int:
        return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))

    trains = shapes["params"] if arm.mask == "full" else shapes["params"]["head"]
    return count(trains), count(shapes)


def check_counts() -> None:
    """Makes sure that DenseNet121's arms are the tutorial's, param by param.

    Raises:
        AssertionError: They are not.
    """
    for name, arm in ARMS.items():
        wanted = (arm.published.trainable, arm.published.total)
        got = counts("densenet121", arm, 10)
        assert got == wanted, f"{name}: {got} params (trainable, all), the tutorial has {wanted}"


def scaled_down(row: Row) -> list[str]:
    """What is less or other than in the tutorial, in phrases."""
    settings, told = row["settings"], []
    if row["model"] != "densenet121":
        told.append(f"{NAMES.get(row['model'], row['model'])} in place of DenseNet121")
    if row["weights"] == "random":
        told.append("random weights: the accuracy says nothing, the time does")
    if row["num_train"] < FULL:
        told.append(f"{row['num_train']:,} of {FULL:,} training images")
    if row["num_val"] < 10_000:
        told.append(f"{row['num_val']:,} of 10,000 validation images")
    if settings["epochs"] < EPOCHS:
        told.append(f"at most {settings['epochs']} of {EPOCHS} epochs")
    if settings["schedule"] != "plateau":
        told.append(f"learning rate {settings['schedule']}, not reduced on a plateau")
    return told


def describe(
    rows: Sequence[Row], facts: Mapping[str, Any], commands: Sequence[str], notes: Sequence[str]
) -> list[str]:
    """The tables as people read them."""
    published = [ARMS[row["arm"]].published for row in rows]

    def minutes(seconds: float) -> str:
        return f"{seconds / 60:.1f}"

    def full(row: Row) -> str:
        if row["epochs"] == 1:  # It compiled.
            return "-"
        return minutes(row["epoch_seconds"] * FULL / row["num_train"])

    model = NAMES.get(rows[0]["model"], rows[0]["model"])
    lines = [f"# The tutorial's three arms on CIFAR-10: {model}", ""]
    lines += tables.machine_lines(facts, commands, [row["product_gflops"] for row in rows])
    lines += tables.table(
        {
            "arm": [TOLD[row["arm"]] for row in rows],
            "trainable params": [f"{row['trainable_params']:,}" for row in rows],
            "tutorial's": [f"{p.trainable:,}" for p in published],
            "accuracy, best epoch": [f"{row['val_accuracy']:.4f}" for row in rows],
            "last epoch": [f"{row['last_accuracy']:.4f}" for row in rows],
            "tutorial's accuracy": [
                f"{p.accuracy:.4f}" + (f" (best {p.best:.4f})" if p.best else "") for p in published
            ],
            "minutes, whole process": [minutes(row["seconds"]) for row in rows],
            "tutorial's minutes, GPU": [f"{p.minutes:g}" for p in published],
        }
    )
    lines += ["", "Where the time goes, on this machine:", ""]
    lines += tables.table(
        {
            "arm": [row["arm"] for row in rows],
            "epochs": [row["epochs"] for row in rows],
            "best epoch": [row["best_epoch"] for row in rows],
            "the frozen layers' one pass, min": [
                minutes(row["feature_seconds"]) if row["feature_seconds"] else "-" for row in rows
            ],
            "an epoch's steps, s": [f"{row['epoch_seconds']:.1f}" for row in rows],
            "an epoch's steps on 50,000 images, min": [full(row) for row in rows],
            "peak memory, GB": [f"{row['peak_bytes'] / 1e9:.2f}" for row in rows],
        }
    )
    lines += ["", "What was scaled down:", ""]
    for row in rows:
        lines.append(f"- {row['arm']}: {'; '.join(scaled_down(row)) or 'nothing'}.")
    return [*lines, "", *(f"- {note}" for note in notes)]


def plot(rows: Sequence[Row], facts: Mapping[str, Any], path: Path) -> None:
    """Validation accuracy over the minutes, and the tutorial's three points."""
    figure, axes = plt.subplots(figsize=(10, 5.4), layout="constrained")
    colors = dict(zip(ARMS, ("#0072b2", "#d55e00", "#009e73"), strict=True))
    for row in rows:
        scale = row["num_train"] < FULL
        label = TOLD[row["arm"]] + (f"\n({row['num_train']:,} images)" if scale else "")
        axes.plot(
            [at / 60 for at in row["at"]],
            row["val"],
            marker="o",
            markersize=4,
            color=colors[row["arm"]],
            label=label,
        )
    shown = [row["arm"] for row in rows]
    for name in shown:
        told = ARMS[name].published
        axes.plot(
            told.minutes, told.accuracy, marker="*", markersize=15, linestyle="none",
            color=colors[name], markeredgecolor="black", label=f"tutorial: {name}, on a GPU",
        )  # fmt: skip
    axes.set_xscale("log")
    ticks = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200)
    every = [*(at / 60 for row in rows for at in row["at"])]
    every += [ARMS[name].published.minutes for name in shown]
    low, high = min(every) / 1.3, max(every) * 1.3
    axes.set_xlim(low, high)
    axes.set_xticks([t for t in ticks if low <= t <= high])
    axes.set_xticklabels([f"{t:g}" for t in ticks if low <= t <= high])
    axes.minorticks_off()
    axes.set_xlabel("minutes since the process began (log scale)")
    axes.set_ylabel("accuracy on the validation images")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=9)
    model = NAMES.get(rows[0]["model"], rows[0]["model"])
    random = all(row["weights"] == "random" for row in rows)
    figure.suptitle(
        f"Three arms on CIFAR-10, {model} on {facts['cores']} CPU cores; stars: the tutorial, "
        "DenseNet121 on a cloud GPU"
        + ("\nrandom weights: our accuracies say nothing, our times do" if random else ""),
        fontsize=11,
    )
    figure.savefig(path, dpi=120)
    plt.close(figure)
