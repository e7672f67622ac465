"""The content of `search.json` of a search that nobody made."""

from __future__ import annotations

from typing import Any


def trial(number: int, metric: float, seconds: float, **options: Any) -> dict[str, Any]:
    return {
        "number": number,
        "name": options["mask"],
        "stage": "probe" if number == 1 else "plan",
        "options": options,
        "state": "done",
        "seconds": seconds,
        "epochs": 3,
        "metric": metric,
        "interval": [metric - 0.1, metric + 0.1],
        "message": "",
        "folder": f"trials/00{number}",
    }


def found(metric: str, values: tuple[float, float]) -> dict[str, Any]:
    probe, full = (
        trial(number, value, 10.0 * number, mask=mask)
        for number, value, mask in zip((1, 2), values, ("head_only", "full"), strict=True)
    )
    skipped = {**probe, "number": 0, "metric": None, "state": "not begun", "message": "too <slow>"}
    ensemble = {"members": [1, 2], "difference": 0.01, "standard_error": 0.02, "kept": False}
    return {
        "model": "tiny",
        "data": "folder:a_b",
        "metric": metric,
        "num_val": 100,
        "num_test": 0,
        "trials": [probe, full, skipped],
        "winner": probe["folder"],
        "winner_name": "head_only",
        "val_metric": probe["metric"],
        "val_interval": probe["interval"],
        "best": full["folder"],
        "best_name": "full",
        "best_val_metric": full["metric"],
        "difference": full["metric"] - probe["metric"],
        "standard_error": 0.05,
        "corrected_val_accuracy": None,
        "test_accuracy": None,
        "ensemble": ensemble,
        "seconds": 40.2,
        "budget": 60.0,
        "command": "jtl train",
        "notes": [],
    }
