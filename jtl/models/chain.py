"""An image classifier as a chain of named units, each runnable from and to any other.

Every backbone of jtl is a sequence: one array goes from unit to unit (stem, the blocks of
each stage, the final layers, pooling, head). Keeping that sequence explicit is what lets a
frozen prefix run alone, once per image, and a trainable suffix run alone, every step.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

from jtl.common.errors import UserError, suggest
from jtl.models.heads import Head, HeadSpec, Pool
from jtl.models.layers.blocks import batch_statistics, shapes_only, unfused_layers

Units = bool | Collection[str]
"""All units, none, or those of these paths."""


@dataclasses.dataclass(frozen=True)
class Unit:
    """One link of the chain: a Linen module called as `module(x, train=...)`.

    Attributes:
        path: Where its variables live, `stem` or `stage1/block1`; also its name in masks.
        module: The Linen class.
        options: Its attributes as (name, value) pairs, hashable.
        until: Path of a layer inside the module whose output becomes the unit's own; layers
            that this output does not depend on do not run and have no variables. None for the
            whole.
    """

    path: str
    module: type[nn.Module]
    options: tuple[tuple[str, Any], ...] = ()
    until: str | None = None

    @property
    def stage(self) -> str | None:
        """`stage1` for `stage1/block1`; None for a unit that stands alone."""
        return self.path.split("/")[0] if "/" in self.path else None

    def run(self, x: jax.Array, train: Units, stats: Units) -> jax.Array:
        """Builds and calls the Linen module; only inside a compact method."""
        module = self.module(**dict(self.options), name=self.path.split("/")[-1])
        training = self.is_among(train)
        with batch_statistics(self.is_among(stats)):
            if self.until is None:
                return module(x, train=training)
            unused = _unused_layers(self, x.shape, jnp.dtype(x.dtype).name)
            return _run_until(module, self.until, x, train=training, unused=unused)

    def is_among(self, units: Units) -> bool:
        """Whether it is one of the named units; True and False stand for all and none."""
        return units if isinstance(units, bool) else self.path in units


def unit(path: str, module: type[nn.Module], **options: Any) -> Unit:
    """Shorthand for a `Unit` with its options as keywords."""
    return Unit(path, module, tuple(sorted(options.items())))


class Backbone(Protocol):
    """A configuration that knows its units; hashable, compared by value.

    It may also state `min_size` (the least height and width of images, in pixels; 1 otherwise) and
    `relu_logits` (as in `HeadSpec`: of the classifier that its published weights come with).
    """

    def units(self) -> tuple[Unit, ...]:
        """Every unit from the images (NHWC) to the last feature map (NHWC)."""
        ...


class ImageClassifier(nn.Module):
    """Backbone, pooling and head over NHWC images.

    Attributes:
        backbone: A family's configuration.
        head: What stands on the features; None for a bare backbone, which ends with its
            last feature map.
        num_classes: Width of the logits; unused for a bare backbone.
        float32_from: Path of the unit from which on the computation is in float32; those before it
            compute in the dtype of the images. None where all do.
    """

    backbone: Backbone
    head: HeadSpec | None = HeadSpec()
    num_classes: int = 1000
    float32_from: str | None = None

    def units(self) -> tuple[Unit, ...]:
        """The whole chain, in order."""
        chain = self.backbone.units()
        if self.head is None:
            return chain
        kept = self.head.source_classes
        # Of what stands on the feature map: it pools by itself, or is a vector's.
        pools = getattr(self.backbone, "relu_logits", False) if kept else self.head.relu_logits
        own = dict(pool=self.head.pool) if pools else {}
        chain = chain if pools else (*chain, unit("pool", Pool, kind=self.head.pool))
        options = dict(layers=self.head.layers, norm=self.head.norm)
        if kept:
            chain = (*chain, unit("classifier", Head, num_classes=kept, **own))
            own = {}
        return (*chain, unit("head", Head, num_classes=self.num_classes, **options, **own))

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        *,
        train: Units = False,
        stats: Units | None = None,
        start: str | None = None,
        stop: str | None = None,
    ) -> jax.Array:
        """Runs the chain, or the part of it from `start` up to but without `stop`.

        Args:
            x: Normalized images NHWC, or what the unit before `start` gave.
            train: True or False for all units, or the paths of the units in train mode
                (dropout, auxiliary heads).
            stats: In the same form, the units that normalize with the batch's statistics; the
                others use running averages. None for those in train mode.
            start: Path of the first unit to run, or a stage's name; default the first.
            stop: Path of the unit to stop before, or a stage's name; default none, which
                gives logits [N, num_classes] in float32.

        Raises:
            UserError: `start` or `stop` names no unit, or the images are too small.
        """
        units = self.units()
        first = 0 if start is None else locate(units, start)
        least = getattr(self.backbone, "min_size", 1)
        if first == 0 and min(x.shape[1:3]) < least:
            raise UserError(
                f"images of {x.shape[1]} x {x.shape[2]} pixels are too small for this backbone, "
                f"which needs at least {least} x {least}. Use --image-size {least} or larger."
            )
        last = len(units) if stop is None else locate(units, stop)
        stats = train if stats is None else stats
        for stage, members in itertools.groupby(units[first:last], key=lambda u: u.stage):
            if stage is None:
                for member in members:
                    x = member.run(_entering(member, x, self.float32_from), train, stats)
            else:
                x = _Stage(tuple(members), self.float32_from, name=stage)(x, train, stats)
        return x.astype(jnp.float32) if last == len(units) and self.head is not None else x


class _Stage(nn.Module):
    """The scope of a stage's blocks; all of them or the part that runs."""

    units: tuple[Unit, ...]
    float32_from: str | None

    @nn.compact
    def __call__(self, x: jax.Array, train: Units, stats: Units) -> jax.Array:
        for member in self.units:
            x = member.run(_entering(member, x, self.float32_from), train, stats)
        return x


def _entering(unit: Unit, x: jax.Array, float32_from: str | None) -> jax.Array:
    """What a unit is given: in float32 where the computation becomes so."""
    return x.astype(jnp.float32) if unit.path == float32_from else x


class _LayerReached(Exception):
    """Carries a layer's output out of the module that holds it."""

    def __init__(self, value: jax.Array):
        self.value = value


def _run_until(
    module: nn.Module,
    layer: str,
    x: jax.Array,
    *,
    train: bool,
    unused: Mapping[str, jax.ShapeDtypeStruct] = MappingProxyType({}),
    on_output: Callable[[str, jax.Array], object] = lambda name, value: None,
) -> jax.Array:
    """Calls `module`, but leaves it with the output of its layer `layer`.

    Args:
        module: A unit's.
        layer: Path inside it.
        x: Its input.
        train: Its mode.
        unused: Layers that are not called, with what stands for their outputs.
        on_output: Called with every layer that was called, and its output.
    """
    below = len(module.path)
    passed: list[str] = []

    def watch(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        name = "/".join(context.module.path[below:])
        if context.method_name != "__call__" or not name:
            return call(*args, **kwargs)
        if name in unused:
            return jnp.zeros(unused[name].shape, unused[name].dtype)
        value = call(*args, **kwargs)
        passed.append(name)
        on_output(name, value)
        if name == layer:
            raise _LayerReached(value)
        return value

    try:
        with nn.intercept_methods(watch), unfused_layers():
            module(x, train=train)
    except _LayerReached as reached:
        return reached.value
    path = "/".join(module.path)
    raise UserError(
        f"there is no layer '{path}/{layer}'.{suggest(layer, passed)} The layers of {path} are: "
        f"{', '.join(passed)}."
    )


@functools.lru_cache(maxsize=64)
def _unused_layers(
    unit: Unit, shape: tuple[int, ...], dtype: str
) -> Mapping[str, jax.ShapeDtypeStruct]:
    """Layers called before `unit.until` that its output does not depend on, by their outputs.

    Such as a block's convolutions where its shortcut is wanted. Found by tracing the unit once,
    alone, without compute, and going back from the output.
    """
    assert unit.until is not None
    until = unit.until
    module = unit.module(**dict(unit.options), parent=None)
    x = jax.ShapeDtypeStruct(shape, dtype)
    key = jax.eval_shape(jax.random.key, 0)
    variables = jax.eval_shape(lambda key, x: module.init(key, x, train=False), key, x)
    outputs: dict[str, jax.ShapeDtypeStruct] = {}

    def on_output(name: str, value: jax.Array) -> None:
        outputs[name] = jax.ShapeDtypeStruct(value.shape, value.dtype)

    def run(variables: Any, x: jax.Array) -> Any:
        def call(scoped: nn.Module) -> jax.Array:
            return _run_until(scoped, until, x, train=False, on_output=on_output)

        with shapes_only(False):
            return nn.apply(call, module)(variables)

    try:
        jaxpr = jax.make_jaxpr(run)(variables, x).jaxpr
    except UserError:  # There is no such layer, as the call itself will say with its path.
        return {}
    needed = {id(variable) for variable in jaxpr.outvars}
    for equation in reversed(jaxpr.eqns):
        if any(id(variable) in needed for variable in equation.outvars):
            needed |= {id(variable) for variable in equation.invars}
    owners = [
        "/".join(str(part.key) for part in path[1:-1])
        for path, _ in jax.tree.leaves_with_path(variables)
    ]
    live = {
        owner
        for owner, variable in zip(owners, jaxpr.invars, strict=False)
        if id(variable) in needed
    }
    return MappingProxyType(
        {
            name: output
            for name, output in outputs.items()
            if any(f"{owner}/".startswith(f"{name}/") for owner in owners)
            and not any(f"{owner}/".startswith(f"{name}/") for owner in live)
        }
    )


def locate(units: Iterable[Unit], name: str) -> int:
    """The index of the unit called `name`, or of the first unit of the stage `name`.

    Raises:
        UserError: No unit has this name; the message names the nearest one.
    """
    names = [u.path for u in units]
    for index, path in enumerate(names):
        if path == name or path.startswith(name + "/"):
            return index
    raise UserError(
        f"no unit is called '{name}'.{suggest(name, names)} The units are: {', '.join(names)}."
    )
