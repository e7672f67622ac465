"""The options of a linear probe of a source: whose features other commands look at."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jtl.common.errors import UserError
from jtl.config import walk
from jtl.config.data import with_scheme
from jtl.config.options import Config
from jtl.data.sources.source_options import SourceOptions
from jtl.runs.files import missing_run, run_of
from jtl.runs.resume import stored_config

OF_RUN = ("model", "weights", "image_size")
"""Options that a run brings with it."""
_INPUT = ("image_size", "fit", "upsample", "jpeg_decoding", "cache_dtype")
_SPLIT = ("split_seed", "test_split", "fold")


def probe_config(
    source: str,
    run: Path | None,
    options: Mapping[str, Any],
    defaults: Mapping[str, Any],
    flag: str = "--run",
) -> tuple[Config, Config | None]:
    """The options of a linear probe of a source.

    Args:
        source: The data, as for `--data`.
        run: Whose backbone looks at the images; None for `model` and `weights` of the options.
        options: Values of options of a training, by name.
        defaults: Of these, the values that they have where nobody gives them.
        flag: How the run is given, for messages.

    Returns:
        (the options, those of the run if there is one).

    Raises:
        UserError: The run cannot be used, or options are given that it has of its own.
    """
    values = {**options, "data": with_scheme(source), "on_bad_image": "skip", "augment": "none"}
    if run is None:
        return walk.replace(Config(), values), None
    given = [name for name in OF_RUN if name in defaults and options[name] != defaults[name]]
    if given:
        flags = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UserError(f"{flags}: no effect with {flag}, which has its own. Leave it out.")
    stored, base = _of_run(run)
    if stored.data.data == values["data"]:  # Split as there, so that its features are found.
        own = dataclasses.asdict(SourceOptions.of(stored.data))
        values |= {name: v for name, v in own.items() if values.get(name) == defaults.get(name)}
        values |= {name: getattr(stored.data, name) for name in _SPLIT}
    return walk.replace(base, {n: v for n, v in values.items() if n not in OF_RUN}), stored


def _of_run(run: Path) -> tuple[Config, Config]:
    """(the options of a run, those of a linear probe on its backbone)."""
    if message := missing_run(run):
        raise UserError(message)
    folder = run_of(run)
    stored = stored_config(folder)
    values = {
        "model": stored.model.model,
        "weights": str(folder),
        "truncate_at": stored.model.truncate_at,
        "dtype": stored.model.dtype,
        **{name: getattr(stored.data, name) for name in _INPUT},
        "seed": stored.train.seed,
    }
    return stored, walk.replace(Config(), values)


def trained_backbone(stored: Config) -> bool:
    """Whether a run trained layers of its backbone on its labels."""
    return stored.train.phases is not None or stored.train.mask != "head_only"
