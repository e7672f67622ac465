"""Images by what lists call them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from jtl.data.kinds import by_ending
from jtl.data.sources.stores import ImageFile, stem_of

_MOST_DIGITS, _PADDED = 5, 3
"""Numbers of so many digits, or with zeros before them, count nothing."""
FIRST_ROWS = 200
"""The rows that decide which column of a table names images."""


class ImageIndex:
    """Finds images by what lists call them: the end of the path, with or without extension."""

    def __init__(self, images: Sequence[ImageFile], elsewhere: Iterable[ImageFile] = ()) -> None:
        self.names = [image.name for image in images]
        self.folders = {image.parts[-2] for image in images if len(image.parts) > 1}
        self._found: dict[tuple[str, ...], str | None] = {}
        self._elsewhere = {image.parts[-2:] for image in elsewhere}
        for image in images:
            for tail in (image.parts[-1:], image.parts[-2:]):
                for key in (tail, (*tail[:-1], stem_of(tail[-1]))):
                    if self._found.setdefault(key, image.name) != image.name:
                        self._found[key] = None  # What names several images names none.

    def of_text(self, text: str) -> str | None:
        """The image that a path names, or None; a small number may count something else."""
        if text.isdigit() and len(text) < (_MOST_DIGITS if text[0] != "0" else _PADDED):
            return None
        parts = tuple(part for part in text.replace("\\", "/").split("/") if part)
        name = self._found.get(parts[-2:])
        if name is None and len(parts) > 1 and parts[-2] not in self.folders:
            return self._found.get(parts[-1:])
        if name is None and parts and by_ending(parts[-1]):  # Converted since.
            return self._found.get((*parts[-2:-1], stem_of(parts[-1])))
        return name

    def of_rows(self, rows: Sequence[Sequence[str]]) -> list[str | None]:
        """The image that every row names, in the column that names most."""

        def of_column(column: int, rows: Sequence[Sequence[str]]) -> list[str | None]:
            return [self.of_text(row[column]) if column < len(row) else None for row in rows]

        first = rows[:FIRST_ROWS]
        columns = range(max(map(len, first), default=0))
        most = max(columns, key=lambda c: -of_column(c, first).count(None), default=0)
        return of_column(most, rows)

    def of_all(self, texts: Iterable[str]) -> tuple[frozenset[str], list[str]]:
        """The images that some of the texts name, and the texts that name others."""
        found, missing = set(), []
        for text in dict.fromkeys(texts):
            name = self.of_text(text)
            if name is not None:
                found.add(name)
            elif by_ending(text):
                missing.append(text)
        return frozenset(found), missing

    def is_elsewhere(self, row: Iterable[str]) -> bool:
        """Whether a row names an image that is not among these, by its folder and name."""
        return bool(self._elsewhere) and any(
            tuple(cell.replace("\\", "/").split("/")[-2:]) in self._elsewhere for cell in row
        )

    def may_name(self, text: str) -> bool:
        """Whether a text names an image or reads as if it named one."""
        return by_ending(text) is True or self.of_text(text) is not None
