"""The frozen prefix run once, and evaluation over every example."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import optax
import pytest

from jtl.cache.extraction import PREFIX_BATCH, evaluate, extract
from jtl.common.trees import prune, within
from jtl.data.augment import PRESETS, View
from jtl.data.loader import Features, Images
from support import tiny


@pytest.fixture(scope="module")
def direct():
    """Every unit's output for 70 images, without any of jtl's batching."""
    images = tiny.PREPARE(jax.numpy.asarray(tiny.images(70)))
    variables = tiny.variables()
    stops = (*tiny.UNITS[1:], None)
    return {
        stop: np.asarray(
            jax.jit(tiny.MODEL.apply, static_argnames="stop")(variables, images, stop=stop)
        )
        for stop in stops
    }


def features_of(examples: Images, variables, **options) -> np.ndarray:
    return np.concatenate(list(extract(examples, variables, **options)))


def photos(count: int = 70) -> Images:
    return Images(tiny.array_split(70).subset(np.arange(count)), None, hold=False)


@pytest.mark.parametrize("stop", tiny.UNITS[1:])
@pytest.mark.parametrize("count", [70, 64, 5])
def test_features_equal_the_direct_forward(direct, stop, count):
    assert count == 64 or count % PREFIX_BATCH
    kwargs: Any = dict(model=tiny.MODEL, stop=stop, prepare=tiny.PREPARE)
    batches = list(extract(photos(count), tiny.variables(), **kwargs))
    assert max(map(len, batches)) <= PREFIX_BATCH
    features = np.concatenate(batches)
    assert len(features) == count
    np.testing.assert_allclose(features, direct[stop][:count], rtol=0, atol=1e-5)
    rest = features_of(photos(count), tiny.variables(), first=4, **kwargs)
    np.testing.assert_array_equal(rest, features[4:])


def test_a_view_draws_by_the_place_in_the_split_beyond_the_first_batch():
    view = View(PRESETS["light"], seed=3, number=2)
    kwargs: Any = dict(model=tiny.MODEL, stop="stage2/block1", prepare=tiny.PREPARE)
    features = features_of(photos(70), tiny.variables(), view=view, **kwargs)
    whole = view(tiny.images(70), np.arange(70, dtype=np.int32), tiny.PREPARE)
    direct = jax.jit(tiny.MODEL.apply, static_argnames="stop")(
        tiny.variables(), whole, stop="stage2/block1"
    )
    np.testing.assert_allclose(features, direct, rtol=0, atol=1e-5)
    rest = features_of(photos(70), tiny.variables(), first=PREFIX_BATCH, view=view, **kwargs)
    np.testing.assert_array_equal(rest, features[PREFIX_BATCH:])
    # The same images at other places are drawn in other ways.
    other = view(tiny.images(70), np.arange(70, dtype=np.int32) % PREFIX_BATCH, tiny.PREPARE)
    assert np.abs(np.asarray(whole) - np.asarray(other))[PREFIX_BATCH:].max() > 0.1


def test_features_need_only_the_prefix():
    variables = tiny.variables()
    keep = within(["stem", "stage1/block1"])
    prefix = {key: prune(tree, keep) for key, tree in variables.items()}
    kwargs: Any = dict(model=tiny.MODEL, stop="stage2/block1", prepare=tiny.PREPARE)
    np.testing.assert_array_equal(
        features_of(photos(5), prefix, **kwargs),
        features_of(photos(5), variables, **kwargs),
    )


def test_features_do_not_depend_on_their_batch():
    kwargs: Any = dict(model=tiny.MODEL, stop="head", prepare=tiny.PREPARE)
    np.testing.assert_array_equal(
        features_of(photos(5), tiny.variables(), **kwargs),
        features_of(photos(70), tiny.variables(), **kwargs)[:5],
    )


@pytest.mark.parametrize("batch_size", [1, 7, 32, 70, 100])
@pytest.mark.parametrize("start", [None, "stage2/block1", "head"])
def test_sums_are_over_every_example_once(direct, start, batch_size):
    labels = tiny.array_split(70).labels
    examples = photos() if start is None else Features(jax.device_put(direct[start]), labels)
    scores, logits = evaluate(
        examples,
        tiny.variables(),
        model=tiny.MODEL,
        start=start,
        prepare=tiny.PREPARE if start is None else None,
        batch_size=batch_size,
    )
    expected = direct[None]
    assert logits.shape == (70, 3)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)
    assert scores["accuracy"] == np.count_nonzero(expected.argmax(-1) == labels) / 70
    losses = optax.softmax_cross_entropy_with_integer_labels(expected, labels)
    assert scores["loss"] == pytest.approx(float(np.mean(losses)), rel=1e-5)
    assert 0.1 < scores["accuracy"] < 0.9


def test_evaluation_repeats_exactly(direct):
    kwargs: Any = dict(model=tiny.MODEL, start=None, prepare=tiny.PREPARE, batch_size=32)
    first, second = (evaluate(photos(), tiny.variables(), **kwargs) for _ in range(2))
    assert first[0] == second[0]
    np.testing.assert_array_equal(first[1], second[1])
