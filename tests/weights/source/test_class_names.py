"""Names of classes beside a file's tensors: taken where they fit the classifier, else named."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from support import weights_samples as samples
from weights_convert.read.readers import SourceFile, read
from weights_convert.source import class_names, source_conversion, sources
from weights_convert.source.description import Source

NAMES = ("elm", "ash", "fir")
NUMBERED = {name: number for number, name in enumerate(NAMES)}
BY_NUMBER = dict(enumerate(NAMES))


def named(value: Any, num_classes: int | None = 3, **known: Any) -> Source:
    source = Source(Path("w.pth"), "w.pth", **known)
    file = SourceFile("torch-zip", {}, value=value, wrappers=("state_dict",))
    return class_names.named(source, file, num_classes)


PLACES = {
    "class_to_idx": {"class_to_idx": NUMBERED},
    "label2id": {"label2id": NUMBERED},
    "idx_to_class": {"idx_to_class": BY_NUMBER},
    "hyper_parameters.classes": {"hyper_parameters": {"classes": list(NAMES)}},
    "args.class_names": {"args": argparse.Namespace(class_names=NAMES).__dict__},
    "dataset_meta.CLASSES": {"dataset_meta": {"CLASSES": NAMES}},
    "state_dict.id2label": {"state_dict": {"id2label": {str(n): v for n, v in BY_NUMBER.items()}}},
    "names": {"names": BY_NUMBER, "epoch": 3, "classes": 3},
}


@pytest.mark.parametrize("place", PLACES)
def test_names_that_fit_the_classifier(place: str):
    found = named(PLACES[place])
    assert found.class_names == NAMES
    assert found.notes == (f"the names of the 3 classes come from the file's '{place}'",)


def test_names_for_another_classifier_are_named():
    found = named({"class_to_idx": NUMBERED}, 2)
    assert found.class_names is None
    assert found.notes[0].startswith("the file's 'class_to_idx' names 3 classes, and the class")
    assert named({"class_to_idx": NUMBERED}, None).notes == ()


def test_names_in_two_orders_are_not_used():
    value = {"class_to_idx": NUMBERED, "meta": {"classes": sorted(NAMES)}}
    assert named(value).class_names is None
    assert "name the classes differently" in named(value).notes[0]
    value = {"class_to_idx": NUMBERED, "label_encoder_classes": sorted(NAMES)}
    assert named(value).class_names is None
    assert "name the classes differently" in named(value).notes[0]
    same = named({"class_to_idx": NUMBERED, "classes": list(NAMES)})
    assert same.class_names == NAMES


def test_what_is_known_already_comes_first():
    found = named({"class_to_idx": NUMBERED}, class_names=("a", "b", "c"))
    assert (found.class_names, found.notes) == (("a", "b", "c"), ())
    other = named({"class_to_idx": NUMBERED}, class_names=("a", "b"))
    assert other.class_names == NAMES
    assert "names 2 classes, and their classifier has 3" in other.notes[0]


@pytest.mark.parametrize("text", ["elm,ash, fir", "elm\nash\nfir\n"])
def test_names_in_one_text(text: str):
    assert named({"classes": text}).class_names == NAMES


@pytest.mark.parametrize(
    "numbered",
    [
        {"elm": 1, "ash": 2, "fir": 3},
        {"elm": 0, "ash": 2, "fir": 3},
        {"1": "elm", "2": "ash", "3": "fir"},
        '{"elm": 1, "ash": 2, "fir": 3}',
    ],
)
def test_numbers_that_do_not_count_from_0(numbered: Any):
    found = named({"class_to_idx": numbered})
    assert found.class_names is None
    assert "numbers the classes otherwise than the outputs, which count" in found.notes[0]


NOT_NAMES = [
    {"elm": 0, "ash": 0, "fir": 1},
    {0: "elm", 1: "elm", 2: "fir"},
    ["elm", "elm", "fir"],
    ["elm", 7, "fir"],
    ["elm", "\ud800", "fir"],
    "elm, ash, elm",
    "(elm, ash, fir)",
    "[" * 100_000,
    {0.0: "elm", 1.0: "ash"},
    3,
]


@pytest.mark.parametrize("said", NOT_NAMES, ids=range(len(NOT_NAMES)))
def test_anything_else_is_no_names(said: Any):
    found = named({"classes": said, "class_to_idx": said})
    assert (found.class_names, found.notes) == (None, ())


def test_names_in_an_object_are_said_not_to_be_read(tmp_path: Path):
    torch = pytest.importorskip("torch")
    torch.save({"state_dict": {"w": torch.ones(1)}, "classes": np.array(NAMES)}, tmp_path / "w.pth")
    file = read(tmp_path / "w.pth")
    (note,) = class_names.named(Source(tmp_path, "w.pth"), file, 3).notes
    assert note.startswith("the file's 'classes' may name the classes, and is an object that is")


def test_names_of_a_file_are_stored_with_the_weights(tmp_path: Path):
    torch = pytest.importorskip("torch")
    names = ["e", "d", "c", "b", "a"]
    state = {key: torch.from_numpy(array.copy()) for key, array in samples.tensors().items()}
    file = tmp_path / "w.pth"
    torch.save({"state_dict": state, "classes": names}, file)
    source = sources.locate(str(file), samples.MODEL)
    found = source_conversion.convert_source(source, samples.MODEL)
    assert found.class_names == tuple(names)
    arrays = samples.tensors()
    other = tmp_path / "w.safetensors"
    header = {"class_names": json.dumps(names)}
    save_file({k: a.copy() for k, a in arrays.items()}, other, metadata=header)
    assert source_conversion.convert_source(sources.locate(str(other))).class_names == tuple(names)
