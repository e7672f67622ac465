"""Where the lines, bars and cells of the page's charts are; the template draws them as SVG."""

from __future__ import annotations

import colorsys
import itertools
import math
from collections.abc import Sequence
from typing import Any

from rich.cells import cell_len

from jtl.common.text import percent, shortened_apart
from jtl.runs.evaluation_plots import MOST_CLASSES
from jtl.runs.plots import metric_name

WIDTH, HEIGHT = 460, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 12, 44
_PALETTE = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b", "#7f7f7f",
    "#b5a800", "#6a3d9a",
)  # fmt: skip
"""Of Okabe and Ito (2008), but for black and yellow, which one of the grounds swallows."""
_NUMBERED = 40
"""Up to as many classes the cells of a confusion matrix have their numbers."""
_ACROSS = 1000
"""Pixels of the page on a desktop."""
_LABEL = 22
"""Letters of a class beside the matrix."""


def curves(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Loss and metrics by epoch, or by penalty of what L-BFGS fitted; none of a single value."""
    history = content["history"]
    path = history[0].get("path", ()) if len(history) == 1 else ()
    if len(path) > 1:
        quantity = [key for key in path[0] if key.startswith("val_")][-1].removeprefix("val_")
        points = [(math.log10(fit["l2"]), fit[f"val_{quantity}"]) for fit in path]
        lines = [("validation", "blue", points)]
        chosen = (math.log10(history[0]["l2"]), f"chosen: {history[0]['l2']:.2g}")
        return [
            _chart(f"validation {metric_name(quantity)}", "L2 penalty", lines, chosen, power=True)
        ]
    if len(history) < 2:
        return []
    shown = dict.fromkeys(["loss", "accuracy", *_measured(history[0])])
    best, found = content["best_epoch"], []
    for quantity in shown:
        lines = []
        for split, name, colour in (("train", "training", "grey"), ("val", "validation", "blue")):
            if f"{split}_{quantity}" in history[0]:
                key = f"{split}_{quantity}"
                lines.append((name, colour, [(line["epoch"], line[key]) for line in history]))
        exact = quantity == "accuracy" and "map" in shown
        name = "exact match" if exact else metric_name(quantity)
        found.append(_chart(name, "epoch", lines, (best, f"best epoch: {best}"), whole=True))
    return found


def reliability(calibration: dict[str, Any]) -> dict[str, Any]:
    """Accuracy at each level of confidence."""
    chart = _axes((0, 1), (0, 1), "confidence", "accuracy")
    x, y = chart.pop("x"), chart.pop("y")
    bars = [
        {
            "x": x(each["from"]),
            "y": y(each["accuracy"]),
            "width": x(each["to"]) - x(each["from"]) - 1,
            "height": y(0) - y(each["accuracy"]),
            "told": f"{each['count']:,} images, confidence {percent(each['confidence'])}, "
            f"accuracy {percent(each['accuracy'])}",
        }
        for each in calibration["bins"]
    ]
    dots = [(x(each["confidence"]), y(each["accuracy"])) for each in calibration["bins"]]
    lines = [{"colour": "grey", "dashed": True, "points": _points([(x(0), y(0)), (x(1), y(1))])}]
    legend = [("blue", "accuracy"), ("orange", "mean confidence"), ("grey", "perfect calibration")]
    return {**chart, "bars": bars, "dots": dots, "lines": lines, "legend": legend, "mark": None}


def coverage(curve: dict[str, list[float]]) -> dict[str, Any] | None:
    """Accuracy by the share of images that get an answer; None where all are right."""
    points = list(zip(curve["coverage"], curve["accuracy"], strict=True))
    if len(points) < 2 or min(curve["accuracy"]) == 1:
        return None
    lines = [("accuracy", "blue", points)]
    return _chart("accuracy of the answers", "share of the images answered", lines, across=(0, 1))


def confusion(content: dict[str, Any]) -> dict[str, Any] | None:
    """The confusion matrix as cells; None where there is none, or no name could be read."""
    names, counts = content["names"], content["confusion"]
    if counts is None or len(names) > MOST_CLASSES:
        return None
    numbered = len(names) <= _NUMBERED
    letter = 13 if len(names) <= 8 else 11 if numbered else 9
    shown = shortened_apart(names, _LABEL)
    margin = round(14 + 0.62 * letter * max(map(cell_len, shown)))
    # As large as there is room on the page, but for what is written in it.
    side = max(min(46, (_ACROSS - margin) // len(names)), 20 if numbered else 10)
    totals: dict[int, int] = {}
    for row, _, count in counts:
        totals[row] = totals.get(row, 0) + count
    behind = {cell for cell, _ in content["views"].get("cells", ())}
    cells = [
        {
            "x": margin + column * side,
            "y": margin + row * side,
            "row": row,
            "column": column,
            "count": f"{count:,}",
            "strong": count > 0.4 * totals[row],
            # The root makes rare confusions visible, which are what one looks for.
            "share": round(max(math.sqrt(count / totals[row]), 0.08), 3),
            "id": f"{row}-{column}" if f"{row}-{column}" in behind else None,
            "told": f"{count:,} of {totals[row]:,} images of {names[row]} taken for "
            f"{names[column]}",
        }
        for row, column, count in counts
    ]
    size = margin + side * len(names) + 2
    middles = [margin + (index + 0.5) * side for index in range(len(names))]
    return {
        "size": size, "side": side, "margin": margin, "letter": letter, "numbered": numbered,
        "labels": list(zip(shown, names, middles, strict=True)), "cells": cells,
    }  # fmt: skip


def confused(content: dict[str, Any], most: int = 10) -> list[tuple[str, str, int]]:
    """The pairs of classes that are mistaken most often: actual, predicted, images."""
    names = content["names"]
    pairs = [(count, r, c) for r, c, count in content["confusion"] or () if r != c]
    pairs.sort(key=lambda pair: -pair[0])
    return [(names[r], names[c], count) for count, r, c in pairs[:most]]


def scatter(content: dict[str, Any], places: Sequence[Sequence[float]]) -> dict[str, Any]:
    """The points of the map and what their colours mean."""
    width, height, edge = 640, 480, 12
    labels, rows = content["map"]["labels"], content["map"]["rows"]
    points = []
    for (across, up), label, row in zip(places, labels, rows, strict=True):
        described = content["images"][str(row)]
        points.append(
            {
                "x": round(edge + across * (width - 2 * edge), 1),
                "y": round(edge + (1 - up) * (height - 2 * edge), 1),
                "class": label,
                "colour": colour(label, len(content["names"])),
                "row": row,
                **described,
            }
        )
    # Mistakes are drawn last, above the others.
    points.sort(key=lambda point: not point["right"])
    points = [p for p in points if p["right"]] + [p for p in points if not p["right"]]
    keys = [
        (
            label,
            content["names"][label] if label >= 0 else "none",
            colour(label, len(content["names"])),
        )
        for label in sorted(set(labels))
    ]
    return {"width": width, "height": height, "points": points, "legend": keys}


def colour(label: int, classes: int) -> str:
    """That of a class on the map: one of a few that all can tell apart, or a hue of its own."""
    if label < 0:
        return "#7f7f7f"
    if classes <= len(_PALETTE):
        return _PALETTE[label]
    # Neighbours in the list get hues far apart, by the golden ratio, and three lightnesses.
    red, green, blue = colorsys.hls_to_rgb(
        label * 0.618034 % 1, (0.42, 0.55, 0.34)[label % 3], 0.65
    )
    return "#" + "".join(f"{round(255 * part):02x}" for part in (red, green, blue))


def _measured(line: dict[str, Any]) -> list[str]:
    return [key.removeprefix("val_") for key in line if key.startswith("val_")]


def _chart(
    name: str,
    across_name: str,
    lines: Sequence[tuple[str, str, Sequence[tuple[float, float]]]],
    marked: tuple[float, str] | None = None,
    *,
    across: tuple[float, float] | None = None,
    power: bool = False,
    whole: bool = False,
) -> dict[str, Any]:
    """Lines over an axis that holds all of them.

    Args:
        name: Of what goes up.
        across_name: Of what goes across.
        lines: (name, colour, (x, y) of each point).
        marked: A place that is marked, and its name.
        across: From where to where; default what the lines need.
        power: Whether what goes across are powers of ten.
        whole: Whether these are whole numbers.
    """
    xs = [x for _, _, points in lines for x, _ in points]
    ys = [y for _, _, points in lines for _, y in points if math.isfinite(y)] or [0.0]
    low, high = min(ys), max(ys)
    room = 0.05 * (high - low) or 0.05
    # Curves along a bound need a little room to be seen whole.
    high = high + room if high > 1 or name.endswith("loss") else min(high + room, 1 + room / 2)
    chart = _axes(
        across or (min(xs), max(xs)),
        (max(low - room, 0.0), max(high, low + 1e-6)),
        across_name,
        name,
        power=power,
        whole=whole,
    )
    x, y = chart.pop("x"), chart.pop("y")
    drawn = [
        {
            "colour": colour,
            "dashed": False,
            "points": _points([(x(a), y(b)) for a, b in points if math.isfinite(b)]),
        }
        for _, colour, points in lines
    ]
    legend = [(colour, name) for name, colour, _ in lines]
    mark = None
    if marked is not None:
        mark = round(x(marked[0]), 1)
        legend.append(("orange", marked[1]))
    return {**chart, "bars": [], "dots": [], "lines": drawn, "legend": legend, "mark": mark}


def _axes(
    across: tuple[float, float],
    up: tuple[float, float],
    across_name: str,
    up_name: str,
    *,
    power: bool = False,
    whole: bool = False,
) -> dict[str, Any]:
    """The frame of a chart, its ticks, and from values to places as `x` and `y`."""
    from matplotlib.ticker import MaxNLocator

    def x(value: float) -> float:
        share = (value - across[0]) / ((across[1] - across[0]) or 1)
        return round(_LEFT + share * (WIDTH - _LEFT - _RIGHT), 1)

    def y(value: float) -> float:
        share = (value - up[0]) / (up[1] - up[0])
        return round(HEIGHT - _BOTTOM - share * (HEIGHT - _BOTTOM - _TOP), 1)

    sides = MaxNLocator(6, integer=whole or power).tick_values(*across)
    heights = MaxNLocator(5).tick_values(*up)
    inside_x = [float(v) for v in sides if across[0] - 1e-9 <= v <= across[1] + 1e-9]
    inside_y = [float(v) for v in heights if up[0] - 1e-9 <= v <= up[1] + 1e-9]
    if not up_name.endswith("loss"):  # No tick is where no value can be.
        inside_y = [v for v in inside_y if v <= 1]
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "frame": (_LEFT, _TOP, WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM),
        "across": across_name,
        "up": up_name,
        "x_ticks": [(x(v), f"{10.0**v:g}" if power else f"{v:g}") for v in inside_x],
        "y_ticks": [(y(v), f"{v:.4g}") for v in inside_y],
        "x": x,
        "y": y,
    }


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x},{y}" for x, y in itertools.chain(points))
