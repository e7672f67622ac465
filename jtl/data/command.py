"""`jtl data check SOURCE`: what a source holds, and what would break or bias training on it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from jtl.common.errors import UserError
from jtl.common.output import print_json
from jtl.common.text import counted, indented
from jtl.config import addresses, checks, walk
from jtl.config.data import DataConfig, OnBadImage
from jtl.data.sources.source_options import DEFAULT, SourceOptions

if TYPE_CHECKING:
    from jtl.data.survey import Survey

_MOST_CLASSES = 50
_MOST_LINES = 20


@dataclasses.dataclass(frozen=True)
class Options:
    """Checks every image before you train on it.

    Shows how many images each class has in each split, their sizes, and possible problems:
    unreadable, duplicate, in two classes, greyscale, transparent or tiny images, and empty or
    unbalanced classes.

    `jtl data clean` looks for wrong labels and near-duplicates; see its --help.

    Exit codes: 0 if there is no problem (there may be warnings), 1 if something would break or
    bias training, 2 if the data cannot be opened.

    For example:
      jtl data check my-images --montage images.png
      jtl data check labels.csv --image-root photos
      jtl data check tfds:cifar10

    Attributes:
        action: check, or clean.
        source: Your images, as for --data of `jtl train`.
        on_bad_image: Report unreadable images as an error (error), or leave them out with a warning
            (skip).
        montage: Save some training images of every class to this .png file.
        json: Print JSON on stdout instead of text.
    """

    HELP_FROM: ClassVar = walk.HelpFrom(DataConfig)
    """The source is read as in training."""

    action: Annotated[Literal["check", "clean"], walk.Metavar("check|clean")]
    source: Annotated[str, walk.Metavar("SOURCE")]
    reading: SourceOptions = DEFAULT
    bit_depth: Annotated[int | Literal["auto"], checks.within(8, 16)] = "auto"
    on_bad_image: OnBadImage = "error"
    montage: Annotated[Path | None, walk.Metavar("FILE.png"), checks.png] = None
    json: bool = False


def command(options: Options) -> int:
    """Checks a source and prints what it found; 1 if something would spoil a training.

    Raises:
        UserError: The source cannot be opened, or the montage not be written.
    """
    if options.action == "clean":
        raise UserError("write clean before the options: jtl data clean SOURCE ...")
    from jtl.common import fonts
    from jtl.common.progress import Display
    from jtl.data import montage
    from jtl.data.sources import registry
    from jtl.data.survey import survey

    display = Display()
    found = registry.find(options.source, options.reading)
    if options.montage is not None:
        montage.draw(found, options.montage)
        if (told := fonts.note(found.class_names)) is not None:
            display.message(told)
    count = sum(len(split) for split in found.splits.values())
    with display.track("checking", count, "images") as advance:
        result = survey(
            addresses.without_secrets(options.source)
            if addresses.is_address(options.source)
            else options.source,
            found,
            advance,
            on_bad_image=options.on_bad_image,
            bit_depth=options.bit_depth,
        )
    if options.json:
        print_json(result.to_dict())
    else:
        print("\n".join(lines(result)))
    return 1 if result.problems else 0


def lines(result: Survey) -> list[str]:
    """What was found, for people."""
    from rich.cells import cell_len, set_cell_size

    from jtl.data.class_names import with_title

    splits = list(result.counts)
    totals = result.description.splits  # An image of several classes counts in each.
    rows = [(name, [result.counts[split][i] for split in splits])
            for i, name in enumerate(result.class_names)]  # fmt: skip
    shown = rows
    if len(rows) > _MOST_CLASSES:
        shown = sorted(rows, key=lambda row: row[1][0])
        shown = [*shown[: _MOST_CLASSES // 2], *shown[-(_MOST_CLASSES // 2) :]]
    # Chinese, Japanese and Korean characters are as wide as two letters.
    shown = [(with_title(name, result.description.titles), row) for name, row in shown]
    width = max(cell_len(name) for name, _ in [*shown, ("all classes", [])])
    whole = sum(result.description.splits.values())
    text = [f"{result.spec}: {whole:,} images, {len(rows)} classes"]
    text += [*result.description.lines(), ""]
    text.append(" " * width + "".join(f"{split:>10}" for split in splits))
    for name, counts in [*shown, ("all classes", [totals[split] for split in splits])]:
        text.append(set_cell_size(name, width) + "".join(f"{count:>10,}" for count in counts))
    if len(shown) < len(rows):
        text.append(f"({len(rows) - len(shown)} classes of medium size are not shown; see --json)")
    if result.sizes is not None:
        told = ", ".join(f"{name} {w} x {h}" for name, (h, w) in result.sizes.items())
        text += ["", f"width x height in pixels: {told}"]
    text += _listed("unreadable", result.unreadable)
    text += _listed("duplicates", [" = ".join(group) for group in result.duplicates])
    for word, sentences in (
        ("note", result.notes),
        ("warning", result.warnings),
        ("PROBLEM", result.problems),
    ):
        text += [f"{word + ':':<10}{sentence}" for sentence in sentences]
    if not result.problems:
        warned = f" ({counted(len(result.warnings), 'warning')})" if result.warnings else ""
        text.append(f"No problems found{warned}.")
    return text


def _listed(word: str, items: tuple[str, ...] | list[str]) -> list[str]:
    return [f"{word}:", *indented(items, _MOST_LINES)] if items else []
