"""`jtl weights list`: the models, and the weights that are published for them."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from jtl.common.invocation import command as command_line
from jtl.common.output import print_json
from jtl.config import walk
from weights_convert.catalogue.weights import Order


@dataclasses.dataclass(frozen=True)
class Options:
    """Lists the models: size, published top-1 accuracy and licence of the default weights.

    With the names of models: all weights that are published for them, and the libraries whose
    names can be read.

    For example:
      jtl weights list
      jtl weights list --sort accuracy-per-second
      jtl weights list resnet50 densenet121 --measure

    Attributes:
        models: Show all weights of these models. Default: one line for every model.
        sort: Order of the models: by family, accuracy (published), speed, or accuracy-per-second
            (their product). Speed is this machine's with --measure, else that of jtl's table.
        measure: Measure each model's speed (images/s) on this machine; the results are kept.
        json: Print JSON instead of text.
    """

    models: Annotated[tuple[str, ...], walk.Metavar("MODEL")] = walk.positional(())
    sort: Order = "family"
    measure: bool = False
    json: bool = False


def command(options: Options) -> None:
    from weights_convert.catalogue import weights
    from weights_convert.catalogue.cost import REFERENCE

    entries = weights.catalogue(options.models, measure=options.measure, order=options.sort)
    if options.json:
        print_json(entries)
    elif options.models:
        print(weights.to_text(entries))
    else:
        print(weights.overview(entries, grouped=options.sort == "family"))
        print(
            "\nTop-1 accuracy (ImageNet, as published by timm or torchvision) and licence are\n"
            "those of the default weights.\n"
            f"cost: time of an image over that of {REFERENCE} (docs/backbones.md).\n"
            "published: how many pretrained weights of the model you can choose from.\n"
            f"All weights of a model: {command_line('weights')} list {entries[0]['model']}"
        )
