"""Hugging Face's `metadata.csv` or `metadata.jsonl` among images, in a folder or an archive."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from pathlib import Path

from jtl.common.errors import UserError
from jtl.data.sources.stores import ImageFile, ImageStore, Tree
from jtl.data.sources.table_columns import Asked
from jtl.data.sources.table_files import ENDINGS, NoLabels, Table, read_table
from jtl.data.sources.table_images import ImageFinder, Packed
from jtl.data.sources.table_rows import Rows, rows_of_table
from jtl.data.sources.table_sets import METADATA, tables_in
from jtl.data.sources.tables import load_table, open_rows, refuse_named_splits
from jtl.data.splits import OpenedSource

_NAMES = {f"{METADATA}{ending}" for ending in ENDINGS}
_COLUMN = "file_name"


def by_metadata(tree: Tree, place: Path, store: ImageStore) -> OpenedSource | None:
    """What such a table says of images without class folders; None where there is none.

    Args:
        tree: What there is.
        place: The folder or archive.
        store: What reads it.

    Raises:
        UserError: The table has no label for an image, or names one that is not there.
    """
    tables = [file for file in tree.others if file.parts[-1].lower() in _NAMES]
    if not tables:
        return None
    if not place.is_dir():
        return _packed(tables, tree, place, store)
    try:
        files = tables_in(place)
        if not all(_COLUMN in read_table(file).names for file in files.values()):
            return None
    except UserError:  # Those who give the table itself get the message.
        return None
    with contextlib.suppress(NoLabels):
        return load_table(str(place))
    return None


def _packed(
    tables: list[ImageFile], tree: Tree, place: Path, store: ImageStore
) -> OpenedSource | None:
    """As `by_metadata`, of an archive; the folder around all tables may have any name."""
    same = itertools.takewhile(
        lambda names: len({*names}) == 1, zip(*(file.parts[:-1] for file in tables), strict=False)
    )
    parts: dict[str, Rows] = {}
    notes: list[str] = []
    for split, table in _read(tables, len([*same]), place, store).items():
        if _COLUMN not in table.names:
            return None
        folder = table.path.relative_to(place).parent.parts
        finder = ImageFinder(place, packed=Packed(store, tree, folder))
        asked = Asked(split="none") if split else Asked()
        try:
            parts[split] = rows_of_table(table, asked, finder)
        except NoLabels as error:
            if split != "test":
                return None
            notes.append(f"{error} It is not used for testing.")
    if [*parts] == [""] and not parts[""].splits:
        refuse_named_splits(parts[""])
    return open_rows(str(place), parts, notes) if parts else None


def _read(tables: list[ImageFile], depth: int, place: Path, store: ImageStore) -> dict[str, Table]:
    """The tables of an archive by split; none where they cannot be read."""
    with tempfile.TemporaryDirectory(prefix="jtl-") as scratch:
        for file in tables:
            copy = Path(scratch, *file.parts[depth:])
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(store.read(file))
        inside = Path(place, *tables[0].parts[:depth])
        try:
            read = {split: read_table(file) for split, file in tables_in(Path(scratch)).items()}
        except UserError:  # Class folders, of which there are none, are what is told of.
            return {}
        return {
            split: table._replace(path=inside / table.path.relative_to(scratch))
            for split, table in read.items()
        }
