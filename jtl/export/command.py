"""`jtl export RUN --to FORM`: a run's best model for other libraries."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from jtl.common.output import print_json
from jtl.config import walk
from jtl.export.how import InGraph, Precision

if TYPE_CHECKING:
    from jtl.export.writing import Exported

Form = Literal["stablehlo", "timm", "torchvision", "keras", "savedmodel", "onnx", "tflite"]


@dataclasses.dataclass(frozen=True)
class Options:
    """Writes a run's best model for other libraries, and checks that it still predicts the same.

    For example:
      jtl export runs/mine --to stablehlo
      jtl export runs/mine --to onnx --out model.onnx
      jtl export runs/mine --to onnx --precision int8

    The other library runs the exported model on images of the run; the export is saved only if its
    predictions match the run's. docs/export.md lists what each format contains and needs.

    Attributes:
        run: Folder that `jtl train` wrote.
        to: stablehlo (from uint8 images of any size to logits, in one program for CPU, CUDA and
            TPU), savedmodel (the same for TensorFlow), onnx, tflite (LiteRT, for phones), or
            weights for timm, torchvision or keras.
        precision: Of --to onnx and tflite, the numbers that it computes with; tflite has no
            float16. int8 measures the network on training images, and reports the validation
            accuracy before and after.
        preprocessing: Of --to onnx and tflite, what is in the graph: resize (ONNX only; takes uint8
            images of any size, all of a batch of the same one), normalize (takes uint8
            pixels, resized and cropped) or none (takes normalized float32).
        out: File or folder to write. Default: one in exports/ in the run's folder.
        overwrite: Replace an existing file or folder.
        json: Print JSON on stdout instead of text.
    """

    run: Annotated[Path, walk.Metavar("RUN")]
    to: Form = "stablehlo"
    precision: Precision = "float32"
    preprocessing: InGraph = "normalize"
    out: Path | None = None
    overwrite: bool = False
    json: bool = False


def command(options: Options) -> None:
    """Exports, and prints where and how it was compared."""
    from jtl.export.how import How
    from jtl.export.writing import export
    from jtl.predict import classifier as evaluation

    classifier = evaluation.load(options.run)
    how = How(options.precision, options.preprocessing)
    done = export(classifier, options.to, options.out, overwrite=options.overwrite, how=how)
    if options.json:
        print_json(dataclasses.asdict(done))
    else:
        _print(done)


def _print(done: Exported) -> None:
    print(done.path)
    print(
        f"Checked with {done.reference} on {done.images}: same predicted class for "
        f"{done.same_class} of {done.count}; probabilities differ by at most "
        f"{done.probability_difference:.1g}, logits by {done.logit_difference:.1g} of the largest."
    )
    for line in _table(done):
        print(line)
    print("To use it:")
    for line in done.loading.splitlines():
        print(f"  {line}")


def _table(done: Exported) -> list[str]:
    """Size, speed and accuracy of the export, and of the run where they are known."""
    rows = [("", "run", "export"), ("size", "", f"{done.megabytes:.1f} MB")]
    own, other = (done.milliseconds[name] for name in ("run", "export"))
    if own is not None and other is not None:
        rows.append(("one image, on this CPU", f"{own:.1f} ms", f"{other:.1f} ms"))
    if done.scores:
        before, after = (done.scores[f"accuracy_{name}"] for name in ("before", "after"))
        rows.append(("validation accuracy", f"{before:.3f}", f"{after:.3f}"))
    first, *rest = (max(len(row[column]) for row in rows) for column in range(3))
    widths = [first, *rest]
    return [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
