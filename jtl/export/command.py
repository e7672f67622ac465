"""`jtl export RUN --to FORM`: a run's best model for other libraries."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from jtl.common.output import print_json
from jtl.config import walk

if TYPE_CHECKING:
    from jtl.export.writing import Exported

Form = Literal["stablehlo", "timm", "torchvision", "keras", "savedmodel", "onnx"]


@dataclasses.dataclass(frozen=True)
class Options:
    """Writes a run's best model for other libraries, and checks that it still predicts the same.

    For example:
      jtl export runs/mine --to stablehlo
      jtl export runs/mine --to onnx --out model.onnx

    The other library runs the exported model on images of the run; the export is saved only if its
    predictions match the run's. docs/export.md lists what each format contains and needs.

    Attributes:
        run: Folder that `jtl train` wrote.
        to: stablehlo (from uint8 images of any size to logits, in one program for CPU, CUDA and
            TPU), savedmodel (the same for TensorFlow), onnx, or weights for timm, torchvision or
            keras.
        out: File or folder to write. Default: one in exports/ in the run's folder.
        overwrite: Replace an existing file or folder.
        json: Print JSON on stdout instead of text.
    """

    run: Annotated[Path, walk.Metavar("RUN")]
    to: Form = "stablehlo"
    out: Path | None = None
    overwrite: bool = False
    json: bool = False


def command(options: Options) -> None:
    """Exports, and prints where and how it was compared."""
    from jtl.export.writing import export
    from jtl.predict import classifier as evaluation

    classifier = evaluation.load(options.run)
    done = export(classifier, options.to, options.out, overwrite=options.overwrite)
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
    print("To use it:")
    for line in done.loading.splitlines():
        print(f"  {line}")
