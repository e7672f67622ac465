"""The command line: `python -m weights_convert SOURCE --out DIR`, `list`, `inspect`, `export`."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jtl.common.errors import UserError
from weights_convert.cli.options import PROGRAM, Parser, convert_parser
from weights_convert.printable import listed

if TYPE_CHECKING:
    from weights_convert.artifact.folder import Artifact
    from weights_convert.source.sources import Source


def convert_command(arguments: Sequence[str]) -> int:
    """Converts a source into a folder and prints what it was.

    Raises:
        UserError: The source cannot be had or converted, or the folder cannot be written.
    """
    options = convert_parser().parse_args(arguments)
    if options.num_classes:
        raise UserError(
            f"--num-classes {options.num_classes}: a source's classes are kept as they are or "
            "dropped with --num-classes 0; training puts a new head on them anyway."
        )
    _use_cpu()
    from weights_convert.artifact import folder as artifact
    from weights_convert.source import sources
    from weights_convert.verify import tables

    # Found out before minutes of work.
    artifact.refuse_taken(options.out, overwrite=options.overwrite)
    if options.report:
        tables.check_place(options.report)
    source = sources.locate(
        options.source, options.model, architecture=options.architecture, entry=options.entry
    )
    source = _with_flags(source, options)
    drop = options.drop_head or options.num_classes == 0
    converted = sources.convert_source(source, options.model, drop_head=drop)
    if options.verify or options.report:
        from weights_convert.verify import report

        result = report.verify(converted, source)
        if options.report:
            result.save(options.report)
        if not options.json:
            print(result.to_markdown())
        converted = dataclasses.replace(converted, verified=result.summary())
        if not result.passed:
            if options.json:
                print(_json({**_facts(converted, None), "units": result.rows()}))
            print("error: a bound is exceeded, so nothing was written.", file=sys.stderr)
            return 1
    artifact.write(options.out, converted, overwrite=options.overwrite)
    if options.json:
        print(_json(_facts(converted, options.out)))
    else:
        print(_summary(converted, options.out))
    return 0


def _use_cpu() -> None:
    # Shapes are all that is needed of JAX; an accelerator would only lend its memory.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")


def _with_flags(source: Source, options: argparse.Namespace) -> Source:
    names = {"mean": "mean", "std": "std", "crop_pct": "crop_pct", "input_size": "size"}
    names["interpolation"] = "interpolation"
    given = {field: getattr(options, flag) for flag, field in names.items()}
    stated = {field: value for field, value in given.items() if value is not None}
    return source.stating(stated, "the flags")


def _facts(converted: Artifact, out: Path | None) -> dict[str, Any]:
    """What was converted, for `_json`; `out` is None if nothing was written."""
    fields = {field.name: getattr(converted, field.name) for field in dataclasses.fields(converted)}
    del fields["variables"], fields["counters"]
    folder = None if out is None else str(out)
    return {**fields, "num_params": converted.num_params, "folder": folder}


def _json(facts: dict[str, Any]) -> str:
    return json.dumps(facts, indent=2, default=dataclasses.asdict)


def _summary(converted: Artifact, out: Path) -> str:
    classes = converted.num_classes or "none, a bare backbone"
    pre, reading = converted.preprocessing, converted.reading
    mean, std = (", ".join(f"{x:.4g}" for x in triple) for triple in (pre.mean, pre.std))
    dtypes = ", ".join(f"{count} {dtype}" for dtype, count in reading.dtypes.items())
    rows: dict[str, Any] = {
        "model": converted.model,
        "source": f"{converted.source} ({converted.source_format})",
        "revision": converted.revision or "none",
        "convention": converted.library,
        "params": f"{converted.num_params:,}",
        "classes": classes,
        "tensors": f"{dtypes}, all float32 now",
        "wrappers": " > ".join(reading.wrappers) or "none",
        "left out": listed(reading.left_out),
        "ignored keys": listed(reading.ignored),
        "preprocessing": f"mean {mean}; std {std}; {pre.size} pixels, "
        f"{pre.channel_order.upper()}, crop {pre.crop_pct:g}, {pre.interpolation} "
        f"({reading.preprocessing_by})",
        "licence": converted.licence or "not stated",
        "sha256": converted.sha256,
        "folder": out,
    }
    lines = list(rows.items())
    lines += [("note", note) for note in converted.notes]
    return "\n".join(f"{name:<14} {value}" for name, value in lines)


def list_command(arguments: Sequence[str]) -> int:
    """Prints the catalogue."""
    parser = Parser(
        prog=f"{PROGRAM} list",
        description="The models, their size, their weights on the hub with licence, input size and "
        "published top-1, and the conventions that are read.",
        epilog=f"for example: {PROGRAM} list resnet50 densenet121 --measure",
    )
    parser.add_argument("models", metavar="MODEL", nargs="*", help="which of them; default: all")
    parser.add_argument(
        "--measure", action="store_true", help="how many images a second each takes on this machine"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    from weights_convert.catalogue import models

    entries = models.catalogue(options.models, measure=options.measure)
    print(models.to_json(entries) if options.json else models.to_text(entries))
    return 0


def inspect_command(arguments: Sequence[str]) -> int:
    """Prints what a file holds.

    Raises:
        UserError: It is no checkpoint.
    """
    parser = Parser(
        prog=f"{PROGRAM} inspect",
        description="What a checkpoint file holds, and what it seems to be. Converts nothing.",
        epilog=f"for example: {PROGRAM} inspect unknown.pth",
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="the checkpoint")
    parser.add_argument(
        "--entry",
        metavar="NAME",
        help="the entry of a PyTorch checkpoint that holds the weights, such as model_ema; "
        "default: as a conversion takes it",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    options = parser.parse_args(arguments)
    _use_cpu()
    from weights_convert.read import inspection

    found = inspection.inspect(options.file, options.entry)
    print(found.to_json() if options.json else found.to_text())
    return 0


def export_command(arguments: Sequence[str]) -> int:
    """Writes a model for another library and prints how to load it there.

    Raises:
        UserError: The model does not fit the library, or the file cannot be written.
    """
    _use_cpu()
    from weights_convert.export.targets import LIBRARIES

    parser = Parser(
        prog=f"{PROGRAM} export",
        description="Writes a converted checkpoint, or the best checkpoint of a run, under "
        "another library's names, as float32. What a conversion left untouched goes out bit by "
        "bit as it came in, if it came as float32. python -m jtl.export does it too, for a run, "
        "and compares what the library then predicts.",
        epilog=f"for example: {PROGRAM} export runs/pets --to timm --out pets.safetensors",
    )
    add = parser.add_argument
    add("folder", metavar="FOLDER", type=Path, help="what weights_convert or jtl.train wrote")
    add("--to", required=True, choices=tuple(LIBRARIES), help="the library that will load it")
    suffixes = "; ".join(f"{name}: {' or '.join(ends)}" for name, ends in LIBRARIES.items())
    add("--out", metavar="FILE", required=True, type=Path, help=f"what to write ({suffixes})")
    add("--overwrite", action="store_true", help="replace FILE")
    add("--json", action="store_true", help="say what was written as JSON")
    options = parser.parse_args(arguments)
    from weights_convert.export import writer

    target = writer.export(options.folder, options.to, options.out, overwrite=options.overwrite)
    loading = target.loading.replace("FILE", str(options.out))
    if options.json:
        facts = {"file": str(options.out), "library": target.library}
        facts |= {"architecture": target.architecture, "loading": loading}
        print(_json({**facts, "notes": target.notes}))
        return 0
    print(f"wrote {options.out} for {target.architecture} of {target.library}. It loads with:")
    print(textwrap.indent(loading, "  "))
    for note in target.notes:
        print(f"Before training it further there, note: {note}.")
    return 0


# Words that may come first; without one, the arguments are those of `convert`.
COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "convert": convert_command,
    "list": list_command,
    "inspect": inspect_command,
    "export": export_command,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Returns:
        The exit code: 0, 1 for a verification beyond its bounds, 2 for what the user can fix, 130
        after Ctrl-C, or 141 where nobody reads the output any more.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    command = COMMANDS[arguments.pop(0)] if arguments[:1] and arguments[0] in COMMANDS else None
    # Names of files may hold what the terminal's encoding does not.
    with contextlib.suppress(AttributeError):
        sys.stdout.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]
    try:
        code = (command or convert_command)(arguments)
        sys.stdout.flush()
        return code
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130  # What shells report for SIGINT.
    except BrokenPipeError:
        # `head` has seen enough. Python would complain once more when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # What shells report for SIGPIPE.


if __name__ == "__main__":
    sys.exit(main())
