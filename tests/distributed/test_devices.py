"""Many devices: the same losses and params as on one, with statistics of the whole batch."""

from __future__ import annotations

import json
from typing import Any

import jax
import numpy as np
import pytest

from jtl.common.errors import UserError
from jtl.distributed.sharding import SINGLE, DataSharding, sharding_for
from jtl.runs import console_text
from support import commands, eight_devices
from support.paths import SUPPORT

pytestmark = pytest.mark.slow

SEVERAL = [count for count in eight_devices.COUNTS if count > 1]
KINDS = ("cached", "features", "full", "everything")
ROUNDING = 5e-6
"""Of float32 over a few dozen steps, relative to the largest value of an array."""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Any]:
    folder = tmp_path_factory.mktemp("devices")
    script = SUPPORT / "eight_devices.py"
    done = commands.python(script, folder, JAX_NUM_CPU_DEVICES="8", JTL_CACHE=str(folder / "cache"))
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "told.json").read_text()), np.load(folder / "arrays.npz")


def apart(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.abs(first - second).max() / np.abs(second).max())


@pytest.mark.process
@pytest.mark.parametrize(
    ("kind", "count"), [(kind, n) for kind in KINDS for n in eight_devices.counts(kind) if n > 1]
)
def test_trainings_do_not_depend_on_the_number_of_devices(results, kind, count):
    told, arrays = results
    lines, alone = told["lines"][f"{kind}-{count}"], told["lines"][f"{kind}-1"]
    assert len(lines) == len(alone) > 1
    for line, other in zip(lines, alone, strict=True):
        for key in ("train_loss", "val_loss"):
            assert line[key] == pytest.approx(other[key], rel=ROUNDING)
        for key in ("train_accuracy", "val_accuracy", "cached_prefix", "learning_rate"):
            assert line[key] == other[key]
    paths = [key for key in arrays if key.startswith(f"{kind}-1/")]
    assert paths
    for path in paths:
        there = arrays[path.replace("-1/", f"-{count}/", 1)]
        assert apart(there, arrays[path]) < ROUNDING, path


@pytest.mark.process
def test_the_kinds_take_their_ways(results):
    told, _ = results
    assert told["lines"]["cached-8"][0]["cached_prefix"]
    assert told["lines"]["features-8"][0]["cached_prefix"]
    assert not told["lines"]["full-8"][0]["cached_prefix"]
    # A kind whose training changes nothing would be equal everywhere.
    assert len({told["lines"][f"{kind}-8"][-1]["train_loss"] for kind in KINDS}) == len(KINDS)


@pytest.mark.process
@pytest.mark.parametrize("count", SEVERAL)
def test_steps_agree(results, count):
    told, arrays = results
    np.testing.assert_allclose(
        told["losses"][f"steps-{count}"], told["losses"]["steps-1"], rtol=ROUNDING
    )
    assert apart(arrays[f"steps-{count}"], arrays["steps-1"]) < ROUNDING


@pytest.mark.process
def test_batch_norm_per_device_would_show(results):
    told, arrays = results
    assert apart(arrays["apart"], arrays["steps-1"]) > 100 * ROUNDING
    losses, whole = np.array(told["losses"]["apart"]), np.array(told["losses"]["steps-1"])
    assert np.abs(losses - whole).max() > 100 * ROUNDING * whole.max()


@pytest.mark.process
def test_auto_finds_a_batch_for_all_devices(results):
    """Of 39 images: as many for each device as have room there, and no more than there are."""
    told, _ = results
    assert told["found"] == [[16, 8], [32, 8]]


def devices(*processes: int) -> tuple[Any, ...]:
    return tuple(FakeDevice(number, process) for number, process in enumerate(processes))


class FakeDevice:
    """What a sharding asks of a device, so that shares are told without that many."""

    def __init__(self, number: int, process: int):
        self.id, self.process_index = number, process


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    def make(*processes: int, here: int = 0) -> None:
        monkeypatch.setattr(jax, "devices", lambda: list(devices(*processes)))
        monkeypatch.setattr(jax, "device_count", lambda: len(processes))
        monkeypatch.setattr(jax, "process_index", lambda: here)
        monkeypatch.setattr(jax, "process_count", lambda: len(set(processes)))

    return make


@pytest.mark.parametrize(("batch", "count"), [(32, 8), (12, 6), (7, 7), (5, 5), (13, 1)])
def test_as_many_devices_as_divide_the_batch(machine, batch, count):
    machine(*[0] * 8)
    assert sharding_for(batch).count == count


def test_one_device_needs_no_layout(machine):
    machine(0)
    assert sharding_for(32) is SINGLE
    assert not SINGLE.spans_processes
    assert SINGLE.local_rows(10) == range(10)


def test_processes_must_divide_the_batch(machine):
    machine(0, 0, 1, 1)
    assert sharding_for(8).count == 4
    with pytest.raises(UserError, match="multiple of 4"):
        sharding_for(6)


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 30])
@pytest.mark.parametrize("processes", [(0, 1), (0, 0, 1, 1), (0, 1, 2, 3)])
def test_processes_share_all_rows_once(machine, processes, count):
    rows, parts, batch = [], [], np.arange(8)
    for here in sorted(set(processes)):
        machine(*processes, here=here)
        sharding = DataSharding(devices(*processes))
        assert sharding.spans_processes
        rows += sharding.local_rows(count)
        parts += sharding.local_batch(batch).tolist()
    assert rows == list(range(count))
    assert parts == batch.tolist()


def test_shares_are_those_of_the_parts(machine):
    machine(0, 0, 1, 1, here=1)
    sharding = DataSharding(devices(0, 0, 1, 1))
    # Divided by devices of two rows each, the last one's second row being filled up.
    assert sharding.local_rows(7) == range(4, 7)
    assert sharding.batch_size(32, 1000) == 128
    assert sharding.batch_size(32, 7) == 8


def test_devices_are_told(machine):
    machine(0, 0, 0)
    told = console_text.describe_devices(sharding_for(32))
    assert "2 of 3 devices" in told
    assert "multiple of 3" in told
    assert console_text.describe_devices(sharding_for(33)) == "; 3 devices"
    machine(0, 0, 1, 1)
    assert console_text.describe_devices(sharding_for(32)) == "; 4 devices of 2 processes"
    machine(0)
    assert console_text.describe_devices(SINGLE) == ""
