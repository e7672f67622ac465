"""`search.md`: what was found, what each choice gained, and what was not tried."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jtl.common.files import replace_text
from jtl.common.quantities import format_seconds
from jtl.common.text import counted, for_markdown
from jtl.runs.plots import metric_name
from jtl.search import messages, plot

PLOT = "search.png"


def write(folder: Path, found: dict[str, Any]) -> None:
    """Writes the page and its plot into the search's folder."""
    plot.draw(folder / PLOT, found)
    replace_text(folder / messages.PAGE, page(found))


def page(found: dict[str, Any]) -> str:
    """The page as Markdown.

    Args:
        found: The content of `search.json`.
    """
    skipped = [t for t in found["trials"] if t["state"] in ("failed", "not begun")]
    metric = metric_name(found["metric"])
    parts = [
        f"# Search: {found['model']} on `{found['data']}`",
        " ".join(for_markdown(line) for line in messages.lines(found)),
        f"![Validation {metric} against seconds]({PLOT})",
        f"Validation {metric} and seconds of every trial, with 95 % intervals. Along the Pareto "
        "front no trial is better without taking longer.",
        "## Trials",
        _trials(found),
        *_gains(found),
        *_more_images(found),
    ]
    if skipped or found.get("variations_too_slow"):
        parts.append("## Not tried")
    if skipped:
        rows = [(for_markdown(t["name"]), t["state"], for_markdown(t["message"])) for t in skipped]
        parts.append(_table(("trial", "", "why"), rows))
    if count := found.get("variations_too_slow"):
        drawn = counted(count, "variation was", "variations were")
        parts.append(f"{drawn} drawn for which there was not enough time.")
    parts += [
        "## How to repeat the winner",
        f"{messages.again(found)}:",
        f"    {found['command']}",
        f"Its run is in `{found['winner']}`, for `jtl evaluate`, `jtl predict` and `jtl export`.",
        *(f"- {for_markdown(note)}" for note in found["notes"]),
    ]
    return "\n\n".join(parts) + "\n"


def _trials(found: dict[str, Any]) -> str:
    rows = []
    for trial in messages.ordered(found["trials"]):
        if trial["metric"] is None:
            continue
        bounds = sorted(abs(bound) for bound in trial["interval"])
        ended = "" if trial["state"] == "done" else f" ({trial['state']})"
        name = for_markdown(trial["name"]) + ended
        rows.append(
            (
                f"**{name}** (winner)" if trial["folder"] == found["winner"] else name,
                messages.shown(found, trial["metric"]),
                f"{bounds[0]:.3f} to {bounds[1]:.3f}",
                f"{trial['epochs'] or '-'}",
                format_seconds(trial["seconds"]),
                f"[{trial['number']:03d}]({trial['folder']})",
            )
        )
    header = (
        "trial",
        f"validation {metric_name(found['metric'])}",
        "95 % interval",
        "epochs",
        "time",
        "run",
    )
    return _table(header, rows)


CHOICES = {
    "what trains": lambda o: o.get("phases") or o["mask"],
    "input size": lambda o: o.get("image_size", "default"),
    "augmentation": lambda o: o.get("augment", "crops" if o.get("mask") == "full" else "none"),
    "BatchNorm": lambda o: o.get("bn", "frozen"),
    "learning rate": lambda o: o.get("lr", "default"),
    "weight decay": lambda o: o.get("weight_decay", "default"),
}
"""What a trial has chosen, from its options."""


def _gains(found: dict[str, Any]) -> list[str]:
    """The best trial of each way to choose, beside the linear probe."""
    trials = [t for t in found["trials"] if t["metric"] is not None]
    floor = next((t for t in trials if t["stage"] == "probe"), None)
    if floor is None or len(trials) < 2:
        return []
    rows = []
    for choice, value_of in CHOICES.items():
        best: dict[str, dict[str, Any]] = {}
        for trial in trials:
            value = str(value_of(trial["options"]))
            if value not in best or trial["metric"] > best[value]["metric"]:
                best[value] = trial
        if len(best) < 2:
            continue
        for value, trial in sorted(best.items(), key=lambda item: -item[1]["metric"]):
            gain = trial["metric"] - floor["metric"]
            told = f"{gain:+.3f}" if found["metric"] == "loss" else f"{100 * gain:+.1f} points"
            seconds = format_seconds(trial["seconds"])
            rows.append((choice, for_markdown(value), told, seconds))
            choice = ""
    header = ("choice", "value", "best trial's gain over the linear probe", "time")
    chance = (
        f"Differences below about {100 * _chance(found):.0f} points are within chance on "
        f"{found['num_val']:,} validation images."
    )
    return ["## What each choice gained", _table(header, rows), chance]


def _chance(found: dict[str, Any]) -> float:
    """Half the width of the winner's interval: careful, as trials share their images."""
    low, high = found["val_interval"]
    return (high - low) / 2


def _more_images(found: dict[str, Any]) -> list[str]:
    curve = found.get("learning_curve") or []
    if len(curve) < 2:
        return []
    rows = [
        (f"{100 * row['share']:.0f} %", f"{row['images']:,}", f"{row['val_accuracy']:.3f}")
        for row in curve
    ]
    gained = 100 * (curve[-1]["val_accuracy"] - curve[-2]["val_accuracy"])
    if gained >= 1:
        told = (
            f"The last doubling of the training images gained {gained:.1f} points, so more images "
            "would probably gain more."
        )
    else:
        told = (
            f"The last doubling of the training images changed the linear probe by {gained:+.1f} "
            "points, so more images alone would help little."
        )
    header = ("training images", "", "validation accuracy of a linear probe")
    return ["## What more images would gain", _table(header, rows), told]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
