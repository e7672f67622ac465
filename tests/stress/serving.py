"""Does a server lose, swap or delay anything under load, and does its memory stay flat?

    python tests/stress/serving.py RUN                 # some minutes
    python tests/stress/serving.py RUN --requests 2000

Starts `jtl serve RUN` and sends it, over loopback:

1. all requests (10,000) at the same time, each with an image of its own name; a second time with
   the default queue, where most are refused at first (503) and come again after `Retry-After`;
2. requests by as many clients as a batch has images, for the throughput: one image each, and 32
   each; `jtl.predict` reads the same files beside it, by turns;
3. bad uploads among good ones: empty, text, truncated, a bomb.

Every answer must be the one that `jtl.load(RUN).predict` gives, to 1e-6, under the name that was
sent. Throughput is told in images a second and, for machines that do other things meanwhile, in
images for each second of processor time. Memory must not grow by more than a twentieth after the
first two fifths of the requests. Exits 1 where something is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

DISTINCT, SIDE = 64, 256
"""Images, and their sides in pixels."""
TOLERANCE, MEMORY_GROWTH = 1e-6, 1.05
BAD = {
    "empty": b"",
    "text": b"This is no image.\n" * 50,
    "bomb": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\xc3P\0\0\xc3P\x01\0\0\0\0" + b"\0" * 99,
}


@dataclasses.dataclass
class Outcome:
    """What requests came to.

    Attributes:
        right: Images whose answer is as it must be.
        wrong: What is not, in words.
        refused: How often a request was told to come again.
        seconds: How long each request took, with its waiting.
        total: How long all took together.
    """

    right: int = 0
    wrong: list[str] = dataclasses.field(default_factory=list)
    refused: int = 0
    seconds: list[float] = dataclasses.field(default_factory=list)
    total: float = 0.0

    def percentile(self, share: float) -> float:
        return float(np.quantile(self.seconds, share))


def photographs(folder: Path, count: int = DISTINCT, side: int = SIDE) -> list[Path]:
    """JPEGs that no two are alike: blotches of colours."""
    rng = np.random.default_rng(0)
    files = []
    for index in range(count):
        coarse = rng.integers(0, 256, (8, 8, 3), np.uint8)
        image = Image.fromarray(coarse).resize((side, side * 3 // 4), Image.Resampling.BICUBIC)
        files.append(folder / f"{index}.jpg")
        image.save(files[-1], quality=90)
    return files


def body(parts: Sequence[tuple[str, bytes]]) -> bytes:
    """A request to /predict with images."""
    form = b"".join(
        b'--x\r\nContent-Disposition: form-data; name="image"; filename="%s"\r\n\r\n%s\r\n'
        % (name.encode(), data)
        for name, data in parts
    )
    form += b"--x--\r\n"
    return (
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n"
        b"Content-Type: multipart/form-data; boundary=x\r\n\r\n" % len(form)
    ) + form


async def answered(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sent: bytes
) -> tuple[int, dict[str, str], bytes]:
    """The status, headers and content of an answer."""
    writer.write(sent)
    await writer.drain()
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.strip().split("\r\n")
    headers = {key.lower(): value.strip() for key, _, value in (x.partition(":") for x in lines)}
    content = await reader.readexactly(int(headers["content-length"]))
    return int(first.split()[1]), headers, content


def check(
    outcome: Outcome, content: bytes, names: Sequence[str], expected: Sequence[dict[str, float]]
) -> None:
    """Compares an answer with what it must be."""
    rows = json.loads(content)["predictions"]
    if [row["name"] for row in rows] != list(names):
        outcome.wrong.append(f"{names}: the answer names {[row['name'] for row in rows]}")
        return
    for row, truth in zip(rows, expected, strict=True):
        found = {one["class"]: one["probability"] for one in row.get("classes", ())}
        far = [key for key in truth if abs(found.get(key, 9.0) - truth[key]) > TOLERANCE]
        if far or "error" in row:
            outcome.wrong.append(f"{row['name']}: {found or row}, not {truth}")
        else:
            outcome.right += 1


async def send(
    port: int,
    images: Sequence[bytes],
    expected: Sequence[dict[str, float]],
    requests: int,
    clients: int,
    each: int = 1,
    top_wait: float = 5.0,
) -> Outcome:
    """Sends requests; a client keeps its connection and has one request at a time.

    Args:
        port: Of the server.
        images: Encoded, taken by turns.
        expected: Their probabilities.
        requests: How many.
        clients: How many at the same time.
        each: Images of a request.
        top_wait: Seconds that a client waits at the most when it is refused.
    """
    outcome, numbers = Outcome(), iter(range(requests))
    began = time.perf_counter()

    async def client() -> None:
        connection = None
        for number in numbers:
            rows = [(number * each + i) % len(images) for i in range(each)]
            names = [f"{number}-{i}" for i in range(each)]
            sent = body([(name, images[row]) for name, row in zip(names, rows, strict=True)])
            start = time.perf_counter()
            while True:
                try:
                    if connection is None:
                        connection = await asyncio.open_connection("127.0.0.1", port)
                    status, headers, content = await answered(*connection, sent)
                except OSError as error:
                    outcome.wrong.append(f"{names}: {error}")
                    connection = None
                    break
                except asyncio.IncompleteReadError:
                    outcome.wrong.append(f"{names}: the connection ended")
                    connection = None
                    break
                if headers.get("connection") == "close":
                    connection[1].close()
                    connection = None
                if status == 200:
                    check(outcome, content, names, [expected[row] for row in rows])
                    break
                if status != 503:
                    outcome.wrong.append(f"{names}: {status} {content[:200]!r}")
                    break
                outcome.refused += 1
                wait = min(float(headers["retry-after"]), top_wait)
                await asyncio.sleep(wait * random.uniform(0.5, 1.5))
            outcome.seconds.append(time.perf_counter() - start)
        if connection is not None:
            connection[1].close()

    await asyncio.gather(*(client() for _ in range(clients)))
    outcome.total = time.perf_counter() - began
    return outcome


async def send_bad(port: int, truncated: bytes, rounds: int) -> list[str]:
    """Bad uploads; what is not answered by 4xx."""
    wrong = []
    for _ in range(rounds):
        for name, data in {**BAD, "truncated": truncated}.items():
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            status, _, content = await answered(reader, writer, body([(name, data)]))
            writer.close()
            if not 400 <= status < 500:
                wrong.append(f"{name}: {status} {content[:200]!r}")
    return wrong


class Server:
    """`jtl serve` in a process of its own."""

    def __init__(self, words: Sequence[str]):
        """Starts it, and waits until it says its address."""
        self.process = subprocess.Popen(list(words), stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        address = self.process.stdout.readline().strip()
        assert address, "the server has ended"
        self.port = int(address.rpartition(":")[2])
        self._known = psutil.Process(self.process.pid)

    def seconds(self) -> float:
        """The processor time that it has taken."""
        times = self._known.cpu_times()
        return times.user + times.system

    def memory(self) -> int:
        """Its resident memory, in bytes."""
        return self._known.memory_info().rss

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=120)
        return self.process.returncode


def allow_files() -> int:
    """Lets this process and its children open as many files as they may; how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--requests", type=int, default=10_000)
    options = parser.parse_args()
    count = min(options.requests, allow_files() - 200)
    import jtl

    classifier = jtl.load(options.run)
    with tempfile.TemporaryDirectory() as folder:
        files = photographs(Path(folder))
        images = [file.read_bytes() for file in files]
        expected = [
            dict(zip(classifier.class_names, map(float, row), strict=True))
            for row in classifier.predict(files).probabilities
        ]
        print(f"{len(images)} images of {len(images[0]) / 1000:.0f} kB")
        serve = [sys.executable, "-m", "jtl.serve", str(options.run), "--port", "0"]
        serve += ["--no-examples"]
        failed = False

        def told(what: str, server: Server, outcome: Outcome, spent: float) -> None:
            nonlocal failed
            failed |= bool(outcome.wrong)
            print(
                f"{what}: {outcome.right} images right, {len(outcome.wrong)} wrong, "
                f"{outcome.refused} times told to wait; {outcome.right / outcome.total:.0f} "
                f"images/s, {outcome.right / spent:.0f} for a second of processor time; p50 "
                f"{outcome.percentile(0.5):.2f} s, p99 {outcome.percentile(0.99):.2f} s; "
                f"{server.memory() / 1e6:.0f} MB",
                flush=True,
            )
            for line in outcome.wrong[:5]:
                print(f"  {line}")

        def sent(what: str, server: Server, *how: int) -> Outcome:
            before = server.seconds()
            outcome = asyncio.run(send(server.port, images, expected, *how))
            told(what, server, outcome, server.seconds() - before)
            return outcome

        server = Server([*serve, "--max-queue", "20000"])
        sent("warm", server, 200, 32)
        sent(f"{count} at once, a long queue", server, count, count)
        for turn in range(3):
            before, began = time.process_time(), time.perf_counter()
            classifier.predict(files * 8)
            wall, spent = time.perf_counter() - began, time.process_time() - before
            print(
                f"jtl.predict: {len(files) * 8 / wall:.0f} images/s, {len(files) * 8 / spent:.0f} "
                "for a second of processor time",
                flush=True,
            )
            sent("32 images a request, 2 clients", server, 16, 2, 32)
            sent("one image a request, 64 clients", server, 512, 64)
            if not turn:
                wrong = asyncio.run(send_bad(server.port, images[0][: len(images[0]) // 2], 25))
                print(f"bad uploads: {len(wrong)} of 100 not answered by 4xx", *wrong[:3])
                failed |= bool(wrong)
        ended = server.end()
        server = Server(serve)
        memory = []
        for _ in range(5):
            sent(f"{count // 5} at once, the default queue", server, count // 5, count // 5)
            memory.append(server.memory())
        grown = max(memory[2:]) / memory[1]
        print(f"memory: {grown:.3f} times that after two fifths of the requests")
        ended |= server.end()
        failed |= grown > MEMORY_GROWTH or ended != 0
    print("FAILED" if failed else "nothing lost, nothing swapped")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
