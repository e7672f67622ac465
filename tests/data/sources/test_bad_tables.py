"""The same mistakes in tables of every form: each is told with the numbers of its rows."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from jtl.common.errors import UserError
from jtl.data.sources.registry import SourceOptions, load
from support.data_files import encode, flat

Columns = Mapping[str, Sequence[Any]]

IMAGES = [f"im/{name}.png" for name in "abcdef"]
LABELS = ["ant", "bee"] * 3


def as_text(between: str) -> Callable[[Path, Columns], None]:
    def write(path: Path, columns: Columns) -> None:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter=between)
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))

    return write


def as_lines(path: Path, columns: Columns) -> None:
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def as_parquet(path: Path, columns: Columns) -> None:
    pa, pq = (pytest.importorskip(name) for name in ("pyarrow", "pyarrow.parquet"))
    pq.write_table(pa.table({name: list(values) for name, values in columns.items()}), path)


FORMS = {"csv": as_text(","), "tsv": as_text("\t"), "jsonl": as_lines, "parquet": as_parquet}

BAD: dict[str, tuple[Columns, str]] = {
    "no column of labels": ({"image": IMAGES}, "label|only one column"),
    "an image that is not there": (
        {"image": [*IMAGES[:4], "im/x.png", IMAGES[5]], "label": LABELS},
        r"1 of 6 rows .*column 'image'.*not there: row {5} \('im/x.png'\)",
    ),
    "images that are text": (
        {"image": ["a red ant", "a bee"] * 3, "label": LABELS},
        "not there|No column of .* leads to image",
    ),
    "no name of an image": (
        {"image": ["", *IMAGES[1:]], "label": LABELS},
        r"no image for 1 of 6 rows \(row {1}\)",
    ),
    "an empty label": (
        {"image": IMAGES, "label": [*LABELS[:5], ""]},
        r"column 'label': no label for 1 of 6 rows \(row {6}\)",
    ),
    "two labels of an image": (
        {"image": [*IMAGES, IMAGES[0]], "label": [*LABELS, "bee"]},
        "im/a.png is 'ant' in row {1} and 'bee' in row {7}",
    ),
    "two splits of an image": (
        {
            "image": [*IMAGES, IMAGES[0]],
            "label": [*LABELS, "ant"],
            "split": ["train"] * 6 + ["test"],
        },
        "im/a.png is 'train' in row {1} and 'test' in row {7}",
    ),
    "a word that is no split": (
        {"image": IMAGES, "label": LABELS, "split": ["train"] * 5 + ["tset"]},
        r"'tset' in 1 row\(s\), the first being row {6}",
    ),
    "measurements": (
        {"image": IMAGES, "label": ["0.5", "0.25", "1.5", "2.5", "3.25", "4.75"]},
        "numbers such as 0.25, no classes",
    ),
    "several labels in a cell": (
        {"image": IMAGES, "label": ["ant|bee", *LABELS[1:]]},
        "several labels for an image: 1 of 6",
    ),
    "a column of another name": (
        {"image": IMAGES, "species": LABELS},
        "--label-column specie: .*Did you mean 'species'",
    ),
    "one row": ({"image": IMAGES[:1], "label": LABELS[:1]}, "only 1 class, 'ant'"),
    "no rows": ({"image": [], "label": []}, "no rows|is empty"),
    "two columns of labels": (
        {"image": IMAGES, "label": LABELS, "species": ["x", "x", "y"] * 2},
        "could hold the labels: 'label', 'species'",
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", BAD)
def test_each_is_refused_with_its_rows(case: str, form: str, tmp_path: Path):
    columns, message = BAD[case]
    for place in IMAGES:
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_bytes(encode(flat(), "PNG"))
    path = tmp_path / f"t.{form}"
    FORMS[form](path, columns)
    first = 2 if form in ("csv", "tsv") else 1  # The row of names is row 1.
    for row in range(1, 8):
        message = message.replace(f"{{{row}}}", str(row - 1 + first))
    options = SourceOptions(label_column="specie" if "another name" in case else None)
    with pytest.raises(UserError, match=message) as caught:
        load(f"csv:{path}", options)
    assert str(path) in str(caught.value) or "im/a.png" in str(caught.value)
