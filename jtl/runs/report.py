"""`report.md`: a run told to a colleague, with everything that it takes to repeat it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jtl.common import markdown
from jtl.common.files import replace_text
from jtl.common.text import for_markdown
from jtl.config.options import Config
from jtl.runs.plots import metric_name
from jtl.runs.report_contents import (
    Code,
    Parts,
    class_rows,
    data_rows,
    repeat,
    result_rows,
    result_texts,
    searched,
    title,
    training_rows,
)

PAGE = "report.md"
PLOTS = {
    "curves.png": "Loss and accuracy by epoch",
    "confusion.png": "Confusion matrix of the validation images",
    "reliability.png": "Reliability: accuracy at each level of confidence",
    "classes.png": "How well each class is recognized",
    "mistakes.png": "The most confident mistakes",
}
"""What a report shows, where it is in the run's folder."""


def write(
    folder: Path, summary: dict[str, Any], config: Config, coming: Sequence[str] = ()
) -> None:
    """Writes `report.md` beside the plots that are there.

    Args:
        folder: The run's folder.
        summary: As in `summary.json`.
        config: The run's options.
        coming: Plots that are being drawn.
    """
    # The curves may be drawn beside just now.
    coming = ("curves.png", *coming)
    shown = [name for name in PLOTS if name in coming or (folder / name).is_file()]
    replace_text(folder / PAGE, page(summary, config, shown))


def page(summary: dict[str, Any], config: Config, plots: Sequence[str]) -> str:
    """The report as Markdown; see `write`.

    Args:
        summary: The run's results.
        config: The run's options.
        plots: Names of `PLOTS` to show.
    """
    header, rows = result_rows(summary, config)
    heading, columns, classes = class_rows(summary)
    lines, told = repeat(summary, config)
    parts = [
        f"# {_markdown(title(summary))}",
        markdown.table(rows, header),
        *(_markdown([text]) for text in result_texts(summary, config)),
        *(f"![{title}]({name})\n\n{title}." for name, title in _titles(plots, config)),
        f"## {heading}",
        markdown.table([[for_markdown(cell) for cell in row] for row in classes], columns),
        "## Training",
        markdown.table(
            [(name, _markdown(parts)) for name, parts in training_rows(summary, config)]
        ),
        "## Data",
        markdown.table([(name, _markdown(parts)) for name, parts in data_rows(summary)]),
        *(f"- {for_markdown(note)}" for note in summary["notes"]),
        "## How to reproduce",
        "\n".join(f"    {line}" for line in lines),
        *map(_markdown, told),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _titles(plots: Sequence[str], config: Config) -> list[tuple[str, str]]:
    titles = dict(PLOTS)
    metric = config.train.metric
    if searched(config):
        titles["curves.png"] = f"Validation {metric_name(metric)} at each L2 penalty"
    elif metric not in ("accuracy", "loss"):
        first = "exact match" if config.data.task == "multilabel" else "accuracy"
        titles["curves.png"] = f"Loss, {first} and {metric_name(metric)} by epoch"
    return [(name, titles[name]) for name in plots]


def _markdown(parts: Parts) -> str:
    return "".join(
        markdown.code(part.text) if isinstance(part, Code) else for_markdown(part) for part in parts
    )
