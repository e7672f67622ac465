"""The report of a search's winner, which trials do without."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from jtl.common.progress import Display, PlainConsole
from jtl.evaluate import completion
from jtl.evaluate.evaluation import evaluate_run
from jtl.predict.classifier import load
from jtl.runs.files import HTML_REPORT, SUMMARY, read_json
from jtl.runs.plot_worker import PlotWorker


def write_report(found: dict[str, Any], *, background_plots: bool) -> None:
    """Writes `report.html` into the winner's run, after the results have been printed.

    Args:
        found: The content of `search.json`.
        background_plots: Whether another process draws.
    """
    folder = Path(found["folder"]) / found["winner"]
    if (folder / HTML_REPORT).is_file():  # Of a session before.
        return
    sys.stdout.flush()
    classifier = load(folder)
    with PlotWorker(background=background_plots) as worker:
        worker.start()
        evaluation = evaluate_run(classifier, None, Display(PlainConsole(quiet=True)))
        summary = read_json(folder / SUMMARY)
        completion.write_steps(classifier, evaluation)
        completion.write_page(classifier, evaluation, summary, worker.draw)
