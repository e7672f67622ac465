"""Checkpoint files as named numpy arrays, without PyTorch.

`read` tells the format by the file's content, not by its name:

* safetensors, through the `safetensors` package;
* `torch.save`'s zip archive, the default since PyTorch 1.6;
* `torch.save`'s older stream of pickles;
* HDF5 and `.keras` archives, as Keras writes them: see `h5_files`;
* NumPy's `.npz` archives, as big_vision has them: see `numpy_files`;
* TensorFlow Lite, dequantized: see `tflite_files`;
* ONNX, as PyTorch exports it: see `onnx_files`;
* Caffe's models: see `caffe_files`;
* checkpoints and SavedModels of TensorFlow: see `saved_models`;
* several such files beside an index, as on the Hugging Face hub: see `sharded`.

Arrays are read-only views of the memory-mapped file wherever its alignment permits, so a reader
needs little more memory than the file has bytes. Nothing in a file is ever executed: see
`torch_pickle`.
"""

from __future__ import annotations

import dataclasses
import mmap
import os
import re
import stat
from collections.abc import Callable
from typing import Any

import numpy as np

from jtl.common.errors import UserError
from weights_convert.printable import listed, shown
from weights_convert.read import (
    caffe_files,
    foreign,
    h5_files,
    numpy_files,
    onnx_files,
    safetensors_files,
    saved_models,
    sharded,
    tensor_bundle,
    tflite_files,
    torch_files,
)

_ALLOWED = (
    "Allowed are .safetensors files, .pth, .pt and .bin files that `torch.save` wrote, .h5 and "
    ".keras files that Keras wrote, .npz files of arrays by name, .tflite files, .onnx files "
    "that PyTorch exported, .caffemodel files, and folders and .index files that TensorFlow saved."
)
_AGAIN = "Download the file again"
_HDF5 = b"\x89HDF\r\n\x1a\n"
_PREFIXES = ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "model.")
# What stands within keys where parts of a network were wrapped one by one.
_WRAPPED = re.compile(r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_COUNTERS = ("n_averaged",)
_MAX_SAFETENSORS_HEADER = 100_000_000  # the format's own limit


@dataclasses.dataclass(frozen=True)
class SourceFile:
    """A checkpoint's tensors, and what is known about the file they came from.

    Attributes:
        format: "safetensors", "torch-zip", "torch-legacy", "keras-weights-h5" (Keras 3's
            `.weights.h5`), "keras-h5" (the older layout), "keras-archive" (`.keras`), "npz",
            "tflite", "onnx", "caffe" or "tensorflow".
        tensors: Read-only arrays by name, in the file's order, dtype as stored (bfloat16 is
            `ml_dtypes.bfloat16`), layout as in the source library. They may view the file: while
            they are in use, it must not be overwritten or cut.
        metadata: What the header of a safetensors file says, or an export's attributes of an
            HDF5 file; empty for other formats.
        wrappers: What was taken off around the tensors, outermost first, e.g.
            ("state_dict", "module.").
        sha256: Hexadecimal digest of the whole file; of several files see `sharded.digest`.
        size_bytes: Size of the whole file, or of all files.
        left_out: What else there was beside them, such as an optimizer's state, as text.
        entries: Entries with other weights that could have been taken.
        keras_config: The configuration of a whole Keras model.
        settings: Options of the program that trained a PyTorch checkpoint, such as timm's.
        value: All that a PyTorch checkpoint holds, with stand-ins for what is not plain.
        scaling: Without it, what a Keras file calls layers that scale an image.
        notes: What the user should know about the format.
        padding: Of an ONNX graph's first convolution, SAME or symmetric; None if it is not known.
        graph: All that an ONNX graph says.
    """

    format: str
    tensors: dict[str, np.ndarray]
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)
    wrappers: tuple[str, ...] = ()
    sha256: str = ""
    size_bytes: int = 0
    left_out: tuple[str, ...] = ()
    entries: tuple[str, ...] = ()
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    value: object = None
    keras_config: dict[str, Any] | None = None
    scaling: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    padding: str | None = None
    graph: onnx_files.Content | None = None


def is_of_keras(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is Keras's or TensorFlow's by its kind; False where it cannot be read."""
    try:
        # Opening a pipe would wait for ever.
        if not os.path.isfile(path):
            return False
        with open(path, "rb") as file:
            of_hdf5 = file.read(len(_HDF5)) == _HDF5
        return of_hdf5 or os.fsdecode(path).endswith((".keras", tensor_bundle.SUFFIX))
    except (OSError, ValueError):
        return False


def read(path: str | os.PathLike[str], entry: str | None = None) -> SourceFile:
    """Reads a checkpoint file.

    From a training checkpoint the plain weights are taken ("state_dict" or "model"), and a moving
    average ("state_dict_ema", "model_ema") only if there are no plain ones. Entries that are not
    tensors are left out. What wrapping modules put in front of every name is taken off, such as
    "module." and "_orig_mod.".

    Args:
        path: A .safetensors file, or one that `torch.save` or Keras wrote, under any name.
        entry: The entry of a PyTorch checkpoint that holds the weights; None for the usual one.

    Returns:
        The tensors and what is known about the file.

    Raises:
        UserError: The file is missing, damaged, of another kind, or holds no tensors by name, or
            its pickle asks for anything that a state dict does not need.
    """
    location = os.fsdecode(path)
    name = repr(location)
    try:
        _check_file(location)
        content, size = (_read_shards if sharded.is_index(location) else _read_one)(location, entry)
        sha256 = sharded.digest(location)
        if not sharded.is_index(location):
            size += sum(os.path.getsize(other) for other in sharded.files_beside(location))
    except (OSError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise UserError(f"cannot read {name}: {reason}. {_ALLOWED}") from error
    except UserError as error:
        said = str(error).removesuffix(".")
        raise UserError(f"cannot read {name}: {said}. {_ALLOWED}") from error.__cause__
    tensors, prefixes = _without_prefixes(content.tensors)
    counters = tuple(shown(name) for name in content.tensors if name in _COUNTERS and prefixes)
    return dataclasses.replace(
        content,
        tensors=tensors,
        wrappers=content.wrappers + prefixes,
        sha256=sha256,
        size_bytes=size,
        left_out=content.left_out + counters,
    )


def _read_one(path: str, entry: str | None) -> tuple[SourceFile, int]:
    """What a file holds, and its size."""
    with open(path, "rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return _READERS[_format_of(data, path)](path, data, entry), len(data)


def _read_shards(path: str, entry: str | None) -> tuple[SourceFile, int]:
    """What the files of an index hold together, and the size of all."""
    _no_entries(entry)
    places = sharded.read_index(path)
    size = os.path.getsize(path)
    parts: dict[str, SourceFile] = {}
    for shard in dict.fromkeys(places.values()):
        name = os.path.basename(shard)
        try:
            _check_file(shard)
            parts[shard], length = _read_one(shard, None)
        except UserError as error:
            raise UserError(f"its file '{shown(name, 60)}': {error}") from error.__cause__
        size += length
    missing = [key for key, shard in places.items() if key not in parts[shard].tensors]
    surplus = [key for part in parts.values() for key in part.tensors if key not in places]
    if missing or surplus:
        kind = f"lack {listed(missing, 3)}" if missing else f"hold {listed(surplus, 3)} besides"
        raise UserError(f"its files {kind}, unlike the index says. {_AGAIN}")
    first = next(iter(parts.values()))
    tensors = {key: parts[shard].tensors[key] for key, shard in places.items()}
    return SourceFile(first.format, tensors, first.metadata), size


def _check_file(path: str) -> None:
    """Refuses anything but a regular, non-empty file."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise UserError("there is no such file. Check the path") from None
    except ValueError as error:
        raise UserError(f"this is not a path ({error}). Check the path") from None
    if stat.S_ISDIR(status.st_mode):
        raise UserError(foreign.describe_folder(os.listdir(path), shown(path, 200)))
    # A pipe or a device would block or never end.
    if not stat.S_ISREG(status.st_mode):
        raise UserError("it is not a regular file. Copy it to a file first")
    if status.st_size == 0:
        raise UserError(f"it is empty. {_AGAIN}")


def _format_of(data: mmap.mmap, path: str) -> str:
    """The key into `_READERS` for this content, or a refusal that says what it is instead."""
    head = data[:512]
    header_size = int.from_bytes(head[:8], "little")
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        # NumPy's own archive has nothing else.
        if b".npy" in head[30:]:
            return "npz"
        return "zip"
    if head.startswith(_HDF5):
        return "h5"
    if head[8:9] == b"{" and header_size <= _MAX_SAFETENSORS_HEADER:
        return "safetensors"
    if head[4:8] == tflite_files.MAGIC:
        return "tflite"
    if head.startswith(b"\x80"):
        return "torch-legacy"
    if tensor_bundle.is_index(memoryview(data)):
        return "tensorflow"
    if onnx_files.is_model(memoryview(data)):
        return "onnx"
    if caffe_files.is_model(memoryview(data)):
        return "caffe"
    raise UserError(foreign.describe(head, path))


def _read_safetensors(path: str, data: mmap.mmap, entry: str | None) -> SourceFile:
    _no_entries(entry)
    return SourceFile("safetensors", *safetensors_files.read(path, data))


def _no_entries(entry: str | None) -> None:
    if entry is not None:
        raise UserError(
            f"it has no entry '{shown(entry, 60)}': only PyTorch's checkpoints have entries. Leave "
            "--entry out"
        )


def _read_h5(path: str, data: mmap.mmap, entry: str | None) -> SourceFile:
    _no_entries(entry)
    return _of_keras(h5_files.read(path, data))


def _of_keras(content: h5_files.Content) -> SourceFile:
    tensors, layout, metadata, config, scaling = content
    return SourceFile(layout, tensors, metadata, keras_config=config, scaling=scaling)


def _read_zip(path: str, data: mmap.mmap, entry: str | None) -> SourceFile:
    if h5_files.is_archive(data):
        _no_entries(entry)
        return _of_keras(h5_files.read_archive(path))
    return SourceFile("torch-zip", metadata={}, **torch_files.read_zip(data, entry)._asdict())


def _read_npz(path: str, data: mmap.mmap, entry: str | None) -> SourceFile:
    _no_entries(entry)
    return SourceFile("npz", numpy_files.read(path))


def _read_torch_legacy(path: str, data: mmap.mmap, entry: str | None) -> SourceFile:
    # Other programs pickle arrays, too.
    if path.lower().endswith((".pdparams", ".pdopt")) and (
        told := foreign.of_another_program(path)
    ):
        raise UserError(told)
    return SourceFile("torch-legacy", metadata={}, **torch_files.read_legacy(data, entry)._asdict())


def _read_tflite(path: str, data: mmap.mmap, entry: str | None) -> SourceFile:
    _no_entries(entry)
    tensors, note = tflite_files.read(data)
    return SourceFile("tflite", tensors, notes=(note,))


def _read_onnx(path: str, data: mmap.mmap, entry: str | None) -> SourceFile:
    _no_entries(entry)
    content = onnx_files.read(path, memoryview(data))
    return SourceFile("onnx", content.tensors, padding=content.padding, graph=content)


def _read_caffe(path: str, data: mmap.mmap, entry: str | None) -> SourceFile:
    _no_entries(entry)
    tensors, left_out, notes = caffe_files.read(memoryview(data))
    return SourceFile("caffe", tensors, left_out=left_out, notes=notes)


def _read_tensorflow(path: str, data: mmap.mmap, entry: str | None) -> SourceFile:
    _no_entries(entry)
    tensors, left_out, config, scaling = saved_models.read(path)
    return SourceFile(
        "tensorflow", tensors, left_out=left_out, keras_config=config, scaling=scaling
    )


def _without_prefixes(
    tensors: dict[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Takes off what wrapping modules put in front of every name, one after the other.

    Those are DataParallel and averaged models ("module."), `torch.compile` ("_orig_mod."), FSDP
    and Lightning modules ("model."). Of parts that were compiled, sharded or checkpointed one by
    one the names are taken off within the keys. An averaged model counts beside it how often it
    averaged.
    """
    prefixes: list[str] = []
    while True:
        names = [name for name in tensors if name not in _COUNTERS]
        found = [p for p in _PREFIXES if names and all(n.startswith(p) and n != p for n in names)]
        if not found:
            break
        tensors = {name.removeprefix(found[0]): tensors[name] for name in names}
        prefixes += found
    places = {n[: m.end()]: m[0] for n in tensors for m in _WRAPPED.finditer(n)}
    plain = {_WRAPPED.sub("", name): array for name, array in tensors.items()}
    # One place is a prefix, and two keys that would become one are of two networks.
    if len(places) > 1 and len(plain) == len(tensors):
        return plain, (*prefixes, *dict.fromkeys(places.values()))
    return tensors, tuple(prefixes)


_READERS: dict[str, Callable[[str, mmap.mmap, str | None], SourceFile]] = {
    "safetensors": _read_safetensors,
    "zip": _read_zip,
    "npz": _read_npz,
    "torch-legacy": _read_torch_legacy,
    "h5": _read_h5,
    "tflite": _read_tflite,
    "onnx": _read_onnx,
    "caffe": _read_caffe,
    "tensorflow": _read_tensorflow,
}
