"""Training and using classifiers from Python: what the commands do, as functions.

Example:
    >>> import tempfile, numpy as np, jtl
    >>> grey = np.arange(0, 240, 4, dtype=np.uint8)
    >>> images = np.broadcast_to(grey[:, None, None, None], (60, 8, 8, 3))
    >>> labels = np.where(grey < 120, "dark", "light")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = jtl.fit((images, labels), epochs=2, run_dir=f"{folder}/run")
    ...     run.summary["class_names"], jtl.load(run).predict(images[0])[0].label
    (['dark', 'light'], 'dark')
"""

from __future__ import annotations

import contextlib
import numbers
import os
import threading
import warnings
from collections.abc import Iterator
from typing import Any, TypeVar

from jtl.api.finished_run import Run
from jtl.cleaning.command import OUT
from jtl.cleaning.command import Options as CleanOptions
from jtl.cleaning.command import clean as _clean
from jtl.cleaning.findings import Findings
from jtl.common.errors import UserError
from jtl.common.progress import Display
from jtl.common.text import type_of
from jtl.config import spellings, walk
from jtl.config.options import Config
from jtl.data.sources.in_memory import as_source
from jtl.distributed import device
from jtl.predict.classifier import Classifier, load
from jtl.predict.predictions import Prediction, Predictions, Unreadable
from jtl.train.fit import fit as _fit

__all__ = [
    "Classifier", "Findings", "Prediction", "Predictions", "Run", "Unreadable", "UserError",
    "clean", "fit", "load",
]  # fmt: skip


def fit(
    data: Any = "digits",
    *,
    model: str = "efficientnet_lite0",
    weights: str = "default",
    mask: str = "head_only",
    epochs: int | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    display: Display | None = None,
    **options: Any,
) -> Run:
    """Trains a classifier as `jtl train` does, and writes its run folder.

    Args:
        data: The images: a path or a source, as in `--data`; (images, labels), with images as
            uint8 [N, H, W, 3] or as a list of files; or a DataFrame with the columns `file` and
            `label` (and `split`, if you like).
        model: Backbone.
        weights: Where the backbone's weights come from.
        mask: What trains.
        epochs: Passes over the training images; None for the mask's default.
        run_dir: Folder for everything the run writes; None for a new one in runs/.
        display: Where progress goes; None for stderr.
        **options: Every other option of the command, with underscores: `batch_size=64`,
            `augment="light"`. `jtl train --help-all` explains them.

    Returns:
        The run: `folder`, `summary` (as in `summary.json`) and `history` (a line per epoch), with
        `evaluate()`, `plot_curves()`, `plot_confusion()`, `mistakes()`, `explain()` and `export()`.

    Raises:
        UserError: As the command; a `ValueError` whose message says what to do. Also where another
            thread of this process is training.
    """
    if display is not None and not isinstance(display, Display):
        raise UserError(f"display is {type_of(display)}. Give a Display, or leave it out.")
    named = dict(model=model, weights=weights, mask=mask, epochs=epochs, run_dir=run_dir)
    config = config_of({"data": as_source(data)} | named | options)
    with alone():
        device.use(config.run.device)
        return Run.of(_fit(config, display))


def clean(
    data: Any,
    *,
    run: Run | str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] = OUT,
    display: Display | None = None,
    **options: Any,
) -> Findings:
    """Lists likely mistakes in labelled images as `jtl data clean` does; changes no image.

    Args:
        data: The images, as of `fit`.
        run: A run whose backbone looks at the images.
        out: A new folder for `clean.csv` and the contact sheets.
        display: Where progress goes; None for stderr.
        **options: Every other option of the command, with underscores, such as `model`.

    Returns:
        What was found: `rows`, each with `file`, `label`, `kind`, `suggested`, `score` and
        `other`; `counts()` by kind and class; and `table`, the file that `exclude` of `fit` takes.

    Raises:
        UserError: As the command.
    """
    folder = getattr(run, "folder", run)
    values = {"source": as_source(data), "run": folder, "out": out, **options}
    asked = options_of(CleanOptions, values, "data clean")
    with alone():
        device.use(asked.device)
        return _clean(asked, display or Display())


_Options = TypeVar("_Options")
_training = threading.Lock()


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """One training at a time in a process, which leaves warnings and environment as they were.

    Libraries that a training imports change both for the whole process.

    Raises:
        UserError: Another thread is training.
    """
    if not _training.acquire(blocking=False):
        raise UserError(
            "another training runs in this process. Start one after the other, or each in a "
            "process of its own: they would share its memory, its devices and its cores anyway."
        )
    filters, environment = list(warnings.filters), dict(os.environ)
    try:
        yield
    finally:
        for one in [one for one in warnings.filters if one not in filters]:
            warnings.filters.remove(one)  # pyright: ignore[reportAttributeAccessIssue]
        for name in set(os.environ) - set(environment):
            if name.startswith(("KMP_", "OMP_")):  # Read when their libraries are loaded.
                del os.environ[name]
        _training.release()


_OF_COMMANDS = ("config", "dry_run", "find_lr", "folds", "json", "seeds")
"""Options that change what a command does or prints, not how a model is trained."""


def config_of(options: dict[str, Any]) -> Config:
    """The configuration with these options, by name, and defaults for all others.

    Raises:
        UserError: There is no such option.
    """
    return options_of(Config, options, "train").noting(())


def options_of(kind: type[_Options], options: dict[str, Any], command: str) -> _Options:
    """A command's options with these values, by name, and defaults for all others.

    Args:
        kind: Their dataclass.
        options: The values.
        command: Its name.

    Raises:
        UserError: There is no such option.
    """
    known = {name: o for name, o in walk.options(kind).items() if name not in _OF_COMMANDS}
    for name in options:
        if name not in known:
            close = spellings.nearest(name, known)
            found = f"Did you mean '{close}'?" if close else f"All are: {', '.join(sorted(known))}."
            raise UserError(
                f"there is no option {name}. {found} `jtl {command} --help-all` explains the "
                "options."
            )
    values = {name: _value(known[name], value) for name, value in options.items()}
    return walk.create(kind, values)


def _value(option: walk.Option, value: Any) -> Any:
    """An option's value, of its type; numbers of NumPy and single items of lists are understood.

    Raises:
        UserError: It is of another type.
    """
    given = value
    if isinstance(value, numbers.Number) and not isinstance(value, bool):
        # Sizes, penalties and strengths are read from text.
        if option.item is str:
            value = str(value)
        elif isinstance(value, numbers.Real):
            value = int(value) if isinstance(value, numbers.Integral) else float(value)
    if isinstance(value, os.PathLike) and option.kind is str:
        value = os.fspath(value)
    if option.is_list and not isinstance(value, (tuple, list)):
        value = (value,)
    found = walk.converted(option, value)
    if not ((found is None and option.optional) or walk.is_of(option.kind, found)):
        raise UserError(f"{option.name} {walk.must_be(option.kind, given)}")
    return found
