"""Where images are resized, and the batches they come in."""

from __future__ import annotations

import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.cache.placement import place_images
from jtl.common.errors import UserError
from jtl.data.decoding import HostTransform
from jtl.data.input_plan import InputPlan, common_size, plan_input
from jtl.data.loader import Features, Images, in_order, prefetch
from jtl.data.preprocessing import Prepare
from jtl.data.sampler import shuffled
from jtl.data.sources.registry import Dataset
from jtl.models import Preprocessing
from support import tiny

PRE = Preprocessing(crop_pct=0.875, interpolation="bilinear", size=224)


@pytest.mark.parametrize(
    ("native", "asked", "size", "on_device"),
    [
        # Small squares are enlarged on the device, four times, within 96 and the weights' size.
        ((8, 8), None, 96, True),
        ((28, 28), None, 112, True),
        ((32, 32), None, 128, True),
        ((64, 64), None, 224, True),
        ((224, 224), None, 224, True),
        ((1, 1), None, 96, True),
        # An asked size stands, and small squares stay whole.
        ((8, 8), 32, 32, True),
        ((8, 8), 300, 300, True),
        ((32, 32), 32, 32, True),
        # Larger, oblong or mixed images are resized and cropped while decoding.
        ((225, 225), None, 224, False),
        ((64, 64), 32, 32, False),
        ((8, 9), None, 224, False),
        ((300, 200), None, 224, False),
        (None, None, 224, False),
        (None, 64, 64, False),
    ],
)
def test_where_images_are_resized(native, asked, size, on_device):
    plan = plan_input(native, asked, PRE, "bfloat16")
    assert plan.device == Prepare(size, PRE, "bfloat16")
    assert plan.host == (None if on_device else HostTransform(size, 0.875, "bilinear"))


def test_weights_for_small_inputs_are_not_exceeded():
    small = Preprocessing(size=64)
    assert plan_input((8, 8), None, small).device.size == 64
    assert plan_input((100, 100), None, small) == InputPlan(
        HostTransform(64, 0.875, "bicubic"), Prepare(64, small)
    )


def test_bytes_per_image():
    on_device = InputPlan(None, Prepare(96, PRE))
    on_host = InputPlan(HostTransform(96, 0.875, "bilinear"), Prepare(96, PRE))
    assert on_device.bytes_per_image((8, 8)) == 8 * 8 * 3
    assert on_host.bytes_per_image((500, 400)) == on_host.bytes_per_image(None) == 96 * 96 * 3


class Sized:
    def __init__(self, size):
        self.size = size

    def native_size(self):
        return self.size


@pytest.mark.parametrize(
    ("train", "val", "test", "common"),
    [
        ((8, 8), (8, 8), (8, 8), (8, 8)),
        ((8, 8), (8, 8), "absent", (8, 8)),
        ((8, 8), (9, 9), "absent", None),
        ((8, 8), None, (8, 8), None),
        ((8, 8), (8, 8), (8, 9), None),
        (None, None, "absent", None),
    ],
)
def test_common_size(train, val, test, common):
    splits: Any = (Sized(train), Sized(val), None if test == "absent" else Sized(test))
    dataset = Dataset("x", ("a", "b"), *splits, (), "0")
    assert common_size(dataset) == common


@pytest.mark.parametrize(
    ("hold", "on_device"), [(True, False), (False, False), (True, True), (False, True)]
)
def test_images_held_and_decoded_are_the_same(hold, on_device):
    split = tiny.array_split(7)
    for host in (None, HostTransform(5, 1.0, "bilinear")):
        indices = np.array([6, 0, 3, 3])
        photos = Images(split, host, hold=hold, on_device=on_device)
        assert photos.on_device == (hold and on_device)
        got = photos.batch(indices)
        assert isinstance(got, jax.Array) == photos.on_device
        assert got.dtype == np.uint8
        np.testing.assert_array_equal(got, split.read(indices, host))


def test_held_images_are_decoded_once():
    class Counting:
        labels = np.zeros(4, np.int32)
        calls: list[int]

        def __len__(self):
            return 4

        def read(self, indices, host):
            self.calls.append(len(indices))
            return np.zeros((len(indices), 8, 8, 3), np.uint8)

    for hold, calls in ((True, [4]), (False, [2, 2])):
        split: Any = Counting()
        split.calls = []
        photos = Images(split, None, hold=hold)
        for _ in range(2):
            photos.batch(np.array([0, 1]))
        assert split.calls == calls


def test_an_epoch_uses_every_example_at_most_once():
    batches = shuffled(103, 10, seed=0, epoch=1)
    assert batches.shape == (10, 10)
    assert batches.dtype == np.int32
    assert len(set(batches.ravel().tolist())) == 100
    assert (batches.min(), batches.max()) >= (0, 99)
    assert batches.max() <= 102
    # Without a remainder: a permutation.
    assert sorted(shuffled(100, 10, 0, 1).ravel().tolist()) == list(range(100))


def test_the_order_depends_on_seed_and_epoch_alone():
    first = shuffled(100, 10, seed=3, epoch=7)
    np.testing.assert_array_equal(first, shuffled(100, 10, seed=3, epoch=7))
    others = [(3, 8), (4, 7), (7, 3), (0, 0)]
    for seed, epoch in others:
        assert not np.array_equal(first, shuffled(100, 10, seed=seed, epoch=epoch))
    # The batch size cuts one and the same order.
    np.testing.assert_array_equal(first.ravel()[:99], shuffled(100, 33, 3, 7).ravel())


class Device:
    """An accelerator with as much memory left."""

    def __init__(self, platform: str, free: int):
        self.platform, self.free = platform, free

    def memory_stats(self):
        return {"bytes_limit": 1000 + self.free, "bytes_in_use": 1000}


@pytest.mark.parametrize(
    ("platform", "free", "once", "on_device"),
    [
        ("gpu", 10**6, False, True),
        ("gpu", 10**6, True, False),
        ("gpu", 10**3, False, False),
        ("cpu", 10**6, False, False),
    ],
)
def test_images_lie_on_accelerators_that_have_room(monkeypatch, platform, free, once, on_device):
    monkeypatch.setattr(jax, "local_devices", lambda: [Device(platform, free)])
    inputs = plan_input((tiny.SIZE, tiny.SIZE), None, PRE)
    photos = place_images(tiny.array_split(9), inputs, once=once)
    assert photos.on_device is on_device


def test_another_epoch_leaves_out_others():
    left_out = {
        frozenset(range(11)) - frozenset(shuffled(11, 5, 0, epoch).ravel().tolist())
        for epoch in range(30)
    }
    assert all(len(rest) == 1 for rest in left_out)
    assert len(left_out) > 5


@pytest.mark.parametrize(
    ("count", "size", "shape"), [(3, 32, (1, 3)), (1, 1, (1, 1)), (32, 32, (1, 32))]
)
def test_batches_larger_than_the_data(count, size, shape):
    batches = shuffled(count, size, 0, 1)
    assert batches.shape == shape
    assert sorted(batches.ravel().tolist()) == list(range(count))


def features(count):
    return Features(jnp.arange(count * 2.0).reshape(count, 2), tiny.labels(count))


@pytest.mark.parametrize(
    "make", [features, lambda n: Images(tiny.array_split(n), None, hold=False)]
)
@pytest.mark.parametrize(("count", "size"), [(7, 3), (6, 3), (2, 5), (1, 1)])
def test_in_order_pads_the_last_batch(make, count, size):
    examples = make(count)
    batches = list(in_order(examples, size))
    assert len(batches) == -(-count // size)
    assert {(len(x), len(y)) for x, y in batches} == {(size, size)}
    assert {y.dtype for _, y in batches} == {np.dtype(np.int32)}
    values = np.concatenate([np.asarray(x) for x, _ in batches])
    labels = np.concatenate([y for _, y in batches])
    np.testing.assert_array_equal(values[:count], examples.batch(np.arange(count)))
    np.testing.assert_array_equal(labels[:count], examples.labels)
    assert (labels[count:] == -1).all()
    last = np.asarray(examples.batch(np.array([count - 1])))
    np.testing.assert_array_equal(values[count:], last.repeat(len(values) - count, axis=0))


@pytest.mark.parametrize(
    "make", [features, lambda n: Images(tiny.array_split(n), None, hold=False)]
)
def test_ahead_keeps_the_order(make):
    examples = make(9)
    batches = [np.array(b) for b in ([8, 1], [0, 0], [5, 4], [3, 2])]
    got = list(prefetch(examples, batches))
    assert len(got) == 4
    for images, indices in zip(got, batches, strict=True):
        np.testing.assert_array_equal(images, examples.batch(indices))
    assert list(prefetch(examples, [])) == []


class Broken:
    """A split whose images fail from the third batch on."""

    labels = np.zeros(8, np.int32)

    def __init__(self):
        self.calls = 0
        self.threads: set[str] = set()

    def __len__(self):
        return 8

    def read(self, indices, host):
        self.calls += 1
        self.threads.add(threading.current_thread().name)
        if self.calls >= 3:
            raise UserError("2 of 2 images of x cannot be read")
        return np.full((len(indices), 8, 8, 3), self.calls, np.uint8)


def test_errors_of_the_decoding_thread_reach_the_caller():
    split: Any = Broken()
    batches = prefetch(Images(split, None, hold=False), [np.arange(2)] * 4)
    assert [int(next(batches)[0, 0, 0, 0]) for _ in range(2)] == [1, 2]
    with pytest.raises(UserError, match=r"^2 of 2 images of x cannot be read$"):
        next(batches)
    # It was another thread that decoded, and its failure ended the work.
    assert threading.current_thread().name not in split.threads
    assert split.calls <= 4
    split = Broken()
    with pytest.raises(UserError, match="cannot be read"):
        list(in_order(Images(split, None, hold=False), 2))


def test_the_next_batch_is_decoded_in_the_meantime():
    started = [threading.Event() for _ in range(3)]

    class Slow:
        labels = np.zeros(3, np.int32)

        def __len__(self):
            return 3

        def read(self, indices, host):
            started[int(indices[0])].set()
            return np.zeros((1, 8, 8, 3), np.uint8)

    slow: Any = Slow()
    batches = prefetch(Images(slow, None, hold=False), [np.array([i]) for i in range(3)])
    next(batches)
    assert started[1].wait(10)
    assert not started[2].is_set()  # One ahead, not all: memory stays bounded.
    next(batches)
    assert started[2].wait(10)


def test_leaving_early_ends_the_thread():
    before = threading.active_count()
    batches = prefetch(Images(tiny.array_split(9), None, hold=False), [np.array([0])] * 5)
    next(batches)
    batches.close()
    assert threading.active_count() == before
