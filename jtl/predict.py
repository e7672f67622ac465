"""`python -m jtl.predict RUN IMAGE...`: ask a run's best model about pictures."""

from __future__ import annotations

if __name__ == "__main__":
    from jtl import memory

    memory.restart_with_huge_pages()  # Before the slow imports.

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from jtl import cli, evaluation, process
from jtl.errors import UserError


@dataclasses.dataclass(frozen=True)
class Options:
    """Prints the likeliest classes of pictures.

    For example:
      python -m jtl.predict runs/mine photo.jpg

    Attributes:
        run: Folder that `python -m jtl.train` wrote.
        images: Picture files, one or more.
        top_k: How many classes to name for each.
        json: Print a line of JSON for each picture instead of text.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    images: Annotated[
        tyro.conf.Positional[tuple[Path, ...]],
        tyro.conf.arg(metavar="IMAGE [IMAGE ...]", help_behavior_hint="(required)"),
    ]
    top_k: int = 5
    json: bool = False


def command(options: Options) -> None:
    """Predicts and prints; unreadable pictures are named at the end.

    Raises:
        UserError: No picture was given, or some could not be read (the others are printed).
    """
    if not options.images:
        raise UserError("no picture was given. Name one or more: jtl.predict RUN IMAGE...")
    if options.top_k < 1:
        raise UserError(f"--top-k must be at least 1, not {options.top_k}.")
    classifier = evaluation.load(options.run)
    predictions, unreadable = evaluation.predict_files(
        classifier, list(options.images), options.top_k
    )
    for prediction in predictions:
        if options.json:
            cli.print_json(dataclasses.asdict(prediction))
            continue
        print(prediction.name)
        for name, probability in prediction.classes:
            print(f"  {probability:7.2%}  {name}")
    if unreadable:
        lines = "\n".join(f"  {line}" for line in unreadable)
        raise UserError(f"{len(unreadable)} of {len(options.images)} could not be read:\n{lines}")


if __name__ == "__main__":
    process.prepare()
    cli.end(cli.main(Options, command, prog="python -m jtl.predict"))
