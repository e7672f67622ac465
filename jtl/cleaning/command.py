"""`jtl data clean SOURCE`: a list of likely mistakes in the data, for people to look through."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from jtl.common.output import print_json
from jtl.config import checks, walk
from jtl.config.data import DataConfig
from jtl.config.model import ModelConfig
from jtl.config.run_options import DeviceName
from jtl.data.sources.source_options import DEFAULT, SourceOptions

if TYPE_CHECKING:
    from jtl.cleaning.findings import Findings
    from jtl.common.progress import Display
    from jtl.config.options import Config

OUT = Path("cleaning")


@dataclasses.dataclass(frozen=True)
class Options:
    """Lists likely mistakes in your data: wrong labels, near-duplicates, outliers, damaged files.

    For example:
      jtl data clean my-images
      jtl data clean my-images --run runs/mine --out cleaning/second
      jtl train --data my-images --exclude cleaning/clean.csv

    Labels are compared with what a classifier says that was trained without the image, so nothing
    is certain: look through the contact sheets (.jpg), and write yes or no into the column exclude
    of clean.csv. No image is changed or deleted.

    Attributes:
        source: Your images, as for --data of `jtl train`.
        run: Look at the images with the backbone of this run, at its image size. Default: with
            --model and --weights.
        model: Backbone that looks at the images, as for `jtl train`.
        weights: Its weights, as for `jtl train`.
        out: New folder for clean.csv and the contact sheets. Default: cleaning.
        device: Device to compute on: cpu, gpu or tpu. Default: the fastest one that JAX finds.
        json: Print JSON on stdout instead of text.
    """

    HELP_FROM: ClassVar = walk.HelpFrom(DataConfig)
    """The source is read as in training."""

    source: Annotated[str, walk.Metavar("SOURCE")]
    run: Annotated[Path | None, walk.Metavar("RUN")] = None
    model: str = ModelConfig.model
    weights: str = ModelConfig.weights
    image_size: Annotated[int | None, checks.within(32, 4096)] = None
    out: Path = OUT
    reading: SourceOptions = DEFAULT
    bit_depth: Annotated[int | Literal["auto"], checks.within(8, 16)] = "auto"
    device: DeviceName = "auto"
    json: bool = False


def command(options: Options) -> None:
    """Writes the list and the contact sheets, and prints how much was found."""
    from jtl.common.progress import Display
    from jtl.distributed import device

    device.use(options.device)
    found = clean(options, Display())
    if options.json:
        print_json(found.to_dict())
        return
    print("\n".join(found.lines()))
    if found.rows:
        print(
            f"Look through the contact sheets, and write yes or no into the column exclude of "
            f"{found.table}. To train without these images:\n"
            f"  {_training_without(options, found.table)}"
        )


def _training_without(options: Options, table: Path) -> str:
    """The command that trains on the source, read as here, without what is excluded."""
    words, known = ["jtl", "train", "--data", options.source], walk.options(SourceOptions)
    for name, value in walk.changed(options.reading).items():
        if name != "exclude":
            words += [known[name].flag, str(value)]
    return shlex.join([*words, "--exclude", str(table)])


def clean(options: Options, display: Display) -> Findings:
    """What is likely wrong in a source; see `jtl.cleaning.clean.clean`."""
    from jtl.cleaning import clean as cleaning

    cleaning.check_out(options.out)
    config, notes = _config(options)
    return cleaning.clean(config, options.out, display, notes)


def _config(options: Options) -> tuple[Config, tuple[str, ...]]:
    """A linear probe of the source, and what to say of it.

    Raises:
        UserError: The run cannot be used, or options are given that it has of its own.
    """
    from jtl.config.options import Config
    from jtl.train.probe_config import probe_config, trained_backbone

    shared = set(walk.options(Options)) & set(walk.options(Config)) - {"json"}
    known = walk.options(Options)
    values = {name: walk.value(options, known[name]) for name in shared}
    defaults = {name: known[name].default for name in shared}
    config, stored = probe_config(options.source, options.run, values, defaults)
    if stored is None or not trained_backbone(stored):
        return config, ()
    return config, (
        "The run trained layers of its backbone on these labels, so it may have learned wrong "
        "ones. Without --run, or with a head_only run, more of them may be found.",
    )
