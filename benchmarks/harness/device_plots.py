"""The plot of `accelerator.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.plots import NAMES, plt

COLORS = {"jtl": "C0", "pytorch": "0.6", "pytorch_compiled": "0.25"}
STYLES = {"bfloat16": "o-", "float32": "s--"}


def draw(rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any], path: Path) -> None:
    """Images per second by batch size: a panel for each backbone and mask, a line for each side.

    Args:
        rows: As `accelerator.rated` gives them; those that ran out of memory are left out.
        facts: Of the store.
        path: The .png file.
    """
    panels = list(dict.fromkeys((row["model"], row["arm"]) for row in rows))
    figure, axes = plt.subplots(
        1, len(panels), figsize=(1.5 + 3.6 * len(panels), 4.4), layout="constrained", squeeze=False
    )
    for panel, (model, arm) in zip(axes[0], panels, strict=True):
        mine = [row for row in rows if (row["model"], row["arm"]) == (model, arm)]
        for side, dtype in dict.fromkeys((row["side"], row["dtype"]) for row in mine):
            line = [r for r in mine if (r["side"], r["dtype"]) == (side, dtype)]
            line = [row for row in line if not row["out_of_memory"]]
            xs, ys = [r["batch"] for r in line], [r["images_per_second"] for r in line]
            label = f"{side.replace('_', ', ')}, {dtype}"
            panel.plot(xs, ys, STYLES[dtype], color=COLORS[side], label=label)
            for row in line:
                if row["side"] == "jtl" and row["share"]:
                    at = (row["batch"], row["images_per_second"])
                    panel.annotate(
                        f"{row['share']:.0%}", at, (4, 4), textcoords="offset points", fontsize=8
                    )
        batches = sorted({row["batch"] for row in mine})
        panel.set_xscale("log", base=2)
        panel.set_xticks(batches, [str(batch) for batch in batches])
        panel.minorticks_off()
        panel.set_ylim(0, 1.15 * panel.dataLim.ymax if panel.lines else 1)
        panel.set_title(f"{NAMES.get(model, model)}, {arm}")
        panel.set_xlabel("batch size")
        panel.grid(alpha=0.3)
    axes[0][0].set_ylabel("images per second")
    axes[0][-1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    size = rows[0]["settings"]["size"]
    figure.suptitle(f"{facts['device']}, {size} px (numbers: jtl's share of the published peak)")
    figure.savefig(path, dpi=120)
    plt.close(figure)
