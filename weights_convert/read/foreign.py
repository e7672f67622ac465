"""What a file that is no checkpoint seems to be."""

from __future__ import annotations

_KINDS = {
    ".onnx": "an ONNX model",
    ".msgpack": "Flax's serialization",
    ".pb": "a TensorFlow graph",
    ".ckpt.index": "an index of TensorFlow's checkpoints",
    ".pdparams": "a file of PaddlePaddle",
    ".engine": "an engine of TensorRT",
    ".mlmodel": "a Core ML model",
}
_AGAIN = "Download the file again"
NUMPY = (
    "it is {}. Save its arrays by name as safetensors: safetensors.numpy.save_file("
    "{{name: array for name, array in ...}}, 'weights.safetensors')"
)


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
        return NUMPY.format("a NumPy .npy file")
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
