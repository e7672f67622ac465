"""`jtl weights SOURCE --out DIR`: converts weights of another library."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from jtl.common.errors import UserError
from jtl.common.output import print_json
from jtl.config import walk
from weights_convert.printable import listed

if TYPE_CHECKING:
    from weights_convert.checkpoint.folder import ConvertedCheckpoint
    from weights_convert.source.description import Source


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
    """Preprocessing, where the source does not specify it.

    Attributes:
        mean: Mean of each channel, for values in [0, 1].
        std: Standard deviation of each channel.
        crop_pct: Fraction of each side that the centre crop keeps.
        bgr: The weights expect blue-green-red images, as Caffe's do.
        interpolation: Interpolation for resizing images.
        input_size: Height and width of the input.
    """

    mean: Annotated[tuple[float, float, float] | None, walk.Metavar("R,G,B"), _check("means")] = (
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
    """Converts another library's pretrained weights into a folder that jtl reads.

    SOURCE is one of
      PATH             a file or folder: .safetensors, .pth, .pt, .bin, .keras, .h5, .tflite or
                       .onnx or .caffemodel; or a SavedModel
      timm:NAME        timm's weights on the Hugging Face Hub, such as timm:resnet50.a1_in1k
      package:NAME     an installed package with weights
      default          the default weights of --model

    Other commands, each with its own --help:
      list             list the models and their weights
      inspect FILE     show what a checkpoint contains, without converting it
      export FOLDER    write a converted or trained model for timm, torchvision or Keras

    For example:
      jtl weights timm:densenet121.ra_in1k --out weights/d121 --verify
      jtl weights resnet50.pth --model resnet50 --out weights/resnet50
      jtl weights training.pth --entry model_ema --out weights/average
      jtl weights export runs/pets --to timm --out pets.safetensors

    Then train from the folder:
      jtl train --model resnet50 --weights weights/resnet50

    Attributes:
        source: The weights to convert.
        out: Folder to write.
        model: Backbone, one of those that `list` shows. Default: detected from SOURCE's keys.
        architecture: The network's name in timm, such as efficientnet_lite0 or
            tf_efficientnet_lite0, see below.
        overwrite: Replace DIR if it is a converted checkpoint.
        drop_head: Leave out the source's classifier.
        num_classes: 0 is the same as --drop-head.
        entry: Entry of a PyTorch checkpoint to read, such as model_ema. Default: state_dict, model
            or the like; averaged weights only if there is nothing else.
        strip_prefix: Prefix of the network's keys, such as encoder_q. or backbone.; keys without it
            are ignored. Default: detected.
        ignore_keys: Ignore the keys that match this regular expression entirely, such as
            'fc_aux.*'.
        verify: Compare layers, logits and a training step with the source's library (pip install
            'jtl[timm]' or 'jtl[keras]').
        report: Write the measurements of --verify to this file, as JSON if FILE ends in .json,
            else Markdown.
        json: Print the result as JSON.
    """

    SHORT_HELP: ClassVar[tuple[str, ...]] = (
        "source", "out", "model", "overwrite", "drop_head", "verify", "json",
    )  # fmt: skip
    """What the short help explains."""
    DETAILS: ClassVar[str] = """\
conversion
  Every tensor of the source must be used and every parameter filled, with finite numbers of
  the right shape; otherwise jtl lists all problems and writes nothing. All parameters become
  float32 (float16 and bfloat16 exactly, float64 rounded), so exporting a float32 source gives
  it back bit for bit. Code inside a file is never executed.

SOURCE
  A PATH may also be the .index.json of several .safetensors files, or a folder with one
  checkpoint, as on the Hugging Face Hub. jtl reads architecture and preprocessing from a
  config.json next to it, as timm and transformers write it (not for Keras files).
  timm:NAME@REVISION names a revision; see HF_HOME, HF_HUB_OFFLINE and HF_TOKEN.

--architecture
  timm's efficientnet_lite0 and tf_efficientnet_lite0 (and Lite 1 and 2) have the same keys
  but different padding and epsilon. A timm: name, a config.json or an export's header tells
  them apart; without any of these jtl assumes tf_ and says so in the output and the model
  card. This option decides, and overrides a wrong config.json.

exit codes
  0 done; 1 --verify found too large a difference, so nothing was written; 2 error; 130 Ctrl-C"""
    """What the long help ends with."""

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
            f"--num-classes {options.num_classes}: a conversion keeps the source's classes, or "
            "drops them with --num-classes 0. Training adds a new head for your classes anyway."
        )
    use_cpu()
    from weights_convert.checkpoint import folder as converted_folder
    from weights_convert.source import source_conversion, sources
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
    converted = source_conversion.convert_source(source, options.model, drop_head=drop)
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
            print("error: the difference is too large; nothing was written.", file=sys.stderr)
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
    classes = converted.num_classes or "none (backbone only)"
    pre, reading = converted.preprocessing, converted.reading
    mean, std = (", ".join(f"{x:.4g}" for x in triple) for triple in (pre.mean, pre.std))
    dtypes = ", ".join(f"{count} {dtype}" for dtype, count in reading.dtypes.items())
    rows: dict[str, Any] = {
        "model": converted.model,
        "source": f"{converted.source} ({converted.source_format})",
        "revision": converted.revision or "none",
        "naming": converted.library,
        "parameters": f"{converted.num_params:,}",
        "classes": classes,
        "tensors": f"{dtypes}, converted to float32",
        "wrappers": " > ".join(reading.wrappers) or "none",
        "besides": listed(reading.left_out),
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
