"""`search.png`: what every trial reached, and what it took."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jtl.common.text import shortened
from jtl.runs.plots import BLUE, GREEN, GREY, ORANGE, metric_name, save
from jtl.search import console_text

KINDS = {
    "probe": ("linear probe", GREEN, "s"),
    "backbone": ("linear probe, other backbone", GREEN, "P"),
    "size": ("linear probe, other size", GREEN, "D"),
    "head": ("other head", GREEN, "v"),
    "plan": ("default of each mask", BLUE, "o"),
    "search": ("variation", GREY, "^"),
    "soup": ("average of weights (soup)", "#cc79a7", "*"),
}
"""How the trials of each stage are named and drawn."""
_MOST_LABELS = 6


def pareto_front(trials: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The trials than which none is better and took no longer, from fast to slow."""
    front: list[dict[str, Any]] = []
    for trial in sorted(trials, key=lambda t: (t["seconds"], -t["metric"])):
        if not front or trial["metric"] > front[-1]["metric"]:
            front.append(trial)
    return front


def draw(path: Path, found: dict[str, Any]) -> None:
    """Draws the metric against the seconds of every trial, with the Pareto front; a PNG.

    Args:
        path: The file.
        found: The content of `search.json`.
    """
    from matplotlib.figure import Figure

    trials = [
        {**t, "seconds": max(console_text.alone(t), 0.01)}
        for t in found["trials"]
        if t["metric"] is not None
    ]
    sign = -1 if found["metric"] == "loss" else 1
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    front = pareto_front(trials)
    for stage, (label, colour, marker) in KINDS.items():
        mine = [t for t in trials if t["stage"] == stage]
        if not mine:
            continue
        x, y = [t["seconds"] for t in mine], [sign * t["metric"] for t in mine]
        axes.vlines(
            x,
            [sign * t["interval"][0] for t in mine],
            [sign * t["interval"][1] for t in mine],
            color=colour,
            alpha=0.25,
            linewidth=1,
        )
        axes.plot(x, y, marker, color=colour, label=label, markersize=6)
    x, y = [t["seconds"] for t in front], [sign * t["metric"] for t in front]
    axes.step(x, y, where="post", color=ORANGE, linewidth=1, zorder=1, label="Pareto front")
    winner = next(t for t in trials if t["folder"] == found["winner"])
    style: dict[str, Any] = dict(markersize=13, markerfacecolor="none", color=ORANGE, linestyle="")
    at = [winner["seconds"]], [sign * winner["metric"]]
    axes.plot(*at, marker="o", label="winner", **style)
    axes.set_xscale("log")
    _label_seconds(axes, [t["seconds"] for t in trials])
    if sign > 0:
        axes.set_ylim(*_limits(trials))
    for index, trial in enumerate(front[-_MOST_LABELS:]):
        axes.annotate(
            shortened(trial["name"], 36),
            (trial["seconds"], sign * trial["metric"]),
            xytext=(-4, 7) if index else (4, -12),  # The front comes from below, and goes right.
            textcoords="offset points",
            ha="right" if index else "left",
            fontsize=8,
            parse_math=False,
        )
    axes.set_xlabel("seconds that the trial takes, started alone (predicted)")
    axes.set_ylabel(f"validation {metric_name(found['metric'])}")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    title = f"{found['model']} on {shortened(found['data'], 60)}: {len(trials)} trials"
    save(figure, path, title)


def _limits(trials: list[dict[str, Any]]) -> tuple[float, float]:
    """Bounds that hold the best trials with their intervals; much worse ones are cut off."""
    best = max(trials, key=lambda t: t["metric"])
    low, high = best["interval"]
    least = min(t["interval"][0] for t in trials)
    return max(least, low - 2 * (high - low), 0.0) - 0.01, min(high + 0.02, 1.01)


def _label_seconds(axes: Any, seconds: list[float]) -> None:
    """Round numbers on a logarithmic axis that may span less than a decade."""
    from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

    low, high = 0.7 * min(seconds), 1.6 * max(seconds)
    ticks = [k * 10**e for e in range(-2, 7) for k in (1, 2, 5) if low <= k * 10**e <= high]
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(ScalarFormatter())
