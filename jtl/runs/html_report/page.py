"""The page, from what was gathered for it. Nothing here imports JAX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup

from jtl.common import pages
from jtl.common.files import replace_text
from jtl.runs.html_report import charts, feature_map

_HERE = "jtl.runs.html_report"


def write_report(path: str | Path, *, neighbours: bool = False, **content: Any) -> None:
    """Writes `report.html`.

    Args:
        path: The file.
        neighbours: See `feature_map.places`.
        content: As `jtl.runs.html_report.content.gather` gives it.
    """
    replace_text(Path(path), page(content, neighbours=neighbours))


def page(content: dict[str, Any], *, neighbours: bool = False) -> str:
    """The page; see `write_report`."""
    on_map = method = None
    if (points := content["map"]) is not None:
        found, method = feature_map.places(points["features"], neighbours=neighbours)
        on_map = charts.scatter(content, found.tolist())
    calibration, curve = content["calibration"], content["selective"]
    return pages.render(
        _HERE,
        "report.html",
        style=pages.part(_HERE, "report.css") + _images(content["images"]),
        script=pages.part(_HERE, "report.js"),
        **{key: content[key] for key in _AS_IT_IS},
        title="".join(_text(part) for part in content["title"]),
        heading=content["title"],
        curves=charts.curves(content),
        reliability=None if calibration is None else charts.reliability(calibration),
        calibration_error=None
        if calibration is None
        else calibration["expected_calibration_error"],
        coverage=None if curve is None else charts.coverage(curve),
        confusion=charts.confusion(content),
        # Of two classes the matrix says it all.
        confused=charts.confused(content) if len(content["names"]) > 2 else [],
        cells=_grouped(content["views"].get("cells", ())),
        examples=_grouped(content["views"].get("examples", ())),
        mistakes=[row for _, row in content["views"].get("mistakes", ())],
        unsure=[row for _, row in content["views"].get("unsure", ())],
        map=on_map,
        method=method,
        map_count=None if points is None else points["count"],
        fitted=bool(content["history"][0].get("path")),
        several=content["task"] == "multilabel",
    )


_AS_IT_IS = (
    "headline", "results", "texts", "classes", "training", "data", "notes", "repeat", "names",
    "images",
)  # fmt: skip


def _text(part: str | dict[str, str]) -> str:
    return part if isinstance(part, str) else part["text"]


def _grouped(pairs: Any) -> dict[str, list[int]]:
    """The images of each name."""
    found: dict[str, list[int]] = {}
    for name, row in pairs:
        found.setdefault(name, []).append(row)
    return found


def _images(images: dict[str, dict[str, Any]]) -> str:
    """A rule for each image, so that the page holds it once, wherever it is shown."""
    return "".join(
        f".i{int(row)}{{background-image:url(data:image/jpeg;base64,{Markup(one['jpeg'])})}}\n"
        for row, one in images.items()
        if one["jpeg"] is not None
    )
