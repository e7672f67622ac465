"""What a file that is no checkpoint seems to be."""

from __future__ import annotations

import re
from collections.abc import Iterable

_KINDS = {
    ".msgpack": "Flax's serialization",
    ".pb": "a TensorFlow graph",
    ".pdparams": "a file of PaddlePaddle",
    ".engine": "an engine of TensorRT",
    ".mlmodel": "a Core ML model",
    ".params": "a file of MXNet",
    ".weights": "a file of Darknet",
}
_FOLDERS = {
    r"saved_model\.pb": "a SavedModel of TensorFlow without variables/variables.index. Load it "
    "there with tf.keras.models.load_model, and save it with model.save('model.keras')",
    r".*\.index": "a folder of several checkpoints of TensorFlow. Name the .index file of one",
    r"_METADATA|_CHECKPOINT_METADATA|manifest\.ocdbt": "a checkpoint of Orbax. Restore it there, "
    "and save the arrays by name with safetensors.numpy.save_file",
    r".*\.distcp": "a distributed checkpoint of PyTorch. Make one file of it: python -m "
    "torch.distributed.checkpoint.format_utils dcp_to_torch '{}' weights.pth",
}
"""By the name of a file in it."""
_AGAIN = "Download the file again"
_NUMPY = (
    "it is a NumPy .npy file, which holds one array. Save all arrays by name: "
    "numpy.savez('weights.npz', **{name: array for name, array in ...})"
)


def describe_folder(names: Iterable[str], path: str) -> str:
    """What a folder seems to be that was given for a file, by the names of what is in it."""
    names = list(names)
    for pattern, kind in _FOLDERS.items():
        if any(re.fullmatch(pattern, name) for name in names):
            return f"it is {kind.format(path)}"
    return "it is a directory. Name one file inside it"


def describe(head: bytes, path: str) -> str:
    """What a file seems to be, from its name and its first 512 bytes."""
    for ending, kind in _KINDS.items():
        if path.lower().endswith(ending):
            return f"it is {kind}, which jtl does not read. Take the PyTorch or Keras weights"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the file itself. Run `git lfs pull`, then try again"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<!--")):
        return (
            "it is a web page, perhaps a login or error page saved under this name. "
            "Download the file itself"
        )
    for magic, packer in ((b"\x1f\x8b", "gzip"), (b"BZh", "bzip2"), (b"\xfd7zXZ", "xz")):
        if head.startswith(magic):
            return f"it is compressed with {packer}. Unpack it first"
    if head.startswith(b"\x93NUMPY"):
        return _NUMPY
    if head[257:262] == b"ustar":
        return (
            "it is a tar archive, perhaps of PyTorch before 0.1.10. "
            "Unpack it, or save the weights again with a newer PyTorch"
        )
    # The last character may be cut in two by the limit of 512 bytes.
    readable = head.decode("utf-8", "ignore")
    complete = len(head) - len(readable.encode()) < 4
    if readable and complete and all(c.isprintable() or c.isspace() for c in readable):
        return f"it is a text file that begins with {readable[:40]!r}. Name the weights themselves"
    return f"its first bytes {head[:8].hex(' ')} are those of no known format. {_AGAIN}"
