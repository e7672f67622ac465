"""Checks of options that need to know the models, the masks and what is installed."""

from __future__ import annotations

import dataclasses
from typing import Any

from jtl import models
from jtl.common.errors import UserError
from jtl.config import defaults
from jtl.config.options import Config
from jtl.freeze import masks
from jtl.models import heads
from jtl.runs import trackers


def checked(config: Config) -> Config:
    """Checks every option that needs neither data nor weights.

    Returns:
        The same; with the metric of the task.

    Raises:
        UserError: An option's value is impossible; the message names the option.
    """
    config.check()
    masks.check_form(config.train.mask)
    models.get(config.model.model)
    heads.from_options(config.model, source_classes=1)  # What the weights hold is checked later.
    _check_smallest(config)
    trackers.check(config.run.log_to)
    return defaults.with_task_metric(config)


def _check_smallest(config: Config) -> None:
    name, size = config.model.model, config.data.image_size
    backbone: Any = models.get(name).backbone
    if config.model.aux_head:
        if not hasattr(backbone, "aux_classes"):
            raise UserError(
                f"--aux-head: only inception_v3 has an auxiliary head, {name} does not. "
                "Leave it out."
            )
        if config.model.truncate_at is not None:
            raise UserError("--aux-head needs the whole backbone; leave --truncate-at out.")
        backbone = dataclasses.replace(backbone, aux_classes=1)
    least = getattr(backbone, "min_size", 1)
    beside = " with --aux-head" if config.model.aux_head else ""
    if size is not None and size < least:
        raise UserError(f"--image-size must be at least {least} for {name}{beside}, not {size}.")
