"""`jtl weights export FOLDER`: converted or trained weights for another library."""

from __future__ import annotations

import dataclasses
import textwrap
from pathlib import Path
from typing import Annotated, Literal

from jtl.common.output import print_json
from jtl.config import walk
from weights_convert.cli.convert import use_cpu


@dataclasses.dataclass(frozen=True)
class Options:
    """Writes a converted checkpoint, or a run's best model, for another library.

    The tensors get that library's names, as float32. Weights that were converted from float32 and
    not trained are written back bit for bit. For a run, `jtl export` does the same and also
    compares the predictions in that library.

    For example:
      jtl weights export runs/pets --to timm --out pets.safetensors

    Attributes:
        folder: Folder that weights_convert or `jtl train` wrote.
        to: The library that will load it.
        out: File to write: .safetensors for timm and torchvision, .weights.h5 for keras.
        overwrite: Replace FILE.
        json: Print the result as JSON.
    """

    folder: Annotated[Path, walk.Metavar("FOLDER")]
    to: Literal["timm", "torchvision", "keras"] = walk.required_flag()
    out: Annotated[Path, walk.Metavar("FILE")] = walk.required_flag()
    overwrite: bool = False
    json: bool = False


def command(options: Options) -> None:
    """Writes a model for another library and prints how to load it there.

    Raises:
        UserError: The model does not fit the library, or the file cannot be written.
    """
    use_cpu()
    from weights_convert.export import writer

    target = writer.export(options.folder, options.to, options.out, overwrite=options.overwrite)
    loading = target.loading.replace("FILE", str(options.out))
    if options.json:
        written = {"file": str(options.out), "library": target.library}
        written |= {"architecture": target.architecture, "loading": loading}
        print_json({**written, "notes": target.notes})
        return
    print(f"Saved {options.out} for {target.library}'s {target.architecture}. To load it:")
    print(textwrap.indent(loading, "  "))
    for note in target.notes:
        print(f"Before you train it further there: {note}.")
