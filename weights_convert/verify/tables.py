"""What a verification measured, as tables for people and JSON for programs."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
from pathlib import Path
from typing import Any

from jtl.common import files
from jtl.common.errors import UserError
from weights_convert.checkpoint import card


@dataclasses.dataclass(frozen=True)
class Figure:
    """One measured number beside its bound.

    Attributes:
        name: What was measured.
        measured: The number.
        sign: `<=` or `>=`: on which side of the bound it must be.
        bound: The bound.
    """

    name: str
    measured: float
    sign: str
    bound: float

    @property
    def within(self) -> bool:
        """Whether the bound holds; never for NaN."""
        if self.sign == ">=":
            return self.measured >= self.bound
        return self.measured <= self.bound


@dataclasses.dataclass(frozen=True)
class UnitRow:
    """The layers of one unit of the chain.

    Attributes:
        unit: `stem`, `stage1/block1`, ...
        layers: How many were compared.
        max_abs: The largest difference of an output.
        max_rel: The largest difference relative to its layer's largest output.
    """

    unit: str
    layers: int
    max_abs: float
    max_rel: float


@dataclasses.dataclass(frozen=True)
class Verification:
    """All that was measured.

    Attributes:
        model: The backbone.
        source: Of the weights.
        reference: The peer and its versions.
        images: What went in, in words.
        units: A row for every unit with params.
        figures: The numbers with their bounds.
        notes: What the user should know, such as a guess that the reference shares.
    """

    model: str
    source: str
    reference: str
    images: str
    units: tuple[UnitRow, ...]
    figures: tuple[Figure, ...]
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every figure is within its bound."""
        return all(figure.within for figure in self.figures)

    def summary(self) -> dict[str, Any]:
        """What `weights.json` keeps: JSON, without the rows of the units."""
        figures = [dataclasses.asdict(figure) for figure in self.figures]
        facts = {"reference": self.reference, "images": self.images}
        return {**facts, "passed": self.passed, "figures": figures}

    def to_json(self) -> str:
        facts = {"model": self.model, "source": self.source, "notes": self.notes}
        facts |= self.summary()
        return json.dumps({**facts, "units": self.rows()}, indent=2) + "\n"

    def rows(self) -> list[dict[str, Any]]:
        """The rows of the units as JSON values."""
        return [dataclasses.asdict(row) for row in self.units]

    def to_markdown(self) -> str:
        rows = [(r.unit, str(r.layers), f"{r.max_abs:.2e}", f"{r.max_rel:.2e}") for r in self.units]
        figures = [
            (f.name, f"{f.measured:.3g}", f"{f.sign} {f.bound:.3g}", "yes" if f.within else "NO")
            for f in self.figures
        ]
        header = ("unit", "layers", "largest difference", "relative to the largest output")
        return (
            f"# Parity of {self.model} from {self.source}\n\n"
            f"Reference: {self.reference}. {self.images} Differences are relative to the "
            "largest absolute value of the reference's tensor.\n\n"
            f"{card.table(header, rows)}\n\n"
            f"{card.table(('figure', 'measured', 'bound', 'within'), figures)}\n\n"
            f"{''.join(f'Note: {note}.{chr(10) * 2}' for note in self.notes)}"
            f"{'Every figure is within its bound.' if self.passed else 'A bound is exceeded.'}\n"
        )

    def save(self, path: Path) -> None:
        """Writes JSON to a name that ends in .json, else Markdown.

        Raises:
            UserError: The file cannot be written.
        """
        text = self.to_json() if path.suffix == ".json" else self.to_markdown()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            files.replace_text(path, text)
        except OSError as error:
            raise _unwritable(path, error) from error


def check_place(path: Path) -> None:
    """Makes sure that a report can be written to `path`, before there is one.

    Raises:
        UserError: It cannot.
    """
    missing = [place for place in path.parents if not place.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with files.partial(path):
            pass
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        # The conversion may still fail, and then leaves nothing.
        for place in missing:
            with contextlib.suppress(OSError):
                place.rmdir()


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(f"cannot write the report '{path}': {error.strerror}. Choose another place.")
