"""`jtl embed RUN|MODEL SOURCE`: the features of images, in a file."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from jtl.common.output import print_json
from jtl.common.text import counted, for_terminal
from jtl.config import checks, walk
from jtl.config.data import DataConfig
from jtl.config.model import ModelConfig
from jtl.config.run_options import DeviceName
from jtl.data.sources.source_options import DEFAULT, SourceOptions

if TYPE_CHECKING:
    from jtl.common.progress import Display
    from jtl.embed.embeddings import Embeddings


@dataclasses.dataclass(frozen=True)
class Options:
    """Turns images into features, to search, to cluster or to classify them by other means.

    For example:
      jtl embed runs/mine my-images --out features.npz
      jtl embed resnet50 my-images --nearest photo.jpg
      jtl embed runs/mine holiday.zip --unlabelled --out features.parquet

    Features are what the network's classifier head gets of an image. Of a run with a frozen
    backbone they are in the cache already. jtl also shows how well the classes can be told apart by
    them: the validation accuracy of the k nearest neighbours, and of a linear probe.

    Attributes:
        model: A run's folder, whose backbone is used as it was trained, or a model with its
            pretrained weights, such as resnet50.
        source: Your images, as for --data of `jtl train`; with --unlabelled as for `jtl predict`.
        weights: The model's weights, as for `jtl train`.
        out: File for features, names, splits and labels. The extension selects the format: .npz or
            .parquet. An existing file is replaced. Default: none.
        nearest: List the training images that are most similar to this image; separate several
            with commas.
        neighbours: How many images --nearest lists.
        unlabelled: The images have no labels.
        probes: Whether to measure how well classes can be told apart by the features.
        device: Device to compute on: cpu, gpu or tpu. Default: the fastest one that JAX finds.
        json: Print JSON on stdout instead of text.
    """

    HELP_FROM: ClassVar = walk.HelpFrom(DataConfig)
    """The source is read as in training."""

    model: Annotated[str, walk.Metavar("RUN|MODEL")]
    source: Annotated[str, walk.Metavar("SOURCE")]
    weights: str = ModelConfig.weights
    out: Path | None = None
    nearest: Annotated[tuple[Path, ...], walk.Metavar("IMAGE")] = ()
    neighbours: Annotated[int, checks.at_least(1)] = 10
    unlabelled: bool = False
    probes: bool = True
    image_size: Annotated[int | None, checks.within(32, 4096)] = None
    reading: SourceOptions = DEFAULT
    bit_depth: Annotated[int | Literal["auto"], checks.within(8, 16)] = "auto"
    device: DeviceName = "auto"
    json: bool = False


def command(options: Options) -> None:
    """Computes the features, writes them, and prints what they are good for."""
    from jtl.common.progress import Display
    from jtl.distributed import device

    device.use(options.device)
    display = Display()
    found = embed(options, options.source, display)
    near = found.named_nearest(list(options.nearest), options.neighbours) if options.nearest else []
    if options.out is not None:
        found.save(options.out)
        display.message(f"Saved the features to '{options.out}'")
    scores = found.probes if options.probes else None
    if options.json:
        print_json(_as_json(found, scores, near))
        return
    print(for_terminal(repr(found)))
    for line in _score_lines(scores):
        print(line)
    for name, rows in near:
        print(f"Most similar to {for_terminal(name)}:")
        for row in rows:
            label = "" if row.label is None else f"  {for_terminal(row.label)}"
            print(f"  {row.similarity:6.3f}{label}  {for_terminal(row.name)}")


def embed(options: Options, images: Any, display: Display) -> Embeddings:
    """The features of a source with labels, or of images without; see `jtl.embed.computing`."""
    from jtl.common.text import indented
    from jtl.config.options import Config
    from jtl.embed import computing, writing

    writing.check_out(options.out)
    shared = set(walk.options(Options)) & set(walk.options(Config)) - {"json", "model"}
    known = walk.options(Options)
    values = {name: walk.value(options, known[name]) for name in shared}
    defaults = {name: known[name].default for name in shared}
    compute = computing.unlabelled if options.unlabelled else computing.labelled
    found = compute(options.model, images, values, defaults, display)
    if found.unreadable:
        head = f"{counted(len(found.unreadable), 'image')} could not be read, and left out:"
        display.message("\n".join([head, *indented(found.unreadable, 20)]))
    return found


def _score_lines(scores: dict[str, Any] | None) -> list[str]:
    """The accuracies of both probes for people."""
    if scores is None:
        return []
    words = {"val": "validation", "test": "test"}
    names = {"knn": f"{counted(scores['k'], 'nearest neighbour')}", "linear": "linear probe"}
    width = max(map(len, names.values()))
    return [
        f"{text:<{width}}  "
        + ", ".join(f"{words[split]} accuracy {v:.3f}" for split, v in scores[kind].items())
        for kind, text in names.items()
    ]


def _as_json(found: Embeddings, scores: dict[str, Any] | None, near: list[Any]) -> dict[str, Any]:
    return {
        "model": found.model,
        "source": found.source,
        "images": len(found),
        "features": found.features.shape[1],
        "probes": scores,
        "nearest": [
            {"name": name, "neighbours": [row._asdict() for row in rows]} for name, rows in near
        ],
        "unreadable": [dataclasses.asdict(one) for one in found.unreadable],
    }
