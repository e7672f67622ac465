"""Dynamic batching: what waits is computed together, in the order in which it came."""

from __future__ import annotations

import asyncio
import collections
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

_SMOOTHING = 0.2
"""The share of the last batch in the rate."""


class Batcher:
    """Computes items in batches of fixed sizes, in a thread of its own.

    No item waits for a batch to fill up: a lone one is computed at once, and what arrives while a
    batch is computed goes into the next ones. Of what waits, the largest of the sizes that it fills
    is taken, so that nothing is computed for padding.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[Any]], Any],
        sizes: Sequence[int],
        observe: Callable[[int, float], Any] = lambda size, seconds: None,
    ):
        """Starts nothing yet.

        Args:
            compute: From items to a sequence of results, in their order.
            sizes: Of batches, ascending.
            observe: Told the size of every batch and how many seconds it took.
        """
        self._compute, self._sizes, self._observe = compute, tuple(sizes), observe
        self._waiting: collections.deque[tuple[Any, asyncio.Future[Any]]] = collections.deque()
        self._changed = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None
        self.rate: float | None = None
        """Items a second, while there are some; None before the first batch."""

    def start(self) -> None:
        self._thread = threading.Thread(target=self._loop, name="jtl-batches", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after what waits has been computed."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    async def __call__(self, item: Any) -> Any:
        """The result of an item; raises what its batch raised."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        with self._changed:
            if self._closing:
                raise RuntimeError("the server is stopping")
            self._waiting.append((item, future))
            self._changed.notify()
        return await future

    def _loop(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closing:
                    self._changed.wait()
                if not self._waiting:
                    return
                count = self._largest(len(self._waiting))
                batch = [self._waiting.popleft() for _ in range(count)]
            began = time.perf_counter()
            results: Any
            try:
                results = self._compute([item for item, _ in batch])
            except Exception as error:  # The next batch may do better.
                results = [error] * count
            seconds = time.perf_counter() - began
            now = count / max(seconds, 1e-9)
            self.rate = now if self.rate is None else self.rate + _SMOOTHING * (now - self.rate)
            self._observe(count, seconds)
            futures = [future for _, future in batch]
            # Once for all of them: waking the loop is what costs.
            loop = futures[0].get_loop()
            if not loop.is_closed():
                loop.call_soon_threadsafe(_resolve, futures, results)

    def _largest(self, waiting: int) -> int:
        fitting = [size for size in self._sizes if size <= waiting]
        return fitting[-1] if fitting else waiting


def _resolve(futures: Sequence[asyncio.Future[Any]], results: Any) -> None:
    for future, result in zip(futures, results, strict=True):
        if future.done():  # Whoever asked has gone.
            continue
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)
