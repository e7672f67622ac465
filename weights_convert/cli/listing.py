"""`jtl weights list`: the models, and the weights that are published for them."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from jtl.common.output import print_json
from jtl.config import walk


@dataclasses.dataclass(frozen=True)
class Options:
    """Lists the models, their size, and the libraries whose weights can be converted.

    For each model: its weights on the hub with licence, input size and published top-1 accuracy.

    For example:
      jtl weights list resnet50 densenet121 --measure

    Attributes:
        models: Only these models. Default: all.
        measure: Measure each model's speed (images/s) on this machine.
        json: Print JSON instead of text.
    """

    models: Annotated[tuple[str, ...], walk.Metavar("MODEL")] = walk.positional(())
    measure: bool = False
    json: bool = False


def command(options: Options) -> None:
    from weights_convert.catalogue import models

    entries = models.catalogue(options.models, measure=options.measure)
    if options.json:
        print_json(entries)
    else:
        print(models.to_text(entries))
