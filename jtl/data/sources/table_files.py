"""Tables in files, as columns of text: delimited text, JSON lines and Parquet.

Python's csv module reads delimited text, once the delimiter is known. pandas or polars would be
one of the largest dependencies for this alone, and take text for numbers: here 001 stays "001".
"""

from __future__ import annotations

import csv
import io
import re
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jtl.common.errors import UserError, suggest
from jtl.common.text import listed
from jtl.data.kinds import LFS_POINTER, by_ending, is_lfs_pointer
from jtl.data.sources import unread_labels
from jtl.data.sources.parquet import parquet_library
from jtl.data.sources.table_json import cell_of, columns_of, objects_in, with_objects

ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet")
"""Of the files that jtl recognizes as tables."""
_MOST_BYTES, _MOST_COLUMNS = 2**31, 500
_HEAD = 512
_DELIMITERS = ("\t", ";", ",")
_FIRST_SPACE = "first space"
"""Between an image's number and a name of several words, as in `0034309 Cessna 172`."""
_TYPE = re.compile(r"\[[ft]\]")
_SAMPLE = 20
"""Rows that decide the delimiter."""
_BINARY = {
    b"PK": "an Excel workbook or a zip archive: save the table as CSV, or unpack it",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook: save the table as CSV",
    b"\x1f\x8b": "compressed with gzip: unpack it",
}
NAMED = 5
"""Rows that a message names."""


class NoLabels(UserError):
    """A table without labels, as those of test images in competitions are."""


class Table(NamedTuple):
    """A table.

    Attributes:
        path: The file.
        names: Of the columns; "1", "2", ... where the file does not name them.
        columns: The text of every row, by column; empty where there is nothing.
        rows: The number of every row, as a spreadsheet counts them: the head is row 1.
        has_head: Whether the first row names the columns.
        lists: The columns that hold lists of several values.
    """

    path: Path
    names: list[str]
    columns: list[list[str]]
    rows: Sequence[int]
    has_head: bool
    lists: frozenset[str] = frozenset()

    def column(self, name: str, flag: str) -> int:
        """The place of a column that was asked for; raises `UserError` if it is not there."""
        if self.names.count(name) == 1:
            return self.names.index(name)
        inner = [column for column, one in enumerate(self.names) if one.startswith(f"{name}.")]
        if len(inner) == 1:  # Of an object with one value, as {"label": {"displayName": "ant"}}.
            return inner[0]
        several = "several columns of that name" if name in self.names else "no such column"
        raise UserError(
            f"{flag} {name}: {self.path} has {several}.{suggest(name, self.names)} Its columns are "
            f"{self.told()}."
        )

    def without_head(self) -> Table:
        """The table with its first row, which names the columns, as one of the others."""
        columns = [[name, *cells] for name, cells in zip(self.names, self.columns, strict=True)]
        names = [str(number) for number in range(1, len(columns) + 1)]
        return self._replace(names=names, columns=columns, rows=[1, *self.rows], has_head=False)

    def told(self) -> str:
        """The columns for people."""
        named = listed((name for name in self.names if name), 20)
        return named if self.has_head else f"not named; by number they are {named}"


def read_table(path: Path) -> Table:
    """Reads a table.

    Args:
        path: A `.parquet` file, or a text file: JSON objects, one a line, or rows of cells between
            commas, semicolons, tabs or, in all rows alike, spaces.

    Raises:
        UserError: It cannot be read, or is no such table.
    """
    if path.suffix.lower() == ".parquet":
        return _of_parquet(path)
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise UserError(f"{path} has more than {_MOST_BYTES // 2**30} GB, too large a table.")
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}.") from error
    for start, what in _BINARY.items():
        if data.startswith(start):
            raise UserError(f"{path} is no text, but {what}.")
    if is_lfs_pointer(data):
        raise UserError(f"{path} {LFS_POINTER}.")
    if way := unread_labels.way_out_of_file(path) if b"\0" in data[:_HEAD] else "":
        raise UserError(f"{path} is no table. {way}".rstrip())
    text = _text(data, path)
    if not text.strip():
        raise UserError(f"{path} is empty.")
    if (objects := objects_in(text, path)) is not None:
        columns, numbers, lists = columns_of(objects, path)
        return Table(path, list(columns), list(columns.values()), numbers, True, lists)
    return _of_rows(text, path)


def _text(data: bytes, path: Path) -> str:
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        row = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path} is not in {'UTF-16' if wide else 'UTF-8'}: see row {row}. It may be in "
            "Latin-1 or Windows-1252. Save it in UTF-8, for example with "
            "'iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW'."
        ) from error
    if "\0" in text:
        raise UserError(
            f"{path} holds NUL characters: it may be in UTF-16 without a mark, or no text. Save it "
            "in UTF-8."
        )
    return text


def _of_rows(text: str, path: Path) -> Table:
    begin = re.match(r"sep=(.)\r?\n", text)  # Excel's.
    comments, head = _comments(text, path)
    text = _named(text[len(comments) :])
    delimiter = begin[1] if begin else _delimiter(text[: 2**16], path)
    rows: list[list[str]] = []
    numbers, number = array("q"), 0
    for row, line in _cells(text, delimiter, path):
        if (rows or row) and "".join(row).strip() and not (begin and not number):
            rows.append(row)
            numbers.append(comments.count("\n") + number + 1)
        number = line
    if len(rows[0]) > _MOST_COLUMNS:
        raise UserError(
            f"{path} has {len(rows[0]):,} columns, as tables of pixels have. jtl reads tables that "
            "name image files; save arrays with numpy.savez, and read them as npz:FILE."
        )
    names = [cell.strip() for cell in rows[0]]
    has_head = bool(head) or not (comments or any(by_ending(name) for name in names))
    if head:
        names = head
    elif has_head:
        rows, numbers = rows[1:], numbers[1:]
    else:
        names = [str(number) for number in range(1, len(names) + 1)]
    if not rows:
        raise UserError(f"{path} has no rows below the names of its columns.")
    if all(map(_TYPE.fullmatch, rows[0])) and len(rows) > 1:  # EcoTaxa's second row.
        rows, numbers = rows[1:], numbers[1:]
    width = len(names)
    uneven = [row for row, cells in enumerate(rows) if len(cells) != width]
    broken = [row for row in uneven if any(cell.strip() for cell in rows[row][width:])]
    if broken:
        raise UserError(
            f"{path} has rows with more cells than the first row's {width}: "
            f"{listed((f'row {numbers[row]}' for row in broken), NAMED)}. Put text that contains "
            f"{delimiter!r} in quotation marks."
        )
    for row in uneven:
        rows[row] = [*rows[row][:width], *[""] * (width - len(rows[row]))]
    columns = [[row[column].strip() for row in rows] for column in range(width)]
    names, columns = with_objects(names, columns)
    return Table(path, names, columns, numbers, has_head)


def _named(text: str) -> str:
    """A list whose first line is the number of rows, and whose second names the other columns.

    So are those of CelebA and DeepFashion. The number becomes an empty line.
    """
    first, _, rest = text.partition("\n")
    if not first.strip().isdigit():
        return text
    lines = rest.strip().split("\n")
    head, *rows = (len(line.split()) for line in [*lines[:_SAMPLE], *lines[-1:]])
    if not 0 <= len(lines) - int(first) <= 1 or len({*rows}) != 1:
        return text
    return f"\nimage {rest}" if head == rows[0] - 1 and len(lines) > int(first) else f"\n{rest}"


def _comments(text: str, path: Path) -> tuple[str, list[str]]:
    """Lines at the beginning that start with #, and the names of columns among them."""
    comments = re.match(r"(?:#[^\n]*\n)+(?=[^\n]*\S)", text)
    if not comments:
        return "", []
    rest = text[comments.end() :][: 2**16]
    delimiter = _delimiter(rest, path)
    mark = None if delimiter in (" ", _FIRST_SPACE) else delimiter
    first, *lines = (
        [cell.strip() for cell in line.lstrip("# ").split(mark)]
        for line in (rest.partition("\n")[0], *comments[0].splitlines())
    )
    if any(by_ending(cell) for cells in lines for cell in cells):
        return "", []  # Images called so.
    heads = [cells for cells in lines if len(cells) == len(first)]
    # Between spaces are sentences, too.
    return comments[0], heads[-1] if heads and (mark or len(lines) == 1) else []


def _cells(text: str, delimiter: str, path: Path) -> Iterator[tuple[list[str], int]]:
    """Every row, and the number of its last line."""
    lines = io.StringIO(text, newline="")
    if delimiter in (" ", _FIRST_SPACE):
        most = -1 if delimiter == " " else 1
        rows = (line.strip().split(maxsplit=most) for line in lines)
        yield from ((row, number) for number, row in enumerate(rows, 1))
        return
    reader = csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=True)
    begin = 0
    try:
        for row in reader:
            begin = reader.line_num
            yield row, begin
    except csv.Error as error:
        raise UserError(
            f"{path}, row {begin + 1}: the quotation marks are not as in CSV, or one is not closed "
            f"({error}). Write a quotation mark within quoted text twice."
        ) from error


def _delimiter(text: str, path: Path) -> str:
    """What is between cells: what divides most of the first rows alike, into the most cells."""
    lines = [line for line in text.splitlines() if line.strip()][:_SAMPLE]
    best, most = "", (0, 0)
    for delimiter in _DELIMITERS:
        try:
            rows = list(csv.reader(lines, delimiter=delimiter, skipinitialspace=True))
        except csv.Error:
            continue
        width = len(rows[0]) if rows else 0
        if width > 1 and (score := (sum(len(r) == width for r in rows), width)) > most:
            best, most = delimiter, score
    if not best and len({len(line.split()) for line in lines}) == 1 and len(lines[0].split()) > 1:
        return " "
    words = [line.split() for line in lines]
    if not best and all(len(row) > 1 and by_ending(row[0]) for row in words):
        few, many = (pick(map(len, words)) for pick in (min, max))
        raise UserError(
            f"{path} has {few} to {many} words in a row, between spaces: labels of several words, "
            "or several labels for an image. Put a comma between the image and its one label, and "
            "quotation marks around names that contain commas."
        )
    first = [row[0] for row in words]
    ids = all(any(c.isdigit() for c in name) for name in first) and len({*first}) == len(first)
    if not best and ids and all(len(row) > 1 for row in words):
        return _FIRST_SPACE
    if not best:
        raise NoLabels(
            f"{path} has only one column ({lines[0].strip()[:60]!r}). A table has at least a "
            "column of images and one of labels, between commas, semicolons or tabs."
        )
    return best


def _of_parquet(path: Path) -> Table:
    parquet = parquet_library()
    try:
        file = parquet.ParquetFile(path, memory_map=True)
        schema = file.schema_arrow
        read = file.read(columns=_plain(schema))
    except (OSError, ValueError) as error:  # Arrow's own errors are of these kinds.
        raise UserError(f"{path} is not a readable Parquet file ({error}).") from error
    columns, lists = [], set()
    for name in read.column_names:
        cells = [cell_of(value) for value in read[name].to_pylist()]
        columns.append([text for text, _ in cells])
        if any(is_list for _, is_list in cells):
            lists.add(name)
    count = read.num_rows
    if not count:
        raise UserError(f"{path} has no rows.")
    return Table(path, read.column_names, columns, range(1, count + 1), True, frozenset(lists))


def _plain(schema: Any) -> list[str]:
    """The columns of text, numbers and lists of these."""
    import pyarrow as pa

    def is_plain(kind: Any) -> bool:
        if pa.types.is_dictionary(kind) or pa.types.is_list(kind):
            return is_plain(kind.value_type)
        tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer,
                 pa.types.is_floating, pa.types.is_boolean)  # fmt: skip
        return any(test(kind) for test in tests)

    return [field.name for field in schema if is_plain(field.type)]


def holds_paths(path: Path) -> bool:
    """Whether a Parquet file holds no images, so that its text may name some."""
    try:
        schema = parquet_library().read_schema(path)
    except (OSError, ValueError, UserError):  # Whoever opens it says why.
        return False
    import pyarrow as pa

    kinds = [field.type for field in schema]
    return any(map(pa.types.is_string, kinds)) and not any(
        pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_struct(kind)
        for kind in kinds
    )
