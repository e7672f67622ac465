"""Embeddings in a file: .npz or .parquet."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jtl.common import files
from jtl.common.errors import UserError
from jtl.common.optional import require
from jtl.data.multilabel import classes_of

if TYPE_CHECKING:
    from jtl.embed.embeddings import Embeddings


def check_out(path: Path | None) -> None:
    """Raises `UserError` if nothing can be written there, before anything is computed."""
    if path is None:
        return
    if path.suffix.lower() not in _FORMATS:
        raise UserError(
            f"--out '{path}' must end in {' or '.join(_FORMATS)}; the extension selects the format."
        )
    if path.is_dir():
        raise UserError(f"--out '{path}' is a folder. Name the file to write.")
    if path.suffix.lower() == ".parquet":
        _pyarrow("pyarrow")


def save(embeddings: Embeddings, path: Path) -> Path:
    """See `Embeddings.save`."""
    check_out(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(path) as unfinished:
            _FORMATS[path.suffix.lower()](embeddings, unfinished)
    except OSError as error:
        raise UserError(
            f"cannot write --out '{path}': {error.strerror}. Choose a place that you can write to."
        ) from error
    return path


def _npz(embeddings: Embeddings, path: Path) -> None:
    labels = {} if embeddings.labels is None else {"labels": embeddings.labels}
    arrays: dict[str, Any] = {
        "features": embeddings.features,
        "names": _texts(embeddings.names),
        "splits": _texts(embeddings.splits),
        **labels,
        "class_names": _texts(embeddings.class_names),
        "model": np.array(_text(embeddings.model)),
        "source": np.array(_text(embeddings.source)),
    }
    with path.open("wb") as file:  # By a path, NumPy would add an ending.
        np.savez(file, **arrays)


def _parquet(embeddings: Embeddings, path: Path) -> None:
    pyarrow, parquet = _pyarrow("pyarrow"), _pyarrow("pyarrow.parquet")
    count, width = embeddings.features.shape
    flat = pyarrow.array(np.ascontiguousarray(embeddings.features).reshape(-1))
    columns: dict[str, Any] = {"name": [*map(_text, embeddings.names)], "split": embeddings.splits}
    if embeddings.labels is not None:
        names = [_text(name) for name in embeddings.class_names]
        rows = [[names[i] for i in classes_of(embeddings.labels, row)] for row in range(count)]
        one = embeddings.labels.ndim == 1
        columns["label"] = [row[0] for row in rows] if one else rows
    columns["features"] = pyarrow.FixedSizeListArray.from_arrays(flat, width)
    about = {
        "model": embeddings.model,
        "source": embeddings.source,
        "class_names": embeddings.class_names,
    }
    table = pyarrow.table(columns)
    metadata = {b"jtl": json.dumps(about).encode()}
    parquet.write_table(table.replace_schema_metadata(metadata), path)


_FORMATS: dict[str, Callable[[Embeddings, Path], None]] = {".npz": _npz, ".parquet": _parquet}


def _pyarrow(name: str) -> Any:
    return require(name, "writing .parquet", "jtl[parquet]", ", or write .npz")


def _text(text: str) -> str:
    # Names of files need not be Unicode.
    return text.encode("utf-8", "backslashreplace").decode()


def _texts(texts: tuple[str, ...]) -> np.ndarray:
    """Text as an array that NumPy reads without pickles."""
    return np.array([_text(text) for text in texts], dtype=np.str_)
