"""The page of a search: what was found, what each choice gained, and what was not tried."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jtl.common.files import replace_text
from jtl.common.quantities import format_seconds
from jtl.common.text import counted
from jtl.runs.plots import metric_name
from jtl.search import console_text, document, plot
from jtl.search.document import Heading, Items, Rows, Text

PLOT, HTML = "search.png", "search.html"
_FOR = "jtl evaluate, jtl predict and jtl export"


def write(folder: Path, found: dict[str, Any]) -> None:
    """Writes the page, as Markdown and as HTML, and its plot into the search's folder."""
    plot.draw(folder / PLOT, found)
    blocks = page(found, (folder / PLOT).read_bytes())
    replace_text(folder / console_text.PAGE, document.markdown(blocks))
    replace_text(folder / HTML, document.as_html(blocks))


def page(found: dict[str, Any], png: bytes, *, runs: bool = True) -> list[document.Block]:
    """The page.

    Args:
        found: The content of `search.json`.
        png: The plot.
        runs: Whether the trials' folders are there, to lead to.
    """
    metric = metric_name(found["metric"])
    return [
        Heading(f"Search: {found['model']} on {found['data']}"),
        Text(console_text.headline(found)),
        Items(console_text.lines(found)),
        document.Plot(f"Validation {metric} against seconds", PLOT, png),
        Text(
            f"Validation {metric} of every trial, with 95 % intervals, and the seconds that it is "
            "predicted to take if it is started alone: in the search it may have taken less, as "
            "it found features and compiled programs of those before it. Along the Pareto front "
            "no trial is better without taking longer."
        ),
        Heading("Trials"),
        _trials(found, runs=runs),
        *_gains(found),
        *_more_images(found),
        *_not_tried(found),
        Heading("How to repeat the winner"),
        Text(f"{console_text.again(found)}:"),
        document.Code(found["command"]),
        *([Text(f"Its run is in {found['winner']}, for {_FOR}.")] if runs else []),
        *([Heading("About the data"), *map(Text, found["notes"])] if found["notes"] else []),
    ]


def _trials(found: dict[str, Any], *, runs: bool) -> Rows:
    rows = []
    for trial in console_text.ordered(found["trials"]):
        if trial["metric"] is None:
            continue
        bounds = console_text.bounds(trial["interval"])
        ended = "" if trial["state"] == "done" else f" ({trial['state']})"
        won = " (the winner)" if trial["folder"] == found["winner"] else ""
        rows.append(
            (
                f"{trial['name']}{ended}{won}",
                console_text.shown(found, trial["metric"]),
                f"{bounds[0]:.3f} to {bounds[1]:.3f}",
                f"{trial['epochs'] or '-'}",
                format_seconds(trial["seconds"]),
                format_seconds(console_text.alone(trial)),
                *([document.Link(f"{trial['number']:03d}", trial["folder"])] if runs else []),
            )
        )
    reached = f"validation {metric_name(found['metric'])}"
    header = ("trial", reached, "95 % interval", "epochs", "time", "time alone")
    return Rows((*header, *(["run"] if runs else [])), rows)


def _not_tried(found: dict[str, Any]) -> list[document.Block]:
    skipped = [t for t in found["trials"] if t["state"] in ("failed", "not begun")]
    count = found.get("variations_too_slow")
    blocks: list[document.Block] = []
    if skipped:
        rows = [(t["name"], t["state"], t["message"]) for t in skipped]
        blocks.append(Rows(("trial", "state", "why"), rows))
    if left_out := found.get("models_left_out"):
        blocks.append(Rows(("backbone", "why it was left out"), list(left_out.items())))
    if count:
        drawn = counted(count, "variation was", "variations were")
        blocks.append(Text(f"{drawn} drawn for which there was not enough time."))
    return [Heading("Not tried"), *blocks] if blocks else []


_FIRST = "the first backbone"
CHOICES = {
    "backbone": lambda o: o.get("model", _FIRST),
    "what trains": lambda o: o.get("phases") or o["mask"],
    "head": lambda o: o.get("head", "default"),
    "input size": lambda o: o.get("image_size", "default"),
    "augmentation": lambda o: o.get("augment", "crops" if o.get("mask") == "full" else "none"),
    "BatchNorm": lambda o: o.get("bn", "frozen"),
    "learning rate": lambda o: o.get("lr", "default"),
    "weight decay": lambda o: o.get("weight_decay", "default"),
}
"""What a trial has chosen, from its options."""


def _gains(found: dict[str, Any]) -> list[document.Block]:
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
            told = console_text.apart(found, gain, "+")
            seconds = format_seconds(console_text.alone(trial))
            value = found.get("models", [value])[0] if value == _FIRST else value
            rows.append((choice, value, told, seconds))
            choice = ""
    header = ("choice", "value", "best trial's gain over the linear probe", "time alone")
    chance = (
        f"Differences below about {console_text.apart(found, _chance(found))} are within chance on "
        f"{found['num_val']:,} validation images."
    )
    return [Heading("What each choice gained"), Rows(header, rows), Text(chance)]


def _chance(found: dict[str, Any]) -> float:
    """Half the width of the winner's interval: careful, as trials share their images."""
    low, high = found["val_interval"]
    return (high - low) / 2


def _more_images(found: dict[str, Any]) -> list[document.Block]:
    curve = found.get("learning_curve") or []
    if len(curve) < 2:
        return []
    rows = [
        (f"{100 * row['share']:.0f} %", f"{row['images']:,}", f"{row['val_accuracy']:.3f}")
        for row in curve
    ]
    gained = 100 * (curve[-1]["val_accuracy"] - curve[-2]["val_accuracy"])
    if abs(gained) < 0.05:
        told = (
            "The last doubling of the training images did not change the linear probe's accuracy, "
            "so more images alone would help little."
        )
    elif gained >= 1:
        told = (
            f"The last doubling of the training images gained {gained:.1f} points, so more images "
            "would probably gain more."
        )
    else:
        told = (
            f"The last doubling of the training images changed the linear probe by {gained:+.1f} "
            "points, so more images alone would help little."
        )
    header = ("share", "training images", "validation accuracy of a linear probe")
    return [Heading("What more images would gain"), Rows(header, rows), Text(told)]
