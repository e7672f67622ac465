"""What a search says of its result, also where a lower metric is better."""

from __future__ import annotations

from typing import Any

import pytest

from jtl.search import console_text, document, page


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


@pytest.mark.parametrize(
    ("metric", "values", "told", "gain"),
    [
        (
            "accuracy",
            (0.8, 0.84),
            (
                "full has a better validation accuracy (0.840), but the difference of 4.0 points "
                "is within chance (standard error 5.0 points)",
                "Validation accuracy 0.800 (95 % interval 0.700 to 0.900, 100 images)",
                "by +1.0 points (on images that were not used to pick it, standard error 2.0",
            ),
            "+4.0 points",
        ),
        (
            "loss",
            (-0.8, -0.76),
            (
                "full has a better validation loss (0.760), but the difference of 0.040 is within "
                "chance (standard error 0.050)",
                "Validation loss 0.800 (95 % interval 0.700 to 0.900, 100 images)",
                "by -0.010 (on images that were not used to pick it, standard error 0.020)",
            ),
            "-0.040",
        ),
    ],
)
def test_figures_are_told_as_people_know_them(metric, values, told, gain):
    result = found(metric, values)
    text = " ".join(console_text.lines(result))
    for sentence in told:
        assert sentence in text
    blocks = page.page(result, b"png")
    written = document.markdown(blocks)
    assert f"| what trains | full | {gain} | 20 s |" in written
    assert "| head\\_only | not begun | too \\<slow\\> |" in written
    assert "<td>too &lt;slow&gt;</td>" in document.as_html(blocks)
