"""Batching: nothing is lost, swapped or computed for padding; a full queue says so."""

from __future__ import annotations

import asyncio
import re
import threading
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from jtl.serve.batcher import Batcher
from support import tiny
from support.serving import SIZES, form, png, served, shares


def gathered(compute: Any, count: int, sizes: tuple[int, ...] = (1, 2, 4, 8)) -> list[Any]:
    """What a batcher gives for the numbers from 0 on."""

    async def ask() -> list[Any]:
        batcher = Batcher(compute, sizes)
        asked = [asyncio.ensure_future(batcher(number)) for number in range(count)]
        await asyncio.sleep(0)  # All wait before the first batch.
        batcher.start()
        found = await asyncio.gather(*asked, return_exceptions=True)
        batcher.stop()
        with pytest.raises(RuntimeError, match="is stopping"):
            await batcher(0)
        return found

    return asyncio.run(ask())


def test_results_go_to_who_asked_and_batches_are_full():
    batches: list[list[int]] = []

    def compute(items: list[int]) -> list[int]:
        batches.append(list(items))
        return [item * item for item in items]

    assert gathered(compute, 23) == [number * number for number in range(23)]
    assert [len(batch) for batch in batches] == [8, 8, 4, 2, 1]
    assert sum(batches, []) == list(range(23))  # noqa: RUF017


def test_a_batch_that_fails_fails_alone():
    def compute(items: list[int]) -> list[int]:
        if 9 in items:
            raise ValueError("nine")
        return list(items)

    found = gathered(compute, 20)
    assert [number for number, one in enumerate(found) if isinstance(one, ValueError)] == [
        *range(8, 16)
    ]
    assert [one for one in found if not isinstance(one, ValueError)] == [*range(8), *range(16, 20)]


def test_with_several_devices_a_batch_may_be_smaller_than_the_smallest_size():
    assert gathered(lambda items: list(items), 3, sizes=(4, 8)) == [0, 1, 2]


def test_who_has_gone_disturbs_nobody():
    started, goes_on = threading.Event(), threading.Event()

    def compute(items: list[int]) -> list[int]:
        started.set()
        assert goes_on.wait(20)
        return list(items)

    async def ask() -> list[Any]:
        batcher = Batcher(compute, (1, 2))
        batcher.start()
        gone = asyncio.ensure_future(batcher(0))
        await asyncio.to_thread(started.wait, 20)
        gone.cancel()
        left = [asyncio.ensure_future(batcher(number)) for number in (1, 2)]
        goes_on.set()
        found = await asyncio.gather(gone, *left, return_exceptions=True)
        batcher.stop()
        return found[1:]

    assert asyncio.run(ask()) == [1, 2]


def images(count: int) -> list[tuple[str, bytes]]:
    return [(f"{i}.png", png(pixels)) for i, pixels in enumerate(tiny.images(count))]


def test_many_at_once_come_back_in_their_order(tiny_run):
    """Requests of several images each, at the same time, against one after the other."""
    given = images(40)
    with served(tiny_run.folder) as client:
        alone = [client.post("/predict", **form(one)).json()["predictions"][0] for one in given]
        assert len({tuple(shares(row).values()) for row in alone}) == len(given)
        together: dict[int, Any] = {}

        def ask(start: int) -> None:
            part = given[start : start + 5]
            together[start] = client.post("/predict", **form(*part)).json()["predictions"]

        threads = [threading.Thread(target=ask, args=(start,)) for start in range(0, 40, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        rows = [row for start in sorted(together) for row in together[start]]
        assert [row["name"] for row in rows] == [name for name, _ in given]
        for row, truth in zip(rows, alone, strict=True):
            assert shares(row) == pytest.approx(shares(truth), abs=1e-6)


def metrics(client: Any) -> dict[str, float]:
    text = client.get("/metrics").text
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def test_metrics(tiny_run):
    with served(tiny_run.folder) as client:
        client.post("/predict", **form(*images(9), ("bad", b"x")))
        client.post("/predict")
        client.get("/v2/models/mine")
        client.get("/nowhere/at/all")
        client.request("BREW", "/predict")
        found = metrics(client)
        assert client.get("/metrics").headers["content-type"].startswith("text/plain")
    assert found["jtl_requests_total{code=200,method=POST,route=/predict}"] == 1
    assert found["jtl_requests_total{code=415,method=POST,route=/predict}"] == 1
    assert found["jtl_requests_total{code=200,method=GET,route=/v2/models/{name}}"] == 1
    assert found["jtl_requests_total{code=404,method=GET,route=other}"] == 1
    assert found["jtl_requests_total{code=405,method=other,route=/predict}"] == 1
    assert found["jtl_request_seconds_count{route=/predict}"] == 3
    assert found["jtl_images_total{outcome=predicted}"] == 9
    assert found["jtl_images_total{outcome=unreadable}"] == 1
    assert found["jtl_batch_images_sum{}"] == 9
    assert found["jtl_batch_images_bucket{le=4.0}"] == found["jtl_batch_images_count{}"] >= 3
    assert found["jtl_queue_images{}"] == 0
    assert found["jtl_queue_limit_images{}"] == 256
    assert found["process_resident_memory_bytes{}"] > 0


def test_a_full_queue_says_when_to_come_again(tiny_run):
    started, goes_on = threading.Event(), threading.Event()
    with served(tiny_run.folder, queue=3) as client:
        service, one = client.service, images(1)[0]
        works = service.pipeline.batcher._compute

        def compute(batch: Any) -> Any:
            started.set()
            assert goes_on.wait(20)
            return works(batch)

        service.pipeline.batcher._compute = compute
        answers: list[Any] = []
        asking = threading.Thread(
            target=lambda: answers.append(client.post("/predict", **form(one, one)))
        )
        asking.start()
        assert started.wait(20)
        assert metrics(client)["jtl_queue_images{}"] == 2
        # One more fits, two do not.
        refused = client.post("/predict", **form(one, one))
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert "is the most" in refused.json()["error"]
        service.pipeline.batcher.rate = 0.1
        refused = client.post("/predict", **form(one, one))
        assert 20 <= int(refused.headers["retry-after"]) <= 30
        assert re.search(r"Try again in \d+ s", refused.json()["error"])
        goes_on.set()
        asking.join()
        assert answers[0].status_code == 200
        assert client.post("/predict", **form(one, one)).status_code == 200
        # What never fits is not to be tried again.
        never = client.post("/predict", **form(one, one, one, one))
        assert (never.status_code, "3 at most" in never.json()["error"]) == (413, True)


def test_programs_are_compiled_beforehand(tiny_run):
    """No request compiles: whatever the size of a batch, and of an image."""
    import jax

    with served(tiny_run.folder) as client:
        model = client.service.model
        programs = model.programs()
        assert [said for said, _ in programs] == [
            *(f"batch size {size}" for size in SIZES), "Grad-CAM"
        ]  # fmt: skip
        for _, compile_one in programs:
            compile_one()
        rng = np.random.default_rng(0)
        with jax.log_compiles(), pytest.MonkeyPatch.context() as patch:
            import logging

            lines: list[str] = []
            for name in ("jax._src.interpreters.pxla", "jax._src.dispatch"):
                patch.setattr(
                    logging.getLogger(name), "log", lambda level, text, *args: lines.append(text)
                )
                patch.setattr(
                    logging.getLogger(name),
                    "warning",
                    lambda text, *args: lines.append(text),
                )
            for count in (1, 2, 3, 4, 7):
                given = [(str(i), png(rng.integers(0, 256, (8, 8, 3), np.uint8)))
                         for i in range(count)]  # fmt: skip
                assert client.post("/predict", **form(*given)).status_code == 200
            assert client.post("/explain", **form(given[0])).status_code == 200
        assert [line for line in lines if "ompiling" in line and "forward" in line] == []
