"""`jtl serve RUN`: a page in the browser and an HTTP API for a run's best model."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

from jtl.common.errors import UserError
from jtl.common.optional import require
from jtl.common.quantities import parse_bytes
from jtl.config import checks, walk
from jtl.config.run_options import DeviceName

NEEDED = ("starlette", "uvicorn", "python_multipart", "prometheus_client")
"""What the extra `serve` installs."""


def _power_of_two(flag: str, value: int) -> None:
    if value & (value - 1):
        raise UserError(f"{flag} must be a power of two, not {value}.")


def _some(flag: str, value: str) -> None:
    if parse_bytes(flag, value) < 1:
        raise UserError(f"{flag} must be at least 1 byte.")


def _in_addresses(flag: str, value: str | None) -> None:
    if value is not None and ("/" in value or not value.strip(". ")):
        raise UserError(
            f"{flag} '{value}' cannot be part of an address. Use letters, digits and hyphens."
        )


@dataclasses.dataclass(frozen=True)
class Options:
    """Serves a run's best model: a page to try it on in the browser, and an HTTP API.

    For example:
      jtl serve runs/mine
      jtl serve runs/mine --abstain 0.9 --port 8080

    Open the address that it prints, and drop, paste or choose images, or take a photograph.
    Programs send images to /predict or by the Open Inference Protocol (/v2); /openapi.json
    describes both, and /metrics is for Prometheus. See docs/serving.md. Predictions are the same as
    those of `jtl predict`. Images stay in memory and are not saved.

    Only this computer can connect, unless you give --host. Ctrl-C or SIGTERM ends the server, after
    it has answered what it is working on.

    Exit codes: 0 after Ctrl-C or SIGTERM, 2 if it cannot start, 130 or 143 if a second signal ends
    it at once.

    Attributes:
        run: Folder that `jtl train` or `jtl search` wrote.
        host: Address to listen on. 0.0.0.0 lets other computers connect; there is no password and
            no encryption, so put a proxy in front of it that has both.
        port: Port to listen on; 0 for any free one.
        abstain: Say "not sure" where the probability of the likeliest class is below this, such as
            0.9. error:0.05 finds the smallest such probability that keeps the share of wrong
            answers on the validation images below 5 %. Default: always name a class.
        name: What the model is called on the page and in /v2/models/NAME. Default: the name of the
            run's folder.
        examples: Show some of the run's validation images on the page, to try the model on.
            --no-examples keeps them private.
        max_batch: Largest number of images to compute together, a power of two. One program for
            each power of two up to it is compiled when the server starts.
        max_queue: Images in progress from which on further ones are refused (503 Retry-After).
        max_upload: Largest request.
        max_megapixels: Largest image.
        single: Of a search that keeps an ensemble, use the winner alone.
        device: Device to compute on: cpu, gpu or tpu. Default: the fastest one that JAX finds.
    """

    run: Annotated[Path, walk.Metavar("RUN")]
    host: str = "127.0.0.1"
    port: Annotated[int, checks.within(0, 2**16 - 1)] = 8000
    abstain: Annotated[str | None, walk.Metavar("P"), checks.abstention] = None
    name: Annotated[str | None, _in_addresses] = None
    examples: bool = True
    max_batch: Annotated[int, checks.within(1, 1024), _power_of_two] = 32
    max_queue: Annotated[int, checks.within(1, 2**20)] = 256
    max_upload: Annotated[str, walk.Metavar("SIZE"), _some] = "64MB"
    max_megapixels: Annotated[int, checks.within(1, 178)] = 100
    single: bool = False
    device: DeviceName = "auto"


def command(options: Options) -> int:
    """Serves until a signal ends it.

    Raises:
        UserError: A library is missing, the run cannot be read, or the address cannot be had.
    """
    for module in NEEDED:
        require(module, "jtl serve", "jtl[serve]")
    from jtl.distributed import device

    device.use(options.device)
    from jtl.common.progress import Display
    from jtl.predict.ensemble import load_all
    from jtl.serve import server
    from jtl.serve.app import Service
    from jtl.serve.examples import Examples
    from jtl.serve.model import ServedModel
    from jtl.serve.pipeline import Limits

    display = Display()
    loaded = load_all(options.run, single=options.single)
    # Before anything slow: a port that is taken is known at once.
    with server.bound(options.host, options.port) as listening:
        model = ServedModel(
            loaded,
            options.name or options.run.resolve().name or "model",
            max_batch=options.max_batch,
            abstain=options.abstain,
        )
        if model.comes_to:
            display.message(f"--abstain {options.abstain}: {model.comes_to}")
        programs = model.programs()
        with display.track("compiling", len(programs), "programs") as advance:
            for said, compile_one in programs:
                compile_one()
                advance(1, said)
        limits = Limits(
            queue=options.max_queue,
            request_bytes=parse_bytes("--max-upload", options.max_upload),
            pixels=options.max_megapixels * 10**6,
        )
        hosts = server.own_names(listening, options.host)
        examples = Examples(model.first) if options.examples else None
        service = Service(model, limits, hosts=hosts, examples=examples)
        if hosts is None:
            display.message(
                f"note: --host {options.host} lets every computer that reaches this one use the "
                "model, without a password and unencrypted"
            )
        display.message(f"Serving '{options.run}'; press Ctrl-C to stop")
        print(server.address(listening))
        sys.stdout.flush()
        return server.run(service, listening, display.message)
