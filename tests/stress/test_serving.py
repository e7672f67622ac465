"""The short form of the load on a server: nothing lost, nothing swapped, memory flat."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest

import jtl
from support.paths import SUPPORT, TESTS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.process,
    pytest.mark.usefixtures("warm_starts"),
]


@pytest.fixture(scope="module")
def serving() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(TESTS / "stress")
        import serving

        yield serving


def test_a_short_load(serving, tiny_run, tmp_path):
    classifier = jtl.load(tiny_run)
    files = serving.photographs(tmp_path, 16, 40)
    images = [file.read_bytes() for file in files]
    expected = [
        dict(zip(classifier.class_names, map(float, row), strict=True))
        for row in classifier.predict(files).probabilities
    ]
    assert len({tuple(one.values()) for one in expected}) == 16
    words = [sys.executable, str(SUPPORT / "tiny_serve.py"), str(tiny_run.folder)]
    words += ["--port", "0", "--max-batch", "4", "--max-queue", "40", "--no-examples"]
    server = serving.Server(words)
    try:
        memory = []
        for _ in range(3):
            outcome = asyncio.run(
                serving.send(server.port, images, expected, 150, 150, top_wait=0.2)
            )
            assert outcome.wrong == []
            assert outcome.right == len(outcome.seconds) == 150
            memory.append(server.memory())
        # Some had to come again: there were more at once than may be.
        assert outcome.refused
        many = asyncio.run(serving.send(server.port, images, expected, 10, 3, 12, 0.2))
        assert (many.right, many.wrong) == (120, [])
        assert asyncio.run(serving.send_bad(server.port, images[0][:300], 3)) == []
        # So early, allocators still find their size; the long form allows a twentieth.
        assert memory[-1] < 1.1 * memory[0], memory
    finally:
        assert server.end() == 0


def test_wrong_answers_are_told(serving):
    outcome = serving.Outcome()
    row = '{"name": "%s", "classes": [{"class": "a", "probability": %s}]}'
    for name, share in (("1-0", 0.7), ("1-0", 0.8), ("2-0", 0.7)):
        content = ('{"predictions": [' + row % (name, share) + "]}").encode()
        serving.check(outcome, content, ["1-0"], [{"a": 0.7}])
    assert outcome.right == 1
    assert len(outcome.wrong) == 2
    assert "'2-0'" in outcome.wrong[1]
