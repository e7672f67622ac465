"""`jtl predict RUN IMAGES...`: ask a run's best model about images."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from jtl.common.errors import UserError
from jtl.common.files import check_folder
from jtl.common.output import print_json
from jtl.common.text import counted, for_terminal
from jtl.config import checks, walk
from jtl.config.run_options import DeviceName, TtaName

if TYPE_CHECKING:
    from jtl.predict.predictions import Prediction, Unreadable

_MANY = 100
"""Images from which on progress is shown."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Predicts the class of images, or their classes (--task multilabel).

    For example:
      jtl predict runs/mine photo.jpg
      jtl predict runs/mine "holiday/*.jpg" more.zip --out predictions.csv

    Images are resized and cropped as for validation. Unreadable images are listed at the end.
    jtl always chooses among the classes it was trained on. If other things can appear, train with
    a class `other`, and see which images it calls unlike the training images: these are farther
    from them than 95 % of the validation images (see docs/trust.md).

    Exit codes: 0 if at least one image was predicted, 2 if none could be read or anything else is
    wrong, 130 after Ctrl-C.

    Attributes:
        run: Folder that `jtl train` or `jtl search` wrote.
        images: Image files, folders, zip or tar archives, or quoted patterns such as "*.jpg".
        top_k: Number of classes to show per image.
        out: Write the predictions to this file, one row per image. The extension selects the
            format: .csv, .jsonl or .parquet. An existing file is replaced. Default: print them.
        explain: Folder for Grad-CAM images showing which regions led to each prediction.
        single: Of a search that keeps an ensemble, use the winner alone.
        tta: Test-time augmentation: average the probabilities of several versions of each image.
            flip: the image and its mirror image; crops: its middle and four corners; flip,crops:
            ten versions. Takes as many times longer. Not for digits or text, which change when
            mirrored.
        abstain: Say "not sure" where the probability of the likeliest class is below this, such as
            0.9. error:0.05 finds the smallest such probability that keeps the share of wrong
            answers on the validation images below 5 %, and says how many images get an answer.
        raw_csv: Write file names to .csv unchanged. By default, names that a spreadsheet would read
            as a formula (starting with =, +, - or @) get an apostrophe in front.
        device: Device to compute on: cpu, gpu or tpu. Default: the fastest one that JAX finds.
        json: Print one line of JSON per image instead of text.
    """

    run: Annotated[Path, walk.Metavar("RUN")]
    images: Annotated[tuple[Path, ...], walk.Metavar("IMAGE")]
    top_k: Annotated[int, checks.at_least(1)] = 5
    out: Path | None = None
    explain: Path | None = None
    single: bool = False
    tta: TtaName | None = None
    abstain: Annotated[str | None, walk.Metavar("P"), checks.abstention] = None
    raw_csv: bool = False
    device: DeviceName = "auto"
    json: bool = False


def command(options: Options) -> None:
    """Predicts and prints or writes.

    Raises:
        UserError: No image could be read, or --out cannot be written.
    """
    if options.json and options.out is not None:
        raise UserError("--json prints predictions, --out saves them. Leave one of them out.")
    if options.raw_csv and (options.out is None or options.out.suffix.lower() != ".csv"):
        raise UserError("--raw-csv needs --out with a .csv file. Add that, or leave --raw-csv out.")
    check_folder("--explain", options.explain)
    from jtl.distributed import device

    device.use(options.device)
    from jtl.common.progress import Display
    from jtl.data import frames
    from jtl.predict import tables
    from jtl.predict.ensemble import Ensemble, load_all
    from jtl.predict.explain import write_explanations
    from jtl.predict.inputs import items
    from jtl.predict.predictions import Unreadable, classify, likeliest, unreadable_lines

    display = Display()
    classifier = load_all(options.run, single=options.single)
    augmented = classifier.with_tta(options.tta)
    several_models = isinstance(classifier, Ensemble)
    if several_models and options.explain is not None:
        raise UserError(
            "--explain shows what one model looks at, and the search in "
            f"'{options.run}' keeps an ensemble. Add --single for its winner."
        )
    trust, comes_to = augmented.trust(options.abstain, "--abstain")
    if comes_to:
        display.message(f"--abstain {options.abstain}: {comes_to}")
    how = (1.0, None, trust)
    if not isinstance(augmented, Ensemble):
        how = augmented.temperature, augmented.thresholds, trust
    top_k = min(options.top_k, len(classifier.class_names))
    images = items(options.images)
    unreadable: list[Unreadable] = []
    unusual = 0
    several: set[str] = set()
    with contextlib.ExitStack() as stack:
        put = _print_json
        if not options.json:
            put = functools.partial(_print, classifier.class_titles)
        if options.out is not None:
            sets = how[1] is not None
            table = tables.writing(
                options.out, top_k, raw=options.raw_csv, several=sets, trust=trust
            )
            put = stack.enter_context(table)
        advance = _nothing
        if options.out is not None or (len(images) >= _MANY and not sys.stdout.isatty()):
            advance = stack.enter_context(display.track("predicting", len(images), "images"))
        if isinstance(augmented, Ensemble):
            answers = augmented.classify(images, advance, several)
        else:
            answers = classify(augmented, images, advance, several)
        for answer in answers:
            if isinstance(answer, Unreadable):
                unreadable.append(answer)
                put(answer)
            else:
                said = likeliest(answer, classifier.class_names, top_k, *how)
                unusual += bool(said.unusual)
                put(said)
        if len(unreadable) == len(images):
            raise UserError(unreadable_lines(unreadable, len(images)))
    if unreadable:
        display.message(unreadable_lines(unreadable, len(images)))
    if several:
        display.message(frames.told(sorted(several)))
    if unusual:
        count = f"{unusual:,} of {counted(len(images), 'image')}"
        display.message(
            f"note: {count} {'is' if unusual == 1 else 'are'} unlike the training images, so what "
            "is predicted means little there (see docs/trust.md)"
        )
    if options.explain is not None and not several_models:
        with display.track("explaining", len(images), "images") as advance:
            write_explanations(classifier, images, options.explain, advance)
        display.message(f"Saved Grad-CAM images to '{options.explain}'")
    if options.out is not None:
        display.message(f"Saved the predictions to '{options.out}'")


def _nothing(done: int) -> None:
    """Shows no progress."""


def _print(titles: Mapping[str, str], row: Prediction | Unreadable) -> None:
    classes = getattr(row, "classes", None)
    if classes is None:  # Unreadable ones are listed at the end.
        return
    from jtl.data.class_names import with_title
    from jtl.data.multilabel import DIVIDER

    labels = getattr(row, "labels", None)
    has = "" if labels is None else f": {DIVIDER.join(labels) or 'none'}"
    has = ": not sure" if getattr(row, "abstains", None) else has
    has += ", unlike the training images" if getattr(row, "unusual", None) else ""
    print(for_terminal(f"{row.name}{has}"))
    for name, probability in classes:
        print(f"  {100 * probability:5.1f} %  {for_terminal(with_title(name, titles))}")


def _print_json(row: Prediction | Unreadable) -> None:
    from jtl.predict import tables

    print_json(tables.as_json(row), indent=None)
