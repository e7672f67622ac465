"""`jtl.embed(...)`."""

from __future__ import annotations

import os
from typing import Any

from jtl.api import Classifier, Run, alone, options_of
from jtl.common.errors import UserError
from jtl.common.progress import Display
from jtl.common.text import type_of
from jtl.data.sources.in_memory import as_source
from jtl.distributed import device
from jtl.embed.command import Options
from jtl.embed.command import embed as _embed
from jtl.embed.embeddings import Embeddings


def embed(
    model: str | os.PathLike[str] | Run | Classifier,
    source: Any = "digits",
    *,
    out: str | os.PathLike[str] | None = None,
    unlabelled: bool = False,
    display: Display | None = None,
    **options: Any,
) -> Embeddings:
    """Turns images into features, as `jtl embed` does.

    Args:
        model: A run, or its folder; or the name of a model.
        source: The images, as for `jtl.fit`; with `unlabelled` as for `Classifier.predict`.
        out: A file to write, .npz or .parquet; None for none.
        unlabelled: Whether the images have no labels.
        display: Where progress goes; None for stderr.
        **options: Every other option of the command, with underscores, such as `image_size`.

    Returns:
        The features, float32 [N, C], with `names`, `splits`, `labels` and `class_names`;
        `nearest(images)` finds similar images, `probes` tells how well classes can be told apart.

    Raises:
        UserError: As the command.
    """
    if display is not None and not isinstance(display, Display):
        raise UserError(f"display is {type_of(display)}. Give a Display, or leave it out.")
    named = {"model": str(getattr(model, "folder", model)), "out": out, "unlabelled": unlabelled}
    given = source if unlabelled else as_source(source)
    values = {"source": given if isinstance(given, str) else "", **named, **options}
    for name in ("json", "nearest", "neighbours"):
        if name in options:
            raise UserError(f"{name} is of the command; use what jtl.embed returns.")
    asked = options_of(Options, values, "embed")
    with alone():
        device.use(asked.device)
        found = _embed(asked, given, display or Display())
    if asked.out is not None:
        found.save(asked.out)
    return found
