"""A checkpoint file that is there, and what is known about it beside its tensors."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from weights_convert.source.architectures import Declared
from weights_convert.source.arguments import Built
from weights_convert.source.metadata import Metadata


@dataclasses.dataclass(frozen=True)
class Source:
    """A checkpoint file that is there, and what is known about it beside its tensors.

    Attributes:
        path: The file.
        name: The source as the user named it; of a path only the file's name.
        model: The backbone that the user asks for; None to go by what is declared, or the keys.
        architecture: The network that somebody says the weights are of, and who says it.
        entry: The entry of a PyTorch checkpoint to take; None for the usual one.
        strip_prefix: What stands before the network's keys; None to find out.
        ignore_keys: A regular expression of keys to leave out.
        preprocessing: The fields of `Preprocessing` that are declared.
        preprocessing_by: Who states them.
        conventions: Fields of the backbone's configuration, above all that is found out.
        licence: Of the weights, where known.
        class_names: In order, where the source states them.
        revision: The hub's commit that the file belongs to.
        built: How the network was built, from each file that says it.
        notes: What the user should know about it.
    """

    path: Path
    name: str
    model: str | None = None
    architecture: Declared | None = None
    entry: str | None = None
    strip_prefix: str | None = None
    ignore_keys: str | None = None
    preprocessing: dict[str, Any] = dataclasses.field(default_factory=dict)
    preprocessing_by: tuple[str, ...] = ()
    conventions: dict[str, Any] = dataclasses.field(default_factory=dict)
    licence: str | None = None
    class_names: tuple[str, ...] | None = None
    revision: str | None = None
    built: tuple[Built, ...] = ()
    notes: tuple[str, ...] = ()

    def declaring(self, preprocessing: dict[str, Any], by: str) -> Source:
        """The source with fields of `Preprocessing` that `by` states, above those it has."""
        if not preprocessing:
            return self
        return dataclasses.replace(
            self,
            preprocessing={**self.preprocessing, **preprocessing},
            preprocessing_by=(*self.preprocessing_by, by),
        )

    def described(self, said: Metadata) -> Source:
        """The source with what a file says of it, below what is known already."""
        known = self.preprocessing
        fields = {key: value for key, value in said.preprocessing.items() if key not in known}
        return dataclasses.replace(
            self.declaring(fields, said.by),
            architecture=self.architecture or said.architecture,
            licence=self.licence or said.licence,
            class_names=self.class_names or said.class_names,
            built=(*self.built, *([said.built] if said.built else [])),
            notes=(*self.notes, *said.notes),
        )
