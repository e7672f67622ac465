"""`python -m jtl.evaluate RUN`: score a run's best model."""

from __future__ import annotations

if __name__ == "__main__":
    from jtl import memory

    memory.restart_with_huge_pages()  # Before the slow imports.

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from jtl import cli, evaluation, process, report
from jtl.data.verification import OnBadImage
from jtl.progress import Display, PlainConsole


@dataclasses.dataclass(frozen=True)
class Options:
    """Scores the best model of a run.

    By default on the run's own validation pictures, by the same computation as in training,
    so that the figures are those of the run's summary.

    Attributes:
        run: Folder that `python -m jtl.train` wrote.
        data: Other pictures, as in `python -m jtl.train`; their classes must be the run's.
        on_bad_image: What is done about pictures that cannot be read: error lists them, skip
            leaves them out. Default: as in the run.
        json: Print JSON on stdout instead of lines.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    data: str | None = None
    on_bad_image: Annotated[OnBadImage | None, tyro.conf.arg(help_behavior_hint="")] = None
    json: bool = False


def command(options: Options) -> None:
    """Evaluates and prints."""
    classifier = evaluation.load(options.run)
    scores = evaluation.evaluate_run(classifier, options.data, Display(), options.on_bad_image)
    if options.json:
        cli.print_json(scores, indent=2)
        return
    print(f"{scores['data']}, {scores['count']} {scores['split']} images, epoch {scores['epoch']}")
    print(f"accuracy {scores['val_accuracy']:.4f}")
    print(f"loss     {scores['val_loss']:.4f}")
    print(f"macro-F1 {scores['val_macro_f1']:.4f}")
    PlainConsole().print(report.class_table(scores["val_classes"], scores["split"]))


if __name__ == "__main__":
    process.prepare()
    cli.end(cli.main(Options, command, prog="python -m jtl.evaluate"))
