"""Some of a run's validation images, to try the model on."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from jtl.common.progress import Display, PlainConsole
from jtl.data.decoding import decode
from jtl.data.kinds import HEAD_BYTES, kind_of
from jtl.data.multilabel import DIVIDER, is_multilabel
from jtl.evaluate.images import opened_for
from jtl.predict.classifier import Classifier

COUNT = 8
_SHOWN = {"JPEG": "image/jpeg", "PNG": "image/png", "GIF": "image/gif", "WEBP": "image/webp"}
"""What browsers show."""
_MOST_BYTES = 16 * 10**6


@dataclasses.dataclass(frozen=True)
class Example:
    """An image, as its file's contents.

    Attributes:
        name: The file's name.
        label: Its class, or its classes.
        data: What a browser shows and `/predict` reads.
        media_type: Of the data.
    """

    name: str
    label: str
    data: bytes
    media_type: str


class Examples:
    """The examples of a run, found when they are asked for first.

    There are none where the images are gone, have changed, or cannot be read.
    """

    def __init__(self, classifier: Classifier):
        """Takes whose run it is, as `jtl.load` gives it."""
        self._classifier = classifier
        self.found: list[Example] = []

    def find(self) -> None:
        """Reads them; takes its time with large data sets."""
        with contextlib.suppress(Exception):  # The model serves without.
            self.found = self._find()

    def _find(self) -> list[Example]:
        quiet = Display(PlainConsole(quiet=True))
        dataset, _ = opened_for(self._classifier, None, quiet, None, "val", None)
        labels, names = dataset.val.labels, dataset.class_names
        found = []
        for row in _spread(labels):
            of_row = [labels[row]]
            if is_multilabel(labels):
                of_row = np.flatnonzero(labels[row])
            label = DIVIDER.join(names[int(i)] for i in of_row)
            name = PurePosixPath(dataset.val.names[row]).name
            data, kind = self._contents(dataset.val, row)
            if len(data) <= _MOST_BYTES:
                found.append(Example(name, label, data, kind))
        return found

    def _contents(self, split: Any, row: int) -> tuple[bytes, str]:
        """The file itself where browsers show it; else a PNG of what is read of it."""
        depth = self._classifier.inputs.bit_depth
        if hasattr(split, "encoded"):
            data = split.encoded(row)
            kind = kind_of(data[:HEAD_BYTES])
            if kind in _SHOWN:
                return data, _SHOWN[kind]
            image = decode(data, split.names[row], depth)
        else:
            image = Image.fromarray(split.read(np.array([row]), None)[0])
        file = io.BytesIO()
        image.save(file, "PNG")
        return file.getvalue(), "image/png"


def _spread(labels: np.ndarray) -> list[int]:
    """Rows of `COUNT` images, of as many classes as there are, by turns."""
    first = labels.argmax(-1) if is_multilabel(labels) else labels
    rows = [np.flatnonzero(first == label).tolist() for label in np.unique(first)]
    if len(rows) > COUNT:  # Spread over the classes.
        rows = [rows[i] for i in np.linspace(0, len(rows) - 1, COUNT).round().astype(int)]
    turns = [one[turn] for turn in range(COUNT) for one in rows if turn < len(one)]
    return turns[:COUNT]
