"""What the outputs of a frozen prefix depend on, and a name for all of it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jtl import models
from jtl.cache.entry import FORMAT_VERSION, ArraySpec
from jtl.common.trees import ParamTree, leaf_paths, lookup
from jtl.data.augment import View
from jtl.data.decoding import HostTransform
from jtl.data.input_plan import InputPlan
from jtl.data.preprocessing import Prepare
from jtl.data.sources.registry import Dataset
from jtl.data.splits import LONG_NAMES, Split
from jtl.models import ImageClassifier, Unit

PREFIX_VERSION = 1
"""To be raised when decoding, `Prepare`, `View` or a unit computes something else from the same
inputs.

Other rounding, as between versions of JAX, with and without oneDNN, is no such change.
"""


@dataclasses.dataclass(frozen=True)
class Key:
    """A name for an entry.

    Attributes:
        facts: What the entry depends on, as JSON; what is large in it as SHA-256.
        digest: SHA-256 of the facts, hexadecimal.
    """

    facts: dict[str, Any]
    digest: str

    @property
    def name(self) -> str:
        """The digest's beginning: a file name."""
        return self.digest[:32]


@dataclasses.dataclass(frozen=True)
class SplitView:
    """What an entry is of: a split's images as they are, or in one random view."""

    split_name: str
    split: Split
    view: View | None

    @property
    def shown(self) -> str:
        """What its features are called in messages."""
        split = LONG_NAMES.get(self.split_name, self.split_name)
        if self.view is not None:
            return f"{split} features, view {self.view.number}"
        return f"features of {split} images"


@dataclasses.dataclass(frozen=True)
class Prefix:
    """A frozen prefix: the units before the cut, with their variables.

    Attributes:
        model: Name of the backbone, for people.
        cut: Path of the unit after the prefix.
        units: Everything that decides what the units compute, but for their variables.
        variables: SHA-256 of the units' variables.
        dtype: Of the computation.
        backend: What computes, as accelerators round products to fewer bits.
        stored: What the outputs are rounded to; None keeps them as they are computed.
    """

    model: str
    cut: str
    units: str
    variables: str
    dtype: str
    backend: str
    stored: str | None


def prefix_of(
    model: ImageClassifier,
    variables: ParamTree,
    cut: str,
    *,
    name: str,
    dtype: str,
    stored: str | None,
) -> Prefix:
    """Describes the units of a classifier before `cut`; see `Prefix`."""
    chain = model.units()
    paths = [unit.path for unit in chain]
    units = chain[: paths.index(cut)]
    if model.float32_from in paths[: paths.index(cut)]:
        dtype = f"{dtype}, float32 from {model.float32_from}"
    if stored == dtype == "float32":
        stored = None  # It makes no difference.
    settings: Any = jax.config
    return Prefix(
        model=name,
        cut=cut,
        units=_units_hash(units),
        variables=_variables_hash(variables, units),
        dtype=dtype,
        backend=f"{jax.default_backend()}, {settings.jax_default_matmul_precision}",
        stored=stored,
    )


def key_of(
    prefix: Prefix,
    split: Split,
    *,
    data: str,
    fingerprint: str,
    split_name: str,
    host: HostTransform | None,
    prepare: Prepare,
    view: View | None = None,
) -> Key:
    """Names the outputs of a prefix for the images of a split.

    Args:
        prefix: The prefix.
        split: The images; which and in what order is part of the key, their labels are not.
        data: What the data set was loaded by, for people.
        fingerprint: Of the data set.
        split_name: `train`, `val` or `test`: names need not differ between splits.
        host: How images are resized while they are decoded.
        prepare: What is done to them on the device.
        view: Which random draw of the images; None for them as they are.
    """
    names = "\0".join(split.names)  # In their order.
    depends = {
        "format_version": FORMAT_VERSION,
        "prefix_version": PREFIX_VERSION,
        **{field: value for field, value in dataclasses.asdict(prefix).items() if field != "model"},
        "fingerprint": fingerprint,
        "split": split_name,
        "count": len(split),
        "names": hashlib.sha256(names.encode("utf-8", "surrogatepass")).hexdigest(),
        "host": repr(host),
        # Entries from before there was a choice keep their names.
        **({"scaled_jpeg": True} if host is not None and host.scaled_jpeg else {}),
        **({"fit": host.fit} if host is not None and host.fit != "crop" else {}),
        "prepare": repr(prepare),
        "view": None if view is None else dataclasses.asdict(view),
    }
    digest = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()
    # Beside the key, for `jtl cache list`: names that two equal entries may differ in.
    return Key({**depends, "model": prefix.model, "data": data}, digest)


def _units_hash(units: Sequence[Unit]) -> str:
    told = [
        (u.path, f"{u.module.__module__}.{u.module.__qualname__}", u.options, u.until)
        for u in units
    ]
    return hashlib.sha256(repr(told).encode()).hexdigest()


def _variables_hash(variables: ParamTree, units: Sequence[Unit]) -> str:
    """SHA-256 over path, dtype, shape and bytes of every leaf of the units."""
    inside = tuple(f"{unit.path}/" for unit in units)
    digest = hashlib.sha256()
    for path in sorted(leaf_paths(variables)):
        if not "/".join(path[1:]).startswith(inside):
            continue
        leaf = np.ascontiguousarray(lookup(variables, path))
        digest.update(repr((path, leaf.dtype.str, leaf.shape)).encode())
        digest.update(leaf.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


class FeatureKeys:
    """Keys and shapes of the features of one data set, at any cut of one model."""

    def __init__(
        self,
        dataset: Dataset,
        model: ImageClassifier,
        inputs: InputPlan,
        name: str,
        stored: str = "computed",
    ):
        """Takes what features depend on; see `FeatureCache`."""
        self._dataset, self._model, self._inputs, self._name = dataset, model, inputs, name
        self.rounded = None if stored == "computed" else stored
        self._outputs: dict[str, jax.ShapeDtypeStruct] = {}
        self._last: tuple[ParamTree, str, Prefix] | None = None

    def key(self, cut: str, variables: ParamTree, part: SplitView) -> Key:
        if self._last is None or self._last[0] is not variables or self._last[1] != cut:
            prefix = prefix_of(
                self._model,
                variables,
                cut,
                name=self._name,
                dtype=self._inputs.device.dtype,
                stored=self.rounded,
            )
            self._last = (variables, cut, prefix)
        return key_of(
            self._last[2],
            part.split,
            data=self._dataset.spec,
            fingerprint=self._dataset.fingerprint,
            split_name=part.split_name,
            host=self._inputs.host_for(part.split.native_size(), training=part.view is not None),
            prepare=self._inputs.device,
            view=part.view,
        )

    def forget(self) -> None:
        """Lets go of the variables that the last key was of."""
        self._last = None

    def spec(self, cut: str, variables: ParamTree, count: int) -> ArraySpec:
        """Shape and dtype of the features of `count` images."""
        if cut not in self._outputs:
            size = self._inputs.device.size
            images = jax.ShapeDtypeStruct((1, size, size, 3), self._inputs.device.dtype)
            self._outputs[cut] = models.output_shape(self._model, variables, images, cut)
        output = self._outputs[cut]
        return ArraySpec((count, *output.shape[1:]), self.rounded or jnp.dtype(output.dtype).name)
