"""Phases: stretches of epochs, each under a mask of its own."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from jtl.common.errors import UserError, suggest
from jtl.common.quantities import whole
from jtl.freeze.masks import check_form
from jtl.models.chain import Unit


@dataclasses.dataclass(frozen=True)
class Phase:
    """Some epochs under one mask.

    Attributes:
        epochs: How many.
        mask: As in `--mask`.
        lr: Highest learning rate; None for the mask's default.
        rules: The content of the file that a mask `rules:FILE` names, as it was read; None for
            every other mask.
    """

    epochs: int
    mask: str
    lr: float | None = None
    rules: str | None = None


FORMS = {
    "lp_ft": "linear probe for a third of the epochs, then fine-tune all (Kumar 2022)",
    "gradual": "unfreeze stage by stage from the head on, an equal share each (ULMFiT, 2018)",
    "freeze_unfreeze:EPOCHS": "the head for EPOCHS epochs, then everything",
    "EPOCHS,MASK[,LR];...": "a list of your own, such as 3,head_only,3e-3;7,last_stage,1e-4",
}


def parse(text: str, epochs: int | None, units: Sequence[Unit]) -> tuple[Phase, ...]:
    """The phases that `text` names.

    Args:
        text: As in `--phases`; see `FORMS`.
        epochs: Of all phases together, which `lp_ft`, `gradual` and `freeze_unfreeze` share
            out; a list has its own and allows None only.
        units: The model's chain.

    Raises:
        UserError: No phases are called so, or their epochs do not add up.
    """
    name, _, argument = text.partition(":")
    total = 10 if epochs is None else epochs
    if text == "lp_ft":
        _enough(text, total, 2)
        probe = max(total // 3, 1)
        return (Phase(probe, "head_only"), Phase(total - probe, "full"))
    if text == "gradual":
        stages = list(dict.fromkeys(u.stage for u in units if u.stage is not None))
        masks = ["head_only", *(f"last_stages:{k}" for k in range(1, len(stages))), "full"]
        _enough(text, total, len(masks))
        share, rest = divmod(total, len(masks))
        # What does not divide goes to the last phases, which have most to learn.
        late = len(masks) - rest
        return tuple(Phase(share + (i >= late), mask) for i, mask in enumerate(masks))
    if name == "freeze_unfreeze" and (first := whole(argument)):
        _enough(text, total, first + 1)
        return (Phase(first, "head_only"), Phase(total - first, "full"))
    if "," in text:
        if epochs is not None:
            raise UserError(
                f"--phases '{text}' already sets the epochs of each phase; leave --epochs out."
            )
        try:
            return tuple(_phase(part) for part in text.split(";") if part.strip())
        except UserError as error:
            if not re.search(r"rules:[^;]*=", text):
                raise
            raise UserError(
                f"{error} Rules contain the separators of --phases: write them into a file, one "
                "per line, and name it, as in 3,head_only;7,rules:my-rules.txt."
            ) from error
    if text.partition(":")[0] == "freeze_unfreeze":
        raise UserError(f"--phases {text}: EPOCHS must be a whole number, at least 1.")
    listed = "\n".join(f"  {form}: {told}" for form, told in FORMS.items())
    raise UserError(f"unknown phases '{text}'.{suggest(text, FORMS)} The forms are:\n{listed}")


def _enough(text: str, total: int, needed: int) -> None:
    if total < needed:
        raise UserError(
            f"--phases {text} needs at least {needed} epochs, one per phase, but --epochs is "
            f"{total}."
        )


def _phase(part: str) -> Phase:
    fields = [field.strip() for field in part.split(",")]
    if not 2 <= len(fields) <= 3:
        raise UserError(f"phase '{part}' must be EPOCHS,MASK or EPOCHS,MASK,LR.")
    epochs = whole(fields[0])
    if not epochs:
        raise UserError(
            f"phase '{part}' must be EPOCHS,MASK or EPOCHS,MASK,LR, and EPOCHS a whole number, "
            f"at least 1, not '{fields[0]}'."
        )
    check_form(fields[1])
    lr = None
    if len(fields) == 3:
        try:
            lr = float(fields[2])
        except ValueError:
            lr = -1.0
        if not 0 < lr < float("inf"):
            raise UserError(f"phase '{part}': the learning rate must be a positive number.")
    return Phase(epochs, fields[1], lr)
