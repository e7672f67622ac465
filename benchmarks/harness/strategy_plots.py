"""Plots of freeze strategies, readable without the code."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.ticker import FuncFormatter, MaxNLocator

from harness import strategies
from harness.plots import COLORS, plt
from harness.store import Row
from harness.strategies import EPOCHS, SECONDS, Arm

MARKERS = "osD^vP*X<>"
TICKS = [m * 10**e for e in range(-1, 6) for m in (1, 2, 5)]


def style(strategy: str, order: Sequence[str]) -> dict[str, Any]:
    """A strategy looks the same in all plots of a run."""
    index = order.index(strategy) % len(COLORS)
    return {"color": COLORS[index], "marker": MARKERS[index]}


def pareto(listed: Sequence[Arm], order: Sequence[str], title: str, path: Path) -> None:
    """Validation accuracy against the seconds of the whole process, and the front of the best."""
    figure, axes = plt.subplots(figsize=(9.5, 5.6), layout="constrained")
    ends = sorted((arm.seconds, arm.val) for arm in listed)
    front = [(x, y) for i, (x, y) in enumerate(ends) if all(y > other for _, other in ends[:i])]
    right = 1.5 * ends[-1][0]
    axes.step(
        [*(x for x, _ in front), right],
        [*(y for _, y in front), front[-1][1]],
        where="post",
        color="0.6",
        linewidth=1.2,
        linestyle="--",
        label="best so far (Pareto front)",
        zorder=1,
    )
    for arm in listed:
        values = arm.values("val_accuracy")
        look = style(arm.strategy, order)
        axes.errorbar(
            arm.seconds,
            arm.val,
            yerr=[[arm.val - min(values)], [max(values) - arm.val]],
            markersize=9,
            markerfacecolor=look["color"] if arm.budget == EPOCHS else "white",
            markeredgewidth=1.8,
            linestyle="none",
            label=f"{arm.strategy}, {strategies.counted(arm.epochs)}",
            elinewidth=1,
            zorder=3 if arm.budget == EPOCHS else 2,
            **look,
        )
    _seconds(axes, min(x for x, _ in ends) / 1.4, right)
    axes.set_xlabel("seconds from start to end, all included (log scale)")
    axes.set_ylabel("validation accuracy of the best epoch")
    axes.legend(
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        frameon=False,
        fontsize=9,
        title="filled: same epochs\nhollow: same seconds",
        title_fontsize=9,
        alignment="left",
    )
    _finish(figure, axes, title, path)


def curves(listed: Sequence[Arm], order: Sequence[str], title: str, path: Path) -> None:
    """Validation accuracy over the seconds since the process began, one panel for a budget."""
    budgets = [b for b in (EPOCHS, SECONDS) if any(arm.budget == b for arm in listed)]
    figure, panels = plt.subplots(
        1,
        len(budgets),
        figsize=(2.6 + 5.4 * len(budgets), 5.2),
        layout="constrained",
        sharey=True,
        squeeze=False,
    )
    names = {EPOCHS: "as many epochs for each", SECONDS: "about as many seconds for each"}
    times = [arm.rows[0]["at"] for arm in listed]
    for axes, budget in zip(panels[0], budgets, strict=True):
        for arm in listed:
            if arm.budget != budget:
                continue
            xs, rows = arm.rows[0]["at"], [row["val"] for row in arm.rows]
            look = style(arm.strategy, order)
            mean = [statistics.mean(values) for values in zip(*rows, strict=True)]
            axes.plot(
                xs,
                mean,
                markersize=4.5,
                linewidth=1.6,
                markevery=max(len(xs) // 10, 1),
                label=arm.strategy,
                **look,
            )
            if len(rows) > 1:
                low, high = zip(*[(min(v), max(v)) for v in zip(*rows, strict=True)], strict=True)
                axes.fill_between(xs, low, high, color=look["color"], alpha=0.15, linewidth=0)
        _seconds(axes, min(t[0] for t in times) / 1.2, 1.2 * max(t[-1] for t in times))
        axes.set_xlabel("seconds since the process began (log scale)")
        axes.set_title(names[budget], fontsize=10)
        axes.grid(alpha=0.3)
    # Every strategy's best must show; first epochs near chance need not squeeze what matters.
    bests = [max(row["val"]) for arm in listed for row in arm.rows]
    room = max(0.12 * (max(bests) - min(bests)), 0.01)
    panels[0][0].set_ylim(min(bests) - 2 * room, max(bests) + room)
    panels[0][0].set_ylabel("validation accuracy")
    handles, labels = panels[0][0].get_legend_handles_labels()
    panels[0][-1].legend(
        handles, labels, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=9
    )
    _finish(figure, panels[0][0], title, path)


def images(rows: Sequence[Row], order: Sequence[str], title: str, path: Path) -> None:
    """Validation accuracy against the number of training images per class."""
    figure, axes = plt.subplots(figsize=(8.5, 5.2), layout="constrained")
    classes = rows[0]["num_classes"]
    for strategy in order:
        mine = [row for row in rows if row["strategy"] == strategy]
        sizes = sorted({row["train_images"] for row in mine})
        if not mine:
            continue
        by_size = [[r["val_accuracy"] for r in mine if r["train_images"] == s] for s in sizes]
        xs = [size / classes for size in sizes]
        look = style(strategy, order)
        means = [statistics.mean(values) for values in by_size]
        label = "from scratch" if strategy == "scratch" else strategy
        axes.plot(xs, means, markersize=7, linewidth=1.8, label=label, **look)
        axes.fill_between(
            xs,
            [min(v) for v in by_size],
            [max(v) for v in by_size],
            alpha=0.15,
            color=look["color"],
        )
    axes.axhline(1 / classes, color="0.5", linestyle=":", linewidth=1.2, label="guessing")
    axes.set_xscale("log")
    per_class = {row["train_images"]: row["per_class"] for row in rows}
    ticks = {
        size / classes: count or f"all\n({size / classes:.0f})" for size, count in per_class.items()
    }
    axes.set_xticks(list(ticks), [str(label) for label in ticks.values()])
    axes.minorticks_off()
    axes.set_xlabel("training images per class (log scale)")
    axes.set_ylabel("validation accuracy")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    _finish(figure, axes, title, path)


def _seconds(axes: Any, low: float, high: float) -> None:
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_xticks([t for t in TICKS if low <= t <= high])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.minorticks_off()


def _finish(figure: Any, axes: Any, title: str, path: Path) -> None:
    axes.yaxis.set_major_locator(MaxNLocator(10))
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    figure.suptitle(title, fontsize=11, parse_math=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)
