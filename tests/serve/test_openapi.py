"""/openapi.json is valid, says every route, and answers are as it says."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from support import tiny
from support.serving import form, png, served


def resolved(document: dict[str, Any], part: Any) -> Any:
    """A part of the document, without references."""
    if isinstance(part, list):
        return [resolved(document, one) for one in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        found: Any = document
        for name in part["$ref"].removeprefix("#/").split("/"):
            found = found[name]
        return resolved(document, found)
    return {name: resolved(document, one) for name, one in part.items()}


@pytest.mark.parametrize("abstain", [None, 0.5])
def test_it_is_valid_and_complete(tiny_run, abstain):
    with served(tiny_run.folder, abstain=abstain) as client:
        document = client.get("/openapi.json").json()
        OpenAPIV31SpecValidator(document).validate()
        told = {
            (path, method.upper())
            for path, item in document["paths"].items()
            for method in item
            if method in ("get", "post")
        }
        there = {
            (route.path.replace(":int", ""), method)
            for route in client.app.routes  # type: ignore[attr-defined]
            for method in route.methods
            if method != "HEAD"
        }
        assert told == there


def test_answers_are_as_it_says(tiny_run):
    image = ("a.png", png(tiny.images(1)[0]))
    sent = {
        "inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 2, 2, 3], "data": [0] * 12}]
    }
    with served(tiny_run.folder, abstain=0.5, examples=True) as client:
        client.service.examples.find()
        document = client.get("/openapi.json").json()
        mine = "/v2/models/mine"
        asked = [
            ("/predict", "post", form(image, ("bad", b"x")), "/predict"),
            ("/predict", "post", form(("bad", b"x")), "/predict"),
            ("/predict", "post", {}, "/predict"),
            ("/explain", "post", {"json": {"image": "!"}}, "/explain"),
            (mine + "/infer", "post", {"json": sent}, "/v2/models/{name}/infer"),
            ("/v2/models/x/infer", "post", {"json": sent}, "/v2/models/{name}/infer"),
            (mine, "get", {}, "/v2/models/{name}"),
            (mine + "/ready", "get", {}, "/v2/models/{name}/ready"),
            ("/v2", "get", {}, "/v2"),
            ("/v2/health/ready", "get", {}, "/v2/health/ready"),
            ("/about", "get", {}, "/about"),
            ("/examples", "get", {}, "/examples"),
            ("/examples/99", "get", {}, "/examples/{number}"),
        ]
        codes = set()
        for path, method, given, route in asked:
            answer = client.request(method.upper(), path, **given)
            told = document["paths"][route][method]["responses"]
            response = resolved(document, told[str(answer.status_code)])
            schema = response["content"]["application/json"]["schema"]
            jsonschema.Draft202012Validator(schema).validate(answer.json())
            codes.add(answer.status_code)
        assert codes == {200, 400, 404, 415, 422}
