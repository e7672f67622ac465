"""What was found, as rows of `clean.csv`, as a summary and as objects of Python."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jtl.common.text import counted, for_spreadsheet, shortened
from jtl.data.multilabel import DIVIDER
from jtl.data.sources.exclusion import EXCLUDE, FILE, SPLIT

WRONG, NEAR, OUTLIER, UNREADABLE = (
    "likely wrong label",
    "near duplicate",
    "outlier",
    "unreadable",
)
KINDS = (WRONG, NEAR, OUTLIER, UNREADABLE)
TABLE = "clean.csv"
_COLUMNS = (FILE, SPLIT, "label", "kind", "suggested", "score", "other", EXCLUDE)
_MOST_CLASSES = 30


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something to look at.

    Attributes:
        file: The image's name.
        split: "train", "val" or "test".
        label: Its class, or classes with `|` between them.
        kind: One of `KINDS`.
        suggested: The class that it seems to have, of a likely wrong label.
        score: How sure that is; the cosine of features, of near-duplicates; how many times the
            usual distance an outlier is away; 1 of unreadable images.
        other: The other image of a pair of near-duplicates.
        exclude: Whether a training would do better without it, at a first guess.
        rows: Where the image, and the other one, are in the pool; empty of unreadable ones.
    """

    file: str
    split: str
    label: str
    kind: str
    suggested: str
    score: float
    other: str
    exclude: bool
    rows: tuple[int, ...] = dataclasses.field(default=(), repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Its columns in `clean.csv`."""
        return {name: getattr(self, name) for name in _COLUMNS}


@dataclasses.dataclass(frozen=True)
class Findings:
    """What `jtl data clean` found.

    Attributes:
        data: The source.
        folder: Where `clean.csv` and the contact sheets are.
        rows: What was found, by kind, the surest first.
        images: How many images were looked at.
        class_names: The classes.
        notes: What a user should know, in sentences.
    """

    data: str
    folder: Path
    rows: tuple[Finding, ...]
    images: int
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def table(self) -> Path:
        """The list, which `--exclude` takes."""
        return self.folder / TABLE

    def counts(self) -> dict[str, dict[str, int]]:
        """How many of each kind, by class; an image of several classes counts in each."""
        found = {kind: dict.fromkeys(self.class_names, 0) for kind in KINDS}
        for row in self.rows:
            names = [row.label] if row.label in found[row.kind] else row.label.split(DIVIDER)
            for name in names:
                if name in found[row.kind]:
                    found[row.kind][name] += 1
        return found

    def of_kind(self, kind: str) -> list[Finding]:
        return [row for row in self.rows if row.kind == kind]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "data": self.data,
            "folder": str(self.folder),
            "images": self.images,
            "counts": {kind: len(self.of_kind(kind)) for kind in KINDS},
            "classes": self.counts(),
            "notes": list(self.notes),
            "findings": [row.to_dict() for row in self.rows],
        }

    def __repr__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """The summary for people."""
        from rich.cells import cell_len, set_cell_size

        counts, total = self.counts(), {kind: len(self.of_kind(kind)) for kind in KINDS}
        head = f"{self.data}: {counted(self.images, 'image')}, {counted(len(self.rows), 'finding')}"
        if not self.rows:
            return [head, *(f"note: {note}" for note in self.notes)]
        classes = [n for n in self.class_names if any(counts[kind][n] for kind in KINDS)]
        classes.sort(key=lambda name: -sum(counts[kind][name] for kind in KINDS))
        more = len(classes) - _MOST_CLASSES
        rows = [(shortened(n, 40), [counts[kind][n] for kind in KINDS])
                for n in classes[:_MOST_CLASSES]]  # fmt: skip
        rows.append(("all images", [total[kind] for kind in KINDS]))
        width = max(cell_len(name) for name, _ in rows)
        lines = [head, "", " " * width + "".join(f"  {kind}" for kind in KINDS)]
        lines += [
            set_cell_size(name, width)
            + "".join(f"{n:>{len(kind) + 2},}" for kind, n in zip(KINDS, numbers, strict=True))
            for name, numbers in rows
        ]
        if more > 0:
            lines.append(f"({counted(more, 'class', 'classes')} with fewer findings; see --json)")
        return [*lines, *(f"note: {note}" for note in self.notes)]


def as_csv(rows: Sequence[Finding]) -> str:
    """`clean.csv`: spreadsheets run none of its cells."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(_COLUMNS)
    for row in rows:
        cells = row.to_dict() | {
            "score": f"{row.score:.3f}", EXCLUDE: "yes" if row.exclude else "no",
        }  # fmt: skip
        table.writerow([for_spreadsheet(cells[name]) for name in _COLUMNS])
    return text.getvalue()
