"""The rule engine: between a library's names and layouts and a Flax tree, both ways.

A table says how the *modules* of a target tree are called in a library; how the leaves of a
module are called and laid out belongs to the library (`LeafRules`). Source keys are computed
from the target tree, never searched for, so every target leaf has exactly one source, every
source key is used at most once, and the same table serves export.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from jtl.common.trees import leaf_paths
from jtl.models import Preprocessing
from weights_convert.convert.leaf_names import KERAS, LeafRules

Layout = Literal["dense", "conv", "depthwise", "channels"]
"""What an array is in a library, where jtl has another form; see `Table.layouts`."""

Naming = tuple[str, Callable[..., str]]
"""(pattern of a target module's path, function from its groups to the source's module name)."""


def blocks_before(backbone: Any, stage: str, block: str) -> int:
    """How many blocks of a backbone's `depths` come before one, by its stage and number from 1."""
    return sum(backbone.depths[: int(stage) - 1]) + int(block) - 1


def numbered(kind: str, number: int) -> str:
    """What Keras calls the layer of a class with this number, which begins at 0: `conv2d_1`."""
    return f"{kind}_{number}" if number else kind


Modules = Callable[[Any], tuple[Naming, ...]]


def module_name(modules: Modules, backbone: Any, module: str) -> str:
    """A library's name of the target module at the path `module`.

    Raises:
        LookupError: `modules` has no rule for it.
    """
    for pattern, name in _naming(modules, backbone):
        if match := re.fullmatch(pattern, module):
            return name(*match.groups())
    raise LookupError(f"the table has no rule for the module '{module}'")


def key_of(module: str, separator: str, leaf: str) -> str:
    """The source key of a leaf.

    A module without a name is the network itself; one that ends with `_` is the beginning of its
    leaves' names.
    """
    return module + (separator if module and module[-1] != "_" else "") + leaf


@functools.lru_cache(maxsize=1024)
def _naming(modules: Modules, backbone: Any) -> tuple[Naming, ...]:
    return modules(backbone)


@dataclasses.dataclass(frozen=True)
class Table:
    """One library's names for one family.

    Attributes:
        library: `timm/torchvision`, `lukemelas`, ...; also the convention's name.
        family: A family of the model registry.
        modules: From the backbone's configuration to the naming of its modules, first match
            wins. A function because some libraries count blocks through all stages.
        classifier: The source's name of the module at `head/logits`; empty where it depends on
            the model, so that `modules` has it.
        leaves: The library's leaf rules.
        ignored: Patterns of source keys that carry nothing to convert.
        conventions: Fields of the backbone's configuration that this library's weights set.
        preprocessing: What this library's weights expect of an image, unless a source states
            its own, for all models or by model; None where it depends on the weights.
        layouts: By a pattern of target modules, kernels that the source has in another form: as
            those of a `dense` layer over the flattened pixels, where the target has a convolution,
            of a 1x1 `conv`, where the target has a dense layer, or [height, width, channels, 1]
            of a `depthwise` convolution. By a pattern of other leaves, whose path it must match:
            [C, 1, 1] of `channels` where the target has [C].
        leaf_names: By the target's name of a leaf, the library's in this family, where it is not
            that of `leaves`.
        uncalled: Patterns of target modules that the library does not call as layers, so that
            they have no output of their own there.
        shown_by: From a source's tensors to the fields of the backbone's configuration that their
            keys and shapes show, such as the number of tokens; None where there are none.
        free_classifier: Whether users of the library name the classifier as they like, so that
            a module with the source's only matrix is taken for it.
        scales: Whether the library's model scales images by layers of its own, as `preprocessing`
            says. A file of weights alone does not hold their constants.
    """

    library: str
    family: str
    modules: Modules
    classifier: str
    leaves: LeafRules
    ignored: tuple[str, ...] = (r".*\.num_batches_tracked",)
    conventions: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    preprocessing: Preprocessing | Mapping[str, Preprocessing] | None = None
    layouts: Mapping[str, Layout] = dataclasses.field(default_factory=dict)
    leaf_names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    uncalled: tuple[str, ...] = ()
    shown_by: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None
    free_classifier: bool = False
    scales: bool = False

    @property
    def is_of_keras(self) -> bool:
        """Whether leaves have Keras's names and layouts."""
        return self.leaves is KERAS

    def preprocessing_of(self, model: str) -> Preprocessing | None:
        """What the library's weights of a model expect of an image; see `preprocessing`."""
        if isinstance(self.preprocessing, Mapping):
            return self.preprocessing.get(model)
        return self.preprocessing

    def source_keys(self, backbone: Any, shapes: Mapping[str, Any]) -> dict[tuple[str, ...], str]:
        """The source key of every leaf of `shapes`.

        Args:
            backbone: The configuration of the model that `shapes` belongs to.
            shapes: Tree {"params": ..., "batch_stats": ...} with leaves that have `.shape`.

        Returns:
            {path from collection to leaf: source key}.
        """
        paths = leaf_paths(shapes)
        # Some have no scale, and those of groups no running statistics.
        norms = {path[1:-1] for path in paths if path[-1] in ("mean", "scale")}
        modules = dict.fromkeys(path[1:-1] for path in paths)
        names = {module: self.module_name("/".join(module), backbone) for module in modules}
        keys = {}
        for path in paths:
            collection, module, leaf = path[0], path[1:-1], path[-1]
            name = self.leaf_name(collection, leaf, norm=module in norms)
            keys[path] = self.key(names[module], name)
        return keys

    def key(self, module: str, leaf: str) -> str:
        """The source key of a leaf, by the source's names; see `key_of`."""
        return key_of(module, self.leaves.separator, leaf)

    def of(self, tensors: Mapping[str, Any]) -> Table:
        """The table with `conventions` as a source's tensors show them."""
        if self.shown_by is None:
            return self
        shown = {**self.conventions, **self.shown_by(tensors)}
        return dataclasses.replace(self, conventions=shown)

    def layer_names(
        self, modules: Sequence[tuple[str, ...]], backbone: Any
    ) -> dict[tuple[str, ...], str]:
        """What the source calls the layers whose outputs both have, by their target's path.

        Where the source has a leaf in the module around other layers (a block that owns factors),
        it is that module's output.
        """
        names = {}
        for module in modules:
            path = "/".join(module)
            if not any(re.fullmatch(pattern, path) for pattern in self.uncalled):
                names[module] = self.module_name(path, backbone)
        found = {}
        for module, name in names.items():
            around = any(n.startswith(name + self.leaves.separator) for n in names.values())
            if name:
                found[module[:-1] if around else module] = name
        return found

    def leaf_name(self, collection: str, leaf: str, *, norm: bool) -> str:
        """The library's name of a leaf; `norm` if it belongs to a normalization."""
        return self.leaf_names.get(leaf) or self.leaves.leaf_name(collection, leaf, norm=norm)

    def module_name(self, module: str, backbone: Any) -> str:
        """The source's name of the target module at the path `module`.

        Raises:
            LookupError: The table has no rule for it.
        """
        if module == "head/logits" and self.classifier:
            return self.classifier
        return module_name(self.modules, backbone, module)

    def to_source(self, path: Sequence[str], array: np.ndarray) -> np.ndarray:
        """The target's array at `path` (from collection to leaf) in the source's layout."""
        layout = self._layout(path)
        if layout == "conv":
            array = array.reshape(1, 1, *array.shape)
        if layout == "depthwise":
            array = array.transpose(0, 1, 3, 2)
        array = self.leaves.to_source(array)
        if layout == "channels":
            array = array[:, None, None]
        if layout == "dense":
            # Inputs are flattened in the order that the library's convolutions have them.
            outputs_first = self.leaves.dense_axes == (1, 0)
            array = array.reshape((len(array), -1) if outputs_first else (-1, array.shape[-1]))
        return array

    def to_target(
        self, path: Sequence[str], array: np.ndarray, shape: tuple[int, ...]
    ) -> np.ndarray:
        """The inverse of `to_source`, for a leaf that has `shape` in the target."""
        layout = self._layout(path)
        if layout == "dense":
            array = array.reshape(self.leaves.source_shape(shape))
        array = self.leaves.to_target(array)
        if layout == "depthwise":
            array = array.transpose(0, 1, 3, 2)
        return array.reshape(shape) if layout in ("conv", "channels") else array

    def source_shape(self, path: Sequence[str], shape: tuple[int, ...]) -> tuple[int, ...]:
        """The source's shape of a leaf that has `shape` in the target."""
        return self.to_source(path, np.broadcast_to(np.float32(0), shape)).shape

    def _layout(self, path: Sequence[str]) -> str | None:
        return self.layout_of("/".join(path[1:-1] if path[-1] == "kernel" else path[1:]))

    def layout_of(self, place: str) -> Layout | None:
        """The form of a module's kernel, or of another leaf; None for that of the target."""
        for pattern, form in self.layouts.items():
            if re.fullmatch(pattern, place):
                return form
        return None

    def classifier_key(self, leaf: str = "kernel") -> str:
        """The source key of the classifier's `kernel` or `bias`."""
        return self.classifier + self.leaves.separator + self.leaves.names["params", leaf]


def unflatten(leaves: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    """The inverse of listing leaves by path."""
    tree: dict[str, Any] = {}
    for (*parents, last), value in leaves.items():
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = value
    return tree


def is_ignored(table: Table, key: str) -> bool:
    """Whether a source's key is its library's bookkeeping, which carries nothing to convert."""
    return any(re.fullmatch(pattern, key) for pattern in table.ignored)


def counter_key(key: str) -> str:
    """PyTorch's key of how many batches the normalization that owns `key` has seen."""
    return key.rpartition(".")[0] + ".num_batches_tracked"
