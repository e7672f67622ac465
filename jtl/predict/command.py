"""`python -m jtl.predict RUN IMAGES...`: ask a run's best model about images."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from jtl.common.errors import UserError
from jtl.common.files import check_folder
from jtl.common.output import print_json
from jtl.common.text import for_terminal
from jtl.config import checks, walk

if TYPE_CHECKING:
    from jtl.predict.predictions import Prediction, Unreadable

_MANY = 100
"""Images from which on progress is shown."""
_LISTED = 20
"""Unreadable images that are named at the end; --out holds them all."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Prints the likeliest classes of images, or writes them to a file.

    For example:
      python -m jtl.predict runs/mine photo.jpg
      python -m jtl.predict runs/mine holiday/ more.zip --out predictions.csv

    Images are resized and cropped as in training. Those that cannot be read are listed at the
    end, and the others predicted all the same.

    Attributes:
        run: Folder that `python -m jtl.train` wrote.
        images: Image files; folders, zip or tar archives stand for all images in them.
        top_k: How many classes to name for each image.
        out: A .csv, .jsonl or .parquet file to write the predictions to, a row for each image;
            what is there is replaced. Default: they are printed.
        explain: A folder for an image of each prediction that shows where in it the network found
            the likeliest class (Grad-CAM).
        raw_csv: Write names to .csv as they are. By default those that a spreadsheet would take for
            a formula (they begin with =, +, - or @) get an apostrophe in front.
        json: Print a line of JSON for each image instead of text.
    """

    run: Annotated[Path, walk.Metavar("RUN")]
    images: Annotated[tuple[Path, ...], walk.Metavar("IMAGE")] = walk.positional(())
    top_k: Annotated[int, checks.at_least(1)] = 5
    out: Path | None = None
    explain: Path | None = None
    raw_csv: bool = False
    json: bool = False


def command(options: Options) -> None:
    """Predicts and prints or writes.

    Raises:
        UserError: No image was given, none could be read, or --out cannot be written.
    """
    if not options.images:
        raise UserError("no image was given. Name one or more: jtl.predict RUN IMAGES...")
    if options.json and options.out is not None:
        raise UserError("--json prints, and with --out nothing is printed. Leave one of them out.")
    if options.raw_csv and (options.out is None or options.out.suffix.lower() != ".csv"):
        raise UserError("--raw-csv is for --out with a .csv file. Name one, or leave it out.")
    check_folder("--explain", options.explain)
    from jtl.common.progress import Display
    from jtl.predict import classifier as evaluation
    from jtl.predict import tables
    from jtl.predict.explain import write_explanations
    from jtl.predict.inputs import items
    from jtl.predict.predictions import Unreadable, classify, likeliest

    display = Display()
    classifier = evaluation.load(options.run)
    top_k = min(options.top_k, len(classifier.class_names))
    images = items(options.images)
    unreadable: list[Unreadable] = []
    with contextlib.ExitStack() as stack:
        put = _print_json if options.json else _print
        if options.out is not None:
            put = stack.enter_context(tables.writing(options.out, top_k, raw=options.raw_csv))
        advance = _nothing
        if options.out is not None or (len(images) >= _MANY and not sys.stdout.isatty()):
            advance = stack.enter_context(display.track("predicting", len(images), "images"))
        for answer in classify(classifier, images, advance):
            if isinstance(answer, Unreadable):
                unreadable.append(answer)
                put(answer)
            else:
                put(likeliest(*answer, classifier.class_names, top_k))
        if len(unreadable) == len(images):
            raise UserError(_told(unreadable, len(images)))
    if unreadable:
        display.message(_told(unreadable, len(images)))
    if options.explain is not None:
        with display.track("explaining", len(images), "images") as advance:
            write_explanations(classifier, images, options.explain, advance)
        display.message(f"images of what mattered are in '{options.explain}'")
    if options.out is not None:
        display.message(f"the predictions are in '{options.out}'")


def _nothing(done: int) -> None:
    """Shows no progress."""


def _print(row: Prediction | Unreadable) -> None:
    classes = getattr(row, "classes", None)
    if classes is None:  # Unreadable ones are listed at the end.
        return
    print(for_terminal(row.name))
    for name, probability in classes:
        print(f"  {probability:7.2%}  {for_terminal(name)}")


def _print_json(row: Prediction | Unreadable) -> None:
    from jtl.predict import tables

    print_json(tables.as_json(row), indent=None)


def _told(unreadable: list[Unreadable], count: int) -> str:
    lines = [f"{len(unreadable)} of {count} could not be read:"]
    lines += [f"  {image}" for image in unreadable[:_LISTED]]
    if len(unreadable) > _LISTED:
        lines.append(f"  ... and {len(unreadable) - _LISTED} more")
    return "\n".join(lines)
