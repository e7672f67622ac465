"""Where TensorFlow Datasets keeps what it has prepared: DATA_DIR/NAME[/CONFIG]/VERSION."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from jtl.common.errors import UserError, suggest
from jtl.common.text import listed

_INFO = "dataset_info.json"
_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")


def prepared_folder(name: str, version: str | None) -> Path:
    """The folder of a prepared data set. Looks at the disk alone, so it answers at once.

    Args:
        name: `NAME` or `NAME/CONFIG` below the data folder; or, beginning with `/`, `.` or `~`,
            the path of the prepared folder, or of the one that holds its versions.
        version: Such as 3.0.2; None for the newest.

    Raises:
        UserError: It is not there.
    """
    is_path = name.startswith(("/", ".", "~"))
    place = Path(os.path.expanduser(name)) if is_path else data_folder() / name
    if (place / _INFO).is_file():
        return place
    versions = _versions(place)
    if not versions:
        configs = [path.name for path in _folders(place) if _versions(path)]
        if len(configs) > 1:
            raise UserError(
                f"'{name}' is prepared in several configurations: {listed(configs)}. Choose one: "
                f"tfds:{name}/{configs[0]}."
            )
        if not configs:
            raise _not_prepared(name, place)
        place = place / configs[0]
        versions = _versions(place)
    if version is None:
        return place / versions[-1]
    if version not in versions:
        raise UserError(
            f"'{name}' is not prepared in version {version}, but in {', '.join(versions)}."
        )
    return place / version


def data_folder() -> Path:
    """Where TFDS keeps data sets: TFDS_DATA_DIR, or its default."""
    return Path(os.path.expanduser(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"))


def _folders(place: Path) -> Iterator[Path]:
    if place.is_dir():
        yield from (path for path in sorted(place.iterdir()) if path.is_dir())


def _versions(place: Path) -> list[str]:
    """The prepared versions in a folder, the newest last."""
    found = [
        path.name
        for path in _folders(place)
        if _VERSION.fullmatch(path.name) and (path / _INFO).is_file()
    ]
    return sorted(found, key=lambda name: tuple(map(int, name.split("."))))


def _prepared(folder: Path) -> list[str]:
    return [
        path.name
        for path in _folders(folder)
        if _versions(path) or any(_versions(inner) for inner in _folders(path))
    ]


def _not_prepared(name: str, place: Path) -> UserError:
    if name.startswith(("/", ".", "~")):
        return UserError(f"There is no prepared data set in {place}: no {_INFO}, no versions.")
    known = _prepared(data_folder())
    there = f"Prepared there: {listed(known)}." if known else "Nothing is prepared there."
    return UserError(
        f"The data set '{name}' is not prepared in {data_folder()}.{suggest(name, known)} {there}\n"
        "Set TFDS_DATA_DIR if it is elsewhere, or give the folder: tfds:/PATH/NAME/VERSION.\n"
        "To prepare it (with network, and TensorFlow for most data sets):\n"
        "  pip install 'jtl[prepare]'\n"
        f"  tfds build {name} --file_format=array_record"
    )
