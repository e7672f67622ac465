"""What a server answers, as an OpenAPI document (`/openapi.json`)."""

from __future__ import annotations

from typing import Any

from jtl.predict.predictions import TOP
from jtl.serve import protocol
from jtl.serve.model import ServedModel
from jtl.serve.uploads import MOST_IMAGES

Schema = dict[str, Any]


def document(model: ServedModel, version: str) -> Schema:
    """The document.

    Args:
        model: What the server predicts with.
        version: Of jtl.
    """
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"jtl: {model.name}",
            "version": version,
            "description": "An image classifier. Predictions are those of `jtl predict`.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [
            {"name": "predict", "description": "Images in, classes out."},
            {"name": "protocol", "description": "The Open Inference Protocol, version 2."},
            {"name": "page", "description": "What the page needs."},
            {"name": "operations", "description": "For those who run the server."},
        ],
        "paths": _own(model) | _protocol() | _page_paths(),
        "components": {
            "schemas": _schemas(model),
            "responses": {
                name: {"description": text, "content": _of_json(_ref("Error"))}
                for name, text in _ERRORS.items()
            } | {"Busy": _BUSY},
        },
    }  # fmt: skip


_ERRORS = {
    "Malformed": "The request cannot be read, or holds no image.",
    "Forbidden": "The server is for this computer alone, or the request is of another site's page.",
    "Missing": "There is no such model, version or example, or no explanations.",
    "Slow": "The request did not arrive in time.",
    "TooLarge": "The request, an image or their number is too large.",
    "WrongType": "The content type is none that is read.",
    "Unreadable": "No image can be read.",
}
_BUSY: Schema = {
    "description": "Too many images are in progress.",
    "headers": {
        "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}
    },
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
}  # fmt: skip
_OF_IMAGES = {
    "400": "Malformed", "403": "Forbidden", "408": "Slow", "413": "TooLarge", "415": "WrongType",
    "422": "Unreadable", "503": "Busy",
}  # fmt: skip
_TOP_K: Schema = {"type": "integer", "minimum": 1, "default": TOP}


def _ref(name: str, of: str = "schemas") -> Schema:
    return {"$ref": f"#/components/{of}/{name}"}


def _of_json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


def _errors(codes: dict[str, str]) -> Schema:
    return {code: _ref(name, "responses") for code, name in codes.items()}


def _ok(description: str, content: Schema) -> Schema:
    return {"200": {"description": description, "content": content}}


def _images(most: int, top_k: bool) -> Schema:
    """The body of a request with images."""
    file = {"type": "string", "contentMediaType": "application/octet-stream"}
    more: Schema = {"top_k": _TOP_K} if top_k else {}
    form = {
        "type": "object",
        "properties": {"image": {"type": "array", "maxItems": most, "items": file}, **more},
        "required": ["image"],
    }
    named = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "data": _BASE64},
        "required": ["data"],
    }
    one = {"anyOf": [_BASE64, named]}
    many = {"images": {"type": "array", "maxItems": most, "items": one}, "image": one}
    return {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": form},
            "application/json": {"schema": {"type": "object", "properties": {**many, **more}}},
            "image/*": {"schema": file},
            "application/octet-stream": {"schema": file},
        },
    }


_BASE64: Schema = {"type": "string", "contentEncoding": "base64"}


def _own(model: ServedModel) -> Schema:
    query = {"name": "top_k", "in": "query", "description": "How many classes to name."}
    predict = {
        "operationId": "predict",
        "tags": ["predict"],
        "summary": "Predicts the class of each image.",
        "parameters": [{**query, "schema": _TOP_K}],
        "requestBody": _images(MOST_IMAGES, top_k=True),
        "responses": {
            **_ok("At least one image could be read.", _of_json(_ref("Predictions"))),
            **_errors(_OF_IMAGES),
        },
    }
    explain = {
        "operationId": "explain",
        "tags": ["predict"],
        "summary": "Grad-CAM: shows which regions of an image led to its prediction.",
        "requestBody": _images(1, top_k=False),
        "responses": {
            **_ok("The image as the network sees it, under a map.", {"image/png": {}}),
            **_errors({**_OF_IMAGES, "404": "Missing"}),
        },
    }
    paths = {"/predict": {"post": predict}}
    return paths | ({"/explain": {"post": explain}} if model.explains else {})


def _get(name: str, tag: str, summary: str, content: Schema, more: Schema | None = None) -> Schema:
    responses = {**_ok(summary, content), **(more or {})}
    return {"operationId": name, "tags": [tag], "summary": summary, "responses": responses}


def _protocol() -> Schema:
    missing, unready = _errors({"404": "Missing"}), {"503": {"description": "It is stopping."}}
    flag = {"type": "object", "additionalProperties": {"type": ["boolean", "string"]}}
    found: Schema = {
        "/v2": {"get": _get("server", "protocol", "The server.", _of_json(_ref("Server")))},
        "/v2/health/live": {"get": _get("live", "protocol", "It runs.", _of_json(flag))},
        "/v2/health/ready": {
            "get": _get("ready", "protocol", "It takes requests.", _of_json(flag), unready)
        },
    }
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    number = {**name, "name": "version", "schema": {"const": protocol.VERSION}}
    header = {
        "name": "Inference-Header-Content-Length",
        "in": "header",
        "description": "How many bytes of the body are JSON, where binary tensors follow.",
        "schema": {"type": "integer"},
    }
    binary = {"application/octet-stream": {}}
    for suffix, base, parameters in (
        ("", "/v2/models/{name}", [name]),
        ("_version", "/v2/models/{name}/versions/{version}", [name, number]),
    ):
        about = _get("model" + suffix, "protocol", "The model.", _of_json(_ref("Model")), missing)
        ready = _get(
            f"model{suffix}_ready", "protocol", "The model takes requests.", _of_json(flag),
            missing | unready,
        )  # fmt: skip
        infer = {
            "operationId": "infer" + suffix,
            "tags": ["protocol"],
            "summary": "Predicts from a tensor of images.",
            "parameters": [header],
            "requestBody": {
                "required": True,
                "content": {**_of_json(_ref("InferRequest")), **binary},
            },
            "responses": {
                **_ok("Outputs.", {**_of_json(_ref("InferResponse")), **binary}),
                **_errors({**_OF_IMAGES, "404": "Missing"}),
            },
        }
        infer["responses"].pop("415")
        found[base] = {"parameters": parameters, "get": about}
        found[base + "/ready"] = {"parameters": parameters, "get": ready}
        found[base + "/infer"] = {"parameters": parameters, "post": infer}
    return found


def _page_paths() -> Schema:
    number = {"name": "number", "in": "path", "required": True, "schema": {"type": "integer"}}
    image = {"image/*": {}}
    text = {"text/plain": {"schema": {"type": "string"}}}
    example = _get("example", "page", "An example.", image, _errors({"404": "Missing"}))
    return {
        "/": {"get": _get("page", "page", "The page.", {"text/html": {}})},
        "/style.css": {"get": _get("style", "page", "How the page looks.", {"text/css": {}})},
        "/page.js": {"get": _get("script", "page", "What the page does.", {"text/javascript": {}})},
        "/icon.svg": {"get": _get("icon", "page", "The page's icon.", {"image/svg+xml": {}})},
        "/about": {"get": _get("about", "page", "The model, for people.", _of_json(_ref("About")))},
        "/examples": {
            "get": _get("examples", "page", "Validation images.", _of_json(_ref("Examples")))
        },
        "/examples/{number}": {"parameters": [number], "get": example},
        "/metrics": {"get": _get("metrics", "operations", "Measures for Prometheus.", text)},
        "/openapi.json": {
            "get": _get("openapi", "operations", "This document.", _of_json({"type": "object"}))
        },
    }


def _object(properties: Schema, required: list[str] | None = None) -> Schema:
    needed = list(properties) if required is None else required
    return {"type": "object", "properties": properties, "required": needed}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


_TEXT: Schema = {"type": "string"}
_SHARE: Schema = {"type": "number", "minimum": 0, "maximum": 1}


def _schemas(model: ServedModel) -> Schema:
    row: Schema = {
        "name": _TEXT,
        "classes": {
            **_list(_object({"class": _TEXT, "probability": _SHARE})),
            "description": "The likeliest first.",
        },
        "error": {**_TEXT, "description": "Why the image cannot be read, instead of classes."},
        "note": _TEXT,
    }
    if model.thresholds is not None:
        row["labels"] = {**_list(_TEXT), "description": "All classes that the image has."}
    trust = model.trust
    if trust.abstain is not None:
        about = f"The likeliest class is less probable than {trust.abstain:g}: not sure."
        row["abstains"] = {"type": "boolean", "description": about}
    if trust.limit is not None:
        row["distance"] = {"type": "number", "description": "How far the image is from the "
                           "training images, by the network's features."}  # fmt: skip
        about = f"That is more than {trust.limit:.4g}: unlike the training images."
        row["unusual"] = {"type": "boolean", "description": about}
    tensor = {"name": _TEXT, "datatype": _TEXT, "shape": _list({"type": "integer"})}
    parameters: Schema = {"type": "object"}
    data: Schema = {"type": "array", "items": {}}
    sent = {
        "name": {"const": protocol.INPUT},
        "datatype": {"enum": ["BYTES", "UINT8", "FP32"]},
        "shape": {**_list({"type": "integer", "minimum": 0}), "description": "[N]; or [N, H, W, 3] "
                  "of UINT8, and of FP32 from 0 to 1."},
        "data": {**data, "description": "Of BYTES text in base64, else numbers, row by row."},
        "parameters": parameters,
    }  # fmt: skip
    described = {**_object(tensor), "description": "-1 in a shape is any number."}
    either: Schema = {"type": ["string", "null"]}
    return {
        "Error": _object({"error": _TEXT}),
        "Predictions": _object(
            {"model": _TEXT, "predictions": _list(_object(row, ["name"]))}
        ),
        "Server": _object({"name": _TEXT, "version": _TEXT, "extensions": _list(_TEXT)}),
        "Model": _object(
            {"name": _TEXT, "versions": _list(_TEXT), "platform": _TEXT,
             "inputs": _list(described), "outputs": _list(described), "parameters": parameters}
        ),
        "InferRequest": _object(
            {"id": _TEXT, "inputs": {**_list(_object(sent, ["name", "datatype", "shape"])),
                                     "minItems": 1, "maxItems": 1},
             "outputs": _list(_object({"name": _TEXT, "parameters": parameters}, ["name"])),
             "parameters": parameters},
            ["inputs"],
        ),
        "InferResponse": _object(
            {"model_name": _TEXT, "model_version": _TEXT, "id": _TEXT,
             "outputs": _list(_object({**tensor, "data": data, "parameters": parameters},
                                      list(tensor)))},
            ["model_name", "model_version", "outputs"],
        ),
        "About": _object(
            {"name": _TEXT, "classes": _list(_TEXT), "task": {"enum": ["multiclass", "multilabel"]},
             "thresholds": {"type": ["array", "null"], "items": _SHARE},
             "abstain": {"type": ["number", "null"]}, "explains": {"type": "boolean"},
             "usual_distance": {"type": ["number", "null"]},
             "backbone": either, "members": {"type": "integer"},
             "image_size": {"type": "integer"}, "version": _TEXT,
             "limits": {"type": "object", "additionalProperties": {"type": "integer"}}}
        ),
        "Examples": _object(
            {"examples": _list(_object({"name": _TEXT, "label": _TEXT, "url": _TEXT}))}
        ),
    }  # fmt: skip
