"""What benchmarks/freeze_strategies.py tells: the tables as people read them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from harness import strategies, tables
from harness.store import Row
from harness.strategies import Arm


def cost_lines(listed: Sequence[Arm], costs: Mapping[str, Row]) -> list[str]:
    """The table of what a strategy costs, whatever it is trained on.

    Args:
        listed: The arms.
        costs: The row of a single step by mask.
    """
    shown = list({arm.strategy: arm for arm in listed if arm.budget == strategies.EPOCHS}.values())

    def of(arm: Arm, form: str, key: str, scale: float = 1) -> str:
        """From images and from the cache, of the first mask and the last one."""
        told = []
        for mask in strategies.masks(arm.strategy):
            sides = [costs[mask][side][key] * scale for side in ("uncached", "cached")]
            cached = format(sides[1], form) if costs[mask]["cut"] else "-"
            told.append(f"{format(sides[0], form)}, {cached}")
        return " → ".join(told)

    def trainable(arm: Arm) -> str:
        return " → ".join(
            f"{costs[mask]['trainable_params']:,}" for mask in strategies.masks(arm.strategy)
        )

    settings = next(iter(costs.values()))["settings"]
    return [
        "## What a strategy costs",
        "",
        f"float32, {settings['size']} pixels, batch {settings['batch']}, Adam. Pairs are: a step "
        "from images, through all layers; a step from the frozen layers' cached outputs ('-': "
        "the first layers train, nothing can be cached). Arrows: the first and the last phase. "
        f"Steps are medians of {settings['repeats']}, without reading images; operations are "
        "XLA's count; memory is the peak of the whole training process.",
        "",
        *tables.table(
            {
                "strategy": [arm.strategy for arm in shown],
                "trainable params": [trainable(arm) for arm in shown],
                "optimizer state, MB": [
                    f"{arm.rows[0]['optimizer_bytes'] / 1e6:.2f}" for arm in shown
                ],
                "a step's GFLOP": [of(arm, ".3g", "gflop") for arm in shown],
                "ms per step": [of(arm, ".3g", "seconds", 1e3) for arm in shown],
                "images/s": [of(arm, ",.0f", "images_per_second") for arm in shown],
                "peak memory, GB": [f"{arm.rows[0]['peak_bytes'] / 1e9:.2f}" for arm in shown],
            }
        ),
    ]


def spread(values: Sequence[float | None]) -> str:
    """Mean and range; `-` where there is nothing."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    mean = f"{statistics.mean(known):.4f}"
    return mean if len(known) == 1 else f"{mean} ({min(known):.4f}-{max(known):.4f})"


def result_lines(listed: Sequence[Arm], reach: Sequence[float], advised: Arm) -> list[str]:
    """The table of what each strategy reaches, under one budget."""

    def reached(arm: Arm, accuracy: float) -> str:
        seconds, seeds = arm.reaching(accuracy)
        if seconds is None:
            return "-"
        return f"{seconds:.1f}" + (
            f" ({seeds} of {len(arm.rows)})" if seeds < len(arm.rows) else ""
        )

    return tables.table(
        {
            "strategy": [
                f"**{arm.strategy}**" if arm is advised else arm.strategy for arm in listed
            ],
            "epochs": [arm.epochs for arm in listed],
            "process, s": [f"{arm.seconds:.1f}" for arm in listed],
            "best epoch": [", ".join(map(str, arm.values("best_epoch"))) for arm in listed],
            "validation accuracy": [spread(arm.values("val_accuracy")) for arm in listed],
            "test accuracy": [spread(arm.values("test_accuracy")) for arm in listed],
            **{
                f"s to {accuracy:g}": [reached(arm, accuracy) for arm in listed]
                for accuracy in reach
            },
        }
    )


def advice_lines(advice: strategies.Advice, command: str) -> list[str]:
    """The recommendation."""
    arm = advice.arm
    return [
        f"## Recommendation for these data and this machine: `{arm.strategy}`, "
        f"{strategies.counted(arm.epochs)}",
        "",
        f"    {command}",
        "",
        *(f"- {reason}" for reason in advice.reasons),
    ]


def images_lines(rows: Sequence[Row], order: Sequence[str], steps: int) -> list[str]:
    """The table of accuracy against the number of training images."""
    sizes = sorted({row["train_images"] for row in rows})
    classes = rows[0]["num_classes"]
    per_class = {row["train_images"]: row["per_class"] for row in rows}
    shown = [s for s in order if any(row["strategy"] == s for row in rows)]

    def cell(strategy: str, size: int) -> str:
        mine = [r for r in rows if (r["strategy"], r["train_images"]) == (strategy, size)]
        return spread([row["val_accuracy"] for row in mine]) if mine else "-"

    return [
        "## Accuracy against the number of training images",
        "",
        f"At least {steps} steps each, but no more than 100 epochs; the last epoch's accuracy on "
        f"the same {rows[0]['num_val']:,} validation images, so that no choice of epoch flatters "
        f"it; seeds choose the training images. {classes} classes. From scratch so few steps are "
        "a beginning: it would gain by many times as many.",
        "",
        *tables.table(
            {
                "training images per class": [per_class[size] or "all" for size in sizes],
                "in all": [f"{size:,}" for size in sizes],
                **{s: [cell(s, size) for size in sizes] for s in shown},
            }
        ),
    ]


def data_line(row: Row, settings: Mapping[str, Any]) -> str:
    """What was trained on."""
    seeds_note = "" if row["val_given"] else "; each seed holds out its own validation images"
    test = f", {row['num_test']:,} test" if row["num_test"] else ", no test"
    return (
        f"{settings['data']}: {row['num_train']:,} train, {row['num_val']:,} validation{test} "
        f"images, {row['num_classes']} classes{seeds_note}."
    )
