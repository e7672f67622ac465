"""`jtl.publish(...)`."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from jtl.api import Classifier, Run, options_of
from jtl.common.progress import Display
from jtl.publish.command import Options, PublishedModel
from jtl.publish.command import publish as _publish


def publish(
    run: str | os.PathLike[str] | Run | Classifier,
    to: str,
    *,
    dry_run: bool = False,
    display: Display | None = None,
    **options: Any,
) -> PublishedModel:
    """Publishes a run's best model on the Hugging Face hub, as `jtl publish` does.

    Args:
        run: The run, or its folder.
        to: "hf:USER/NAME".
        dry_run: Whether to write the folder and to upload nothing.
        display: Where notes go; None for stderr.
        **options: Every other option of the command, with underscores, such as `data_licence`.

    Returns:
        Where the files are: `folder`, `repo`, `layout` and `url`.

    Raises:
        UserError: As the command.
    """
    named = {"run": str(getattr(run, "folder", run)), "to": to}
    asked = options_of(Options, {**named, **options}, "publish")
    return _publish(dataclasses.replace(asked, dry_run=dry_run), display or Display())
