"""Where features lie while a run works with them: in memory, on disk, or nowhere."""

from __future__ import annotations

from jtl.cache import sizes
from jtl.cache.arms import Place
from jtl.cache.store import Store
from jtl.common.quantities import format_bytes


def placed(
    cut: str, needed: int, kept: bool, budget: str | None, store: Store | None
) -> tuple[Place | None, str | None]:
    """The place for the features at a cut.

    Args:
        cut: Path of the unit after the frozen prefix.
        needed: Their bytes.
        kept: Whether all of them are on disk already.
        budget: As in `--cache-budget`.
        store: Where features are kept between runs; None for nowhere.

    Returns:
        (`memory`, `disk`, or None where there is no room; why it is not memory, None where
        there is nothing to say).
    """
    memory = sizes.memory_budget(budget)
    if needed <= memory:
        return "memory", None
    if not memory:
        return None, None
    too_large = (
        f"the features before {cut} take {format_bytes(needed)}, more than the "
        f"{format_bytes(memory)} of memory that they may take"
    )
    if store is None:
        return None, f"{too_large}: the network runs as a whole"
    too_large, limit = f"{too_large} (--cache-budget)", store.limit()
    if kept or needed <= limit:
        return "disk", f"{too_large}: they are read from disk batch by batch"
    return None, (
        f"{too_large} and the {format_bytes(limit)} of disk ({sizes.LIMIT}): the frozen prefix "
        "runs in every step instead. Less is needed with --cache-dtype bfloat16 or a smaller "
        "--image-size."
    )
