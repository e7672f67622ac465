"""Writing an export: run and compared with the run's own predictions before it is in its place."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jtl.common import files
from jtl.common.errors import UserError, suggest
from jtl.data.sources import registry
from jtl.export.formats import FORMATS, ExportedOutputs, timed
from jtl.export.how import AS_USUAL, How
from jtl.predict.predictions import probabilities
from jtl.runs.files import SUMMARY
from jtl.runs.multilabel import chosen

if TYPE_CHECKING:
    from jtl.predict.classifier import Classifier

SAMPLES = 16
"""Images to compare with."""
_BFLOAT16_ROUNDING = 0.1
"""A bfloat16 run rounds each layer to 8 bits, and exports compute in float32 or fuse otherwise."""


@dataclasses.dataclass(frozen=True)
class Exported:
    """An export that has been compared.

    Attributes:
        path: The file or folder.
        to: Its form.
        loading: Lines of Python that load and run it.
        reference: What ran it for the comparison.
        images: What it was compared on, in words.
        logit_difference: The largest, relative to the largest logit.
        probability_difference: The largest.
        same_class: Images with the same likeliest class, or the same classes, of `count`.
        count: Images.
        megabytes: Size of the file or the folder.
        milliseconds: What an image by itself takes in it, and in jtl (`run`); None where that was
            not measured.
        scores: Accuracies on validation images before and after its numbers became coarser.
    """

    path: str
    to: str
    loading: str
    reference: str
    images: str
    logit_difference: float
    probability_difference: float
    same_class: int
    count: int
    megabytes: float
    milliseconds: dict[str, float | None]
    scores: dict[str, float]


def export(
    classifier: Classifier,
    to: str,
    out: Path | None = None,
    *,
    overwrite: bool = False,
    how: How = AS_USUAL,
) -> Exported:
    """Writes a run's best model in another form.

    Args:
        classifier: As `jtl.load` gives it.
        to: One of `FORMATS`.
        out: The file or folder to write; None for one in the run's `exports`.
        overwrite: Whether to replace what is there.
        how: What may be chosen of some forms.

    Raises:
        UserError: A choice has no effect, the form cannot hold the model, a library is missing,
            `out` cannot be written, or what was written does not predict as the run does. Nothing
            is left then.
    """
    out = _place(classifier, to, out, overwrite, how)
    images, told = samples(classifier)
    missing = [p for p in (out.parent, *out.parent.parents) if not p.exists()]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        files.remove_leftovers(out.parent)
        with files.replacing(out) as unfinished:
            answers = FORMATS[to].load(how)(classifier, unfinished, images)
            found = _compared(classifier, answers, images)
    except OSError as error:
        if error.errno is None:
            raise
        raise UserError(
            f"cannot write '{out}': {error.strerror}. Choose a place that you can write to."
        ) from error
    finally:
        for folder in missing:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
    loading = answers.loading.replace("FILE", str(out))
    if classifier.thresholds is not None:
        loading += (
            "\n# Each class has its own probability: 1 / (1 + exp(-logit)). An image has the\n"
            f"# class if that is above its threshold, in {classifier.folder / SUMMARY}."
        )
    own = None
    if answers.milliseconds is not None:
        own = timed(lambda: classifier.predict(images[0]))
    return Exported(
        str(out),
        to,
        loading,
        answers.reference,
        told,
        **found,
        megabytes=_megabytes(out),
        milliseconds={"run": own, "export": answers.milliseconds},
        scores=dict(answers.scores),
    )


def _megabytes(path: Path) -> float:
    parts = [path] if path.is_file() else [part for part in path.rglob("*") if part.is_file()]
    return sum(part.stat().st_size for part in parts) / 1e6


def _place(classifier: Classifier, to: str, out: Path | None, overwrite: bool, how: How) -> Path:
    target = FORMATS.get(to)
    if target is None:
        raise UserError(
            f"there is no export format '{to}'.{suggest(str(to), FORMATS)} The formats are: "
            f"{', '.join(FORMATS)}."
        )
    if not target.choices and how != AS_USUAL:
        given = [
            f"--{n} {v}" for n, v in dataclasses.asdict(how).items() if v != getattr(AS_USUAL, n)
        ]
        able = [name for name, form in FORMATS.items() if form.choices]
        raise UserError(
            f"{' and '.join(given)}: no effect with --to {to}, only with --to {', '.join(able)}. "
            "Leave it out."
        )
    if out is None:
        name = target.name
        if how.precision != "float32":
            name = name.replace(target.suffix, f"-{how.precision}{target.suffix}")
        out = classifier.folder / "exports" / name
        files.refuse_link(out.parent)
    if not out.name.endswith(target.suffix):
        raise UserError(f"--out '{out}' must end in {target.suffix}, as exports to {to} do.")
    if out.exists() and not overwrite:
        raise UserError(
            f"'{out}' already exists. Choose another name with --out, or replace it with "
            "--overwrite."
        )
    if target.suffix and out.is_dir():
        raise UserError(f"'{out}' is a folder. Name the file to write.")
    if not target.suffix and out.exists() and not (out / "saved_model.pb").is_file():
        raise UserError(
            f"'{out}' is not a SavedModel, so jtl does not replace it. Choose another --out."
        )
    return out


def _compared(
    classifier: Classifier, answers: ExportedOutputs, images: list[np.ndarray]
) -> dict[str, Any]:
    """The fields of `Exported` that say how much the export differs.

    Raises:
        UserError: More than rounding explains.
    """
    own = classifier.predict(images).logits
    difference = float(np.abs(answers.logits - own).max() / np.abs(own).max())
    several = classifier.thresholds is not None
    shares = np.abs(
        probabilities(answers.logits, several=several) - probabilities(own, several=several)
    ).max()
    bound = answers.rounding
    if classifier.inputs.device.dtype != "float32":
        bound = max(bound, _BFLOAT16_ROUNDING)
    if not difference <= bound:  # Neither of NaN.
        raise UserError(
            "the exported model does not predict what the run does: run with "
            f"{answers.reference}, its logits differ by {difference:.2g} of the largest, more "
            f"than rounding explains ({bound:.2g}). Nothing was saved. This is a bug in jtl or "
            "in that library; please report it."
        )
    same = np.argmax(answers.logits, -1) == np.argmax(own, -1)
    if several:
        picked = [chosen(logits, classifier.thresholds) for logits in (answers.logits, own)]
        same = (picked[0] == picked[1]).all(-1)
    return {
        "logit_difference": difference,
        "probability_difference": float(shares),
        "same_class": int(same.sum()),
        "count": len(images),
    }


def samples(classifier: Classifier) -> tuple[list[np.ndarray], str]:
    """Images to compare with, uint8 [H, W, 3] each, and what they are.

    They are the run's own, spread over its validation images or those it has; drawn noise
    where they are not there any more.
    """
    config = classifier.config.data
    spec = config.data
    try:
        found = registry.find(spec, registry.SourceOptions.of(config))
        name = next(name for name in ("val", "test", "train") if name in found.splits)
        split = found.splits[name]
        rows = np.unique(np.linspace(0, len(split) - 1, SAMPLES).astype(int))
        images = [split.read(rows[i : i + 1], None)[0] for i in range(len(rows))]
        return images, f"{len(images)} {name} images of {spec}"
    except UserError:
        return _noise(
            classifier
        ), f"{SAMPLES} images of random noise, because {spec} cannot be read"


def _noise(classifier: Classifier) -> list[np.ndarray]:
    """Blotches of several sizes; smooth, as the resizing of images is."""
    random = np.random.default_rng(0)
    size = classifier.inputs.device.size
    shapes = [(size, size), (2 * size, size), (size, size + size // 2), (size // 2, size // 2)]
    images = []
    for index in range(SAMPLES):
        height, width = shapes[index % len(shapes)]
        coarse = random.uniform(0, 255, (8, 8, 3))
        rows = np.linspace(0, 7, height).round().astype(int)
        columns = np.linspace(0, 7, width).round().astype(int)
        images.append(coarse[rows][:, columns].astype(np.uint8))
    return images
