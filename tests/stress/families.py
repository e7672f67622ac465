"""Does each family train from a file of its source's layout, and does its export load back there?

    python tests/stress/families.py --data ants-bees.zip --out results/families
    python tests/stress/families.py --data ants-bees.zip --only vit bit   # these families
    python tests/stress/families.py --smoke --out /tmp/families           # to see that it works

For each table of names in `weights_convert/convert/tables` it takes the smallest model and writes a
file of random weights: of timm, torchvision and Keras what the library itself saves, of older
layouts and others the table's own names. It trains the last stage on a few small images, exports
the run to the same library (or to the first that has the network), and loads the export there by
the lines that `jtl export` prints. The kernels of the first unit must come out as they went in, and
others must not. `refused` is a source that no library of today computes like. Each line is written
when it is there; what is there is not done again. Exits 1 where a line says `failed`. All of
them take half an hour on two cores.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from trainings import write_images

from jtl import models
from jtl.common.files import append_text
from jtl.common.trees import leaf_paths, lookup
from support import commands, keras_draws
from support.weights_samples import smallest
from weights_convert.catalogue.weights import timm_names
from weights_convert.convert.rules import Table
from weights_convert.convert.tables import TABLES, torchvision_name
from weights_convert.export import targets
from weights_convert.source import source_conversion, sources

SIZE, CLASSES = 64, 7
SMOKE = (("mnasnet", "torchvision"), ("vit", "timm"))
REFUSED = "that computes what these weights need"
"""Of the message where no library has a network with the source's conventions: no fault."""
NEEDS_A_FILE = ("tflite",)
"""Layouts that only whole files of their programs have; tests/weights/read makes one up."""


def write_source(table: Table, model: str, folder: Path, size: int) -> Path:
    """A file of random weights as the table's library saves it."""
    library = table.library
    if library == "timm":
        import timm
        from safetensors.torch import save_file

        peer = _randomized(timm.create_model(timm_names(model)[0], num_classes=CLASSES), model)
        save_file(peer.state_dict(), folder / "source.safetensors")
        return folder / "source.safetensors"
    if library in ("torchvision", "timm/torchvision"):
        import torch
        import torchvision

        options = {"aux_logits": False, "init_weights": False} if model == "inception_v3" else {}
        peer = torchvision.models.get_model(torchvision_name(model), num_classes=CLASSES, **options)
        peer = _randomized(peer, model)
        torch.save(peer.state_dict(), folder / "source.pth")
        return folder / "source.pth"
    name = targets.keras_name(model)
    if name and re.match(r"keras( \(numbered|$| \(no top)", library):
        import keras

        top = {"classes": CLASSES} if "no top" not in library else {"include_top": False}
        fixed = 224 if "widths" in dir(models.get(model).backbone) and len(top) else size
        peer = getattr(keras.applications, name)(
            weights=None, input_shape=(fixed,) * 2 + (3,), **top
        )
        keras_draws.randomize(peer)
        path = folder / ("source.weights.h5" if "numbered" in library else "source.h5")
        (peer.save_weights if "numbered" in library else peer.save)(path)
        return path
    return _made_up(table, model, folder)


def _randomized(peer: Any, model: str) -> Any:
    from support.parity import nchw, random_images, randomize

    size = models.get(model).preprocessing.size  # Transformers of other libraries take no other.
    return randomize(peer, nchw(random_images(2, size, size)))


def _made_up(table: Table, model: str, folder: Path) -> Path:
    """A file of a table's names, for layouts that no library writes any more."""
    network = models.create(
        model,
        num_classes=CLASSES,
        head=models.get(model).classifier,
        conventions=dict(table.conventions),
    )
    shapes = models.variable_shapes(network)
    rng = np.random.default_rng(0)
    tensors: Any = {
        key: table.to_source(path, _drawn(rng, path[-1], lookup(shapes, path).shape))
        for path, key in table.source_keys(network.backbone, shapes).items()
    }
    if table.is_of_keras:
        return _keras_2(tensors, folder / "source.h5")
    if table.library == "big_vision":
        np.savez(folder / "source.npz", **tensors)
        return folder / "source.npz"
    import torch

    torch.save({k: torch.tensor(v) for k, v in tensors.items()}, folder / "source.pth")
    return folder / "source.pth"


def _drawn(rng: np.random.Generator, leaf: str, shape: tuple[int, ...]) -> np.ndarray:
    if leaf == "kernel":
        spread = (2 / np.prod(shape[:-1])) ** 0.5
        return (spread * rng.standard_normal(shape)).astype(np.float32)
    return np.full(shape, float(leaf in ("scale", "var")), np.float32)


def _keras_2(tensors: dict[str, np.ndarray], path: Path) -> Path:
    import h5py

    layers: dict[str, list[str]] = {}
    for key in tensors:
        layers.setdefault(key.rpartition("/")[0], []).append(key)
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.encode() for layer in layers]
        file.attrs["keras_version"] = b"2.2.4"
        for layer, keys in layers.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = [f"{key}:0".encode() for key in keys]
            for key in keys:
                group.create_dataset(f"{key}:0", data=tensors[key])
    return path


def target_of(table: Table, model: str) -> str:
    """Where an export goes: the library of the weights, if it has the network, else another."""
    own = table.library.split(" ")[0].rpartition("/")[2]
    possible = [name for name in targets.LIBRARIES if targets.candidates(name, model)]
    return own if own in possible else possible[0]


def run(command: str, *arguments: object) -> str:
    """What a command prints.

    Raises:
        RuntimeError: It failed, with its message.
    """
    out, told = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(told):
        code = commands.main(command, *arguments)
    if code:
        raise RuntimeError(told.getvalue().strip().rpartition("error: ")[2])
    return out.getvalue()


def tree_of(path: Path, model: str) -> dict[str, Any]:
    """The variables of a file under jtl's names."""
    return source_conversion.convert_source(sources.locate(str(path), model), model).variables


def compare(source: Path, exported: Path, model: str) -> str:
    """How many of the backbone's kernels the training has changed.

    Raises:
        RuntimeError: It has changed the first unit's, or none.
    """
    before, after = tree_of(source, model)["params"], tree_of(exported, model)["params"]
    first, *_ = models.get(model).backbone.units()
    kernels = [p for p in leaf_paths(before) if p[-1] == "kernel" and p[0] != "head"]
    kernels.sort(key=lambda path: not "/".join(path).startswith(f"{first.path}/"))
    same = [np.array_equal(lookup(before, p), lookup(after, p)) for p in kernels]
    if not same[0] or all(same):
        raise RuntimeError(
            f"the first kernel is {'as it was' if same[0] else 'another'}, and "
            f"{same.count(False)} of {len(same)} have changed"
        )
    return f"{same.count(False)} of {len(same)}"


def load_there(printed: str, size: int) -> None:
    """Loads an export by the lines that were printed, and lets it predict."""
    scope: dict[str, Any] = {}
    exec("\n".join(line[2:] for line in printed.split("To use it:\n")[1].splitlines()), scope)
    images = np.random.default_rng(0).random((2, size, size, 3), np.float32)
    peer = scope["model"]
    if hasattr(peer, "state_dict"):
        import torch

        with torch.no_grad():
            given = peer.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    else:
        given = np.asarray(peer(255 * images, training=False))
    if given.shape != (2, 2) or not np.isfinite(given).all():
        raise RuntimeError(f"the export gives {given}")


def tried(table: Table, data: Path, scratch: Path) -> dict[str, Any]:
    """A family and a source: what came of it."""
    model = smallest(table)
    row: dict[str, Any] = {"family": table.family, "source": table.library, "model": model}
    began = time.process_time()
    least = getattr(models.get(model).backbone, "min_size", 1)
    size = max(SIZE, least)
    if (table.family, table.library) == ("vit", "torchvision"):  # They take one size alone.
        size = models.get(model).preprocessing.size
    row["image_size"], row["step"] = size, "write"
    try:
        source = write_source(table, model, scratch, size)
        row["file"], row["step"] = source.name, "train"
        run(
            *("train", "--data", f"folder:{data}", "--model", model, "--weights", source),
            *("--image-size", size, "--mask", "last_stage", "--epochs", 1, "--batch-size", 4),
            *("--run-dir", scratch / "run"),
            *(("--head", "conv") if models.get(model).classifier.relu_logits else ()),
        )
        row["to"], row["step"] = target_of(table, model), "export"
        suffix = targets.LIBRARIES[row["to"]][0]
        exported = scratch / f"export{suffix}"
        printed = run("export", scratch / "run", "--to", row["to"], "--out", exported)
        row["step"] = "load"
        load_there(printed, size)
        row["changed"] = compare(source, exported, model)
        row["result"] = "loads back"
        del row["step"]
    except Exception as error:  # Whatever it is, the next family is tried.
        refused = row["step"] == "export" and REFUSED in str(error)
        row["result"] = "refused" if refused else "failed"
        row["why"] = f"{type(error).__name__}: {error}"
    return {**row, "cpu_seconds": round(time.process_time() - began, 1)}


def few_images(archive: Path, folder: Path, each: int = 4) -> Path:
    """The first images of each class and split of a zip file."""
    with zipfile.ZipFile(archive) as file:
        counts: dict[str, int] = {}
        for name in sorted(n for n in file.namelist() if n.endswith((".jpg", ".png"))):
            kind = name.rpartition("/")[0]
            counts[kind] = counts.get(kind, 0) + 1
            if counts[kind] <= each:
                file.extract(name, folder)
    (inside,) = folder.iterdir()
    return inside


def in_order(tables: Iterable[Table]) -> list[Table]:
    """One table of each family first, then the others."""
    seen: dict[str, int] = {}
    keyed = []
    for table in tables:
        seen[table.family] = seen.get(table.family, 0) + 1
        keyed.append((seen[table.family], models.get(smallest(table)).published_params, table))
    return [table for *_, table in sorted(keyed, key=lambda each: each[:2])]


def as_table(rows: Sequence[dict[str, Any]]) -> str:
    """The lines for people."""
    lines = ["| family | source | file | export | kernels changed | result |", "|" + "---|" * 6]
    for row in sorted(rows, key=lambda row: (row["family"], row["source"])):
        cells = [row["family"], row["source"], row.get("file", "-"), row.get("to", "-")]
        why = f"{row['result']} ({row['step']}): {row['why']}" if "why" in row else row["result"]
        cells += [row.get("changed", "-"), " ".join(why.split()).replace("|", "\\|")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Tries what is missing; the exit code."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--data", type=Path, help="a zip file of split and class folders")
    parser.add_argument("--out", type=Path, default=Path("results/families"))
    parser.add_argument("--only", nargs="+", default=[], metavar="FAMILY")
    parser.add_argument("--smoke", action="store_true", help="two sources, generated images")
    options = parser.parse_args(arguments)
    if not (options.data or options.smoke):
        parser.error("give the images with --data, or --smoke")
    options.out.mkdir(parents=True, exist_ok=True)
    kept = options.out / "families.jsonl"
    lines = kept.read_text(encoding="utf-8").splitlines() if kept.is_file() else []
    rows = [row for row in map(json.loads, lines) if row["result"] != "failed"]
    done = {(row["family"], row["source"]) for row in rows}
    with tempfile.TemporaryDirectory() as name:
        data = Path(name) / "images"
        data = few_images(options.data, data) if options.data else write_images(data, 12, SIZE, 2)
        for table in in_order(TABLES):
            key = (table.family, table.library)
            wanted = key in SMOKE if options.smoke else table.library not in NEEDS_A_FILE
            if key in done or not wanted or (options.only and table.family not in options.only):
                continue
            scratch = Path(name) / "scratch"
            scratch.mkdir()
            row = tried(table, data, scratch)
            shutil.rmtree(scratch)
            append_text(kept, json.dumps(row) + "\n")
            rows.append(row)
            print(json.dumps(row), flush=True)
            (options.out / "families.md").write_text(as_table(rows), encoding="utf-8")
    return int(any(row["result"] == "failed" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
