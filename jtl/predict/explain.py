"""Grad-CAM: where in an image the network found what it says (Selvaraju et al. 2017)."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jtl.common.errors import UserError
from jtl.common.text import percent, shortened
from jtl.common.trees import ParamTree
from jtl.data.preprocessing import Prepare
from jtl.models import ImageClassifier
from jtl.models.building import output_shape
from jtl.predict.inputs import Item
from jtl.predict.predictions import BATCH, Answer, Unreadable, decoded, likeliest
from jtl.runs import plots

if TYPE_CHECKING:
    from jtl.predict.classifier import Classifier


@functools.partial(jax.jit, static_argnames=("model", "prepare"))
def grad_cam(
    variables: ParamTree, images: jax.Array, *, model: ImageClassifier, prepare: Prepare
) -> tuple[jax.Array, jax.Array]:
    """Maps of what spoke for the likeliest class.

    The channels of the backbone's last feature map, each weighted by the mean gradient of the
    class's logit with respect to it, summed, and negative values set to zero
    (arXiv 1610.02391, equations 1 and 2). The map is the last of more than one pixel; of a
    transformer it is what its last block takes, without the tokens that are no patch, because
    the class token alone leaves that block for the classifier.

    Args:
        variables: {"params", "batch_stats"}.
        images: uint8 [N, H, W, 3].
        model: The classifier.
        prepare: From images to the backbone's input.

    Returns:
        (maps float32 [N, h, w], each from 0 to 1, all zeros where nothing spoke for the class;
        logits float32 [N, num_classes]).
    """
    prepared = prepare(images)
    place = _explained(model, variables, prepared)
    features: Any = model.apply(variables, prepared, stop=place)

    def chosen(features: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits: Any = model.apply(variables, features, start=place)
        return logits.max(-1).sum(), logits

    gradients, logits = jax.grad(chosen, has_aux=True)(features)
    if (others := getattr(model.backbone, "prefix_tokens", None)) is not None:
        features, gradients = (_patches(array, others) for array in (features, gradients))
    weights = gradients.astype(jnp.float32).mean((1, 2), keepdims=True)
    maps = jax.nn.relu((weights * features.astype(jnp.float32)).sum(-1))
    highest = maps.max((1, 2), keepdims=True)
    return maps / jnp.where(highest > 0, highest, 1.0), logits


def _explained(model: ImageClassifier, variables: ParamTree, images: jax.Array) -> str:
    """The unit whose input is explained."""
    chain = [unit.path for unit in model.units()]
    last = len(model.backbone.units())
    if hasattr(model.backbone, "prefix_tokens"):
        return [unit.path for unit in model.backbone.units() if unit.stage][-1]
    # What follows the last map, such as dense layers, may give a single pixel.
    shown = jax.ShapeDtypeStruct(images.shape, images.dtype)
    for place in reversed(chain[1 : last + 1]):
        shape = output_shape(model, variables, shown, place).shape
        if shape[1] * shape[2] > 1:
            return place
    return chain[last]


def _patches(tokens: jax.Array, others: int) -> jax.Array:
    """The tokens of a square image's patches [N, L, 1, C] as a map [N, h, w, C]."""
    tokens = tokens[:, others:]
    side = math.isqrt(tokens.shape[1])
    return tokens.reshape(len(tokens), side, -1, tokens.shape[-1])


def write_explanations(
    classifier: Classifier,
    items: Sequence[Item],
    folder: Path,
    advance: Callable[[int], Any] = lambda n: None,
) -> list[Path]:
    """Writes a PNG for every image: as the network sees it, and with its Grad-CAM map over it.

    Args:
        classifier: As `jtl.load` gives it.
        items: The images; those that cannot be read are left out.
        folder: Where the files go, named and numbered like the images; made if it is missing.
        advance: Told how many more images are done.

    Returns:
        The files, in the order of the images.

    Raises:
        UserError: The folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        written = []
        for start in range(0, len(items), BATCH):
            batch = items[start : start + BATCH]
            for row, image in enumerate(decoded(batch, classifier.inputs)):
                if not isinstance(image, Unreadable):
                    path = folder / _file_name(start + row + 1, batch[row].name)
                    _write(classifier, batch[row].name, image, path)
                    written.append(path)
                advance(1)
        return written
    except OSError as error:
        raise UserError(
            f"cannot write to --explain '{folder}': {error.strerror}. Choose another folder."
        ) from error


def draw(path: str | Path, *, image: Any, heat: Any, title: str) -> None:
    """An image, and the same under a map of what mattered; a PNG.

    Args:
        path: The file.
        image: RGB from 0 to 1, [H, W, 3].
        heat: From 0 to 1, [h, w].
        title: Above both.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.7), layout="constrained")
    height, width = image.shape[:2]
    told = ("as the network sees it", "regions that led to this prediction")
    for axes, what in zip(views := figure.subplots(1, 2), told, strict=True):
        axes.imshow(image, interpolation="nearest")
        axes.axis("off")
        axes.set_title(what, fontsize=9)
    # Bilinear, so that squares of the map do not pass for parts of the image. The colours are even
    # to the eye, also to one that confuses red and green.
    area = (-0.5, width - 0.5, height - 0.5, -0.5)
    style = dict(cmap="viridis", vmin=0, vmax=1, alpha=0.5)
    shown = views[1].imshow(heat, extent=area, interpolation="bilinear", **style)
    bar = figure.colorbar(shown, ax=views[1], fraction=0.05, ticks=[0, 0.5, 1])
    bar.ax.set_yticklabels(["none", "half", "most"])
    bar.set_label("support", fontsize=9)
    plots.save(figure, path, title)


def _write(classifier: Classifier, name: str, image: np.ndarray, path: Path) -> None:
    device = classifier.inputs.device
    maps, logits = grad_cam(
        classifier.variables, image[None], model=classifier.model, prepare=device
    )
    seen = np.asarray(device.resize(jnp.asarray(image[None]))[0]) / 255.0
    how = classifier.temperature, classifier.thresholds
    said = likeliest(Answer(name, np.asarray(logits[0])), classifier.class_names, 1, *how)
    title = f"{shortened(name, 70)}\n{shortened(said.label, 50)} ({percent(said.probability)})"
    draw(path, image=seen, heat=np.asarray(maps[0]), title=title)


def _file_name(number: int, name: str) -> str:
    stem = re.sub(r"[^\w.-]+", "_", Path(name).stem)[:60]
    return f"{number:04d}-{stem}.png"
