"""Steps of many devices: what accelerators are given, and what the devices tell each other.

Before it is divided a program holds shapes of the whole batch, and marks on what is divided. The
compiler divides it; what it then exchanges is read from the program of eight CPU devices, and is
what docs/scaling.md counts.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jtl.distributed.sharding import AXIS
from support import commands, sharded_programs
from support.programs import (
    DTYPES,
    Operation,
    Program,
    check_alone,
    check_convolutions,
    check_kept,
    check_wide,
)
from support.sharded_programs import ACCELERATORS, BATCH, DEVICES

STEPS = [
    f"{name}{more}" for name in ("full", "head_only", "features") for more in ("", "-bfloat16")
]
FORWARDS = ("prefix-bfloat16", "logits")
ALL = (*STEPS, "epoch", "rows", *FORWARDS)

# Convolutions of the tiny backbone's three: forward, and to the gradients of kernel and input, of
# which the first layer that runs in reverse needs the former alone.
CONVOLUTIONS = {"full": 3 + 3 + 2, "head_only": 3, "features": 1 + 1, "epoch": 0}
CONVOLUTIONS |= {"prefix": 3, "logits": 3}
LAYERS = {"full": 3, "head_only": 0, "features": 1, "epoch": 0}
# As docs/scaling.md counts them: gradients with the loss, and the number of hits, an integer; then
# mean, variance and gradients of each layer with the batch's statistics.
STEP_REDUCTIONS, NORM_REDUCTIONS = 2, 3


@dataclasses.dataclass(frozen=True)
class Told:
    """A program as it was written down.

    Attributes:
        name: Which one.
        folder: Where it is.
        facts: How many leaves each group of arguments has, which of them were kept, and so on.
    """

    name: str
    folder: Path
    facts: dict[str, Any]

    @property
    def dtype(self) -> str:
        return DTYPES["bfloat16" if self.name.endswith("bfloat16") else "float32"]

    def program(self, platform: str) -> Program:
        return parsed(self.folder / f"{platform}.mlir", tuple(self.facts["kept"]))

    def places(self, group: str) -> set[int]:
        """The numbers of a group's arguments, of those that the program has."""
        names = ("state", "frozen", "peaks", "variables", "x", "labels", "batches")
        first = 0
        for name in (name for name in names if name in self.facts):
            if name == group:
                return set(range(first, first + self.facts[name])) & set(self.facts["kept"])
            first += self.facts[name]
        return set()

    def collectives(self) -> list[Collective]:
        return list(collectives((self.folder / "compiled.hlo").read_text()))


@functools.cache
def parsed(path: Path, kept: tuple[int, ...]) -> Program:
    return Program(path.read_text(), kept)


Shape = tuple[str, tuple[int, ...]]
"""Element type and sizes."""


@dataclasses.dataclass(frozen=True)
class Collective:
    """An exchange between devices: what kind, and the arrays that every device ends with."""

    kind: str
    arrays: tuple[Shape, ...]


KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|ragged-all-to-all|collective-permute"
_COLLECTIVE = re.compile(rf"= (\(?.*?\)?) ({KINDS}|collective-broadcast)(?:-start)?\(")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")
BYTES = {"pred": 1, "u8": 1, "bf16": 2, "s32": 4, "u32": 4, "f32": 4}


def collectives(text: str) -> Iterator[Collective]:
    """Those of a compiled program; of a loop each as once."""
    for line in text.splitlines():
        if found := _COLLECTIVE.search(line):
            arrays = _ARRAY.findall(found[1])
            each = [(kind, tuple(map(int, filter(None, s.split(","))))) for kind, s in arrays]
            yield Collective(found[2], tuple(each))


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Told]:
    folder = tmp_path_factory.mktemp("sharded")
    done = commands.python(
        sharded_programs.__file__, folder, JAX_NUM_CPU_DEVICES="8", JTL_CACHE=str(folder / "cache")
    )
    assert done.returncode == 0, done.stderr
    facts = {name: json.loads((folder / name / "told.json").read_text()) for name in ALL}
    return {name: Told(name, folder / name, facts[name]) for name in ALL}


# What must hold.


def check_divided(program: Program, places: set[int]) -> None:
    """Arguments of which every device has rows."""
    assert places
    assert places <= program.divided.keys()
    for place in places:
        axis, *others = program.divided[place]
        assert (axis, set(others)) == (AXIS, {None})


def check_everywhere(program: Program, places: set[int]) -> None:
    """Arguments that are whole on every device."""
    assert places
    assert places <= program.divided.keys()
    assert {axis for place in places for axis in program.divided[place]} <= {None}


def check_whole_batch(program: Program, layers: int) -> None:
    """The sums over images are over all of a batch, not a device's part; two or more to a layer."""
    assert "sdy.manual_computation" not in {op.name for op in program.operations}
    # Those to a scalar are of kernels, for the norms that a step tells.
    sums = [op for op in program.named("reduce") if op.adds and op.rank == 4 and not op.scalar]
    assert len(sums) >= 2 * layers
    assert {rows for op in sums for rows in op.rows} <= {BATCH}


# What accelerators are given.


@pytest.mark.process
@pytest.mark.parametrize("platform", ACCELERATORS)
@pytest.mark.parametrize("name", ALL)
def test_a_batch_is_divided_and_a_state_is_everywhere(told, name, platform):
    one, program = told[name], told[name].program(platform)
    assert one.facts["devices"] == DEVICES
    check_divided(program, one.places("x"))
    if name != "rows":
        whole = one.places("state") | one.places("frozen") | one.places("variables")
        check_everywhere(program, whole)
    check_alone(program)


@pytest.mark.process
@pytest.mark.parametrize("platform", ACCELERATORS)
@pytest.mark.parametrize("name", STEPS)
def test_a_step_is_that_of_one_device(told, name, platform):
    one, program = told[name], told[name].program(platform)
    check_convolutions(program, CONVOLUTIONS[name.split("-")[0]], one.dtype)
    check_wide(program)
    check_whole_batch(program, LAYERS[name.split("-")[0]])
    check_kept(program, one.facts["state"], one.dtype if name.startswith("features") else "f32")


# What the devices exchange.


def arrays(exchanged: list[Collective]) -> Counter[Shape]:
    """What is exchanged, and how often; an array may have been transposed before."""
    return Counter((kind, tuple(sorted(s))) for one in exchanged for kind, s in one.arrays)


def floats(shapes: list[list[int]]) -> Counter[Shape]:
    return Counter(("f32", tuple(sorted(shape))) for shape in shapes)


def check_step(exchanged: list[Collective], facts: dict[str, Any]) -> None:
    """Sums alone: of gradients, of each layer's statistics, of losses and hits; nothing else."""
    assert {one.kind for one in exchanged} == {"all-reduce"}
    metrics = Counter({("f32", ()): 1, ("s32", ()): 1})
    # A layer's mean and mean of squares, which are as large as what it keeps of them.
    expected = floats(facts["params"]) + floats(facts["batch_stats"]) + metrics
    assert arrays(exchanged) == expected


def check_rows(exchanged: list[Collective], facts: dict[str, Any]) -> None:
    """One sum that is the batch: each device contributes the rows that it has."""
    assert [one.kind for one in exchanged] == ["all-reduce"]
    assert arrays(exchanged) == floats([[BATCH, *facts["x_shape"][1:]]])


@pytest.mark.process
@pytest.mark.parametrize("name", ["full", "head_only", "features"])
def test_a_step_exchanges_sums_alone(told, name):
    exchanged, layers = told[name].collectives(), LAYERS[name]
    check_step(exchanged, told[name].facts)
    assert len(exchanged) == STEP_REDUCTIONS + NORM_REDUCTIONS * layers


@pytest.mark.process
def test_rows_of_features_come_by_one_sum(told):
    check_rows(told["rows"].collectives(), told["rows"].facts)
    # In an epoch in one program, too, beside what its steps exchange.
    facts = told["epoch"].facts
    of_rows = ("f32", (BATCH, *facts["x_shape"][1:]))
    exchanged = told["epoch"].collectives()
    check_rows([one for one in exchanged if of_rows in one.arrays], facts)
    steps = [one for one in exchanged if of_rows not in one.arrays]
    check_step(steps, facts)
    assert len(steps) == STEP_REDUCTIONS


@pytest.mark.process
def test_logits_alone_are_gathered(told):
    [gathered] = told["logits"].collectives()
    assert (gathered.kind, gathered.arrays) == ("all-gather", (("f32", (BATCH, 3)),))


@pytest.mark.process
@pytest.mark.parametrize("name", ["full", "features", "head_only"])
def test_bytes_are_those_of_the_paper(told, name):
    """4W of gradients, and beside them no more than two vectors of channels for each layer."""
    facts = told[name].facts
    trained = sum(map(math.prod, facts["params"]))
    statistics = sum(map(math.prod, facts["batch_stats"]))
    exchanged = arrays(told[name].collectives())
    nbytes = sum(BYTES[kind] * math.prod(sides) * n for (kind, sides), n in exchanged.items())
    assert nbytes == 4 * trained + 4 * statistics + 8


# Each check fails where what it checks does not hold.


def hlo(*exchanges: str) -> list[Collective]:
    return list(collectives("\n".join(f"  %x = {each}(%y), replica_groups" for each in exchanges)))


FACTS = {"params": [[3, 16], [3]], "batch_stats": [[8], [8]], "x_shape": [40, 16]}
SUMS = ["(f32[3,16]{1,0}, f32[3]{0}, f32[]) all-reduce", "s32[] all-reduce-start"]
SUMS += ["f32[8]{0} all-reduce", "f32[8]{0} all-reduce"]


@pytest.mark.parametrize(
    "exchanges",
    [
        [*SUMS, "f32[16,8,8,3]{3,2,1,0} all-gather"],  # A batch.
        [*SUMS, "f32[16,8,8,8]{3,2,1,0} all-to-all"],
        [*SUMS, "f32[16,8]{1,0} all-reduce"],  # Activations.
        SUMS[:3],  # A layer's statistics that each device takes for itself.
        SUMS[1:],  # Gradients.
    ],
)
def test_another_exchange_shows(exchanges):
    check_step(hlo(*SUMS), FACTS)
    with pytest.raises(AssertionError):
        check_step(hlo(*exchanges), FACTS)


def test_a_second_exchange_for_rows_shows():
    rows = "f32[16,16]{1,0} all-reduce"
    check_rows(hlo(rows), FACTS)
    with pytest.raises(AssertionError):
        check_rows(hlo("s32[16,1]{1,0} all-gather", rows), FACTS)


@pytest.mark.process
def test_a_state_that_is_divided_shows(told):
    one, program = told["full"], told["full"].program("tpu")
    with pytest.raises(AssertionError):
        check_everywhere(program, one.places("state") | one.places("x"))
    with pytest.raises(AssertionError):
        check_divided(program, one.places("x") | one.places("labels"))


@pytest.mark.process
def test_batch_norm_of_a_device_s_part_shows(told):
    """By devices that run a program of their own, or over fewer rows than the batch has."""
    program = told["full"].program("cuda")
    check_whole_batch(program, 3)
    part = [dataclasses.replace(op, rows=(BATCH // DEVICES,)) for op in program.operations]
    with pytest.raises(AssertionError):
        check_whole_batch(with_operations(program, part), 3)
    own = dataclasses.replace(program.operations[0], name="sdy.manual_computation")
    with pytest.raises(AssertionError):
        check_whole_batch(with_operations(program, [*program.operations, own]), 3)


def with_operations(program: Program, operations: list[Operation]) -> Program:
    other = copy.copy(program)
    other.operations = operations
    return other
