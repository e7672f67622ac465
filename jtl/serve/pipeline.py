"""From a request's images to logits: a bounded queue, decoding in threads, batches."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from jtl.predict.inputs import Item, of_bytes
from jtl.predict.predictions import Unreadable
from jtl.serve import uploads
from jtl.serve.batcher import Batcher
from jtl.serve.errors import Refused
from jtl.serve.measures import Measures
from jtl.serve.model import Computed, Inputs, ServedModel
from jtl.serve.uploads import Memory, Share, Upload

_LONGEST_WAIT = 30
"""Seconds that a client is told to wait at the most."""
_HELD = 8
"""How many of the largest requests are held in memory at the same time."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a server takes on.

    Attributes:
        queue: The most images in progress.
        request_bytes: Of the largest request.
        pixels: Of the largest image.
    """

    queue: int = 256
    request_bytes: int = 64 * 10**6
    pixels: int = 100 * 10**6


@dataclasses.dataclass(frozen=True)
class Unfit(Unreadable):
    """An image that cannot be predicted, and the HTTP status that says so."""

    status: int = 422


class Pipeline:
    """What computes for all requests together.

    Attributes:
        in_progress: How many images are.
        measures: Told what happens.
        memory: What requests hold.
        batcher: What computes.
    """

    def __init__(self, model: ServedModel, limits: Limits):
        """Starts nothing."""
        self._model, self._limits = model, limits
        self.in_progress = 0
        self.memory = Memory(_HELD * limits.request_bytes)
        self.measures = Measures(lambda: self.in_progress, limits.queue, model.sizes)
        self.batcher = Batcher(model.computed, model.sizes, self.measures.batch)
        self._cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4
        # Images that are decoded and not computed yet: two batches, and what threads work on.
        self._decoded = asyncio.Semaphore(2 * model.sizes[-1] + self._cores)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Its threads run inside; at the end they finish what they have."""
        with ThreadPoolExecutor(self._cores, thread_name_prefix="jtl-decode") as self._decoders:
            self.batcher.start()
            try:
                yield
            finally:
                self.batcher.stop()

    @contextlib.contextmanager
    def admitted(self, count: int) -> Iterator[None]:
        """Counts images in progress; `Refused` if there are too many."""
        if self.in_progress + count > self._limits.queue:
            rate = self.batcher.rate
            seconds = 1 if rate is None else math.ceil(self.in_progress / rate)
            wait = min(max(seconds, 1), _LONGEST_WAIT)
            raise Refused(
                503,
                f"{self.in_progress} images are in progress, and {self._limits.queue} is the most. "
                f"Try again in {wait} s.",
                {"Retry-After": str(wait)},
            )
        self.in_progress += count
        try:
            yield
        finally:
            self.in_progress -= count

    @contextlib.contextmanager
    def request(self) -> Iterator[Share]:
        """A request that is being read, with its first image."""
        with self.admitted(1), self.memory.share() as share:
            yield share

    async def computed(
        self, images: Sequence[Upload | Item], several: set[str]
    ) -> list[Computed | Unfit]:
        """What the model gives for each image, or why it gives nothing."""
        if len(images) > self._limits.queue:
            raise uploads.too_many(len(images), self._limits.queue)
        with self.admitted(len(images) - 1):
            return list(await asyncio.gather(*(self._one(image, several) for image in images)))

    async def _one(self, image: Upload | Item, several: set[str]) -> Computed | Unfit:
        async with self._decoded:
            inputs = await self.inputs(image, several)
            if isinstance(inputs, Unfit):
                return inputs
            return await self.batcher(inputs)

    async def inputs(self, image: Upload | Item, several: set[str]) -> Inputs | Unfit:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._decoders, self._read, image, several)
        self.measures.image(readable=not isinstance(found, Unfit))
        return found

    def _read(self, image: Upload | Item, several: set[str]) -> Inputs | Unfit:
        """Decodes an image, in a thread."""
        if isinstance(image, Upload):
            fault = uploads.pixels_fault(image.data, self._limits.pixels)
            if fault is not None:
                return Unfit(image.name, fault, 413)
            image = of_bytes(image.data, image.name)
        found = self._model.inputs(image, several)
        return Unfit(found.name, found.reason) if isinstance(found, Unreadable) else found
