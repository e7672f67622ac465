"""`python -m jtl.evaluate RUN`: score a run's best model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

from jtl.common.files import check_folder
from jtl.common.output import print_json
from jtl.common.text import for_terminal
from jtl.config import walk
from jtl.config.data import OnBadImage


@dataclasses.dataclass(frozen=True)
class Options:
    """Scores the best model of a run: accuracy, loss, macro-F1, calibration, and class by class.

    For example:
      python -m jtl.evaluate runs/mine
      python -m jtl.evaluate runs/mine --data folder:new-images --out evaluations/new

    By default on the run's own validation images, by the same computation as in training,
    so that the figures are those of the run's summary. Then the run's folder gets
    confusion.png, reliability.png (is it right as often as it says?) and mistakes.png (the most
    confident ones), and report.md shows them.

    Attributes:
        run: Folder that `python -m jtl.train` wrote.
        data: Other images, as in `python -m jtl.train`; their classes must be the run's.
        split: Which images of the source: val (held out of train where it has none), or test.
        on_bad_image: What is done about images that cannot be read: error lists them, skip
            leaves them out. Default: as in the run.
        out: Folder for the images. Default: the run's own for its own validation images, and
            none for others.
        json: Print JSON on stdout instead of lines.
    """

    run: Annotated[Path, walk.Metavar("RUN")]
    data: str | None = None
    split: Literal["val", "test"] = "val"
    on_bad_image: OnBadImage | None = None
    out: Path | None = None
    json: bool = False


def command(options: Options) -> None:
    """Evaluates, prints and draws."""
    check_folder("--out", options.out)
    from jtl.common.progress import Display
    from jtl.evaluate import plots
    from jtl.predict import classifier as evaluation
    from jtl.runs import report as report_page
    from jtl.runs.files import SUMMARY, read_json

    display = Display()
    classifier = evaluation.load(options.run)
    found = evaluation.evaluate_run(
        classifier, options.data, display, options.on_bad_image, options.split
    )
    if options.json:
        print_json(found.scores)
    else:
        _print(found.scores)
    own = options.data is None and options.split == "val"
    folder = options.out or (options.run if own else None)
    if folder is None:
        return
    written = plots.write(found, classifier, folder)
    if own and folder == options.run and (options.run / SUMMARY).is_file():
        # Runs of before have not all of these figures.
        summary = read_json(options.run / SUMMARY) | found.scores
        report_page.write(options.run, summary, classifier.config)
        written.append(report_page.PAGE)
    if "confusion.png" not in written:
        display.message(
            f"confusion.png is left out: of {len(classifier.class_names):,} classes none could be "
            "seen in it (--json tells of each)"
        )
    display.message(f"in '{folder}': {', '.join(written)}")


def _print(scores: dict[str, Any]) -> None:
    from jtl.common.progress import PlainConsole
    from jtl.runs import messages

    split = scores["split"]
    data = for_terminal(scores["data"])
    print(f"{data}, {scores['count']} {split} images, epoch {scores['epoch']}")
    print(f"accuracy {scores[f'{split}_accuracy']:.4f}")
    print(f"loss     {scores[f'{split}_loss']:.4f}")
    print(f"macro-F1 {scores[f'{split}_macro_f1']:.4f}")
    calibrated = scores[f"{split}_calibration"]
    print(
        f"expected calibration error {calibrated['expected_calibration_error']:.4f}, mean "
        f"probability of the likeliest class {calibrated['confidence']:.4f}"
    )
    PlainConsole().print(messages.class_table(scores[f"{split}_classes"], split))
