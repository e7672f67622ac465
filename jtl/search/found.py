"""`jtl.search(...)`, and what it gives."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from jtl.api import Classifier, Predictions, Run, alone, options_of
from jtl.common import html
from jtl.common.errors import UserError
from jtl.common.progress import Display
from jtl.common.text import type_of
from jtl.data.sources.in_memory import as_source
from jtl.distributed import device
from jtl.predict.ensemble import Ensemble, load_all
from jtl.predict.inputs import Images
from jtl.predict.predictions import TOP
from jtl.runs import metrics_log
from jtl.runs import run as runs
from jtl.runs.files import SUMMARY, read_json
from jtl.runs.resume import stored_config
from jtl.search import console_text
from jtl.search.clock import clock_from_now
from jtl.search.options import Options


class Found:
    """What a search found.

    Attributes:
        folder: Where everything is.
        result: The content of `search.json`.
        trials: A dict for each trial, as in `search.json`.
    """

    def __init__(self, result: dict[str, Any]):
        self.result = result
        self.folder = Path(result["folder"])
        self.trials: list[dict[str, Any]] = result["trials"]

    @property
    def winner(self) -> Run:
        """The winner's run, to evaluate, predict with or export."""
        return self.run(self.result["winner"])

    def classifier(self, *, single: bool = False) -> Classifier | Ensemble:
        """What predicts best: the ensemble if there is one, else the winner.

        Args:
            single: Whether it is the winner in any case.
        """
        return load_all(self.folder, single=single)

    def predict(
        self, images: Images, *, top_k: int = TOP, single: bool = False, tta: str | None = None
    ) -> Predictions:
        """Classifies images with the ensemble if there is one, else with the winner.

        Args:
            images: As of `Classifier.predict`.
            top_k: How many classes single predictions name.
            single: Whether the winner predicts in any case.
            tta: As of `Classifier.with_tta`.
        """
        return self.classifier(single=single).predict(images, top_k=top_k, tta=tta)

    def run(self, trial: str | dict[str, Any]) -> Run:
        """A trial's run.

        Args:
            trial: One of `trials`, or its folder within the search's.
        """
        folder = self.folder / (trial if isinstance(trial, str) else trial["folder"])
        history = list(metrics_log.lines(folder))
        config, summary = stored_config(folder), read_json(folder / SUMMARY)
        return Run.of(runs.Run(folder, config, summary, history))

    def __repr__(self) -> str:
        return "\n".join([f"jtl search '{self.folder}'", *console_text.lines(self.result)])

    def _repr_html_(self) -> str:
        rows = [
            (
                row["name"],
                "-" if row["metric"] is None else console_text.shown(self.result, row["metric"]),
            )
            for row in console_text.ordered(self.trials)
        ]
        header = ("trial", f"validation {self.result['metric'].replace('_', ' ')}")
        return f"<p>{html.lines(repr(self))}</p>{html.table(header, rows)}"


def search(
    data: Any = "digits",
    *,
    budget: str | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    display: Display | None = None,
    **options: Any,
) -> Found:
    """Finds the best classifier within a given time, as `jtl search` does.

    Args:
        data: The images, as for `jtl.fit`.
        budget: How long it may take from the call on, such as "90s", "10m" or "2h"; None
            for 10 minutes, or for that of the search that is resumed.
        out: Folder for everything that the search writes; None for a new one in runs/.
        resume: Goes on with the search in `out`.
        display: Where progress goes; None for stderr.
        **options: Every other option of the command, with underscores: `metric="macro_f1"`,
            `test=False`. `jtl search --help-all` explains them.

    Raises:
        UserError: As the command; a `ValueError` whose message says what to do. Also where another
            thread of this process is training.
    """
    if display is not None and not isinstance(display, Display):
        raise UserError(f"display is {type_of(display)}. Give a Display, or leave it out.")
    clock = clock_from_now()
    named = {"data": as_source(data), "budget": budget, "out": out, "resume": resume}
    chosen = options_of(Options, named | options, "search")
    with alone():
        from jtl.search.session import run

        device.use(chosen.search.device)
        return Found(run(chosen, display or Display(), clock))
