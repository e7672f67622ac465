"""The images of a request: multipart forms, JSON with base64, or an image alone; within bounds."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple

from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from jtl.common.quantities import format_bytes, whole
from jtl.data.image_file import open_image
from jtl.serve.errors import Refused

MOST_IMAGES = 64
"""Of one request."""
SECONDS = 60.0
"""In which a request must have arrived whole."""
_FIELDS = 16
_ALLOWED = (
    "Send multipart/form-data with files, application/json with base64, or one image as the body "
    "with its own type, such as image/jpeg"
)


class Upload(NamedTuple):
    """An encoded image, and what it is called in the answer."""

    name: str
    data: bytes


@dataclasses.dataclass(frozen=True)
class Uploads:
    """What a request holds.

    Attributes:
        images: In their order.
        top_k: How many classes the answer names; None for the default.
    """

    images: list[Upload]
    top_k: int | None = None


class Memory:
    """How many bytes of requests are held at the same time."""

    def __init__(self, most: int):
        """Takes the largest number."""
        self.most, self.held = most, 0

    @contextlib.contextmanager
    def share(self) -> Iterator[Share]:
        """What one request holds, until the block ends."""
        share = Share(self)
        try:
            yield share
        finally:
            self.held -= share.held


class Share:
    """The bytes of one request."""

    def __init__(self, memory: Memory):
        """Holds none yet."""
        self._memory, self.held = memory, 0

    def add(self, count: int) -> None:
        """Holds more; raises `Refused` if there is no room for them."""
        if self._memory.held + count > self._memory.most:
            raise Refused(503, "Too much is being uploaded. Try again.", {"Retry-After": "1"})
        self._memory.held += count
        self.held += count


async def body(request: Request, most: int, share: Share) -> AsyncIterator[bytes]:
    """A request's body in parts.

    Args:
        request: Not read yet.
        most: The most bytes.
        share: Where they are counted.

    Raises:
        Refused: There are more, or there is no room for them, or they do not all arrive.
    """
    stated = whole(request.headers.get("content-length", ""))
    if stated is not None and stated > most:
        raise too_large(most)
    try:
        async for part in request.stream():
            share.add(len(part))
            if share.held > most:
                raise too_large(most)
            yield part
    except ClientDisconnect as error:
        raise Refused(400, "The request ended before all of it had arrived.") from error


def too_large(most: int) -> Refused:
    return Refused(
        413, f"The request has more than {format_bytes(most)}. Send fewer or smaller images."
    )


async def whole_body(request: Request, most: int, share: Share) -> bytes:
    """A request's body; see `body`."""
    with arriving():
        async with asyncio.timeout(SECONDS):
            return b"".join([part async for part in body(request, most, share)])


@contextlib.contextmanager
def arriving() -> Iterator[None]:
    """Turns the end of the time into an answer."""
    try:
        yield
    except TimeoutError as error:
        raise Refused(408, f"The request did not arrive within {SECONDS:.0f} seconds.") from error


async def read(request: Request, most: int, share: Share) -> Uploads:
    """The images of a request to /predict or /explain.

    Args:
        request: Not read yet.
        most: The most bytes of its body.
        share: Where they are counted.

    Raises:
        Refused: It holds none, or not in one of the ways that are allowed, or too many or too much.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        found = await _form(request, most, share)
    elif kind == "application/json":
        found = await run_in_threadpool(_json, await whole_body(request, most, share))
    elif kind.startswith("image/") or kind == "application/octet-stream":
        found = Uploads([Upload("image", await whole_body(request, most, share))])
    else:
        raise Refused(415, f"The content type is '{kind or 'missing'}'. {_ALLOWED}.")
    if not found.images:
        raise Refused(400, f"There is no image in the request. {_ALLOWED}.")
    if (asked := request.query_params.get("top_k")) is not None:
        found = dataclasses.replace(found, top_k=_top_k(asked))
    return found


class _InMemory(MultiPartParser):
    """Keeps files in memory, which `Memory` bounds, and writes none to the disk."""

    spool_max_size = 2**62


async def _form(request: Request, most: int, share: Share) -> Uploads:
    parser = _InMemory(
        request.headers,
        body(request, most, share),  # pyright: ignore[reportArgumentType]
        max_files=MOST_IMAGES,
        max_fields=_FIELDS,
    )
    try:
        with arriving():
            async with asyncio.timeout(SECONDS):
                form = await parser.parse()
    except (MultiPartException, KeyError) as error:  # KeyError: without a boundary.
        said = getattr(error, "message", "") or "its boundary is missing"
        raise Refused(400, f"The form cannot be read: {said.rstrip('.')}.") from error
    images, top_k = [], None
    for field, value in form.multi_items():
        if isinstance(value, UploadFile):
            name = value.filename or f"image {len(images)}"
            images.append(Upload(name, value.file.read()))
            value.file.close()
        elif field == "top_k":
            top_k = _top_k(value)
    return Uploads(images, top_k)


def _json(data: bytes) -> Uploads:
    content = parsed(data)
    if not isinstance(content, dict):
        raise Refused(400, 'The JSON must be an object: {"images": [base64, ...]}.')
    given = content.get("images", [])
    if "image" in content:
        given = [content["image"]]
    if not isinstance(given, list):
        raise Refused(400, '"images" must be a list of images in base64.')
    if len(given) > MOST_IMAGES:
        raise too_many(len(given))
    top_k = _top_k(content["top_k"]) if content.get("top_k") is not None else None
    return Uploads([_of_json(image, f"image {i}") for i, image in enumerate(given)], top_k)


def parsed(data: bytes) -> Any:
    """A JSON text; `Refused` if it is none."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        said = str(error) if isinstance(error, json.JSONDecodeError) else "it is no UTF-8 text"
        raise Refused(400, f"The JSON cannot be read: {said}.") from error


def too_many(count: int, most: int = MOST_IMAGES) -> Refused:
    return Refused(413, f"{count} images are too many for one request. Send {most} at most.")


def _of_json(image: Any, name: str) -> Upload:
    if isinstance(image, dict):
        name, image = str(image.get("name", name)), image.get("data")
    if not isinstance(image, str):
        raise Refused(
            400, f'{name} must be text in base64, or {{"name": ..., "data": text in base64}}.'
        )
    return Upload(name, decoded_base64(image, name))


def decoded_base64(text: str, name: str) -> bytes:
    """Bytes from base64, also that of a `data:` URL; `Refused` if it is none."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused(400, f"{name} is not base64: {error}.") from error


def _top_k(value: Any) -> int:
    number = whole(value) if isinstance(value, str) else value
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise Refused(400, f"top_k must be a whole number of at least 1, not {value!r}.")
    return number


def pixels_fault(data: bytes, most: int) -> str | None:
    """What is wrong with an image of too many pixels, by its header; None if it has not.

    Whatever else is wrong with it, decoding will say.
    """
    try:
        with open_image(data) as image:
            width, height = image.size
    except Image.DecompressionBombError:
        return f"more than {most:,} pixels: scale it down"
    except Exception:  # Pillow's decoders raise nearly every kind on damaged files.
        return None
    if width * height > most:
        return f"{width:,} x {height:,} pixels are more than {most:,}: scale it down"
    return None
