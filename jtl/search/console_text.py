"""What a search tells its user: the closing table and sentences."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jtl.common.invocation import command
from jtl.common.quantities import format_seconds
from jtl.common.text import counted
from jtl.runs import metrics
from jtl.runs.console_text import accuracy_of

PAGE = "search.md"


def print_result(found: dict[str, Any], console: Console) -> None:
    """The trials, the winner, and what its figures are worth."""
    folder = Path(found["folder"])
    metric = found["metric"].replace("_", " ")
    table = Table(title="Trials", title_justify="left", min_width=60)
    table.add_column("", justify="right")
    table.add_column("trained", overflow="fold")
    table.add_column("epochs", justify="right")
    table.add_column(f"validation {metric}", justify="right")
    table.add_column("time", justify="right")
    for row in ordered(found["trials"]):
        mark = "*" if row["folder"] == found["winner"] else ""
        value = shown(found, row["metric"]) if row["metric"] is not None else row["state"]
        ended = "" if row["state"] in ("done", "failed", "not begun") else f" ({row['state']})"
        seconds = "-" if row["seconds"] is None else format_seconds(row["seconds"])
        number = f"{mark}{row['number']}" if row["number"] else ""
        epochs = f"{row['epochs'] or '-'}"
        table.add_row(number, Text(row["name"] + ended), epochs, value, seconds)
    console.print(table)
    for line in lines(found, " (*)"):
        console.print(line, soft_wrap=True)
    several = _keeps_ensemble(found)
    run = shlex.quote(str(folder if several else folder / found["winner"]))
    which = " (the ensemble; with --single, the winner alone)" if several else ""
    mirror = found.get("tta") or {}
    tta = f" --tta {mirror['tta']}" if mirror.get("kept") and not several else ""
    repeat = command("train") + found["command"].removeprefix("jtl train")
    console.print(
        f"Next{which}:\n  {command('evaluate')} {run}{tta}\n"
        f"  {command('predict')} {run}{tta} IMAGES...\n"
        f"The whole result: {folder / PAGE}\n{again(found)}:\n  {repeat}",
        soft_wrap=True,
    )


def _keeps_ensemble(found: dict[str, Any]) -> bool:
    return bool((found.get("ensemble") or {}).get("kept"))


def again(found: dict[str, Any]) -> str:
    """What the command does that is named at the end."""
    if "soup of" in found["winner_name"]:
        return "The winner is an average of weights. To train its best member again"
    return "To train the winner again"


def ordered(trials: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The best first; then those without a result."""
    return sorted(trials, key=lambda t: (t["metric"] is None, -(t["metric"] or 0.0), t["number"]))


def alone(trial: dict[str, Any]) -> float:
    """Seconds that a trial takes, started alone; that it took, by older versions of jtl."""
    return trial["seconds"] if trial.get("alone") is None else trial["alone"]


def shown(found: dict[str, Any], value: float) -> str:
    """A metric for people, as precisely as it is known."""
    if found["metric"] == "loss":
        return f"{-value:.3f}"
    return metrics.rounded(value, found["num_val"])


def bounds(interval: list[float]) -> list[float]:
    """An interval's bounds for people: a loss is kept as a negative number, the higher the better.

    Example:
        >>> bounds([-0.4, -0.2])
        [0.2, 0.4]
    """
    return sorted(abs(bound) for bound in interval)


def apart(found: dict[str, Any], difference: float, sign: str = "") -> str:
    """A difference of two values of the metric, the higher the better.

    Args:
        found: The content of `search.json`.
        difference: The difference.
        sign: "+" to write the sign of what is positive, too.
    """
    if found["metric"] == "loss":
        return format(-difference if sign else difference, f"{sign}.3f")
    return f"{format(100 * difference, f'{sign}.1f')} points"


def headline(found: dict[str, Any]) -> str:
    """What predicts best, and the figure that was not used to find it, if there is one."""
    accuracy, what = found["test_accuracy"], found["winner_name"]
    if _keeps_ensemble(found):
        ensemble = found["ensemble"]
        accuracy = ensemble.get("test_accuracy")
        what = f"an ensemble of {counted(len(ensemble['members']), 'trial')}"
    if accuracy is None:
        return f"The best is {what}."
    return f"The best is {what}: test accuracy {accuracy_of(accuracy, found['num_test'])}."


def lines(found: dict[str, Any], mark: str = "") -> list[str]:
    """What was found, in sentences.

    Args:
        found: The content of `search.json`.
        mark: What marks the winner in a table above, such as " (*)".
    """
    metric = found["metric"].replace("_", " ")
    told = [f"The winner{mark} is {found['winner_name']}, in '{found['winner']}'."]
    if found["winner"] != found["best"]:
        told.append(
            f"{found['best_name']} has a better validation {metric} "
            f"({shown(found, found['best_val_metric'])}), but the difference of "
            f"{apart(found, found['difference'])} is within chance (standard error "
            f"{apart(found, found['standard_error'])}), and the winner takes less time if it is "
            "trained alone."
        )
    low, high = bounds(found["val_interval"])
    tried = sum(1 for row in found["trials"] if row["metric"] is not None)
    images = counted(found["num_val"], "image")
    chose = f"to choose among {counted(tried, 'trial')}, so it is optimistic"
    if tried == 1:
        chose = "to fit this trial, too, so it is slightly optimistic"
    told.append(
        f"Validation {metric} {shown(found, found['val_metric'])} (95 % interval {low:.3f} to "
        f"{high:.3f}, {images}). It was used {chose}."
    )
    if found["corrected_val_accuracy"] is not None:
        mean, low, high = found["corrected_val_accuracy"]
        told.append(
            f"Corrected for that optimism, the best trial's validation accuracy is about "
            f"{mean:.3f} (95 % interval {low:.3f} to {high:.3f}, by bootstrap)."
        )
    if found["test_accuracy"] is not None:
        accuracy = accuracy_of(found["test_accuracy"], found["num_test"])
        whose = "The winner's test" if _keeps_ensemble(found) else "Test"
        told.append(f"{whose} accuracy is {accuracy}, on images that were not used to choose.")
    else:
        told.append("There are no test images (--no-test), so no accuracy is unbiased.")
    if (ensemble := found.get("ensemble")) is not None:
        told.append(_of_ensemble(found, ensemble))
    if (mirror := found.get("tta")) is not None:
        told.append(_of_mirror_images(found, mirror))
    rest = found["budget"] - found["seconds"]
    why = "; no other trial was expected to fit in the rest" if rest > 0.1 * found["budget"] else ""
    told.append(f"Took {found['seconds']:.0f} s of {found['budget']:.0f} s{why}.")
    return told


def _of_mirror_images(found: dict[str, Any], mirror: dict[str, Any]) -> str:
    """What the average over each image and its mirror image gains."""
    gain = apart(found, mirror["difference"], "+")
    error = apart(found, mirror["standard_error"])
    told = (
        f"Averaging each image with its mirror image (--tta {mirror['tta']}) changes the winner's "
        f"validation {found['metric'].replace('_', ' ')} by {gain} (standard error {error})"
    )
    if mirror["kept"]:
        return f"{told}; predicting with it takes twice the time."
    return f"{told}: no gain beyond chance."


def _of_ensemble(found: dict[str, Any], ensemble: dict[str, Any]) -> str:
    """What an ensemble of the trials would gain."""
    metric = found["metric"].replace("_", " ")
    members = counted(len(ensemble["members"]), "trial")
    if len(ensemble["members"]) < 2 and not ensemble["kept"]:
        return "No ensemble of the trials is better than the winner."
    if not ensemble["difference"] and not ensemble["kept"]:
        return f"An ensemble of {members} is no better than the winner."
    gain = apart(found, ensemble["difference"], "+")
    told = f"An ensemble of {members} changes validation {metric} by {gain}"
    error = apart(found, ensemble["standard_error"])
    judged = f"on images that were not used to pick it, standard error {error}"
    if ensemble["kept"]:
        tested = ""
        if ensemble.get("test_accuracy") is not None:
            accuracy = accuracy_of(ensemble["test_accuracy"], found["num_test"])
            tested = f" Its test accuracy is {accuracy}."
        elif found["test_accuracy"] is not None:
            tested = (
                " There was no time to score it on the test images (jtl evaluate SEARCH --split "
                "test)."
            )
        return (
            f"{told} ({judged}), so it is kept: its members and weights are in ensemble.json, and "
            f"jtl predict and jtl evaluate use it for the search's folder.{tested}"
        )
    return f"{told} ({judged}): no gain beyond chance, so the single winner stays."
