"""`python -m jtl.export RUN --to FORM`: a run's best model for other libraries."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from jtl.common.output import print_json
from jtl.config import walk

if TYPE_CHECKING:
    from jtl.export.checked import Exported

Form = Literal["stablehlo", "timm", "torchvision", "keras", "savedmodel", "onnx"]


@dataclasses.dataclass(frozen=True)
class Options:
    """Writes the best model of a run for other libraries, runs what it wrote, and compares.

    For example:
      python -m jtl.export runs/mine --to stablehlo
      python -m jtl.export runs/mine --to onnx --out model.onnx

    An export is run by its library on images of the run, and is put in its place only if it
    predicts as the run does. docs/export.md tells what each form takes and needs.

    Attributes:
        run: Folder that `python -m jtl.train` wrote.
        to: stablehlo (uint8 images of any size to logits, in one program for CPU, CUDA and
            TPU), savedmodel (the same for TensorFlow), onnx, or weights under the names of timm,
            torchvision or keras.
        out: The file or folder to write. Default: one in the run's folder, in exports/.
        overwrite: Replace what is there.
        json: Print JSON on stdout instead of lines.
    """

    run: Annotated[Path, walk.Metavar("RUN")]
    to: Form = "stablehlo"
    out: Path | None = None
    overwrite: bool = False
    json: bool = False


def command(options: Options) -> None:
    """Exports, and prints where and how it was compared."""
    from jtl.export.checked import export
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
        f"Compared by {done.reference} on {done.images}: probabilities differ by at most "
        f"{done.probability_difference:.1g}, logits by {done.logit_difference:.1g} of the largest; "
        f"the likeliest class is the same for {done.same_class} of {done.count}."
    )
    print("To use it:")
    for line in done.loading.splitlines():
        print(f"  {line}")
