"""A plot of a training batch (`--show-batch`)."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jtl.common import fonts
from jtl.common.errors import UserError
from jtl.common.files import replace_bytes
from jtl.common.progress import Display
from jtl.common.text import percent, shortened, shortened_apart
from jtl.data.input_plan import InputPlan
from jtl.data.multilabel import DIVIDER
from jtl.data.preprocessing import Prepare
from jtl.data.sampler import batches_of
from jtl.runs import sheets
from jtl.train.setup import Setup

MOST = 32
"""Images on a sheet."""
_LONGEST_NAME = 18


def show_batch(setup: Setup, display: Display) -> None:
    """Writes the sheet that `--show-batch` asks for, if it does.

    Raises:
        UserError: The file cannot be written, or images cannot be read.
    """
    path = setup.config.run.show_batch
    if path is None:
        return
    images, targets = first_batch(setup)
    names = shortened_apart(setup.dataset.class_names, _LONGEST_NAME)
    called = all_named if setup.dataset.multilabel else named
    sheet = sheets.draw(images[:MOST], [called(shares, names) for shares in targets[:MOST]])
    try:
        replace_bytes(path, sheet)
    except OSError as error:
        raise UserError(
            f"cannot write --show-batch '{path}': {error.strerror}. Choose another file."
        ) from error
    display.message(f"Saved the first training batch to '{path}'")
    if (told := fonts.note(setup.dataset.class_names)) is not None:
        display.message(told)


def first_batch(setup: Setup) -> tuple[np.ndarray, np.ndarray]:
    """The run's first batch as the network sees it.

    Returns:
        (float32 [N, size, size, 3], RGB from 0 to 1; shares of the classes [N, num_classes]).
    """
    train, options, inputs = setup.dataset.train, setup.config.train, setup.inputs
    balanced = options.sampler == "balanced"
    indices = batches_of(train.labels, options.batch, options.seed, 1, balanced=balanced)[0]
    images = train.read(indices, inputs.host_for(train.native_size(), training=True))
    key = jax.random.key(options.seed)
    x, targets = _prepared(key, images, train.labels[indices], indices, inputs=inputs)
    if targets.ndim == 1:
        targets = jax.nn.one_hot(targets, len(setup.dataset.class_names))
    return np.asarray(denormalize(x, inputs.device)), np.asarray(targets)


@functools.partial(jax.jit, static_argnames="inputs")
def _prepared(
    key: jax.Array, images: jax.Array, labels: jax.Array, examples: jax.Array, *, inputs: InputPlan
) -> tuple[jax.Array, jax.Array]:
    if inputs.augmentation is None:
        return inputs.device(images), labels
    return inputs.augmentation(key, images, labels, examples, epoch=1, step=0)


def denormalize(x: jax.Array, prepare: Prepare) -> jax.Array:
    """The inverse of `Prepare.normalize`: float32 RGB, clipped to 0..1."""
    x = x.astype(jnp.float32)
    if prepare.preprocessing.channel_order == "bgr":
        x = x[..., ::-1]
    mean, std = (
        jnp.asarray(values, jnp.float32).reshape(1, 1, 1, -1)
        for values in (prepare.preprocessing.mean, prepare.preprocessing.std)
    )
    return jnp.clip(x * std + mean, 0.0, 1.0)


def named(shares: np.ndarray, class_names: Sequence[str]) -> str:
    """The classes of an example, the largest share first: `ant`, or `ant 70 %` and `bee 30 %`."""
    likeliest = [
        index for index in np.argsort(-shares, kind="stable")[:2] if shares[index] >= 0.005
    ]
    names = [class_names[int(index)] for index in likeliest]
    if len(names) == 1:
        return names[0]
    told = [f"{name} {percent(float(shares[i]))}" for name, i in zip(names, likeliest, strict=True)]
    return "\n".join(told)


def all_named(shares: np.ndarray, class_names: Sequence[str]) -> str:
    """All classes of an example that may have several; of mixed examples with their shares."""
    told = [
        class_names[i] if shares[i] > 0.995 else f"{class_names[i]} {percent(float(shares[i]))}"
        for i in np.flatnonzero(shares >= 0.005).tolist()
    ]
    return shortened(DIVIDER.join(told) or "none", 2 * _LONGEST_NAME)
