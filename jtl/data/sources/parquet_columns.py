"""Which columns of Arrow's tables hold images and labels; no column is guessed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jtl.common.errors import UserError, suggest
from jtl.data.sources.labels import distinct
from jtl.data.sources.names import words_of

_IMAGE_COLUMNS = ("image", "img", "picture", "bytes")
LABEL_COLUMNS = ("label", "labels", "class", "target", "targets", "category", "y")
NO_LABELS = (
    "id", "ids", "idx", "index", "path", "file", "filename", "fold", "split", "date", "time",
    "timestamp", "age", "patient", "subject", "camera", "device", "uuid", "url", "key", "caption",
    "text", "width", "height",
)  # fmt: skip
"""What the name of a column of something else has in it."""


class Columns(NamedTuple):
    """Where images and labels stand.

    Attributes:
        image: The column's name.
        field: The path down to the bytes.
        label: The column's name.
        class_names: Of integer labels, from the metadata of `datasets`.
        lists: Whether the labels are lists.
    """

    image: str
    field: str
    label: str
    class_names: list[str] | None
    lists: bool = False


def common_columns(
    schemas: Mapping[Path, Any], image: str | None, label: str | None, *, several: bool = False
) -> Columns:
    """The columns of all files.

    Args:
        schemas: Arrow's, by file.
        image: The column of images that was asked for.
        label: The column of labels that was asked for.
        several: Whether images may have several labels.

    Raises:
        UserError: A file has none or several, or has other ones, or other classes, than the first.
    """
    found = {
        path: _columns(schema, path, image, label, several) for path, schema in schemas.items()
    }
    first = next(iter(found))
    for path, columns in found.items():
        if columns != found[first]:
            told = [
                f"{p}: {c.image}, {c.label}, {c.class_names}"
                for p, c in ((first, found[first]), (path, columns))
            ]
            raise UserError("The files differ in their columns or classes:\n  " + "\n  ".join(told))
    return found[first]


def _columns(
    schema: Any, path: Path, asked_image: str | None, asked_label: str | None, several: bool
) -> Columns:
    import pyarrow as pa

    features, images = _features(schema), {}
    for field in schema:
        kind = field.type
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            images[field.name] = f"{field.name}.bytes"
        elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            images[field.name] = field.name
    if asked_image is not None:
        _must_exist(schema, path, "--image-column", asked_image)
        if asked_image not in images:
            raise UserError(
                f"--image-column {asked_image}: {path} has {schema.field(asked_image).type} there, "
                "not bytes or a struct with a field 'bytes'."
            )
        image = asked_image
    else:
        marked = [name for name in images if features.get(name, {}).get("_type") == "Image"]
        usual = [name for name in images if name.lower() in _IMAGE_COLUMNS]
        image = _one("images", [marked, usual, list(images)], schema, path)
    label = asked_label
    if label is None:
        label = _label_column(schema, features, [n for n in schema.names if n not in images], path)
    else:
        _must_exist(schema, path, "--label-column", label)
    kind, feature = schema.field(label).type, features.get(label, {})
    lists = several and _is_list(kind)
    _check_kind(kind.value_type if lists else kind, label, path)
    names = (feature.get("feature", {}) if lists else feature).get("names")
    return Columns(image, images[image], label, names and distinct(names, str(path)), lists)


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(kind) for test in tests)


def _label_column(
    schema: Any, features: Mapping[str, Any], others: Sequence[str], path: Path
) -> str:
    classes = [name for name in others if features.get(name, {}).get("_type") == "ClassLabel"]
    usual = [name for name in others if name.lower() in LABEL_COLUMNS]
    named = list(dict.fromkeys([*usual, *classes]))
    if not named:
        # The only column besides the image, unless it is called like something else.
        named = [n for n in others if len(others) > 1 or not set(words_of(n)) & {*NO_LABELS}]
    return _one("labels", [[n for n in usual if n in classes], named], schema, path)


def _one(what: str, choices: Sequence[list[str]], schema: Any, path: Path) -> str:
    """The only name of the first choice that has exactly one.

    Raises:
        UserError: None has.
    """
    for names in choices:
        if len(names) == 1:
            return names[0]
    wanted = {
        "images": "bytes, or a struct with a field 'bytes', best called 'image'",
        "labels": "integers or strings, best called 'label'",
    }[what]
    told = ", ".join(f"{field.name} ({field.type})" for field in schema)
    texts = [f.name for f in schema if str(f.type) in ("string", "large_string")]
    if what == "images" and not choices[-1] and texts and path.suffix != ".arrow":
        raise UserError(
            f"{path} holds no images. Its columns are {told}. If one of them holds paths of image "
            f"files: --data csv:{path}"
        )
    raise UserError(
        f"{path} has {'more than one' if choices[-1] else 'no'} column that could hold the "
        f"{what}: {wanted}. Its columns are {told}. Name it: --{what[:-1]}-column NAME"
    )


def _must_exist(schema: Any, path: Path, flag: str, name: str) -> None:
    if schema.names.count(name) != 1:
        raise UserError(
            f"{flag} {name}: {path} has no such column.{suggest(name, schema.names)} Its columns "
            f"are {', '.join(schema.names)}."
        )


def _check_kind(kind: Any, name: str, path: Path) -> None:
    import pyarrow as pa

    types = pa.types
    if _is_list(kind):
        raise UserError(
            f"The labels of {path}, column '{name}', are lists ({kind}): several labels for an "
            "image, or one-hot vectors. To learn all of them: --task multilabel. To learn one "
            "class for each image, make a column with that, and name it with --label-column."
        )
    value = kind.value_type if types.is_dictionary(kind) else kind
    known = (types.is_integer, types.is_floating, types.is_boolean, types.is_string)
    if not any(test(value) for test in (*known, types.is_large_string)):
        raise UserError(
            f"The column '{name}' of {path} holds {kind}; labels are integers or strings. Name "
            "another one with --label-column."
        )


def _features(schema: Any) -> dict[str, Any]:
    """What `datasets` notes of the columns; empty without it."""
    try:
        stored = json.loads((schema.metadata or {})[b"huggingface"])
        features = stored["info"]["features"]
        return {k: v for k, v in features.items() if isinstance(v, dict)}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}
