"""The routes of a server: the page, `/predict`, `/explain`, the protocol, metrics."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.resources
import json
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from importlib.metadata import version
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from jtl.predict.predictions import TOP
from jtl.serve import openapi, protocol, uploads
from jtl.serve.errors import Refused
from jtl.serve.examples import Examples
from jtl.serve.guard import ROUTE, Guard
from jtl.serve.measures import CONTENT_TYPE
from jtl.serve.model import Computed, ServedModel
from jtl.serve.pipeline import Limits, Pipeline, Unfit

_PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


class _Route(Route):
    """Says which one it is, for the measures."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[ROUTE] = self.path
        await super().handle(scope, receive, send)


class Service:
    """A model with its queue and its routes.

    Attributes:
        app: The ASGI application.
        pipeline: What computes.
        is_stopping: Whether the server is ending, and is not ready for more.
    """

    def __init__(
        self,
        model: ServedModel,
        limits: Limits | None = None,
        *,
        hosts: Sequence[str] | None = None,
        examples: Examples | None = None,
    ):
        """Starts nothing; the application's lifespan does.

        Args:
            model: What predicts.
            limits: What the server takes on.
            hosts: The names by which it may be addressed; None for any.
            examples: Images for the page, or None.
        """
        self.model, self.limits, self.examples = model, limits or Limits(), examples
        self.is_stopping: Callable[[], bool] = lambda: False
        self.pipeline = Pipeline(model, self.limits)
        routes = self._routes()
        self.app = Starlette(
            routes=routes,
            middleware=[Middleware(Guard, self.pipeline.measures, hosts)],
            exception_handlers={Refused: _refused, HTTPException: _http_error, Exception: _failed},
            lifespan=self._lifespan,
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        del app
        with self.pipeline.running():
            if self.examples is not None:  # The end does not wait for them.
                threading.Thread(target=self.examples.find, daemon=True).start()
            yield

    def _routes(self) -> list[Route]:
        model = "/v2/models/{name}"
        found: list[Route] = [
            _Route(path, functools.partial(_page, *file)) for path, file in _PAGE.items()
        ]
        found += [
            _Route("/predict", self._predict, methods=["POST"]),
            _Route("/explain", self._explain, methods=["POST"]),
            _Route("/about", self._about),
            _Route("/examples", self._examples),
            _Route("/examples/{number:int}", self._example),
            _Route("/metrics", self._metrics),
            _Route("/openapi.json", self._openapi),
            _Route("/v2", self._server),
            _Route("/v2/health/live", self._live),
            _Route("/v2/health/ready", self._ready),
        ]
        for base in (model, model + "/versions/{version}"):
            found += [
                _Route(base, self._model),
                _Route(base + "/ready", self._model_ready),
                _Route(base + "/infer", self._infer, methods=["POST"]),
            ]
        return found

    # What predicts.

    async def _predict(self, request: Request) -> Response:
        with self.pipeline.request() as share:
            sent = await uploads.read(request, self.limits.request_bytes, share)
            several: set[str] = set()
            found = await self.pipeline.computed(sent.images, several)
        top_k = min(sent.top_k or TOP, len(self.model.class_names))
        rows = []
        for image, computed in zip(sent.images, found, strict=True):
            if isinstance(computed, Unfit):
                rows.append({"name": image.name, "error": computed.reason})
            else:
                rows.append(self._row(image.name, computed, top_k, image.name in several))
        bad = [one for one in found if isinstance(one, Unfit)]
        if len(bad) == len(found):
            said = "; ".join(f"{one.name}: {one.reason}" for one in bad)
            statuses = {one.status for one in bad}
            status = statuses.pop() if len(statuses) == 1 else 422
            return _json({"error": said, "predictions": rows}, status)
        return _json({"model": self.model.name, "predictions": rows})

    def _row(self, name: str, computed: Computed, top_k: int, several: bool) -> dict[str, Any]:
        said = self.model.prediction(name, computed, top_k)
        row: dict[str, Any] = {
            "name": name,
            "classes": [{"class": one, "probability": share} for one, share in said.classes],
        }
        if said.labels is not None:
            row["labels"] = list(said.labels)
        if said.abstains is not None:
            row["abstains"] = said.abstains
        if said.unusual is not None:
            row |= {"distance": said.distance, "unusual": said.unusual}
        if several:
            row["note"] = "It has several frames or pages; this is the first."
        return row

    async def _explain(self, request: Request) -> Response:
        if not self.model.explains:
            raise Refused(404, "An ensemble has no explanations. Serve its winner with --single.")
        with self.pipeline.request() as share:
            sent = await uploads.read(request, self.limits.request_bytes, share)
            if len(sent.images) != 1:
                raise Refused(400, f"Send one image to explain, not {len(sent.images)}.")
            inputs = await self.pipeline.inputs(sent.images[0], set())
            if isinstance(inputs, Unfit):
                raise Refused(inputs.status, f"{inputs.name}: {inputs.reason}")
            png = await run_in_threadpool(self.model.explanation, inputs)
        return Response(png, media_type="image/png")

    # What tells about the model.

    async def _about(self, request: Request) -> Response:
        del request
        limits = {
            "request_bytes": self.limits.request_bytes,
            "pixels": self.limits.pixels,
            "images": uploads.MOST_IMAGES,
        }
        return _json({**self.model.about, "version": version("jtl"), "limits": limits})

    async def _examples(self, request: Request) -> Response:
        del request
        found = self.examples.found if self.examples is not None else []
        rows = [
            {"name": one.name, "label": one.label, "url": f"examples/{number}"}
            for number, one in enumerate(found)
        ]
        return _json({"examples": rows})

    async def _example(self, request: Request) -> Response:
        number = request.path_params["number"]
        found = self.examples.found if self.examples is not None else []
        if number >= len(found):
            raise Refused(404, f"There is no example {number}.")
        return Response(found[number].data, media_type=found[number].media_type)

    async def _metrics(self, request: Request) -> Response:
        del request
        return Response(self.pipeline.measures.text(), headers={"content-type": CONTENT_TYPE})

    async def _openapi(self, request: Request) -> Response:
        del request
        return _json(openapi.document(self.model, version("jtl")))

    # The protocol.

    async def _server(self, request: Request) -> Response:
        del request
        return _json(protocol.server_metadata(version("jtl")))

    async def _live(self, request: Request) -> Response:
        del request
        return _json({"live": True})

    async def _ready(self, request: Request) -> Response:
        del request
        ready = not self.is_stopping()
        return _json({"ready": ready}, 200 if ready else 503)

    def _check_name(self, request: Request) -> None:
        name, number = request.path_params["name"], request.path_params.get("version")
        if name != self.model.name:
            raise Refused(404, f"There is no model '{name}'; the model is '{self.model.name}'.")
        if number not in (None, protocol.VERSION):
            raise Refused(404, f"There is no version '{number}'; it is '{protocol.VERSION}'.")

    async def _model(self, request: Request) -> Response:
        self._check_name(request)
        return _json(protocol.metadata(self.model))

    async def _model_ready(self, request: Request) -> Response:
        self._check_name(request)
        ready = not self.is_stopping()
        return _json({"name": self.model.name, "ready": ready}, 200 if ready else 503)

    async def _infer(self, request: Request) -> Response:
        self._check_name(request)
        with self.pipeline.request() as share:
            data = await uploads.whole_body(request, self.limits.request_bytes, share)
            length = request.headers.get(protocol.HEADER_LENGTH)
            asked = await run_in_threadpool(protocol.read, data, length)
            found = await self.pipeline.computed(asked.images, set())
        bad = [one for one in found if isinstance(one, Unfit)]
        if bad:
            raise Refused(bad[0].status, "; ".join(f"{one.name}: {one.reason}" for one in bad))
        computed = [one for one in found if not isinstance(one, Unfit)]
        content, headers = protocol.answer(self.model, asked, computed)
        return Response(content, headers=headers)


def _json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    # ASCII: names of files need not be Unicode.
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    return Response(text, status, headers, "application/json")


async def _refused(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, Refused)
    return _json({"error": error.message}, error.status, error.headers)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    said = error.detail
    if error.status_code == 404:
        said = f"There is nothing at {request.url.path}. /openapi.json lists what there is."
    headers = dict(error.headers) if error.headers else None
    return _json({"error": said}, error.status_code, headers)


async def _failed(request: Request, error: Exception) -> Response:
    del request, error  # The server's log has it.
    return _json({"error": "The server failed. Its log says why."}, 500)


async def _page(name: str, media_type: str, request: Request) -> Response:
    data, tag = _file(name)
    headers = {"etag": tag, "cache-control": "no-cache"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(data, headers={**headers, "content-type": media_type})


@functools.cache
def _file(name: str) -> tuple[bytes, str]:
    data = importlib.resources.files("jtl.serve").joinpath("page", name).read_bytes()
    return data, f'"{hashlib.sha256(data).hexdigest()[:16]}"'
