"""What the compiled step does to uint8 images, held against NumPy and Pillow."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jtl import models
from jtl.data.input_plan import plan_input
from jtl.data.preprocessing import Prepare
from jtl.models import Preprocessing
from weights_convert.source import metadata

RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
METHODS: tuple[Any, ...] = tuple(RESAMPLING)
# Gives back values in 0..255, so that errors read as levels.
LEVELS = functools.partial(Preprocessing, (0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255), 1.0)
EVERY_LEVEL = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
each_method = pytest.mark.parametrize("method", RESAMPLING)


def images(height: int = 8, width: int = 8, count: int = 3) -> np.ndarray:
    # Half of them black and white: the steepest edges, which overshoot most.
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (count, height, width, 3), np.uint8)
    noise[: count // 2 + 1] = np.where(noise[: count // 2 + 1] < 128, 0, 255)
    return noise


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", ["resnet50", "efficientnet_lite0"])
def test_normalization(name, compiled):
    preprocessing = models.get(name).preprocessing
    prepare = Prepare(16, preprocessing)
    got = (jax.jit(prepare) if compiled else prepare)(EVERY_LEVEL)
    exact = (EVERY_LEVEL / 255.0 - np.array(preprocessing.mean)) / np.array(preprocessing.std)
    # Of values up to 1, x / 255 (by a reciprocal) and the difference round by 2^-24 each; dividing
    # by 0.225 enlarges that, and rounds values up to 4 by 2^-23. Measured: 6.8e-7.
    np.testing.assert_allclose(got, exact, rtol=0, atol=4 * 2**-24 / 0.225)


def test_lite_gets_what_it_was_trained_with():
    # The reference implementation feeds (x - 127) / 128 on bytes.
    prepare = Prepare(16, models.get("efficientnet_lite0").preprocessing)
    np.testing.assert_allclose(
        prepare(EVERY_LEVEL), (EVERY_LEVEL.astype(np.float64) - 127) / 128, rtol=0, atol=2e-7
    )


def test_channels_keep_their_order():
    preprocessing = Preprocessing((0.0, 0.5, 1.0), (1.0, 2.0, 4.0), 1.0, "bicubic", 8)
    red = np.zeros((1, 8, 8, 3), np.uint8)
    red[..., 0] = 255
    np.testing.assert_array_equal(Prepare(8, preprocessing)(red)[0, 0, 0], [1.0, -0.25, -0.25])


@each_method
@pytest.mark.parametrize(
    ("shape", "size"), [((8, 8), 32), ((8, 8), 96), ((28, 28), 112), ((8, 6), 17)]
)
def test_enlarging_equals_pillow_on_floats(method, shape, size):
    batch = images(*shape)
    got = np.asarray(Prepare(size, LEVELS(interpolation=method))(batch))
    assert got.shape == (len(batch), size, size, 3)
    for photo, result in zip(batch, got, strict=True):
        for channel in range(3):
            plane = Image.fromarray(photo[..., channel].astype(np.float32))
            expected = np.asarray(plane.resize((size, size), RESAMPLING[method]))
            # Measured: 2e-4 levels at most, float32 rounding of values up to 255.
            np.testing.assert_allclose(
                result[..., channel], np.clip(expected, 0, 255), rtol=0, atol=1e-3
            )


@each_method
def test_enlarging_equals_pillow_on_bytes_up_to_its_rounding(method):
    batch = images()
    got = np.asarray(Prepare(32, LEVELS(interpolation=method))(batch))
    expected = np.stack(
        [np.asarray(Image.fromarray(p).resize((32, 32), RESAMPLING[method])) for p in batch]
    )
    # Pillow rounds to bytes after each of its two passes: half a level at the end, and half a
    # level before, times the sum of the second pass's absolute weights (1 for linear, at most
    # 1.25 for cubic). Where the first pass overshoots it also clips; that may add more.
    difference = np.abs(got - expected)
    bound = 0.5 + 0.5 * {"bilinear": 1.0, "bicubic": 1.25}[method] + 1e-3
    overshoots = _overshoots(batch, 32, method)
    assert overshoots.any() == (method == "bicubic")
    assert difference[~overshoots].max() <= bound
    assert difference.max() > 0.5  # The arms differ: this is not the same code.


def _overshoots(batch: np.ndarray, size: int, method: str) -> np.ndarray:
    """Where Pillow's first pass leaves 0..255 in the image's column of the result."""
    result = np.zeros((len(batch), size, size, 3), bool)
    for index, photo in enumerate(batch):
        for channel in range(3):
            plane = Image.fromarray(photo[..., channel].astype(np.float32))
            rows = np.asarray(plane.resize((size, batch.shape[1]), RESAMPLING[method]))
            columns = ((rows < 0) | (rows > 255)).any(axis=0)
            result[index, :, columns, channel] = True
    return result


def test_overshoot_is_clipped():
    edge = np.zeros((1, 8, 8, 3), np.uint8)
    edge[:, :, 4:] = 255
    got = np.asarray(Prepare(64, LEVELS(interpolation="bicubic"))(edge))
    assert (got.min(), got.max()) == (0.0, np.float32(255) / np.float32(255) / np.float32(1 / 255))
    bare = jax.image.resize(jnp.asarray(edge, jnp.float32), (1, 64, 64, 3), "cubic")
    assert float(bare.min()) < -5
    assert float(bare.max()) > 260


def test_the_methods_differ():
    cubic, linear = (Prepare(32, LEVELS(interpolation=m))(images()) for m in METHODS)
    assert float(jnp.abs(cubic - linear).max()) > 10


def test_images_of_the_input_size_are_not_resized():
    batch = images(32, 32)
    got = Prepare(32, LEVELS(interpolation="bicubic"))(batch)
    np.testing.assert_allclose(got, batch, rtol=0, atol=1e-4)
    assert "dot_general" not in str(jax.make_jaxpr(Prepare(32, Preprocessing()))(batch))
    assert "dot_general" in str(jax.make_jaxpr(Prepare(33, Preprocessing()))(batch))


def test_dtypes():
    half = Prepare(16, Preprocessing(), "bfloat16")(images())
    whole = Prepare(16, Preprocessing())(images())
    assert (half.dtype, whole.dtype) == (jnp.bfloat16, jnp.float32)
    # Computed in float32 and rounded once at the end.
    np.testing.assert_array_equal(half, whole.astype(jnp.bfloat16))


def test_compared_by_value():
    assert Prepare(16, Preprocessing()) == Prepare(16, Preprocessing())
    assert hash(Prepare(16, Preprocessing())) == hash(Prepare(16, Preprocessing()))
    assert Prepare(16, Preprocessing()) != Prepare(16, Preprocessing(interpolation="bilinear"))
    assert Prepare(16, Preprocessing()) != Prepare(16, Preprocessing(), "bfloat16")


# The tags that the registry takes weights from, and one of each other kind: with bilinear
# interpolation, other statistics, another size.
TIMM_TAGS = (
    "resnet50.a1_in1k",
    "resnet50.tv_in1k",
    "densenet121.ra_in1k",
    "tf_efficientnet_lite0.in1k",
    "tf_efficientnet_lite2.in1k",
)


@pytest.mark.peer
@pytest.mark.parametrize("tag", TIMM_TAGS)
def test_evaluation_equals_timms_transform_of_the_tag(tag):
    """The whole way: what timm states of its weights, decoding, the compiled step."""
    import timm
    from timm.data import create_transform, resolve_data_config  # pyright: ignore

    config = timm.get_pretrained_cfg(tag).to_dict()  # pyright: ignore
    of_timm = create_transform(**resolve_data_config({}, pretrained_cfg=config))
    found = metadata.of_config({"pretrained_cfg": config}, "timm").preprocessing
    assert found.keys() >= {"mean", "std", "crop_pct", "interpolation", "size"}
    inputs = plan_input(None, None, Preprocessing(**found))
    assert inputs.host is not None
    for height, width in ((300, 417), (500, 333), (90, 120), (256, 256)):
        rng = np.random.default_rng(height)
        coarse = rng.integers(0, 256, (height // 6, width // 6, 3), np.uint8)
        photo = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        got = np.asarray(jax.jit(inputs.device)(inputs.host(photo)[None]))[0]
        expected = of_timm(photo).numpy().transpose(1, 2, 0)  # pyright: ignore
        # As in `test_normalization`, and timm rounds as well.
        np.testing.assert_allclose(got, expected, rtol=0, atol=8 * 2**-24 / 0.225)
