"""What a checkpoint file holds, without converting it."""

from __future__ import annotations

import collections
import dataclasses
import json
from pathlib import Path
from typing import Any

from jtl.common.errors import UserError
from weights_convert.convert.conversion import identify
from weights_convert.printable import file_name, listed, shown
from weights_convert.read import readers, sharded


@dataclasses.dataclass(frozen=True)
class Inspection:
    """A checkpoint file's content and what it seems to be.

    Attributes:
        file: The file's name.
        format: As in `readers.SourceFile`.
        size_bytes: Of the file.
        sha256: Of the file.
        wrappers: What stands around the tensors, outermost first.
        left_out: What else there is beside the tensors.
        entries: Entries with other weights, for `--entry`.
        metadata: Of a safetensors header, or of an export to Keras.
        tensors: {"key", "shape", "dtype"} of every tensor, in the file's order.
        model: The backbone; None if jtl knows none with these keys.
        family: Its family.
        convention: The library whose names the keys are.
        verdict: A sentence: what was detected, or why nothing.
    """

    file: str
    format: str
    size_bytes: int
    sha256: str
    wrappers: tuple[str, ...]
    left_out: tuple[str, ...]
    entries: tuple[str, ...]
    metadata: dict[str, str]
    tensors: tuple[dict[str, Any], ...]
    model: str | None
    family: str | None
    convention: str | None
    verdict: str

    def to_json(self) -> str:
        """Everything as a JSON text, in ASCII: names in a file may be no text."""
        return json.dumps(dataclasses.asdict(self), indent=2)

    def to_text(self) -> str:
        """Everything for people, a line per tensor."""
        dtypes = collections.Counter(tensor["dtype"] for tensor in self.tensors)
        rows = {
            "file": self.file,
            "format": self.format,
            "size": f"{self.size_bytes:,} bytes",
            "sha256": self.sha256,
            "wrappers": " > ".join(self.wrappers) or "none",
            "besides": listed(self.left_out),
            "entries": listed(self.entries),
            "tensors": f"{len(self.tensors)} ("
            + ", ".join(f"{count} {dtype}" for dtype, count in dtypes.items())
            + ")",
            **{f"metadata {shown(key)}": shown(value) for key, value in self.metadata.items()},
            "detected": shown(self.verdict, 2000),
        }
        width = max(10, *(len(name) for name in rows))
        lines = [f"{name:<{width}}  {value}" for name, value in rows.items()]
        longest = max(len(shown(t["key"])) for t in self.tensors)
        for t in self.tensors:
            lines.append(f"  {shown(t['key']):<{longest}}  {t['dtype']:<8}  {t['shape']}")
        return "\n".join(lines)


def inspect(path: Path, entry: str | None = None) -> Inspection:
    """Reads `path` and says what it is.

    Args:
        path: The file, or a folder that holds it under a usual name, as the hub has it.
        entry: The entry of a PyTorch checkpoint to look at; None for the usual one.

    Raises:
        UserError: The file cannot be read as a checkpoint.
    """
    path = sharded.checkpoint_in(path) or path
    file = readers.read(path, entry)
    model = family = convention = None
    try:
        found, verdict = identify(file.tensors)
        model, family, convention = found.model, found.table.family, found.table.library
    except UserError as error:
        verdict = f"nothing: {error}"
    return Inspection(
        file=file_name(path),
        format=file.format,
        size_bytes=file.size_bytes,
        sha256=file.sha256,
        wrappers=file.wrappers,
        left_out=file.left_out,
        entries=file.entries,
        metadata=file.metadata,
        tensors=tuple(
            {"key": key, "shape": list(array.shape), "dtype": array.dtype.name}
            for key, array in file.tensors.items()
        ),
        model=model,
        family=family,
        convention=convention,
        verdict=verdict,
    )
