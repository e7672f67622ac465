"""One step of jtl and of a peer, in turn, beside the rate of a matrix product."""

from __future__ import annotations

import dataclasses
import statistics
from typing import Any

from harness.machine import BENCHMARKS
from harness.workers import Worker, in_turn
from jtl.common import huge_pages

CLASSES = 10
IN_BFLOAT16 = tuple(
    f"{arm}_bfloat16{compiled}"
    for arm in ("forward", "last_stage", "full")
    for compiled in ("", "_compiled")
)
"""Arms in that number format; see peers/jtl_steps.py."""
AS_COMMANDS = {huge_pages.VARIABLE: ":".join(f"{k}={v}" for k, v in huge_pages.WANTED.items())}
"""The environment that jtl's commands start themselves with."""


@dataclasses.dataclass(frozen=True)
class StepSettings:
    """What a step's row was measured with."""

    batch: int
    size: int
    repeats: int


def measure(
    model: str, arm: str, settings: StepSettings, peer: str, *, conventions: str = ""
) -> dict[str, Any]:
    """A row: both libraries' images/s and GFLOP/s, and the ratio of each pair of steps.

    Args:
        model: A backbone of jtl.
        arm: As in peers/jtl_steps.py.
        settings: Of the measurement.
        peer: `pytorch` or `keras`: which peers/*_steps.py stands beside jtl.
        conventions: Whose network jtl builds; default PyTorch's.
    """
    peers = BENCHMARKS / "peers"
    key = (model, arm, settings.batch, settings.size, CLASSES)
    with (
        Worker(peers / "jtl_steps.py", *key, *filter(None, [conventions]), **AS_COMMANDS) as ours,
        Worker(peers / f"{peer}_steps.py", *key) as theirs,
    ):
        taken = in_turn({"ours": ours, "theirs": theirs}, settings.repeats)
        flops = ours.ask("flops")["flops"]
    seconds = {side: [step["seconds"] for step in steps] for side, steps in taken.items()}
    limit = max(step["gflops"] for steps in taken.values() for step in steps)
    row: dict[str, Any] = {
        "kind": "step",
        "model": model,
        "arm": arm,
        "settings": dataclasses.asdict(settings),
        **compare(seconds["ours"], seconds["theirs"]),
        "step_gflop": flops / 1e9,
        "product_gflops": limit,
    }
    for side, worker in (("ours", ours), ("theirs", theirs)):
        median = statistics.median(seconds[side])
        row[side] |= {
            "images_per_second": settings.batch / median,
            "gflops": flops / median / 1e9,
            "share_of_limit": flops / median / 1e9 / limit,
            "first_seconds": worker.told["first_seconds"],
            "peak_bytes": taken[side][-1]["peak_bytes"],
            "optimizer_bytes": worker.told["optimizer_bytes"],
        }
    return row


def compare(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """Seconds of both sides, and how many times faster jtl is: the median over the pairs."""
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    return {
        "ours": {"seconds": ours},
        "theirs": {"seconds": theirs},
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
    }
