"""`jtl.clean(...)`: from a source to what is likely wrong in it."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np

from jtl.cleaning import neighbours, sheets, wrong_labels
from jtl.cleaning.findings import (
    KINDS,
    NEAR,
    OUTLIER,
    TABLE,
    UNREADABLE,
    WRONG,
    Finding,
    Findings,
    as_csv,
)
from jtl.cleaning.pool import Pool, pool_of
from jtl.common import files
from jtl.common.errors import UserError
from jtl.common.progress import Display
from jtl.common.text import counted
from jtl.config.options import Config
from jtl.data.multilabel import joined
from jtl.train.checks import checked
from jtl.train.setup import Setup, prepare_setup

_FEWEST = 20
"""Images from which labels can be judged."""


def clean(config: Config, out: Path, display: Display, notes: tuple[str, ...] = ()) -> Findings:
    """Looks for likely mistakes in a source, and writes what it finds; changes no image.

    Args:
        config: Of a linear probe of the source, whose features are looked at.
        out: Where `clean.csv` and the contact sheets go: a new or empty folder.
        display: Where progress goes.
        notes: What is to be said with the result.

    Raises:
        UserError: The data or the weights cannot be used, or the folder cannot be written.
    """
    check_out(out)
    setup = prepare_setup(checked(config), display)
    pool = pool_of(setup, display)
    rows, more = _found(setup, pool, display)
    findings = Findings(
        setup.dataset.spec, out, tuple(rows), len(pool) + len(setup.dataset.unreadable),
        pool.class_names, (*notes, *more),
    )  # fmt: skip
    _write(findings, pool, out, display)
    return findings


def check_out(out: Path) -> None:
    """Raises `UserError` if there is anything at the place, such as a list that was edited."""
    if out.is_dir() and not any(out.iterdir()):
        return
    if os.path.lexists(out):
        held = f"holds a {TABLE} already" if (out / TABLE).is_file() else "is not an empty folder"
        raise UserError(f"--out '{out}' {held}. Choose a new folder with --out, or remove it.")


def _found(setup: Setup, pool: Pool, display: Display) -> tuple[list[Finding], list[str]]:
    """What is likely wrong, by kind, and what to say of it."""
    units, notes = neighbours.directions(pool.features), []
    suspects: list[wrong_labels.Suspect] = []
    if len(pool) >= _FEWEST:
        with display.track("labels", wrong_labels.FOLDS, "folds") as advance:
            suspects = wrong_labels.find(
                pool.features, pool.labels, len(pool.class_names), pool.groups,
                setup.config.split_seed, advance,
            )  # fmt: skip
    else:
        notes.append(
            f"{counted(len(pool), 'image')}: too few to judge labels and to find outliers."
        )
    splits = np.array(pool.splits)
    with display.track("near-duplicates", len(pool), "images") as advance:
        pairs = neighbours.near_duplicates(units, splits, advance)
    alike = np.zeros(len(pool), int) if pool.multilabel else pool.labels
    far = neighbours.outliers(units, alike)
    mislabelled = {suspect.row for suspect in suspects}

    def finding(row: int, kind: str, score: float, exclude: bool, **more: str) -> Finding:
        told = {"suggested": "", "other": "", **more}
        return Finding(
            pool.names[row], pool.splits[row], pool.label(row), kind, score=score, exclude=exclude,
            rows=(row,), **told,
        )  # fmt: skip

    rows = [
        finding(
            suspect.row, WRONG, suspect.score, pool.splits[suspect.row] == "train",
            suggested=joined([pool.class_names[label] for label in suspect.suggested]),
        )
        for suspect in suspects
    ]  # fmt: skip
    for pair in pairs:
        # Without the one that trains, the other still says how good the classifier is.
        first, second = sorted((pair.row, pair.other), key=lambda row: pool.splits[row] != "train")
        across = pool.splits[first] == "train" != pool.splits[second]
        row = finding(first, NEAR, pair.score, across, other=pool.names[second])
        rows.append(dataclasses.replace(row, rows=(first, second)))
    # An image with a wrong label is far from the others with that label.
    rows += [finding(o.row, OUTLIER, o.score, False) for o in far if o.row not in mislabelled]
    names = pool.class_names
    rows += [
        Finding(
            bad.name, bad.split, joined([names[label] for label in bad.classes]), UNREADABLE, "",
            1.0, "", True,
        )
        for bad in setup.dataset.unreadable
    ]  # fmt: skip
    return rows, notes


def _write(findings: Findings, pool: Pool, out: Path, display: Display) -> None:
    pages = {
        f"{sheets.NAMES[kind]}-{number}.jpg": page
        for kind in KINDS
        for number, page in enumerate(sheets.pages_of(findings.rows, kind), 1)
    }
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(out) as unfinished:
            unfinished.mkdir()
            text = as_csv(findings.rows)
            (unfinished / TABLE).write_bytes(text.encode("utf-8", "backslashreplace"))
            if pages:
                with display.track("contact sheets", len(pages), "pages") as advance:
                    for name, page in pages.items():
                        (unfinished / name).write_bytes(sheets.page(page, pool))
                        advance(1)
    except OSError as error:
        raise UserError(
            f"cannot write to --out '{out}': {error.strerror}. Choose another folder."
        ) from error
    display.message(f"Saved to '{out}': {', '.join([TABLE, *pages])}")
