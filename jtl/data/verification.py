"""Before a training relies on its images: finding those that cannot be read, all together."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL

from jtl.common.errors import UserError
from jtl.common.files import replace_text
from jtl.common.paths import CHECKED, cache_dir
from jtl.config.data import OnBadImage
from jtl.data.batches import unreadable
from jtl.data.multilabel import classes_of
from jtl.data.splits import OpenedSource, UnreadableImage, absent

if TYPE_CHECKING:
    from jtl.common.progress import Display

DECODED_BYTES = 2**31
"""Encoded images up to this size together are decoded as a check; of more, only headers."""
WORTH_SECONDS = 0.1
"""What is known sooner is not remembered."""
_DECODER = "3"
"""Changes when more is found out about an image than an earlier jtl noted."""
_WORTH_SHOWING = 10_000  # images
_MAX_NAMED = 20


def of(on_bad_image: OnBadImage, display: Display) -> Verification:
    """The check of a command, remembered in jtl's cache folder."""
    return Verification(on_bad_image, cache_dir() / CHECKED, display)


@dataclasses.dataclass(frozen=True)
class Verification:
    """How images are checked before they are used.

    Every image is decoded once, as damage inside a file shows only then; of sets of more
    than `DECODED_BYTES`, where that takes minutes, only the headers are read, unless images
    are to be left out: that has to be known before the first step. That a set is fine is
    remembered by its fingerprint, and so are the sizes of its images: the next run opens no file.

    Attributes:
        on_bad_image: Whether unreadable images are an error, or left out.
        folder: Where results are remembered; None forgets them.
        display: Where progress goes; None for nowhere.
    """

    on_bad_image: OnBadImage = "error"
    folder: Path | None = None
    display: Display | None = None

    def __call__(self, found: OpenedSource) -> OpenedSource:
        """Checks the images of a source.

        Returns:
            What is left: all of it, or (`skip`) the readable images and a note about others.

        Raises:
            UserError: Images cannot be read, all of them together in one message (the first
                20 by name); or, leaving them out, a class or a split has none left.
        """
        size = sum(split.stored_bytes for split in found.splits.values())
        decode = self.on_bad_image == "skip" or size <= DECODED_BYTES
        began = time.perf_counter()
        memory = self._memory(found)
        bad = self._recall(memory, found, decode)
        if bad is None:
            bad = self._look(found, decode)
            if time.perf_counter() - began > WORTH_SECONDS:
                self._note(memory, decode, bad, found)
        return self._act(found, {name: faults for name, faults in bad.items() if faults})

    def _look(self, found: OpenedSource, decode: bool) -> dict[str, dict[int, str]]:
        count = sum(len(split) for split in found.splits.values())
        with contextlib.ExitStack() as stack:
            advance = None
            if self.display is not None and count >= _WORTH_SHOWING and found.has_files:
                advance = stack.enter_context(self.display.track("checking", count, "images"))
            faults = {
                name: split.faults(decode=decode, advance=advance)
                for name, split in found.splits.items()
            }
        for split in () if decode else found.splits.values():
            if split.stored_bytes:
                split.sample_pixels()
        return faults

    def _act(self, found: OpenedSource, bad: dict[str, dict[int, str]]) -> OpenedSource:
        if not bad:
            return found
        lines = [line for faults in bad.values() for line in faults.values()]
        count = sum(len(split) for split in found.splits.values())
        if self.on_bad_image == "error":
            places = ", ".join(split.where for split in found.splits.values())
            raise unreadable(lines, count, places)
        splits: dict[str, Any] = dict(found.splits)
        for name, faults in bad.items():
            before = splits[name]
            kept = np.setdiff1d(np.arange(len(before)), list(faults))
            splits[name] = before.subset(kept)
            left = splits[name].labels if name == "train" else before.labels[:0]
            gone = absent(found.class_names, left)
            names = [each for each in gone if each not in absent(found.class_names, before.labels)]
            if not len(kept) or (name == "train" and names):
                raise UserError(
                    f"No image of {before.where} can be read of: {', '.join(names[:10])}. "
                    f"For example {next(iter(faults.values()))}. Replace these files, or remove "
                    "the classes."
                )
        named = "; ".join(lines[:_MAX_NAMED])
        more = f"; and {len(lines) - _MAX_NAMED} more" if len(lines) > _MAX_NAMED else ""
        note = f"Left out {len(lines)} of {count} images, which cannot be read: {named}{more}."
        left_out = tuple(
            UnreadableImage(name, split.names[row], classes_of(split.labels, row), reason)
            for name, faults in bad.items()
            for split in (found.splits[name],)
            for row, reason in faults.items()
        )
        notes = (*found.notes, note)
        return dataclasses.replace(found, splits=splits, notes=notes, unreadable=left_out)

    def _memory(self, found: OpenedSource) -> Path | None:
        """The file that remembers these images, as this decoder reads them."""
        if self.folder is None or not found.has_files:
            return None
        facts = [_DECODER, found.fingerprint, PIL.__version__]
        for name, split in found.splits.items():
            facts += [name, *split.names]  # Parts of one data set have one fingerprint.
        text = "\0".join(facts).encode("utf-8", "surrogatepass")
        return self.folder / f"{hashlib.sha256(text).hexdigest()[:32]}.json"

    def _recall(
        self, memory: Path | None, found: OpenedSource, decode: bool
    ) -> dict[str, dict[int, str]] | None:
        """What was noted, if it still holds."""
        if memory is None:
            return None
        try:
            stored = json.loads(memory.read_bytes())
            noted = stored["noted"]
            if stored["sha256"] != _signed(memory, noted) or (decode and not noted["decoded"]):
                return None
            known: dict[str, Sequence[int]] = noted["bad"]
            for name, (rows, sizes) in noted["sizes"].items():
                found.splits[name].assume_sizes(rows, sizes)
            for name, deepest in noted["deepest"].items():
                found.splits[name].deepest = deepest
            for name, rows in noted["several"].items():
                found.splits[name].several[rows] = True
            for name, hashes in noted["hashes"].items():
                stored_hashes = np.frombuffer(base64.b64decode(hashes), "<u8").astype(np.uint64)
                if len(stored_hashes) != len(found.splits[name]):
                    return None
                found.splits[name].hashes = stored_hashes
            # A fingerprint does not tell of permissions: what was bad may be fine by now.
            return {
                name: found.splits[name].faults(decode=decode, rows=rows)
                for name, rows in known.items()
            }
        except (OSError, ValueError, TypeError, LookupError):
            return None

    def _note(
        self, path: Path | None, decode: bool, bad: dict[str, dict[int, str]], found: OpenedSource
    ) -> None:
        if path is None:
            return
        rows = {name: sorted(faults) for name, faults in bad.items() if faults}
        known = {name: split.known_sizes() for name, split in found.splits.items()}
        sizes = {name: size for name, size in known.items() if size is not None}
        deepest = {name: split.deepest for name, split in found.splits.items()}
        hashes = {
            name: base64.b64encode(split.hashes.astype("<u8").tobytes()).decode()
            for name, split in found.splits.items()
            if split.stored_bytes
        }
        several = {
            name: np.flatnonzero(split.several).tolist()
            for name, split in found.splits.items()
            if split.stored_bytes
        }
        noted = {
            "decoded": decode, "bad": rows, "sizes": sizes, "deepest": deepest, "hashes": hashes,
            "several": several,
        }  # fmt: skip
        text = json.dumps({"noted": noted, "sha256": _signed(path, noted)})
        with contextlib.suppress(OSError):  # Looking again is slower, nothing else.
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_text(path, text + "\n")


def _signed(path: Path, noted: Any) -> str:
    """What tells that a note is whole and of these images, whom the file's name stands for."""
    return hashlib.sha256(f"{path.name} {json.dumps(noted)}".encode()).hexdigest()
