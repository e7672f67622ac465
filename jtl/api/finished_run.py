"""What `jtl.fit` gives: a run with what one does with it, and how notebooks show it."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

from jtl.common import html
from jtl.common.errors import UserError
from jtl.common.optional import require
from jtl.common.paths import as_path
from jtl.common.progress import Display
from jtl.common.text import counted, listed
from jtl.evaluate.evaluation import SplitName, evaluate_run
from jtl.predict.classifier import Classifier, load
from jtl.predict.inputs import Images, items
from jtl.runs import console_text
from jtl.runs import evaluation_files as outputs
from jtl.runs import run as runs
from jtl.runs.evaluation import Evaluation
from jtl.runs.files import CURVES, HTML_REPORT
from jtl.runs.report import PAGE


class Plot:
    """A plot in a file, which notebooks show.

    Attributes:
        path: The file, a PNG.
    """

    def __init__(self, path: Path):
        self.path = path

    def __repr__(self) -> str:
        return f"plot in '{self.path}'"

    def _repr_png_(self) -> bytes:
        return self.path.read_bytes()


class History(list[dict[str, Any]]):
    """A dict for each epoch, as in `metrics.jsonl`."""

    def to_pandas(self) -> Any:
        """The epochs as a DataFrame, a row for each.

        Raises:
            UserError: pandas is not installed.
        """
        return require("pandas", "to_pandas", "pandas").DataFrame(list(self))

    def _repr_html_(self) -> str:
        keys = ("epoch", "train_loss", "val_loss", "train_accuracy", "val_accuracy")
        rows = [[_cell(line.get(key)) for key in keys] for line in self]
        return html.table([key.replace("_", " ") for key in keys], rows)


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "-" if value is None else str(value)


class Run(runs.Run):
    """A finished training: its results, and the folder that holds them.

    Attributes:
        folder: Where everything is.
        config: The options.
        summary: The results, as in `summary.json`.
        history: A dict for each epoch, as in `metrics.jsonl`; `history.to_pandas()` is a DataFrame.
    """

    @classmethod
    def of(cls, run: runs.Run) -> Run:
        """The same run."""
        return cls(run.folder, run.config, run.summary, History(run.history))

    def evaluate(
        self, data: Any = None, split: SplitName = "val", *, tta: str | None = None
    ) -> Evaluation:
        """Scores the best model, as `jtl evaluate` does.

        Args:
            data: Other images, as for `jtl.fit`; None for the run's own.
            split: `val` or `test`.
            tta: Versions of each image that are averaged, as of `Classifier.with_tta`.

        Raises:
            UserError: The data cannot be read, or have other classes than the run.
        """
        from jtl.data.sources.in_memory import as_source

        if split not in ("val", "test"):
            raise UserError(f"split must be val or test, not {split!r}.")
        if data is None and split == "val" and tta is None:
            return self._on_val
        source = None if data is None else as_source(data)
        return evaluate_run(self.classifier().with_tta(tta), source, Display(), split=split)

    @functools.cached_property
    def _on_val(self) -> Evaluation:
        return evaluate_run(self.classifier(), None, Display())

    def classifier(self) -> Classifier:
        """The best model, to predict with; the same as `jtl.load(run)`."""
        return self._best

    @functools.cached_property
    def _best(self) -> Classifier:
        return load(self)

    def plot_curves(self) -> Plot:
        """Loss and accuracy of every epoch."""
        return self._plot(CURVES)

    def plot_confusion(self) -> Plot:
        """The confusion matrix of the validation images.

        Of several labels for each image there is none, but how well each class is recognized.
        """
        several = self.config.data.task == "multilabel"
        return self._plot("classes.png" if several else "confusion.png", evaluate=True)

    def mistakes(self) -> Plot:
        """The most confident mistakes among the validation images.

        Raises:
            UserError: The model makes none.
        """
        return self._plot("mistakes.png", evaluate=True)

    def _plot(self, name: str, *, evaluate: bool = False) -> Plot:
        path = self.folder / name
        if evaluate and not path.is_file():
            outputs.write(self.evaluate(), self.classifier(), self.folder)
        if not path.is_file():
            raise UserError(f"there is nothing to show in {name}: '{path}' has not been plotted.")
        return Plot(path)

    def explain(self, images: Images, out: str | os.PathLike[str] | None = None) -> list[Plot]:
        """Grad-CAM: which regions of each image led to its prediction.

        Args:
            images: As for `Classifier.predict`.
            out: Folder for the plots; None for `explain` in the run's folder.

        Raises:
            UserError: None of the images can be read, or the folder cannot be written.
        """
        from jtl.predict.explain import write_explanations

        folder = self.folder / "explain" if out is None else as_path(out, "out")
        given = items(images)
        plots = [Plot(path) for path in write_explanations(self.classifier(), given, folder)]
        if given and not plots:
            raise UserError(f"no image could be read: {listed(item.name for item in given)}.")
        return plots

    def export(
        self,
        to: str = "stablehlo",
        out: str | os.PathLike[str] | None = None,
        *,
        overwrite: bool = False,
    ) -> Any:
        """Writes the best model for another library; see `jtl.export.writing.export`."""
        from jtl.export.writing import export

        place = None if out is None else as_path(out, "out")
        return export(self.classifier(), to, place, overwrite=overwrite)

    def __repr__(self) -> str:
        train, summary = self.config.train, self.summary
        first = (
            f"jtl run '{self.folder}': {self.config.model.model}, "
            f"{train.phases or train.mask}, on {self.config.data.data}"
        )
        if not summary:
            return f"{first}\nnot finished: {counted(len(self.history), 'epoch')} so far"
        reached = (
            f"accuracy {console_text.accuracy_of(summary['val_accuracy'], summary['num_val'])}"
        )
        if console_text.is_multilabel(summary):
            reached = f"mAP {summary['val_map']:.3f}"
        page = HTML_REPORT if (self.folder / HTML_REPORT).is_file() else PAGE
        return f"{first}\nvalidation {reached}\nreport: {self.folder / page}"

    def _repr_html_(self) -> str:
        parts = [f"<p>{html.lines(repr(self))}</p>"]
        parts.append(html.plot(self.folder / CURVES, "learning curves"))
        if self.summary:
            split = "val" if self.summary.get("test_classes") is None else "test"
            classes = self.summary[f"{split}_classes"]
            columns = {"count": "images", **console_text.class_columns(classes)}
            rows = [
                [name, *(_cell(scores[key]) for key in columns)] for name, scores in classes.items()
            ]
            header = (f"class ({console_text.SPLITS[split]})", *columns.values())
            parts.append(html.table(header, rows[:_MOST_CLASSES]))
        parts.append(html.plot(self.folder / "mistakes.png", "the most confident mistakes"))
        return "".join(parts)


_MOST_CLASSES = 50
"""Rows of the table in a notebook."""
