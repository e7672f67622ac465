"""How much a step has to compute, counted from the traced forward pass: no program is compiled.

Only convolutions and matrix products count, two operations for each multiplication with its
addition, as papers and PyTorch's fvcore count them. What gradients need follows from which
operands depend on a trained param: one more such operation for each of them.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from jtl.common.platforms import everywhere
from jtl.common.trees import ParamTree
from jtl.models.inference import forward


@dataclasses.dataclass(frozen=True)
class Flops:
    """Operations for one image.

    Attributes:
        prefix: Of the layers before the features that a phase is trained on.
        forward: Of the layers from there on.
        backward: Of the gradients.
    """

    prefix: float
    forward: float
    backward: float

    @property
    def step(self) -> float:
        """Of a training step, the prefix left out."""
        return self.forward + self.backward


def count(
    model: Any,
    variables: ParamTree,
    size: int,
    trains: Callable[[str], bool],
    start: str | None = None,
) -> Flops:
    """Counts what a phase computes.

    Args:
        model: The classifier.
        variables: Its variables; only their shapes matter.
        size: Height and width of an image.
        trains: Whether a param, given by its path, is trained.
        start: The unit whose input is cached; None where steps begin with the image.
    """
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), variables)
    paths = [[step.key for step in path] for path, _ in jax.tree.leaves_with_path(shapes)]
    trained = [path[0] == "params" and trains("/".join(path[1:])) for path in paths]
    x: Any = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    prefix = 0.0
    if start is not None:
        before = _traced(model, shapes, x, stop=start)
        prefix, _, _ = _walk(before.jaxpr, [False] * len(before.jaxpr.invars))
        [x] = before.out_avals
    rest = _traced(model, shapes, x, start=start)
    ahead, backward, _ = _walk(rest.jaxpr, [*trained, False])
    return Flops(prefix, ahead, backward)


def _traced(model: Any, variables: Any, x: Any, **part: str | None) -> ClosedJaxpr:
    function = functools.partial(inspect.unwrap(forward), model=model, **part)
    with everywhere():  # In what CPUs get, foreign calls hide what is computed.
        return jax.make_jaxpr(function)(variables, x)


def _walk(jaxpr: Jaxpr, trained: Sequence[bool]) -> tuple[float, float, list[bool]]:
    """Operations forward and backward, and which results depend on a trained input."""
    depends = dict(zip(jaxpr.invars, trained, strict=True))
    ahead = back = 0.0

    def flag(variable: Any) -> bool:
        return not isinstance(variable, Literal) and depends.get(variable, False)

    for eqn in jaxpr.eqns:
        inputs = [flag(variable) for variable in eqn.invars]
        outputs = [any(inputs)] * len(eqn.outvars)
        if eqn.primitive.name in _PRODUCTS:
            each = _PRODUCTS[eqn.primitive.name](eqn)
            ahead, back = ahead + each, back + each * sum(inputs)
        elif found := [_walk(part, inputs[-len(part.invars) :]) for part in _parts(eqn)]:
            # Of branches that differ by platform, those with foreign calls have nothing to count.
            more_ahead, more_back, outputs = max(found, key=lambda each: each[0])
            times = eqn.params.get("length", 1)  # Of a scan.
            ahead, back = ahead + times * more_ahead, back + times * more_back
        depends |= dict(zip(eqn.outvars, outputs, strict=True))
    return ahead, back, [flag(variable) for variable in jaxpr.outvars]


def _parts(eqn: Any) -> list[Jaxpr]:
    """The programs an operation may call; before its inputs a `cond` takes which one it is."""
    values = [
        part
        for value in eqn.params.values()
        for part in (value if isinstance(value, tuple) else (value,))
    ]
    parts = [part.jaxpr if isinstance(part, ClosedJaxpr) else part for part in values]
    called = [part for part in parts if isinstance(part, Jaxpr)]
    return called if eqn.primitive.name == "cond" else called[:1]


def _convolution(eqn: Any) -> float:
    kernel, spec = eqn.invars[1].aval.shape, eqn.params["dimension_numbers"].rhs_spec
    _, inputs, *window = (kernel[axis] for axis in spec)
    return 2.0 * eqn.outvars[0].aval.size * inputs * math.prod(window)


def _product(eqn: Any) -> float:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    shape = eqn.invars[0].aval.shape
    return 2.0 * eqn.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)


_PRODUCTS = {"conv_general_dilated": _convolution, "dot_general": _product}
