"""What a file that is no checkpoint seems to be."""

from __future__ import annotations

import re
from collections.abc import Iterable

_ORIGINAL = "Take the PyTorch or Keras weights it was made of"
_ARRAYS = "save its arrays under PyTorch's names with safetensors.numpy.save_file"
_KINDS = {
    r"msgpack|flax": (
        "Flax's serialization",
        f"Restore it with flax.serialization.msgpack_restore, and {_ARRAYS}",
    ),
    r"pb|pbtxt": (
        "a TensorFlow graph, whose weights are constants without layers",
        "Take the SavedModel's folder with variables/, or the Keras weights",
    ),
    r"meta": (
        "the graph of a TensorFlow checkpoint, without weights",
        "Name the .index file next to it",
    ),
    r"data-\d{5}-of-\d{5}": (
        "the data of a TensorFlow checkpoint, without names",
        "Name the .index file next to it",
    ),
    r"pdparams|pdopt|pdiparams|pdmodel": (
        "a file of PaddlePaddle, whose dense kernels are transposed",
        f"Take PyTorch or Keras weights, or load it with paddle.load and {_ARRAYS}",
    ),
    r"engine|plan|trt": ("an engine of TensorRT, which is compiled for one GPU", _ORIGINAL),
    r"mlmodel": ("a Core ML model", _ORIGINAL),
    r"params": (
        "a file of MXNet",
        f"Load it with mxnet.ndarray.load and {_ARRAYS}, or take torchvision's weights",
    ),
    r"weights|cfg": ("a file of Darknet", "Take a PyTorch port of it"),
    r"t7|net": ("a file of Lua Torch", "Take the PyTorch weights of the same network"),
    r"ot": (
        "a file of tch-rs",
        "Save it there as .safetensors: VarStore::save with that ending",
    ),
    r"gguf|ggml": (
        "a file of llama.cpp and its relatives",
        _ORIGINAL,
    ),
    r"mnn|param|rknn|dlc|om|hef|pte|ort|nb|uff": ("a model for a runtime on devices", _ORIGINAL),
    r"xml": ("a graph of OpenVINO, whose weights are in the .bin file", _ORIGINAL),
    r"prototxt": (
        "a network of Caffe without weights",
        "Name the .caffemodel file that belongs to it",
    ),
    r"solverstate": ("the state of Caffe's solver", "Name the .caffemodel file of that iteration"),
    r"mat": (
        "a file of MATLAB, perhaps of MatConvNet",
        f"Load it with scipy.io.loadmat and {_ARRAYS}",
    ),
    r"npy": (
        "a NumPy .npy file, which holds one array",
        "Save all arrays by name: numpy.savez('weights.npz', **{name: array for name, array in "
        "...})",
    ),
    r"ckpt": (
        "a checkpoint, but neither Lightning's nor TensorFlow's .index; MindSpore's and those of "
        "TensorFlow before 1.0 have this ending, too",
        f"Load it in the program that wrote it and {_ARRAYS}",
    ),
}
"""By the ending of a file: what it is, and what makes it readable."""
_MAGIC = {
    b"GGUF": "gguf",
    b"MATLAB 5.0": "mat",
    b"ftrt": "engine",
    b"\x12\x01\0\0\0\0\0\0": "params",
    b"\x93NUMPY": "npy",
}
"""What files begin with -> an ending that they may have; whatever they are called."""
_FOLDERS = {
    r"saved_model\.pb": "a SavedModel of TensorFlow without variables/variables.index. Load it "
    "there with tf.keras.models.load_model, and save it with model.save('model.keras')",
    r".*\.index": "a folder of several checkpoints of TensorFlow. Name the .index file of one",
    r"_METADATA|_CHECKPOINT_METADATA|manifest\.ocdbt": "a checkpoint of Orbax. Restore it there, "
    "and save the arrays by name with safetensors.numpy.save_file",
    r"__model__|inference\.(pdmodel|json)|.*\.pdiparams": "a model of PaddlePaddle. Take "
    "PyTorch or Keras weights",
    r"model\.json|group1-shard\d+of\d+(\.bin)?": "a model of TensorFlow.js. Take the Keras "
    "model it was made of",
    r"Manifest\.json": "a package of Core ML. Take the PyTorch or Keras weights it was made of",
    r".*\.caffemodel": "a folder with a Caffe model. Name its .caffemodel file",
    r".*\.distcp": "a distributed checkpoint of PyTorch. Make one file of it: python -m "
    "torch.distributed.checkpoint.format_utils dcp_to_torch '{}' weights.pth",
}
"""By the name of a file in it."""
_AGAIN = "Download the file again"
_PACKERS = {
    **{b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"},
    **{b"7z\xbc\xaf\x27\x1c": "7-Zip", b"Rar!": "RAR"},
}


def describe_folder(names: Iterable[str], path: str) -> str:
    """What a folder seems to be that was given for a file, by the names of what is in it."""
    names = list(names)
    for pattern, kind in _FOLDERS.items():
        if any(re.fullmatch(pattern, name) for name in names):
            return f"it is {kind.format(path)}"
    return "it is a directory. Name one file inside it"


def of_another_program(path: str, head: bytes = b"") -> str | None:
    """What a file is and what makes it readable, by its ending or what it begins with."""
    ending = path.lower().rpartition(".")[2]
    ending = next((known for magic, known in _MAGIC.items() if head.startswith(magic)), ending)
    for endings, (kind, advice) in _KINDS.items():
        if re.fullmatch(endings, ending):
            return f"it is {kind}; jtl does not read such files. {advice}"
    return None


def describe(head: bytes, path: str) -> str:
    """What a file seems to be, from its name and its first 512 bytes."""
    if told := of_another_program(path, head):
        return told
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the file itself. Run `git lfs pull`, then try again"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<!--")):
        return (
            "it is a web page, perhaps a login or error page saved under this name. "
            "Download the file itself"
        )
    for magic, packer in _PACKERS.items():
        if head.startswith(magic):
            return f"it is compressed with {packer}. Unpack it first"
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
