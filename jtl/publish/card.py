"""The model card of a published model: `README.md`, with the hub's metadata above it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from jtl.common import markdown
from jtl.common.text import for_markdown
from jtl.data.class_names import with_title

_LICENCES = {
    "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0",
    "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "gpl-3.0", "agpl-3.0", "lgpl-3.0", "mpl-2.0", "unlicense",
    "openrail", "cc-by-nc-nd-4.0", "cc-by-nd-4.0", "isc", "unknown", "other",
}  # fmt: skip
"""Licences by the identifiers of the hub."""
_SPLITS = {"val": "validation", "test": "test"}
_LISTED = 200
_METRICS = {"accuracy": "accuracy", "macro_f1": "f1"}
"""Figures of a summary by the hub's names."""


def card(
    repo: str, summary: Mapping[str, Any], *, library: str, licence: str | None,
    data_licence: str | None, loading: str | None,
) -> str:  # fmt: skip
    """The card as Markdown.

    Args:
        repo: USER/NAME.
        summary: Results that may be public.
        library: "timm" or "jtl": what the weights' names are of.
        licence: Of the weights; None if it is not known.
        data_licence: Of the images; None if nobody has said it.
        loading: Lines of Python by which timm loads it; None if it cannot.
    """
    header = yaml.safe_dump(
        _metadata(repo, summary, library, licence), sort_keys=False, allow_unicode=True
    )
    parts = [
        f"---\n{header}---",
        f"# {for_markdown(repo.partition('/')[2])}",
        f"An image classifier for {summary['num_classes']:,} classes: "
        f"{for_markdown(summary['model'])} trained with jtl on {markdown.code(summary['data'])}.",
        "## How to use",
        _code_block(f'import jtl\njtl.load("hf:{repo}").predict("photo.jpg")'),
        *([] if loading is None else ["With timm:", _code_block(loading)]),
        "## Results",
        _results(summary),
        "## Intended use",
        _intended(summary),
        "## Training",
        markdown.table(_training(summary)),
        "## Licences",
        _licences(summary, licence, data_licence),
        "## Classes",
        _classes(summary),
    ]
    return "\n\n".join(parts) + "\n"


def _metadata(
    repo: str, summary: Mapping[str, Any], library: str, licence: str | None
) -> dict[str, Any]:
    """What the hub reads."""
    known = licence is not None and licence.lower() in _LICENCES
    words: dict[str, Any] = {"license": licence.lower() if licence and known else "other"}
    if not known:
        words["license_name"] = licence or "unknown"
    metrics = [
        {"type": kind, "value": round(summary[f"{split}_{name}"], 4), "name": f"{told} {name}"}
        for split, told in _SPLITS.items()
        for name, kind in _METRICS.items()
        if isinstance(summary.get(f"{split}_{name}"), (int, float))
    ]
    result = {
        "task": {"type": "image-classification"},
        "dataset": {"name": summary["data"], "type": "imagefolder"},
        "metrics": metrics,
    }
    return {
        **words,
        "library_name": library,
        "pipeline_tag": "image-classification",
        "tags": sorted({"image-classification", "jtl", library}),
        "model-index": [{"name": repo.partition("/")[2], "results": [result]}],
    }


def _results(summary: Mapping[str, Any]) -> str:
    rows = []
    for split, told in _SPLITS.items():
        if (accuracy := summary.get(f"{split}_accuracy")) is not None:
            count, f1 = summary.get(f"num_{split}"), summary.get(f"{split}_macro_f1")
            rows.append((told, f"{count:,}" if count else "-", f"{accuracy:.3f}", _number(f1)))
    text = markdown.table(rows, ("split", "images", "accuracy", "macro-F1"))
    if summary.get("test_accuracy") is None:
        text += (
            "\n\nThe best epoch was chosen on the same validation images, so expect a slightly "
            "lower accuracy on new ones."
        )
    return text


def _intended(summary: Mapping[str, Any]) -> str:
    return (
        "For images like those it was trained on. It always chooses among its classes, also for "
        "images that show none of them, and its probabilities hold only for images like those of "
        "the validation split. It was not tested for other uses; test it on your own images "
        "before you rely on it, above all where mistakes would harm people."
        if summary.get("task") != "multilabel"
        else "For images like those it was trained on, each of which may have several of its "
        "classes or none. It was not tested for other uses; test it on your own images before you "
        "rely on it, above all where mistakes would harm people."
    )


def _training(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    phases = "; then ".join(
        f"{phase['epochs']} epochs of {markdown.code(phase['mask'])}" for phase in summary["phases"]
    )
    return [
        ("backbone", for_markdown(summary["model"])),
        ("pretrained weights", markdown.code(summary["weights"]["name"])),
        ("trained", phases),
        ("trained parameters", f"{summary['trainable_params']:,} of {summary['total_params']:,}"),
        ("training images", f"{summary['num_train']:,}"),
        ("augmentation", for_markdown(str(summary["augmentation"]))),
        ("input", f"{summary['image_size']} x {summary['image_size']} pixels, RGB"),
        ("jtl", for_markdown(summary["versions"]["jtl"])),
    ]


def _licences(summary: Mapping[str, Any], licence: str | None, data_licence: str | None) -> str:
    source = summary["weights"]
    rows = [
        ("these weights", for_markdown(licence) if licence else "not stated"),
        (
            f"pretrained weights {markdown.code(source['name'])}",
            for_markdown(source["licence"]) if source.get("licence") else "not stated",
        ),
        ("training images", for_markdown(data_licence) if data_licence else "not stated"),
    ]
    return markdown.table(rows, ("of", "licence"))


def _classes(summary: Mapping[str, Any]) -> str:
    names, titles = summary["class_names"], summary.get("class_titles", {})
    found = summary.get("test_classes") or summary.get("val_classes") or {}
    rows = [
        (str(i), for_markdown(with_title(name, titles)), _number(found.get(name, {}).get("f1")))
        for i, name in enumerate(names[:_LISTED])
    ]
    text = markdown.table(rows, ("index", "class", "F1"))
    if len(names) > _LISTED:
        text += f"\n\nand {len(names) - _LISTED:,} more, in `config.json`."
    return text


def _number(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, (int, float)) else "-"


def _code_block(text: str) -> str:
    return f"```python\n{text}\n```"
