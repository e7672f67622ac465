"""How tests compile programs, and lowered ones as they look at them: what must hold of them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator
from typing import Any

import jax
from jax import export
from jax._src import lru_cache
from jax.interpreters import mlir

QUICK_COMPILE = "--xla_backend_optimization_level=0"
if jax.__version_info__ < (0, 11):  # Later versions end at a flag that is gone.
    # Neither does it help to compile the parts of a program side by side: the cores are busy.
    QUICK_COMPILE += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
"""XLA_FLAGS of tests: most run a program once or twice, and compiling it is their time.

Of all processes alike, as their results are compared bit for bit. The scripts in `tests/stress`,
run by hand, compile as it is done for users.
"""


def keep_all() -> None:
    """Lets JAX's cache of programs grow in this process.

    With a limit, it reads two files of every program there before it writes one more, and the other
    processes wait meanwhile: of a session's, minutes.
    """
    # Private to JAX: a version without it only takes longer.
    if hasattr(lru_cache.LRUCache, "_evict_if_needed"):
        lru_cache.LRUCache._evict_if_needed = lambda *_, **__: None  # type: ignore[method-assign]


DTYPES = {"float32": "f32", "bfloat16": "bf16"}
ALLOWED = {
    "cu_threefry2x32_ffi",  # JAX's random bits on NVIDIA's GPUs, by a kernel of its own.
    "shape_assertion",  # Checked when an export of symbolic sizes is called, and not in it.
}
"""Custom calls that a program may hold."""
SHARDING = "sdy.sharding"
"""The mark of an argument or result that says how it lies on the devices."""
TO_THE_HOST = {f"stablehlo.{name}" for name in ("infeed", "outfeed", "send", "recv")}


@dataclasses.dataclass(frozen=True)
class Operation:
    """One operation: its name, and the element types of what it works on.

    Attributes:
        rank: The highest of the operands'.
        rows: The first size of each operand that has several dimensions.
        scalar: Whether all results are.
        target: What a custom call calls.
        adds: Whether a region of it adds, as that of a sum does.
    """

    name: str
    operands: tuple[str, ...]
    results: tuple[str, ...]
    rank: int
    rows: tuple[int, ...]
    scalar: bool
    target: str
    adds: bool


class Program:
    """A lowered program.

    Args:
        text: Its StableHLO.
        kept: The numbers of the arguments that it has of those that were given.

    Attributes:
        inputs: Element types of the arguments.
        outputs: Those of the results.
        aliased: Numbers of the arguments whose memory the results may take.
        divided: How the arguments of which it is said lie on the devices, by number: the axis of
            the mesh along which each dimension is divided, None where it is whole.
        operations: Each as often as functions are called that hold it; loops count once.
    """

    def __init__(self, text: str, kept: Iterable[int] = ()):
        module = mlir.ir.Module.parse(text, mlir.make_ir_context())
        operations: Any = module.body.operations
        named = {op.attributes["sym_name"].value: op for op in operations}
        main = named["main"]
        kinds = mlir.ir.FunctionType(main.attributes["function_type"].value)
        self.inputs, self.outputs = _elements(kinds.inputs), _elements(kinds.results)
        marks = dict(zip(kept, _marks(main, "arg_attrs"), strict=False))
        self.aliased = {
            argument
            for argument, each in marks.items()
            if each.keys() & {"tf.aliasing_output", "jax.buffer_donor"}
        }
        self.divided = {n: _divided(each) for n, each in marks.items() if SHARDING in each}
        self.operations = list(_walk(main, named))

    @classmethod
    def of(cls, exported: export.Exported) -> Program:
        return cls(exported.mlir_module(), exported.module_kept_var_idx)

    def named(self, name: str) -> list[Operation]:
        return [op for op in self.operations if op.name == f"stablehlo.{name}"]


def _marks(function: Any, which: str) -> list[dict[str, Any]]:
    # Absent where there is no mark.
    marks = function.attributes[which] if which in function.attributes else []  # noqa: SIM401
    return [{mark.name: mark.attr for mark in each} for each in marks]


def _divided(marks: dict[str, Any]) -> tuple[str | None, ...]:
    """What `#sdy.sharding<@mesh, [{"data"}, {}]>` says: ("data", None)."""
    dimensions = re.findall(r"\{([^}]*)\}", str(marks[SHARDING]))
    return tuple(each.strip('"') or None for each in dimensions)


def _walk(operation: Any, functions: dict[str, Any]) -> Iterator[Operation]:
    for inner in _inside(operation):
        yield _read(inner)
        called = functions[inner.attributes["callee"].value] if inner.name == "func.call" else inner
        yield from _walk(called, functions)


def _inside(operation: Any) -> Iterator[Any]:
    for region in operation.regions:
        for block in region:
            yield from (inner.operation for inner in block.operations)


def _read(operation: Any) -> Operation:
    operands = [operand.type for operand in operation.operands]
    is_call = operation.name == "stablehlo.custom_call"
    return Operation(
        operation.name,
        _elements(operands),
        _elements([result.type for result in operation.results]),
        max((getattr(kind, "rank", 0) for kind in operands), default=0),
        tuple(kind.shape[0] for kind in operands if getattr(kind, "rank", 0) > 1),
        all(getattr(result.type, "rank", None) == 0 for result in operation.results),
        operation.attributes["call_target_name"].value if is_call else "",
        any(inner.name == "stablehlo.add" for inner in _inside(operation)),
    )


def _elements(types: Iterable[Any]) -> tuple[str, ...]:
    return tuple(str(getattr(kind, "element_type", kind)) for kind in types)


# What must hold.


def check_convolutions(program: Program, count: int, element: str) -> None:
    """So many of XLA's own; they and the matrix products are of one number format."""
    found = program.named("convolution")
    assert len(found) == count
    products = [op for op in program.named("dot_general") if op.results[0] in DTYPES.values()]
    assert len(products) <= MOST_PRODUCTS
    assert {kind for op in [*found, *products] for kind in op.operands} == {element}


def check_alone(program: Program) -> None:
    """Nothing that only a CPU has, nothing that waits for the host, no float64."""
    assert {op.target for op in program.named("custom_call")} <= ALLOWED
    assert not TO_THE_HOST & {op.name for op in program.operations}
    assert "f64" not in {k for op in program.operations for k in op.operands + op.results}


def check_wide(program: Program) -> None:
    """BatchNorm's statistics, which are sums over images, are taken in float32."""
    sums = [op for op in program.named("reduce") if op.adds and op.rank == 4]
    assert {kind for op in sums for kind in op.operands} <= {"f32"}


def check_kept(program: Program, leaves: int, features: str = "f32") -> None:
    """A step takes and gives float32, and its state, the first arguments, gives its memory up.

    Features, which it may take too, are of an element type of their own.
    """
    floats = {kind for kind in program.inputs + program.outputs if kind.startswith(("f", "bf"))}
    assert floats == {"f32", features}
    assert set(range(leaves)) <= program.aliased


MOST_PRODUCTS = 3
"""Of the head's dense layer, forward and to the gradients of kernel and input."""
