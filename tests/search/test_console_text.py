"""What a search says of its result, also where a lower metric is better."""

from __future__ import annotations

import pytest

from jtl.common.progress import PlainConsole
from jtl.search import console_text, document, page
from support.search_results import found


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


def test_mirror_images_are_used_where_they_gain(capsys):
    result = found("accuracy", (0.8, 0.84)) | {"folder": "runs/search"}
    gain = {"tta": "flip", "val_metric": 0.83, "difference": 0.03, "standard_error": 0.01}
    for kept in (True, False):
        result["tta"] = {**gain, "kept": kept}
        console_text.print_result(result, PlainConsole())
        text = capsys.readouterr().out
        assert ("evaluate runs/search/trials/001 --tta flip\n" in text) == kept
        assert ("predict runs/search/trials/001 --tta flip IMAGES" in text) == kept
        told = (
            "(--tta flip) changes the winner's validation accuracy by +3.0 points (standard error"
        )
        assert told in text
        assert ("no gain beyond chance.\nTook" in text) != kept


def test_trials_are_compared_by_what_they_take_alone():
    result = found("accuracy", (0.8, 0.84))
    for row, seconds in zip(result["trials"], (100.0, 80.0, None), strict=True):
        row["alone"] = seconds
    written = document.markdown(page.page(result, b"png"))
    assert "| what trains | full | +4.0 points | 80 s |" in written
    assert "| 20 s | 80 s | [002](trials/002) |" in written
