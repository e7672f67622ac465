"""The model card: what a folder of converted weights holds, for people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from jtl.common.text import for_markdown
from weights_convert.printable import shown

if TYPE_CHECKING:
    from weights_convert.checkpoint.folder import ConvertedCheckpoint

FILE_NAME = "README.md"


def save(folder: Path, checkpoint: ConvertedCheckpoint) -> None:
    """Writes the card of `checkpoint` into `folder`."""
    (folder / FILE_NAME).write_text(render(checkpoint), encoding="utf-8")


def render(checkpoint: ConvertedCheckpoint) -> str:
    """The card as Markdown.

    Args:
        checkpoint: Whose variables, source and figures the card states.

    Returns:
        Markdown that ends with a newline.
    """
    model = checkpoint.model
    sections = (
        f"# {model}, converted by jtl",
        "Pretrained weights as Flax variables (float32 in an Orbax checkpoint). "
        f"`jtl train --model {model} --weights THIS_FOLDER` fine-tunes them; "
        "`weights.json` says the same as this card to programs.",
        table(("", "weights"), _identity(checkpoint)),
        "## Preprocessing",
        table(("", "what the weights expect of an image"), preprocessing_rows(checkpoint)),
        "## Conventions",
        "What the source demands of the network, beyond its architecture.",
        table(("field", "value"), [(k, f"`{v}`") for k, v in checkpoint.conventions.items()])
        if checkpoint.conventions
        else "The model's own: none differ.",
        *_notes(checkpoint),
        "## Verified",
        verified_text(checkpoint.verified),
        "## Versions",
        table(("package", "version"), list(checkpoint.versions.items())),
    )
    return "\n\n".join(sections) + "\n"


def _notes(checkpoint: ConvertedCheckpoint) -> list[str]:
    """What the user should know, and what of the file was not converted."""
    reading = checkpoint.reading
    dtypes = ", ".join(f"{count} {dtype}" for dtype, count in reading.dtypes.items())
    rows = [
        ("wrappers", " > ".join(f"`{_code(name)}`" for name in reading.wrappers) or "none"),
        (
            "besides",
            ", ".join(f"`{_code(name)}`" for name in reading.left_out) or "nothing",
        ),
        ("prefix stripped", f"`{_code(reading.prefix)}`" if reading.prefix else "none"),
        ("ignored keys", ", ".join(f"`{_code(key)}`" for key in reading.ignored) or "none"),
        ("tensors", f"{dtypes}, all float32 now" if dtypes else "all float32 now"),
    ]
    sections = ["## Reading", table(("", "what became of the file's content"), rows)]
    if checkpoint.notes:
        lines = "\n".join(f"- {for_markdown(shown(note, 2000))}." for note in checkpoint.notes)
        sections = ["## Notes", lines, *sections]
    return sections


def _code(text: str) -> str:
    return shown(text).replace("`", "'")


def _identity(checkpoint: ConvertedCheckpoint) -> list[tuple[str, str]]:
    classes = "none: a bare backbone"
    if checkpoint.num_classes:
        named = "named" if checkpoint.class_names else "without names"
        classes = f"{checkpoint.num_classes}, {named}"
    return [
        ("model", checkpoint.model),
        ("params", f"{checkpoint.num_params:,}"),
        ("classes", classes),
        ("source", f"`{checkpoint.source}`"),
        ("revision", checkpoint.revision or "none stated"),
        ("format", checkpoint.source_format),
        ("naming convention", checkpoint.library),
        ("SHA-256 of the source's file", f"`{checkpoint.sha256}`"),
        ("licence", checkpoint.licence or "not stated: ask the source before you pass them on"),
        ("converted", checkpoint.created),
    ]


def preprocessing_rows(checkpoint: ConvertedCheckpoint) -> list[tuple[str, str]]:
    """(name, value) of every field of the checkpoint's preprocessing."""
    pre = checkpoint.preprocessing
    return [
        ("input size", f"{pre.size} x {pre.size} pixels, {pre.channel_order.upper()}"),
        ("resize", f"shorter side to {round(pre.size / pre.crop_pct)}, {pre.interpolation}"),
        ("crop", f"the centre, {pre.crop_pct:g} of the shorter side"),
        (
            "mean",
            ", ".join(f"{x:.6g}" for x in pre.mean) + ", of RGB, subtracted from values in [0, 1]",
        ),
        ("std", ", ".join(f"{x:.6g}" for x in pre.std) + ", divides the difference"),
        ("stated by", checkpoint.reading.preprocessing_by or "not known"),
    ]


def verified_text(verified: dict[str, Any] | None) -> str:
    """The measured figures of `weights_convert.verify` as Markdown."""
    if verified is None:
        return "Not verified: converted without `--verify`."
    rows = [
        (str(row["name"]), f"{row['measured']:.3g}", f"{row['sign']} {row['bound']:.3g}")
        for row in verified["figures"]
    ]
    return (
        f"Compared with {verified['reference']}, with the same input.\n\n"
        f"{table(('figure', 'measured', 'bound'), rows)}"
    )


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table; a bar within a cell is escaped."""
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines
    )
