"""Which files may be lists of splits, by their names; what they hold decides in the end."""

from __future__ import annotations

from typing import NamedTuple

from jtl.data.sources import image_groups
from jtl.data.sources.names import splits_in, words_of
from jtl.data.sources.stores import ImageFile

READ = (".txt", ".csv", ".tsv", ".lst", ".list", ".flist", ".filelist", ".json", ".jsonl")
"""What is read: text, and JSON; also what has no ending."""
_PACKED = tuple(f"{ending}.{packed}" for ending in READ for packed in ("gz", "bz2", "xz", "zip"))
SETTINGS = (".yaml", ".yml", ".toml", ".ini")
"""What jtl does not read as lists, and may hold settings."""
NEVER_READ = (
    *_PACKED, *SETTINGS, ".mat", ".pkl", ".pickle", ".npy", ".xls", ".ods", ".parquet",
    ".feather", ".h5", ".hdf5", ".pt", ".pth",
)  # fmt: skip
NAMED = (*READ, ".xlsx", *NEVER_READ)
"""What may be a list of splits, whether jtl reads it or not."""
_OTHERS = {
    "submission", "requirements", "readme", "log", "logs", "loss", "losses", "history", "results",
    "result", "predictions", "time", "times", "timing", "timings", "acc", "accuracy", "metric",
    "metrics", "score", "scores", "prob", "probs", "probabilities", "logits", "features",
    "embeddings", "error", "errors", "output", "outputs", "stats", "statistics", "curve", "curves",
    "report", "speed", "latency", "duration", "durations", "confidence", "confidences", "config",
    "license", "notes",
}  # fmt: skip
"""Words in the names of what programs write about splits, image by image or not."""
_OF_LISTS = {
    "list", "lists", "file", "files", "filelist", "filename", "filenames", "name", "names", "image",
    "images", "imgs", "img", "id", "ids", "idx", "index", "indices", "key", "keys", "path", "paths",
    "split", "splits", "set", "sets", "setid", "data", "dataset", "label", "labels", "annotation",
    "annotations", "anno", "meta", "metadata", "info", "gt", "groundtruth", "ground", "truth",
    "official", "all", "full", "part", "sample", "samples", "csv", "txt", "df",
    *image_groups.WORDS,
}  # fmt: skip
"""Words that say no more than that a file is a list, of images or of groups of them."""
_MOST_FILES = 60
"""In a folder: of more, each belongs to one image, where their names say no split."""


class ListName(NamedTuple):
    """What a file's name says.

    Attributes:
        splits: The splits that it names; both train and val for `trainval`.
        of_several: Whether it may hold several splits, as `train_test_split.txt`.
        certain: Whether it says nothing else, as `test_list.txt`, unlike `cars_test.txt`.
        ends: Whether the split ends it, as that of `cars_test.txt` and not of `test_cars.txt`.
        pattern: The name with a star for its split, the same for `cars_test` and `cars_train`.
    """

    splits: frozenset[str]
    of_several: bool
    certain: bool
    ends: bool
    pattern: str

    @property
    def split(self) -> str | None:
        """The only split of the list; "trainval" for both parts of training."""
        if self.of_several:
            return None
        return "trainval" if len(self.splits) > 1 else next(iter(self.splits))


def candidates(files: list[ImageFile]) -> list[tuple[ImageFile, ListName | None]]:
    """The files that may be lists, and what their names say; None where that is nothing."""
    by_folder: dict[tuple[str, ...], list[ImageFile]] = {}
    found: dict[str, tuple[ImageFile, ListName | None]] = {}
    for file in files:
        name = file.parts[-1].lower()
        if not (name.endswith(NAMED) or "." not in name) or _OTHERS & {*words_of(name)}:
            continue
        if "." not in name:  # Of the many that have no ending those with such a name.
            if (told := name_of(file)) is not None and told.certain:
                found[file.name] = (file, told)
            continue
        by_folder.setdefault(file.parts[:-1], []).append(file)
        if (told := name_of(file)) is not None:
            found[file.name] = (file, told)
    few = [file for same in by_folder.values() if len(same) <= _MOST_FILES for file in same]
    return [*found.values(), *((file, None) for file in few if file.name not in found)]


def name_of(file: ImageFile) -> ListName | None:
    """What a file's name says of splits; None where it says nothing."""
    stem = _stem(file.parts[-1])
    words = words_of(stem)
    splits = splits_in(stem) & {"train", "val", "test"}
    divided = bool({"split", "splits", "setid"} & {*words})
    both = not divided and "trainval" in stem.lower().replace("_", "").replace("-", "")
    of_several = len(splits) > 1 + both or (divided and not splits)
    if both and "test" not in splits:
        splits = {"train", "val"}
    if not splits and not of_several:
        return None
    kinds = ["split" if splits_in(word) else _kind(word) for word in words]
    last = max((i for i, kind in enumerate(kinds) if kind == "split"), default=len(kinds))
    return ListName(
        frozenset(splits),
        of_several,
        certain="" not in kinds,
        ends="" not in kinds[last:],
        pattern=" ".join("*" if splits_in(word) else word for word in words),
    )


def is_read(file: ImageFile) -> bool:
    """Whether jtl reads such files."""
    name = file.parts[-1].lower()
    return name.endswith(READ) or "." not in name


def _stem(name: str) -> str:
    """A name without its ending, which may be two such as `.txt.gz`."""
    ending = max((e for e in NAMED if name.lower().endswith(e)), key=len, default="")
    return name[: len(name) - len(ending)]


def _kind(word: str) -> str:
    return "list" if word in _OF_LISTS or word.isdigit() or len(word) == 1 else ""
