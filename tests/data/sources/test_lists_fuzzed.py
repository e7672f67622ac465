"""Lists written in hundreds of ways: the splits they say, or a refusal; never others."""

from __future__ import annotations

import json
import random
from pathlib import Path

from jtl.common.errors import UserError
from jtl.data.sources.registry import find
from support.split_lists import IMAGES, folder

FOLDERS = ("", "", "meta/", "lists/", "splits/", "annotations/")
NAMES = ("{}", "{}_list", "{}set", "my-{}", "list.{}", "{}_files", "{}_images", "{}_v2", "{}_cars",
         "{}list01")  # fmt: skip
WORDS = {"train": ("train", "Training", "TRAIN"), "test": ("test", "Testing", "TEST")}


def written(path: str, form: dict[str, object]) -> str:
    """What a list calls an image."""
    text = {"path": path, "name": Path(path).name, "far": f"/data/x/{path}", "dots": f"./{path}"}[
        str(form["call"])
    ]
    text = text.removesuffix(".png") + str(form["ending"])
    return text.replace("/", "\\") if form["back"] else text


def texts(draw: random.Random, test: list[str], train: list[str]) -> dict[str, bytes]:
    form = {
        "call": draw.choice(["path", "name", "far", "dots"]),
        "ending": draw.choice([".png", ".png", "", ".jpg"]),
        "back": draw.random() < 0.1,
    }
    place = draw.choice(FOLDERS)
    words = {split: draw.choice(choices) for split, choices in WORDS.items()}
    rows = {
        split: [(written(p, form), p.partition("/")[0]) for p in paths]
        for split, paths in (("train", train), ("test", test))
    }
    kind = draw.choice(["lines", "labels", "csv", "json", "keys", "column", "objects"])
    delimiter = draw.choice([",", ";", "\t"])
    end = draw.choice(["\n", "\r\n"])
    found: dict[str, str] = {}
    name = draw.choice(NAMES)
    if kind in ("lines", "labels", "csv", "json", "objects"):
        for split, same in rows.items():
            if kind == "json":
                found[name.format(words[split]) + ".json"] = json.dumps([text for text, _ in same])
                continue
            if kind == "objects":
                lines = [json.dumps({"file": text, "label": label}) for text, label in same]
                found[name.format(words[split]) + ".jsonl"] = end.join(lines)
                continue
            head = ["file" + delimiter + "label"] if kind == "csv" else []
            between = {"lines": None, "labels": " ", "csv": delimiter}[kind]
            lines = [text if between is None else text + between + label for text, label in same]
            ending = ".csv" if kind == "csv" else draw.choice([".txt", ".lst", ".list"])
            found[name.format(words[split]) + ending] = end.join([*head, *lines]) + end
    elif kind == "keys":
        found["splits.json"] = json.dumps({s: [t for t, _ in same] for s, same in rows.items()})
    else:
        lines = [
            delimiter.join([text, label, words[split]])
            for split, same in rows.items() for text, label in same
        ]  # fmt: skip
        draw.shuffle(lines)
        head = delimiter.join(["image", "label", draw.choice(["split", "set", "mode"])])
        found[draw.choice(["metadata.csv", "all.tsv", "splits.csv"])] = end.join([head, *lines])
    encoding = draw.choice(["utf-8", "utf-8", "utf-8-sig", "utf-16"])
    return {f"{place}{name}": text.encode(encoding) for name, text in found.items()}


def damaged(draw: random.Random, data: bytes) -> bytes:
    """What downloads, editors and disks leave."""
    return draw.choice([b"", b"\n\n", draw.randbytes(300), bytes(len(data)), b"<html>404</html>"])


def test_lists_are_followed_or_refused(tmp_path: Path):
    outcomes = {"read": 0, "refused": 0, "damaged": 0}
    says = 0
    for seed in range(120):
        draw = random.Random(seed)
        test = sorted(draw.sample(IMAGES, draw.randint(6, 20)))
        train = [path for path in IMAGES if path not in test]
        lists = texts(draw, test, train)
        spoilt = draw.choice([*lists]) if draw.random() < 0.4 else None
        if spoilt is not None and spoilt.endswith(("metadata.csv", "all.tsv")):
            spoilt = None  # Nothing tells that these were lists.
        if spoilt is not None:
            lists[spoilt] = damaged(draw, lists[spoilt])
        root = folder(tmp_path / str(seed), lists)
        try:
            found = find(f"folder:{root}")
        except UserError as error:
            says += "--split-lists ignore" in str(error)
            outcomes["refused" if spoilt is None else "damaged"] += 1
            continue
        names = {split: {*found.splits[split].names} for split in found.splits}
        assert not names["train"] & {*test}, (seed, spoilt, sorted(lists), names.keys())
        assert names["train"] == {*train}, (seed, spoilt, sorted(lists))
        assert spoilt is not None or names["test"] == {*test}, (seed, sorted(lists))
        outcomes["read"] += 1
    assert outcomes["read"] > 60, outcomes
    assert outcomes["refused"] == 0, outcomes
    assert outcomes["damaged"] == says > 20, outcomes
