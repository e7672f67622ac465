"""What other programs call jtl's options, and which option a misspelt one probably means."""

from __future__ import annotations

from collections.abc import Iterable

from jtl.common.errors import suggest

ALIASES = {
    "--architecture": "--model",
    "--arch": "--model",
    "--backbone": "--model",
    "--dataset": "--data",
    "--learning-rate": "--lr",
    "--lr0": "--lr",
    "--wd": "--weight-decay",
    "--batch": "--batch-size",
    "--bs": "--batch-size",
    "--imgsz": "--image-size",
    "--img-size": "--image-size",
    "--num-epochs": "--epochs",
    "--opt": "--optimizer",
    "--output": "--run-dir",
    "--output-dir": "--run-dir",
    "--name": "--run-dir",
}
"""What other programs call jtl's options: understood, with a note."""
RELATED = {
    "--pretrained": "--weights",
    "--freeze": "--mask",
    "--dropout": "--head-dropout",
    "--drop": "--head-dropout",
    "--format": "--to",
    "--gpu": "--device",
    "--gpus": "--device",
    "--save-dir": "--run-dir",
    "--project": "--run-dir",
}
"""Options of other programs whose values jtl's have in another form: suggested."""
_ALIKE = 0.74
"""How alike a slip of the pen and an option are, such as `maks` and `mask`; others are not."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The option that was probably meant, spelt as in `known`.

    Args:
        word: What was given, with or without dashes in front.
        known: The options, all flags (`--run-dir`) or all names (`run_dir`).
    """
    options = {_plain(name): name for name in known}
    spellings = dict(options)
    for theirs, ours in {**ALIASES, **RELATED}.items():
        if _plain(ours) in options:
            spellings[_plain(theirs)] = options[_plain(ours)]
    for spelling, name in spellings.items():
        if suggest(_plain(word), spellings, _ALIKE) == f" Did you mean '{spelling}'?":
            return name
    return None


def _plain(name: str) -> str:
    return name.lstrip("-").replace("_", "-")
