"""Which of timm's two networks with the same keys weights are of, by what else a file says.

`tf_efficientnet_lite0` and `efficientnet_lite0` have the same keys. A training's options and a
file's name may say which it was, and so does the padding in an ONNX graph.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from jtl import models
from weights_convert.convert.conversion import Converted
from weights_convert.printable import shown
from weights_convert.read.readers import SourceFile
from weights_convert.source import architectures
from weights_convert.source.architectures import Declared
from weights_convert.source.description import Source
from weights_convert.source.places import places

_KEYS = re.compile(
    r"(?i)arch(itecture)?|((model|backbone|encoder|net|network)(_?(name|arch))?)|timm_model"
)


class Stated(NamedTuple):
    """What is stated, and the conventions that keys do not show, also in words."""

    architecture: Declared
    conventions: dict[str, Any]
    convention: str
    preprocessing: models.Preprocessing | None = None


def stated(source: Source, file: SourceFile, converted: Converted) -> Stated | None:
    """Which of the two it is; None where nothing or different things are stated, or it is neither.

    Args:
        source: What is known besides.
        file: The file that was read.
        converted: What its keys say.
    """
    if not architectures.of_same_keys(converted.model, converted.library, converted.shown):
        return None
    if source.architecture or source.conventions:
        return None
    said = dict(_padded(file, converted)) or dict(_names(source, file))
    found = architectures.find(next(iter(said))) if len(said) == 1 else None
    if found is None or found.model != converted.model:
        return None
    convention = architectures.convention(found)
    by = Declared(found.name, said[found.name])
    return Stated(by, found.conventions, convention, found.preprocessing)


def with_stated(source: Source, found: Stated) -> Source:
    """The source with what is stated, and a note of it."""
    name, by = found.architecture
    note = (
        f"{by} says {name}, so the weights are taken for timm's ({found.convention}); if they are "
        "of another network, name it with --architecture"
    )
    return dataclasses.replace(source, architecture=found.architecture, notes=(*source.notes, note))


def _padded(file: SourceFile, converted: Converted) -> Iterator[tuple[str, str]]:
    """The networks that pad as a graph does, and who states each."""
    known = architectures.of_same_keys(converted.model, converted.library, converted.shown)
    for name in known if file.padding else ():
        padding = getattr(architectures.backbone(converted.model, known[name]), "padding", None)
        if padding and (padding == "SAME") == (file.padding == "SAME"):
            yield name, f"the graph's {file.padding} padding"


def _names(source: Source, file: SourceFile) -> Iterator[tuple[str, str]]:
    """The names, and who states each."""
    for place, values in places(file.value, file.wrappers, lambda text: None):
        for key, value in values.items():
            if isinstance(key, str) and _KEYS.fullmatch(key) and isinstance(value, str):
                where = shown(f"{place}.{key}" if place else key, 60)
                for name in _pattern().findall(value[:300]):
                    yield name.lower().replace("-", "_"), f"the file's '{where}'"
    for name in _pattern().findall(source.path.name):
        yield name.lower().replace("-", "_"), "the file's name"


@functools.cache
def _pattern() -> re.Pattern[str]:
    """The names of all networks that share their keys with another."""
    names = [n for model in models.names() for n in architectures.of_same_keys(model, "timm")]
    spelled = "|".join(name.replace("_", "[-_]") for name in names)
    return re.compile(rf"(?i)(?<![a-z0-9])(?:{spelled})(?![a-z0-9])")
