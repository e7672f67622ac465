"""From a run or a model and images to their features."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jtl import models
from jtl.cleaning.pool import pool_of
from jtl.common.errors import UserError, suggest
from jtl.common.progress import Display
from jtl.embed.backbone import Backbone
from jtl.embed.embeddings import Embeddings, as_rows
from jtl.predict.inputs import Images, items
from jtl.predict.predictions import Unreadable
from jtl.train.checks import checked
from jtl.train.probe_config import OF_RUN, probe_config
from jtl.train.setup import prepare_setup


def run_or_model(name: str) -> Path | None:
    """The folder of a run; None where the name is a model's.

    Raises:
        UserError: It is neither.
    """
    folder = Path(name).expanduser()
    if folder.exists():
        return folder
    if name in models.names():
        return None
    raise UserError(
        f"'{name}' is neither a run's folder nor a model.{suggest(name, models.names())} Give a "
        "folder that `jtl train` wrote, such as runs/mine, or one of the models: "
        f"{', '.join(models.names())}."
    )


def labelled(
    model: str,
    source: str,
    options: Mapping[str, Any],
    defaults: Mapping[str, Any],
    display: Display,
) -> Embeddings:
    """Features of a source with labels, from the feature cache.

    Args:
        model: A run's folder, or a model.
        source: As for `--data`.
        options: Values of options of a training, by name.
        defaults: Of these, the values that they have where nobody gives them.
        display: Where progress goes.

    Raises:
        UserError: The run, the model or the data cannot be used.
    """
    run = run_or_model(model)
    if run is None:
        options, defaults = {**options, "model": model}, {**defaults, "model": model}
    config, _ = probe_config(source, run, options, defaults, "a run")
    setup = prepare_setup(checked(config), display)
    pool, dataset = pool_of(setup, display), setup.dataset
    parts = {"train": dataset.train, "val": dataset.val, "test": dataset.test}
    splits = [name for name, part in parts.items() if part is not None for _ in range(len(part))]
    bad = tuple(
        Unreadable(one.name, one.reason.removeprefix(f"{one.name}: ")) for one in dataset.unreadable
    )
    return Embeddings(
        model, dataset.spec, tuple(pool.names), tuple(splits), pool.labels, pool.class_names,
        pool.features, Backbone.of_setup(setup), bad,
    )  # fmt: skip


def unlabelled(
    model: str,
    images: Images,
    options: Mapping[str, Any],
    defaults: Mapping[str, Any],
    display: Display,
) -> Embeddings:
    """Features of images without labels; none of them is in the feature cache.

    Args:
        model: A run's folder, or a model.
        images: As for `Classifier.predict`.
        options: Values of options of a training, by name.
        defaults: Of these, the values that they have where nobody gives them.
        display: Where progress goes.

    Raises:
        UserError: The run, the model or the images cannot be used, or an option has no effect.
    """
    idle = [n for n in defaults if n not in OF_RUN and options[n] != defaults[n]]
    if idle:
        flags = " and ".join(f"--{name.replace('_', '-')}" for name in idle)
        raise UserError(f"{flags}: no effect with --unlabelled. Leave it out.")
    run = run_or_model(model)
    if run is None:
        how = str(options["weights"]), options["image_size"]
        backbone = Backbone.pretrained(model, *how, display)
    else:
        probe_config("digits", run, options, defaults, "a run")  # Refuses what the run has.
        backbone = Backbone.of_run(run)
    given = items(images)
    with display.track("features", len(given), "images") as advance:
        found = backbone.features(given, advance)
    names: list[str] = []
    features = as_rows(found, lambda index: names.append(given[index].name))
    bad = tuple(one for one in found if isinstance(one, Unreadable))
    source = str(images) if isinstance(images, (str, Path)) else f"{len(given)} images"
    return Embeddings(
        model, source, tuple(names), ("",) * len(names), None, (),
        np.asarray(features), backbone, bad,
    )  # fmt: skip
