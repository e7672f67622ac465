"""What the names of folders and files say: a split, a container of images, annotations."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from jtl.data.splits import SPLIT_NAMES

_WORD = re.compile(
    r"(?:TRAIN(?:ING)?|TEST(?:ING)?|VAL(?:ID(?:ATION)?)?)(?=[a-z])|[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_]+"
)
_DIGITS = re.compile(r"[\d.]")
_SUFFIX = re.compile(r"(?:set|data|daten|images?|imgs?|split|lists?|files?|names|ids|idx)$")
_MORE = {
    "train": (
        "trainval", "trainings", "entrenamiento", "entrainement", "apprentissage", "treino",
        "treinamento", "addestramento", "allenamento",
    ),
    "val": (
        "evaluation", "validate", "validacion", "validacao", "validazione", "convalida",
        "validierung", "validierungs",
    ),
    "test": ("prueba", "pruebas", "teste", "testes", "essai", "essais", "prova", "prufung"),
}  # fmt: skip
"""Other words, among them those of Spanish, French, Portuguese, Italian and German."""
_UNLABELLED = ("pred", "predict", "prediction", "predictions", "unlabeled", "unlabelled", "unsup")
_WITHOUT_LABELS = (
    "nolabel", "nolabels", "notlabeled", "notlabelled", "tobelabeled", "tobelabelled", "tolabel",
)  # fmt: skip
"""All words of a name together, as of `no_label` (CVAT) and `To be labeled`."""
CONTAINERS = (
    "images", "image", "imgs", "img", "pics", "pictures", "photos", "jpegimages", "jpg", "jpeg",
    "jpegs", "png", "pngs", "data", "dataset", "files", "frames", "all",
)  # fmt: skip
_NO_CLASS = (
    "images", "image", "imgs", "img", "jpegimages", "data", "dataset", "files", "all", "query",
    "queries", "distractors", "roi", "rois", "bbox", "bboxes", "annotation", "annotations",
    "segmentation", "segmentations", "trimap", "trimaps", "groundtruth", "xml", "xmls", "json",
    "augmented", "augmentation", "augmentations",
)  # fmt: skip
_OF_SPLITS = (
    *CONTAINERS, "set", "sets", "split", "folder", "dir", "batch", "part", "partial", "samples",
    "sample", "subset", "full", "bounding", "box", "bbox", "crop", "crops", "cropped", "resized",
    "raw", "original", "processed",
)  # fmt: skip
"""What stands beside `train` in the name of a split, such as `training_set`."""
_ANNOTATIONS = (
    "mask", "masks", "annotation", "annotations", "label", "labels", "segmentation",
    "segmentations", "gt", "groundtruth", "bbox", "bboxes", "boxes", "xml", "xmls", "json",
    "trimap", "trimaps", "roi", "rois",
)  # fmt: skip
_REGIONS = ("roi", "rois", "crop", "crops", "cropped", "patch", "patches")
"""Names of parts of images; some of them are classes, too."""
_LISTS = (
    "meta", "metadata", "list", "lists", "filelist", "filelists", "split", "splits", "imagesets",
    "partition", "partitions", "csv", "csvs", "info", "doc", "docs", "main",
)  # fmt: skip


class SplitName(NamedTuple):
    """The split that a name stands for.

    Attributes:
        split: "train", "val", "test" or, of images without labels, "unlabelled".
        sure: Whether the name says nothing else, as `training_set` and unlike `freight_train`.
    """

    split: str
    sure: bool


def words_of(name: str) -> list[str]:
    """The words of a name in lower case: `seg_TrainSet2` has `seg`, `train`, `set`, `2`.

    Latin letters lose their accents: `Entraînement` is `entrainement`.
    """
    if not name.isascii():
        letters = unicodedata.normalize("NFD", name)
        plain = "".join(c for c in letters if not "\u0300" <= c <= "\u036f")
        name = unicodedata.normalize("NFC", plain)
    return [word.lower() for word in _WORD.findall(name)]


def split_in(name: str) -> SplitName | None:
    """The split that a name or a part of it stands for; None where it is none or several."""
    words = words_of(name)
    if "".join(words) in _WITHOUT_LABELS:
        return SplitName("unlabelled", True)
    found = {word: split for word in words if (split := _split_of_word(word)) is not None}
    splits = set(found.values())
    both = splits == {"train", "val"}  # `Train and Validation Set`, from which val is held out.
    if len(splits) != 1 and not both:
        return None
    known = {*found, *_OF_SPLITS, *(("and",) if both else ())}
    others = [word for word in words if word not in known and not word.isdigit()]
    return SplitName("train" if both else splits.pop(), not others)


def says_no_label(name: str) -> bool:
    """Whether a name says that there is no label yet, as `unlabeled` or `to be labeled`."""
    return "".join(words_of(name)) in (*_WITHOUT_LABELS, "unlabeled", "unlabelled", "todo", "tbd")


def sure_split(name: str) -> str | None:
    """The split that a name stands for if it says nothing else, as `training_set`; else None."""
    found = split_in(name)
    return found.split if found is not None and found.sure else None


def splits_in(name: str) -> set[str]:
    """All splits that the words of a name stand for."""
    return {split for word in words_of(name) if (split := _split_of_word(word)) is not None}


def splits_in_path(parts: Sequence[str]) -> set[str]:
    """The splits that an image's folders are called after; else those that its name begins with."""
    found = {split.split for name in parts[:-1] if (split := split_in(name)) and split.sure}
    named = splits_in(_DIGITS.split(parts[-1], maxsplit=1)[0])
    return (found or named) & {"train", "val", "test"}


def is_container(name: str) -> bool:
    """Whether a name says only that images are in it."""
    return name.lower() in CONTAINERS


def is_no_class(name: str) -> bool:
    """Whether a name hardly is that of a class beside others, as `images` or `ROI images`."""
    words = words_of(name)
    return name.lower() in _NO_CLASS or (bool(words) and all(word in _NO_CLASS for word in words))


def is_annotation(name: str) -> bool:
    """Whether a name says that annotations of images are in it."""
    return name.lower() in _ANNOTATIONS or "".join(words_of(name)) == "groundtruth"


def is_of_annotations(name: str) -> bool:
    """Whether a name's words say so, or that parts of images are in it, as `lesion crops`."""
    return is_annotation(name) or any(w in (*_ANNOTATIONS, *_REGIONS) for w in words_of(name))


def is_of_regions(name: str) -> bool:
    """Whether a name says that parts of images are in it; `crops` may be a class of fields."""
    return name.lower() in _REGIONS


def is_of_lists(name: str) -> bool:
    """Whether a folder without images is called as those of lists and documents are."""
    words = [word for word in words_of(name) if word not in _OF_SPLITS]
    return name.lower() in _LISTS or (bool(words) and all(word in _LISTS for word in words))


def is_of_queries(name: str) -> bool:
    """Whether a name is that of a split for retrieval or re-identification."""
    return bool({"query", "queries", "gallery", "distractors"} & {*words_of(name)})


def ends_in_annotation(name: str) -> bool:
    """Whether a name's last word says so, as of `lung masks`; of a class (`no_mask`) too."""
    words = words_of(name)
    return is_annotation(name) or (bool(words) and words[-1] in _ANNOTATIONS)


def _split_of_word(word: str) -> str | None:
    stems = {word, _SUFFIX.sub("", word)}
    for split, known in SPLIT_NAMES.items():
        if stems & {*known, *_MORE.get(split, ())}:
            return split
    return "unlabelled" if word in _UNLABELLED else None
