"""The Open Inference Protocol, version 2 (REST), with the binary tensor data extension.

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol
"""

from __future__ import annotations

import dataclasses
import json
import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from jtl.common.errors import UserError
from jtl.common.quantities import whole
from jtl.data.multilabel import joined
from jtl.predict.inputs import Item, items
from jtl.serve.errors import Refused
from jtl.serve.model import Computed, ServedModel
from jtl.serve.uploads import MOST_IMAGES, Upload, decoded_base64, parsed, too_many

VERSION = "1"
"""Of the model; a server has one."""
INPUT = "image"
HEADER_LENGTH = "inference-header-content-length"
EXTENSIONS = ("binary_tensor_data",)
_NUMBERS = {"UINT8": np.dtype("uint8"), "FP32": np.dtype("<f4")}
_ALLOWED = (
    "Give BYTES [N] (encoded images, in base64 where they are in the JSON), UINT8 [N, H, W, 3] "
    "(RGB), or FP32 [N, H, W, 3] (RGB from 0 to 1)"
)


@dataclasses.dataclass(frozen=True)
class Wanted:
    """An output that is asked for, and whether as binary data."""

    name: str
    binary: bool


@dataclasses.dataclass(frozen=True)
class Inference:
    """A request.

    Attributes:
        id: What the client calls it, or None.
        images: Encoded images, or `Item`s of pixels.
        outputs: Those that are asked for.
        binary: Whether outputs are binary data by default.
    """

    id: str | None
    images: list[Upload] | list[Item]
    outputs: list[Wanted] | None
    binary: bool


def server_metadata(version: str) -> dict[str, Any]:
    """The answer to `GET /v2`."""
    return {"name": "jtl", "version": version, "extensions": list(EXTENSIONS)}


def metadata(model: ServedModel) -> dict[str, Any]:
    """The answer to `GET /v2/models/NAME`."""
    classes = len(model.class_names)
    outputs = {
        "probabilities": ("FP32", [-1, classes]),
        "class": ("BYTES", [-1]),
        "logits": ("FP32", [-1, classes]),
    }
    if model.thresholds is not None:
        outputs["labels"] = ("BYTES", [-1])
    if model.trust.abstain is not None:
        outputs["abstains"] = ("BOOL", [-1])
    if model.trust.limit is not None:
        outputs |= {"distance": ("FP32", [-1]), "unusual": ("BOOL", [-1])}
    return {
        "name": model.name,
        "versions": [VERSION],
        "platform": "jax",
        "inputs": [{"name": INPUT, "datatype": "BYTES", "shape": [-1]}],
        "outputs": [
            {"name": name, "datatype": kind, "shape": shape}
            for name, (kind, shape) in outputs.items()
        ],
        "parameters": {"classes": joined(model.class_names)},
    }


def read(data: bytes, header_length: str | None) -> Inference:
    """A request to infer.

    Args:
        data: Its body.
        header_length: How many bytes of it are JSON, where binary data follow.

    Raises:
        Refused: It does not follow the protocol, or its tensor is no image.
    """
    length = len(data) if header_length is None else whole(header_length)
    if length is None or length > len(data):
        raise Refused(400, f"Inference-Header-Content-Length is {header_length!r}, which is not "
                           f"within the {len(data)} bytes of the body.")  # fmt: skip
    content, rest = parsed(data[:length]), memoryview(data)[length:]
    if not isinstance(content, dict) or not isinstance(content.get("inputs"), list):
        raise Refused(400, 'The JSON must be an object with a list of "inputs".')
    tensors = content["inputs"]
    if len(tensors) != 1 or not isinstance(tensors[0], dict):
        raise Refused(400, f"There must be one input, '{INPUT}', not {len(tensors)}.")
    tensor = tensors[0]
    if tensor.get("name") != INPUT:
        raise Refused(400, f"There is no input {tensor.get('name')!r}; the input is '{INPUT}'.")
    size = _parameters(tensor).get("binary_data_size")
    if size is not None and size != len(rest):
        raise Refused(400, f"binary_data_size is {size!r}, but {len(rest)} bytes follow the JSON.")
    images = _images(tensor, None if size is None else bytes(rest))
    if not images:
        raise Refused(400, f"The input has no image. {_ALLOWED}.")
    if len(images) > MOST_IMAGES:
        raise too_many(len(images))
    wanted = content.get("outputs")
    if wanted is not None and not (
        isinstance(wanted, list) and all(isinstance(one, dict) for one in wanted)
    ):
        raise Refused(400, '"outputs" must be a list of objects.')
    binary = bool(_parameters(content).get("binary_data_output", False))
    outputs = [
        Wanted(str(one.get("name")), bool(_parameters(one).get("binary_data", binary)))
        for one in wanted or ()
    ]
    asked = content.get("id")
    return Inference(None if asked is None else str(asked), images, outputs or None, binary)


def _parameters(of: dict[str, Any]) -> dict[str, Any]:
    found = of.get("parameters")
    return found if isinstance(found, dict) else {}


def _images(tensor: dict[str, Any], binary: bytes | None) -> list[Upload] | list[Item]:
    kind, shape = tensor.get("datatype"), tensor.get("shape")
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise Refused(400, f"The shape of '{INPUT}' must be a list of whole numbers, not {shape}.")
    if kind == "BYTES":
        return _encoded(shape, tensor.get("data"), binary)
    if kind not in _NUMBERS:
        raise Refused(400, f"The datatype of '{INPUT}' is {kind!r}. {_ALLOWED}.")
    dtype = _NUMBERS[kind]
    count = math.prod(shape)
    if binary is not None:
        if len(binary) != count * dtype.itemsize:
            raise Refused(
                400, f"{kind} of shape {shape} takes {count * dtype.itemsize} bytes, and there are "
                     f"{len(binary)}."
            )  # fmt: skip
        pixels = np.frombuffer(binary, dtype)
    else:
        pixels = _from_json(tensor.get("data"), kind)
        if pixels.size != count:
            raise Refused(
                400, f"The shape {shape} means {count} values, and there are {pixels.size}."
            )
    if kind == "FP32":
        # Also refuses NaN.
        if pixels.size and not (pixels.min() >= 0 and pixels.max() <= 1):
            raise Refused(
                400, f"The values of FP32 images must be from 0 to 1. {_ALLOWED}."
            )  # fmt: skip
        pixels = (pixels * np.float32(255)).round().astype(np.uint8)
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[0] > MOST_IMAGES):
        if len(shape) == 4:
            raise too_many(shape[0])
        raise Refused(400, f"{kind} images have the shape [N, H, W, 3], not {shape}.")
    try:
        return items(pixels.reshape(shape))
    except UserError as error:
        raise Refused(400, f"{error} {_ALLOWED}.") from error


def _from_json(data: Any, kind: str) -> np.ndarray:
    """Numbers of a list, nested or not."""
    try:
        found = np.asarray(data)
    except ValueError as error:
        raise Refused(400, "The data are nested lists of different lengths.") from error
    # Nothing is float64; some clients write 12 as 12.0.
    fractions = kind == "UINT8" and found.dtype.kind == "f" and (found != found.round()).any()
    if found.dtype.kind not in "iuf" or fractions:
        raise Refused(400, f"The data must be a list of numbers of {kind}.")
    if kind == "UINT8":
        if found.size and not (found.min() >= 0 and found.max() <= 255):
            raise Refused(400, "The values of UINT8 images must be from 0 to 255.")
        return found.astype(np.uint8).ravel()
    return found.astype(np.float32).ravel()


def _encoded(shape: list[int], data: Any, binary: bytes | None) -> list[Upload]:
    count = math.prod(shape)
    if binary is not None:
        images = _split(binary)
    else:
        if not isinstance(data, list):
            raise Refused(400, f"The data of '{INPUT}' must be a list of text in base64.")
        flat = [one for part in data for one in (part if isinstance(part, list) else [part])]
        if not all(isinstance(one, str) for one in flat):
            raise Refused(400, f"The data of '{INPUT}' must be a list of text in base64.")
        images = [decoded_base64(one, f"image {i}") for i, one in enumerate(flat)]
    if len(images) != count:
        raise Refused(400, f"The shape {shape} means {count} images, and there are {len(images)}.")
    return [Upload(f"image {i}", image) for i, image in enumerate(images)]


def _split(binary: bytes) -> list[bytes]:
    """The elements of a binary tensor of BYTES: each after its length, 4 bytes, little endian."""
    found, at = [], 0
    while at < len(binary):
        if at + 4 > len(binary):
            raise Refused(400, "The binary data end within the length of an element.")
        (length,) = struct.unpack_from("<I", binary, at)
        at += 4
        if at + length > len(binary):
            raise Refused(400, f"The binary data end within an element of {length} bytes.")
        found.append(binary[at : at + length])
        at += length
    return found


def answer(
    model: ServedModel, request: Inference, computed: Sequence[Computed]
) -> tuple[bytes, dict[str, str]]:
    """The answer to a request to infer: its body, and its headers.

    Args:
        model: What answers.
        request: As `read` gives it.
        computed: Of its images.

    Raises:
        Refused: There is no such output.
    """
    logits = np.stack([each.logits for each in computed])
    shares = model.probabilities(logits)
    likeliest = np.argmax(logits, -1)
    made: dict[str, tuple[str, Any]] = {
        "probabilities": ("FP32", shares),
        "class": ("BYTES", [model.class_names[i] for i in likeliest]),
        "logits": ("FP32", logits),
    }
    if model.thresholds is not None:
        made["labels"] = ("BYTES", [joined(names) for names in model.chosen(logits)])
    trust = model.trust
    if trust.abstain is not None:
        made["abstains"] = ("BOOL", shares.max(-1) < trust.abstain)
    if trust.limit is not None:
        distances = np.array([each.distance for each in computed], np.float32)
        made |= {"distance": ("FP32", distances), "unusual": ("BOOL", distances > trust.limit)}
    wanted = request.outputs or [Wanted(name, request.binary) for name in made if name != "logits"]
    outputs, parts = [], []
    for one in wanted:
        if one.name not in made:
            raise Refused(400, f"There is no output '{one.name}'; there are {', '.join(made)}.")
        kind, values = made[one.name]
        shape = list(values.shape) if isinstance(values, np.ndarray) else [len(values)]
        output: dict[str, Any] = {"name": one.name, "datatype": kind, "shape": shape}
        if one.binary:
            parts.append(_binary(values))
            output["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            output["data"] = values.ravel().tolist() if kind != "BYTES" else values
        outputs.append(output)
    content: dict[str, Any] = {"model_name": model.name, "model_version": VERSION}
    if request.id is not None:
        content["id"] = request.id
    head = json.dumps({**content, "outputs": outputs}).encode("ascii")
    if not parts:
        return head, {"content-type": "application/json"}
    headers = {"content-type": "application/octet-stream", HEADER_LENGTH: str(len(head))}
    return head + b"".join(parts), headers


def _binary(values: np.ndarray | Sequence[str]) -> bytes:
    if isinstance(values, np.ndarray):
        return np.ascontiguousarray(values).tobytes()
    encoded = [value.encode("utf-8", "backslashreplace") for value in values]
    return b"".join(struct.pack("<I", len(one)) + one for one in encoded)
