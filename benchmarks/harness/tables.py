"""Markdown tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jtl.common.files import replace_text


def table(columns: Mapping[str, Sequence[object]]) -> list[str]:
    """Lines of a table.

    Args:
        columns: Each column's head and its cells.
    """
    rows = zip(*columns.values(), strict=True)
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]


def machine_lines(facts: Mapping[str, Any], commands: Sequence[str], rates: Sequence[float]):
    """Where and with what the figures were measured.

    Args:
        facts: As `harness.machine.facts` gives them.
        commands: What was called.
        rates: GFLOP/s of the matrix products in the same runs.
    """
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return [
        *(f"    {command}" for command in commands),
        "",
        f"{facts['cpu']}, {facts['cores']} cores. The machine's limit, a float32 matrix product in "
        f"the same run: {max(rates):.0f} GFLOP/s at best, {min(rates):.0f} at the least among the "
        f"arms. {versions}; jtl's source {facts['source']}.",
        "",
    ]


def ratio(row: Mapping[str, Any]) -> str:
    """The median ratio with its range."""
    return f"**{row['ratio']:.2f}** ({row['ratio_min']:.2f}-{row['ratio_max']:.2f})"


def verdict(row: Mapping[str, Any]) -> str:
    """The target, and whether it is reached."""
    if not row.get("target"):
        return "-"
    return f"{row['target']}: {'reached' if row['reached'] else 'missed'}"


def write(path: Path, lines: Sequence[str]) -> str:
    """Writes lines to a file; the text."""
    text = "\n".join(lines).rstrip("\n") + "\n"
    replace_text(path, text)
    return text
