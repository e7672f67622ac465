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

from jtl.common.errors import UserError
from jtl.common.text import counted, indented
from jtl.common.trees import leaf_paths, lookup
from jtl.models import Preprocessing
from weights_convert.printable import shown

# So many of one kind say as much as all: a network of another depth has hundreds.
_MOST_PROBLEMS = 12

Layout = Literal["dense", "conv", "depthwise"]
"""What a kernel is in a library, where jtl has another form; see `Table.layouts`."""

Naming = tuple[str, Callable[..., str]]
"""(pattern of a target module's path, function from its groups to the source's module name)."""


@dataclasses.dataclass(frozen=True)
class LeafRules:
    """How a library names and lays out the leaves of a module.

    Attributes:
        names: (target collection, target leaf name) -> source leaf name.
        norm_names: The same for the leaves of normalizations, where they have names of their
            own; those missing here are in `names`.
        separator: Between a module's name and a leaf's.
        conv_axes: Axes of a source convolution kernel in the order that gives HWIO.
        dense_axes: Axes of a source dense kernel in the order that gives (in, out).
    """

    names: Mapping[tuple[str, str], str]
    separator: str
    conv_axes: tuple[int, int, int, int]
    dense_axes: tuple[int, int]
    norm_names: Mapping[tuple[str, str], str] = dataclasses.field(default_factory=dict)

    def leaf_name(self, collection: str, leaf: str, *, norm: bool) -> str:
        """The source's name of a leaf; `norm` if it belongs to a normalization."""
        if norm and (collection, leaf) in self.norm_names:
            return self.norm_names[collection, leaf]
        return self.names[collection, leaf]

    def to_target(self, array: np.ndarray) -> np.ndarray:
        """The source array in the target's layout; a view."""
        axes = {4: self.conv_axes, 2: self.dense_axes}.get(array.ndim)
        return array if axes is None else array.transpose(axes)

    def to_source(self, array: np.ndarray) -> np.ndarray:
        """The inverse of `to_target`; a view."""
        axes = {4: self.conv_axes, 2: self.dense_axes}.get(array.ndim)
        return array if axes is None else array.transpose(np.argsort(axes))

    def source_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The source's shape of a leaf that has `shape` in the target."""
        return self.to_source(np.broadcast_to(np.float32(0), shape)).shape


TORCH = LeafRules(
    names={
        ("params", "kernel"): "weight",
        ("params", "bias"): "bias",
        ("params", "scale"): "weight",
        ("batch_stats", "mean"): "running_mean",
        ("batch_stats", "var"): "running_var",
    },
    separator=".",
    conv_axes=(2, 3, 1, 0),
    dense_axes=(1, 0),
)

# Keras lays kernels out as Flax does.
KERAS = LeafRules(
    names={
        ("params", "kernel"): "kernel",
        ("params", "bias"): "bias",
        ("params", "scale"): "gamma",
        ("batch_stats", "mean"): "moving_mean",
        ("batch_stats", "var"): "moving_variance",
    },
    separator="/",
    conv_axes=(0, 1, 2, 3),
    dense_axes=(0, 1),
    norm_names={("params", "bias"): "beta"},
)


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


@functools.lru_cache(maxsize=256)
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
            of a `depthwise` convolution.
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
        norms = {path[1:-1] for path in paths if path[-1] == "mean"}
        keys = {}
        for path in paths:
            collection, *module, leaf = path
            norm = tuple(module) in norms
            name = self.leaves.leaf_name(collection, leaf, norm=norm)
            keys[path] = self.module_name("/".join(module), backbone) + self.leaves.separator + name
        return keys

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
        return array.reshape(shape) if layout == "conv" else array

    def source_shape(self, path: Sequence[str], shape: tuple[int, ...]) -> tuple[int, ...]:
        """The source's shape of a leaf that has `shape` in the target."""
        return self.to_source(path, np.broadcast_to(np.float32(0), shape)).shape

    def _layout(self, path: Sequence[str]) -> str | None:
        return self.layout_of("/".join(path[1:-1])) if path[-1] == "kernel" else None

    def layout_of(self, module: str) -> Layout | None:
        """The form of a module's kernel in `layouts`; None for that of the target."""
        for pattern, form in self.layouts.items():
            if re.fullmatch(pattern, module):
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


def fill(
    table: Table, backbone: Any, shapes: Mapping[str, Any], tensors: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Fills a target tree from source tensors, or reports everything that does not fit.

    Args:
        table: The library's table.
        backbone: Configuration of the target model.
        shapes: Its tree of shapes.
        tensors: Source arrays by key; floating of any width.

    Returns:
        The tree of float32 arrays, contiguous in the target's layout, copied from the source.
        float16 and bfloat16 fit into float32 exactly; float64 is rounded to the nearest (ties
        to even), and a number that would overflow is a problem, as infinity is.

    Raises:
        UserError: Keys are missing or unexpected, shapes differ, or values are not finite
            numbers; one message counts all of it and shows the first.
    """
    keys = table.source_keys(backbone, shapes)
    problems, leaves = [], {}
    for path, key in keys.items():
        expected = tuple(lookup(shapes, path).shape)
        if key not in tensors:
            problems.append(f"missing    {shown(key)} (for {'/'.join(path[1:])}, shape {expected})")
            continue
        array = tensors[key]
        wanted = table.source_shape(path, expected)
        name = shown(key)
        if array.shape != wanted:
            problems.append(f"shape      {name} is {array.shape}, expected {wanted}")
        elif not _is_floating(array):
            problems.append(f"dtype      {name} is {array.dtype}, expected a floating type")
        else:
            # A copy, because the source may be a mapped file; too large a float64 turns infinite.
            with np.errstate(over="ignore"):
                array = table.to_target(path, array, expected)
                array = np.array(array, dtype=np.float32, order="C")
            if not np.isfinite(array).all():
                problems.append(f"values     {name} holds NaN or infinity")
            elif path[-1] == "var" and (array < 0).any():
                problems.append(f"values     {name} is a variance with negative values")
            leaves[path] = array
    used = set(keys.values())
    for key in tensors:
        if key not in used and not is_ignored(table, key):
            problems.append(f"unexpected {shown(key)}, shape {tensors[key].shape}")
    if problems:
        fitting = sum(problem.startswith(("dtype", "values")) for problem in problems)
        much = len(problems) - fitting > _MOST_PROBLEMS
        raise UserError(
            report(problems, "between the source and the model")
            + (
                "\nSo many are not damage: it is another network, perhaps deeper or wider, "
                "or its layers have other names." * much
            )
        )
    return {**{collection: {} for collection in shapes}, **unflatten(leaves)}


def is_ignored(table: Table, key: str) -> bool:
    """Whether a source's key is its library's bookkeeping, which carries nothing to convert."""
    return any(re.fullmatch(pattern, key) for pattern in table.ignored)


def _is_floating(array: np.ndarray) -> bool:
    # bfloat16 is not a subtype of NumPy's floating, but names itself a float.
    return np.issubdtype(array.dtype, np.floating) or array.dtype.name == "bfloat16"


def counter_key(key: str) -> str:
    """PyTorch's key of how many batches the normalization that owns `key` has seen."""
    return key.rpartition(".")[0] + ".num_batches_tracked"


def report(problems: Sequence[str], where: str) -> str:
    """How many problems there are, and the first of them, a line each."""
    lines = indented(problems, _MOST_PROBLEMS)
    return "\n".join([f"{counted(len(problems), 'problem')} {where}:", *lines])
