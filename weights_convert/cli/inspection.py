"""`jtl weights inspect FILE`: what a checkpoint file holds."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

from jtl.config import walk
from weights_convert.cli.convert import use_cpu


@dataclasses.dataclass(frozen=True)
class Options:
    """Shows what a checkpoint file contains and which network it seems to be. Converts nothing.

    For example:
      jtl weights inspect unknown.pth

    Attributes:
        file: The checkpoint, or a folder that holds one as on the Hugging Face hub.
        entry: Entry of a PyTorch checkpoint to read, such as model_ema. Default: as in a
            conversion.
        json: Print JSON instead of text.
    """

    file: Annotated[Path, walk.Metavar("FILE")]
    entry: Annotated[str | None, walk.Metavar("NAME")] = None
    json: bool = False


def command(options: Options) -> None:
    """Prints what a file holds.

    Raises:
        UserError: It is no checkpoint.
    """
    use_cpu()
    from weights_convert.source import inspection

    found = inspection.inspect(options.file, options.entry)
    print(found.to_json() if options.json else found.to_text())
