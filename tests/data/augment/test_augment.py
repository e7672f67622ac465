"""Augmentation: each operation against Pillow and torchvision, draws against theirs, keys."""

from __future__ import annotations

import functools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax import export
from PIL import Image
from scipy import stats
from torchvision import transforms
from torchvision.transforms import InterpolationMode, functional
from torchvision.transforms.autoaugment import _apply_op

from jtl.common.errors import UserError
from jtl.common.platforms import everywhere
from jtl.data.augment import PRESETS, Augment, Augmentation, colour, geometric, mixing, policy
from jtl.data.augment.keys import Stream, example_keys, stream_keys
from jtl.data.augment.mapping import each
from jtl.data.preprocessing import Prepare
from jtl.models import Preprocessing
from support import tiny

pytestmark = pytest.mark.slow

KEY = jax.random.key(3)
# float32 rounding of sums of a few products of levels up to 255.
LEVELS = 1e-3
DRAWS = 20_000
# By chance a right sampler fails one test in a million; keys are fixed, so it is not by chance.
SIGNIFICANT = 1e-6


def alike(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Whether two samples may be of one distribution, by Kolmogorov and Smirnov."""
    result: Any = stats.ks_2samp(ours, theirs)
    return result.pvalue > SIGNIFICANT


def smooth_image(height: int = 40, width: int = 48, seed: int = 0) -> np.ndarray:
    """uint8 noise that neighbours share, as in photographs; every channel has its own range."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (8, 8, 3), np.uint8)
    fine = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    low, high = np.array([0, 20, 90]), np.array([255, 230, 180])
    return (low + fine / 255.0 * (high - low)).astype(np.uint8)


def float_image(photo: np.ndarray) -> jax.Array:
    return jnp.asarray(photo, jnp.float32)


def as_torch(photo: np.ndarray, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """[C, H, W]; floats in torch's range, 0 to 1."""
    tensor = torch.from_numpy(photo.transpose(2, 0, 1).copy())
    return tensor if dtype == torch.uint8 else tensor.to(dtype) / 255


def from_torch(tensor: torch.Tensor) -> np.ndarray:
    levels = tensor.numpy().transpose(1, 2, 0)
    return levels.astype(np.float32) if levels.dtype == np.uint8 else levels * 255


def keys(count: int) -> jax.Array:
    return jax.random.split(KEY, count)


# Crops


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
@pytest.mark.parametrize("flips", [(False, False), (False, True), (True, True)])
@pytest.mark.parametrize("size", [24, 90])
def test_crop_equals_pillows_resize_of_a_box(method, flips, size):
    photos = np.stack([smooth_image(seed=seed) for seed in range(4)])
    tops, lefts = [0.0, 3.25, 11.5, 20.0], [0.0, 7.75, 20.0, 16.125]
    heights, widths = [40.0, 20.5, 28.5, 9.0], [48.0, 25.0, 14.5, 31.875]
    boxes = geometric.Box(*map(jnp.asarray, (tops, lefts, heights, widths)))
    got = geometric.crop(
        jnp.asarray(photos), boxes, jnp.tile(jnp.asarray(flips), (4, 1)), size, method
    )
    resampling = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    assert (got.dtype, got.shape) == (jnp.float32, (4, size, size, 3))
    for index, (top, left, height, width) in enumerate(
        zip(tops, lefts, heights, widths, strict=True)
    ):
        box = (left, top, left + width, top + height)
        for channel in range(3):
            plane = Image.fromarray(photos[index, ..., channel].astype(np.float32))
            expected = np.asarray(plane.resize((size, size), resampling[method], box))
            expected = expected[:: -1 if flips[0] else 1, :: -1 if flips[1] else 1]
            np.testing.assert_allclose(
                got[index, ..., channel], np.clip(expected, 0, 255), rtol=0, atol=LEVELS
            )


def test_a_crop_of_everything_is_evaluations_resize():
    photos = tiny.images(3)
    whole = geometric.Box(*(jnp.full(3, value) for value in (0.0, 0.0, 8.0, 8.0)))
    for method in ("bilinear", "bicubic", "nearest"):
        prepare = Prepare(32, Preprocessing(), method=method)
        got = geometric.crop(jnp.asarray(photos), whole, jnp.zeros((3, 2), bool), 32, method)
        np.testing.assert_allclose(got, prepare.resize(photos), rtol=0, atol=LEVELS)


@pytest.mark.peer
@pytest.mark.parametrize(("height", "width"), [(256, 256), (150, 400)])
def test_crops_are_distributed_as_torchvisions(height, width):
    boxes = jax.vmap(lambda key: geometric.crop_box(key, 0.35, height, width))(keys(DRAWS))
    top, left, box_height, box_width = (np.asarray(edge, np.float64) for edge in boxes)
    torch.manual_seed(0)
    blank = torch.empty(3, height, width)
    peer = np.array(
        [
            transforms.RandomResizedCrop.get_params(blank, [0.35, 1.0], [3 / 4, 4 / 3])
            for _ in range(DRAWS // 8)
        ],
        np.float64,
    )
    middle = (
        peer[:, 2:] == [round(min(height, width / 0.75)), round(min(width, height * 4 / 3))]
    ).all(1)
    # torchvision rounds to whole pixels, which a test that ranks numbers must not see.
    rng = np.random.default_rng(0)
    peer[:, 2:] += rng.uniform(-0.5, 0.5, peer[:, 2:].shape)
    fallback = np.isclose(box_height, min(height, width / 0.75)) & np.isclose(
        box_width, min(width, height * 4 / 3)
    )
    assert fallback.mean() < 0.01 if height == width else 0.1 < fallback.mean() < 0.9
    assert top.min() >= 0
    assert left.min() >= 0
    assert (top + box_height).max() <= height * (1 + 1e-6)
    assert (left + box_width).max() <= width * (1 + 1e-6)
    if height != width:  # The rounded fallback is one number, which is no distribution.
        assert abs(fallback.mean() - middle.mean()) < 5 * math.sqrt(0.25 / len(peer))
        return
    for ours, theirs in (
        (box_height * box_width, peer[:, 2] * peer[:, 3]),
        (np.log(box_width / box_height), np.log(peer[:, 3] / peer[:, 2])),
        (top / (height - box_height), peer[:, 0] / np.maximum(height - peer[:, 2], 1)),
    ):
        assert alike(ours, np.clip(theirs, ours.min(), ours.max()))


def test_flips():
    drawn = {
        flip: np.asarray(geometric.draw_flips(keys(4000), flip))
        for flip in ("none", "horizontal", "both")
    }
    assert not drawn["none"].any()
    assert not drawn["horizontal"][:, 0].any()
    for column in (drawn["horizontal"][:, 1], *drawn["both"].T):
        assert abs(column.mean() - 0.5) < 5 * math.sqrt(0.25 / 4000)
    x = float_image(smooth_image())[None]
    np.testing.assert_array_equal(
        geometric.flip_each(x, jnp.asarray([[True, False]]))[0], x[0, ::-1]
    )
    np.testing.assert_array_equal(
        geometric.flip_each(x, jnp.asarray([[False, True]]))[0], x[0, :, ::-1]
    )


# Operations


SIZE = 224  # At which translations are torchvision's.
STRENGTHS = (0, 1, 13, 30)


@functools.partial(jax.jit, static_argnames="name")
def operate(image, strength, sign, *, name):
    operation = jnp.int32(policy.OPERATIONS.index(name))
    return policy.apply_operation(image, operation, strength, sign)


def torchvisions_space() -> dict[str, tuple[torch.Tensor, bool]]:
    return transforms.TrivialAugmentWide()._augmentation_space(policy.BINS)


def torch_name(name: str) -> str:
    special = {"autocontrast": "AutoContrast"}
    return special.get(name, "".join(word.capitalize() for word in name.split("_")))


@pytest.mark.peer
def test_the_operations_are_torchvisions():
    assert list(torchvisions_space()) == [torch_name(name) for name in policy.OPERATIONS]


@pytest.mark.peer
@pytest.mark.parametrize("name", policy.OPERATIONS)
def test_operation_equals_torchvision(name):
    photo = smooth_image(SIZE, SIZE)
    magnitudes, signed = torchvisions_space()[torch_name(name)]
    # What works on levels takes bytes there; the others would round them, and take floats.
    on_levels = name in ("posterize", "solarize", "equalize")
    tensor = as_torch(photo, torch.uint8 if on_levels else torch.float32)
    changed = 0.0
    for strength in STRENGTHS if magnitudes.ndim else (7,):
        for sign in (1, -1) if signed else (1,):
            magnitude = sign * float(magnitudes[strength]) if magnitudes.ndim else 0.0
            expected = from_torch(
                _apply_op(tensor, torch_name(name), magnitude, InterpolationMode.BILINEAR, None)
            )
            got = np.asarray(operate(float_image(photo), strength, sign, name=name))
            assert got.dtype == np.float32
            # Places of up to 224 are rounded by 2^-17 in either library, and by more in
            # torchvision's grid from -1 to 1; a step between pixels of 255 multiplies that.
            warps = name.startswith(("shear", "translate", "rotate"))
            atol = 0.05 if warps else LEVELS
            np.testing.assert_allclose(got, expected, rtol=0, atol=0.0 if on_levels else atol)
            changed = max(changed, np.abs(got - photo).max())
    assert (changed > 1) == (name != "identity")


def test_translation_is_a_share_of_small_images():
    photo = smooth_image(32, 32)
    got = np.asarray(operate(float_image(photo), 30, 1, name="translate_x"))
    np.testing.assert_array_equal(got[:, 4:], photo[:, :-4])
    assert not got[:, :4].any()


@pytest.mark.parametrize("photo", [np.full((9, 7, 3), 200), np.full((2, 2, 3), 7)], ids=np.shape)
@pytest.mark.parametrize("name", ["autocontrast", "equalize", "contrast", "sharpness"])
def test_flat_images_stay(photo, name):
    np.testing.assert_allclose(
        operate(float_image(photo), 20, 1, name=name),
        photo,
        rtol=2e-4,  # The weights of brightness sum to 0.9999.
    )


@pytest.mark.peer
def test_equalize_of_few_levels_and_rounding():
    photo = np.random.default_rng(0).integers(0, 3, (50, 50, 3), np.uint8) * 40
    expected = from_torch(functional.equalize(as_torch(photo, torch.uint8)))
    nearly = float_image(photo) + 0.3  # Levels between two count as the nearest.
    np.testing.assert_array_equal(colour.equalize(nearly), expected)


def test_operations_are_drawn_evenly():
    operation, strength, sign = map(np.asarray, jax.vmap(policy.draw_operation)(keys(DRAWS)))
    for drawn, values in ((operation, len(policy.OPERATIONS)), (strength, policy.BINS)):
        counts = np.bincount(drawn, minlength=values)
        assert len(counts) == values
        assert stats.chisquare(counts).pvalue > SIGNIFICANT
    assert set(sign.tolist()) == {-1, 1}
    assert abs(sign.mean()) < 5 / math.sqrt(DRAWS)
    # What one draw is says nothing of the others.
    assert abs(np.corrcoef(operation, strength)[0, 1]) < 5 / math.sqrt(DRAWS)


def test_going_from_image_to_image_equals_computing_all_branches():
    photos = jnp.stack([float_image(smooth_image(32, 32, seed)) for seed in range(28)])
    draws = jnp.arange(28) % 14, jnp.full(28, 21), jnp.where(jnp.arange(28) < 14, 1, -1)
    one_by_one = jax.jit(functools.partial(each, policy.apply_operation))
    all_at_once = jax.jit(jax.vmap(policy.apply_operation))
    texts = [f.lower(photos, *draws).as_text() for f in (one_by_one, all_at_once)]
    assert ["stablehlo.while" in text for text in texts] == [True, False]
    np.testing.assert_allclose(
        one_by_one(photos, *draws), all_at_once(photos, *draws), rtol=0, atol=LEVELS
    )


# Colour jitter


PEERS = (
    functional.adjust_brightness,
    functional.adjust_contrast,
    functional.adjust_saturation,
    functional.adjust_hue,
)


@pytest.mark.peer
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2), (2, 3, 1, 0)])
@pytest.mark.parametrize("amounts", [(1.3, 0.7, 1.4, 0.1), (0.6, 1.5, 0.0, -0.4)])
def test_colour_jitter_equals_torchvision(order, amounts):
    photo = smooth_image()
    tensor = as_torch(photo)
    for index in order:
        tensor = PEERS[index](tensor, amounts[index])
    got = policy.apply_jitter(float_image(photo), jnp.asarray(amounts), jnp.asarray(order))
    np.testing.assert_allclose(got, from_torch(tensor), rtol=0, atol=2 * LEVELS)


@pytest.mark.peer
def test_hue_of_every_corner_of_the_cube():
    levels = np.array([0, 51, 128, 255], np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(8, 8, 3)
    for turn in (-0.5, -0.21, 0.0, 1 / 3, 0.5):
        expected = from_torch(functional.adjust_hue(as_torch(cube), turn))
        np.testing.assert_allclose(
            colour.hue(float_image(cube), jnp.float32(turn)), expected, rtol=0, atol=LEVELS
        )


def test_colour_jitter_is_drawn_as_told():
    strengths = (0.4, 0.2, 0.0, 0.1)
    amounts, order = jax.vmap(lambda key: policy.draw_jitter(key, strengths))(keys(DRAWS))
    amounts, order = np.asarray(amounts, np.float64), np.asarray(order)
    for column, strength, middle in zip(amounts.T, strengths, (1, 1, 1, 0), strict=True):
        if not strength:
            assert (column == middle).all()
            continue
        even = stats.uniform(middle - strength, 2 * strength)
        assert stats.kstest(column, even.cdf).pvalue > SIGNIFICANT
    orders, counts = np.unique(order, axis=0, return_counts=True)
    assert len(orders) == 24
    assert stats.chisquare(counts).pvalue > SIGNIFICANT


# Erasing and mixing


@pytest.mark.peer
def test_erasing_is_distributed_as_torchvisions():
    boxes = jax.vmap(lambda key: mixing.erased(key, 0.5, 224, 224))(keys(DRAWS))
    top, bottom, left, right = (np.asarray(edge) for edge in boxes)
    happened = bottom > top
    assert abs(happened.mean() - 0.5) < 5 * math.sqrt(0.25 / DRAWS)
    assert ((right > left) == happened).all()
    assert (top.min(), left.min()) == (0, 0)
    assert bottom.max() <= 224
    assert right.max() <= 224
    height, width = (bottom - top)[happened], (right - left)[happened]
    torch.manual_seed(0)
    blank = torch.empty(3, 224, 224)
    peer = np.array(
        [
            transforms.RandomErasing.get_params(blank, (0.02, 1 / 3), (0.3, 3.3), [0.0])[:4]
            for _ in range(DRAWS // 8)
        ]
    )
    for ours, theirs in (
        (height * width, peer[:, 2] * peer[:, 3]),
        (height / width, peer[:, 2] / peer[:, 3]),
        (top[happened], peer[:, 0]),
        (left[happened], peer[:, 1]),
    ):
        assert alike(ours, theirs)


def test_erasing_fills_the_rectangle_and_nothing_else():
    x = jnp.stack([float_image(smooth_image(16, 16, seed)) for seed in range(2)])
    boxes = mixing.Rectangle(*(jnp.asarray(e) for e in ([2, 0], [5, 0], [3, 0], [16, 0])))
    fill = jnp.asarray([1.5, 2.5, 3.5])
    expected = np.array(x)
    expected[0, 2:5, 3:16] = fill
    np.testing.assert_array_equal(mixing.erase(x, boxes, fill), expected)


@functools.partial(
    jax.jit,
    static_argnames=("mixup", "cutmix", "count", "size"),
)
def draw_mix(key, mixup, cutmix, count, size):
    return mixing.draw_mix(key, mixup, cutmix, count, size, size)


@pytest.mark.parametrize("alphas", [(0.2, 0.0), (0.0, 1.0), (0.4, 0.7)])
def test_labels_weigh_what_the_pixels_show(alphas):
    count, size, classes = 64, 12, 64
    # Every example is of one level and of its own class.
    images = jnp.broadcast_to(
        jnp.arange(count, dtype=jnp.float32).reshape(-1, 1, 1, 1), (count, size, size, 3)
    )
    mix = draw_mix(KEY, *alphas, count, size)
    mixed = np.asarray(mixing.mix_images(images, mix))
    targets = np.asarray(mixing.mix_labels(jnp.arange(count), mix, classes))
    np.testing.assert_allclose(targets.sum(1), 1.0, atol=1e-6)
    partner = (np.arange(count) + int(mix.shift)) % count
    assert (partner != np.arange(count)).all()
    # The mean level tells the shares, however they are mixed.
    own, other = targets[np.arange(count), np.arange(count)], targets[np.arange(count), partner]
    np.testing.assert_allclose(
        mixed.mean((1, 2, 3)), own * np.arange(count) + other * partner, rtol=0, atol=LEVELS
    )
    pastes = np.asarray(mix.pastes)
    assert pastes.any() == (alphas[1] > 0)
    assert pastes.all() == (alphas[0] == 0)
    pure = np.asarray(np.isin(mixed, np.arange(count)).all((1, 2, 3)))
    assert pure[pastes].all()
    assert (np.ptp(mixed, (1, 2, 3))[~pastes] == 0).all()  # mixup mixes all pixels alike


def test_shares_are_drawn_from_beta():
    mix = draw_mix(KEY, 0.3, 0.0, DRAWS, 1)
    assert stats.kstest(np.asarray(mix.kept), stats.beta(0.3, 0.3).cdf).pvalue > SIGNIFICANT
    # Of rectangles that lie within the image the area is the share that was drawn.
    rows, columns = jax.random.uniform(KEY, (2, 2000))
    boxes = mixing.pasted_boxes(jnp.full(2000, 0.25), rows, columns, 200, 200)
    within = (boxes.top > 0) & (boxes.bottom < 200) & (boxes.left > 0) & (boxes.right < 200)
    whole = np.asarray(within)
    area = np.asarray((boxes.bottom - boxes.top) * (boxes.right - boxes.left))
    assert (area[whole] == 100 * 100).all()
    assert whole.sum() > 300


def test_a_batch_of_one_is_mixed_with_itself():
    x = float_image(smooth_image(8, 8))[None]
    mix = draw_mix(KEY, 0.2, 1.0, 1, 8)
    np.testing.assert_allclose(mixing.mix_images(x, mix), x, rtol=0, atol=LEVELS)
    np.testing.assert_array_equal(mixing.mix_labels(jnp.asarray([1]), mix, 3), [[0, 1, 0]])


# The whole


EVERYTHING = Augment(0.35, "both", (0.4, 0.4, 0.4, 0.1), "trivial", 0.5, 0.2, 1.0)
COUNT = 12


def augmentation(options: Augment = EVERYTHING, size: int = 24) -> Augmentation:
    return Augmentation(options, Prepare(size, Preprocessing()), len(tiny.CLASSES))


def photos(size: int = 30) -> np.ndarray:
    return np.stack([smooth_image(size, size, seed) for seed in range(COUNT)])


@functools.partial(jax.jit, static_argnames="augment")
def batch(augment, images, labels, step):
    return augment(KEY, images, labels, jnp.arange(len(labels)), 1, step)


@functools.partial(jax.jit, static_argnames="augment")
def views(augment, key, images, examples, epoch):
    return augment.views(key, images, examples, epoch)


def test_views_depend_on_seed_epoch_and_example_alone():
    images, examples = photos(), np.arange(100, 100 + COUNT)
    got = np.asarray(views(augmentation(), KEY, images, examples, 1))
    assert got.dtype == np.float32
    assert got.shape == (COUNT, 24, 24, 3)
    assert got.min() >= 0
    assert got.max() <= 255
    np.testing.assert_array_equal(views(augmentation(), KEY, images, examples, 1), got)
    order = np.random.default_rng(0).permutation(COUNT)
    for some in (order, order[:5]):
        np.testing.assert_allclose(
            views(augmentation(), KEY, images[some], examples[some], 1),
            got[some],
            rtol=0,
            atol=LEVELS,  # Products of other shapes may be summed in another order.
        )
    for other in (
        views(augmentation(), jax.random.key(4), images, examples, 1),
        views(augmentation(), KEY, images, examples, 2),
        views(augmentation(), KEY, images, examples + 1, 1),
    ):
        assert (np.abs(np.asarray(other) - got).max((1, 2, 3)) > 5).mean() > 0.9


def test_an_option_leaves_the_other_draws_alone():
    images, examples = photos(), np.arange(COUNT)
    plain = views(augmentation(Augment(0.35)), KEY, images, examples, 1)
    both = views(augmentation(Augment(0.35, erasing=1.0)), KEY, images, examples, 1)
    same = np.asarray(plain == both).all(-1).mean((1, 2))
    assert ((same > 0.5) & (same < 1)).all()
    of_streams = [stream_keys(example_keys(KEY, 1, jnp.arange(3)), s) for s in Stream]
    assert len(np.unique(jax.random.key_data(jnp.concatenate(of_streams)), axis=0)) == 15


def test_without_options_it_is_evaluation():
    images, labels = map(jnp.asarray, (tiny.images(COUNT), tiny.labels(COUNT)))
    augment = augmentation(Augment(), tiny.SIZE)
    x, targets = augment(KEY, images, labels, jnp.arange(COUNT), 1, 0)
    np.testing.assert_array_equal(x, augment.prepare(images))
    np.testing.assert_array_equal(targets, labels)
    assert not Augment().random


def test_normalized_batches_and_soft_labels():
    images, labels = photos(), tiny.labels(COUNT)
    augment = Augmentation(EVERYTHING, Prepare(24, Preprocessing(), "bfloat16"), 3)
    x, targets = batch(augment, images, labels, 0)
    assert (x.dtype, x.shape) == (jnp.bfloat16, (COUNT, 24, 24, 3))
    assert (targets.dtype, targets.shape) == (jnp.float32, (COUNT, 3))
    np.testing.assert_allclose(targets.sum(1), 1, atol=1e-6)
    again, other = (batch(augment, images, labels, step) for step in (0, 1))
    np.testing.assert_array_equal(again[0], x)
    assert (np.asarray(other[1]) != np.asarray(targets)).any()


def test_erased_pixels_are_zero_to_the_network():
    augment = augmentation(Augment(erasing=1.0), 30)
    x, _ = batch(augment, photos(), tiny.labels(COUNT), 0)
    share = np.asarray(jnp.abs(x).max(-1) < 1e-6).mean((1, 2))
    assert ((share > 0.01) & (share < 0.4)).all()


def test_hashed_and_compared_by_value():
    assert augmentation() == augmentation()
    assert hash(augmentation()) == hash(augmentation())
    assert augmentation() != augmentation(PRESETS["light"])


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_accelerators_run_all_of_it_by_themselves(platform):
    augment = augmentation(EVERYTHING, 32)
    arguments = (photos(40), tiny.labels(COUNT), np.arange(COUNT), 1, 0)
    with everywhere():
        exporting = export.export(jax.jit(lambda *a: augment(KEY, *a)), platforms=[platform])
        exported = exporting(*arguments)
    text = exported.mlir_module()
    assert not re.findall(r"callback|infeed|outfeed", text)
    assert not re.findall(r"x?f64\b", text)
    targets = set(re.findall(r"custom_call @(\w+)", text))
    assert targets <= {"cu_threefry2x32_ffi", "cu_threefry2x32"}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (dict(crop_scale=0.0), r"^--crop-scale must be above 0 and up to 1, not 0\.0\.$"),
        (dict(crop_scale=float("nan")), r"^--crop-scale must be above 0 and up to 1, not nan"),
        (dict(flip="vertical"), r"^--flip must be none, horizontal or both, not vertical\.$"),
        (dict(policy="rand"), r"^--policy must be none or trivial, not rand\.$"),
        (dict(color_jitter=(0.4,)), r"^--color-jitter takes one strength.*or four.*not 1\.$"),
        (dict(color_jitter=(2.0, 0, 0, 0)), r"^--color-jitter must be from 0 to 1, not 2\.0\.$"),
        (dict(color_jitter=(0, 0, 0, 0.6)), r"^--color-jitter, the fourth value \(hue\), must"),
        (dict(erasing=1.1), r"^--erasing must be from 0 to 1, not 1\.1\.$"),
        (dict(mixup=-0.1), r"^--mixup must be 0 or larger, not -0\.1\.$"),
        (dict(cutmix=float("inf")), r"^--cutmix must be 0 or larger, not inf\.$"),
    ],
)
def test_impossible_values_name_their_flag(bad, message):
    with pytest.raises(UserError, match=message):
        Augment(**bad)
