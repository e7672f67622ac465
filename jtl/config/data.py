"""Options of the labelled images."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Annotated, Literal

from jtl.common.errors import UserError
from jtl.common.quantities import whole
from jtl.config import checks, walk
from jtl.config.addresses import is_address, without_secrets
from jtl.config.source_kinds import kind_of_place

OnBadImage = Literal["error", "skip"]
ClassLevel = Literal["auto", "top", "leaf"]
"""Which folders are classes: the uppermost, or the deepest with images; auto refuses to choose."""

Task = Literal["auto", "multilabel"]
"""Whether an image has one class, which is `auto`, or may have several."""
Fit = Literal["crop", "pad", "squash"]
"""What is done to images that are no squares: see `DataConfig`."""
SplitLists = Literal["read", "ignore"]
"""What is done about lists of splits beside class folders."""


_SCHEMES = {
    ".npz": "npz", ".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".jsonl": "csv",
    ".arrow": "datasets", ".mat": "mat",
}  # fmt: skip
"""By the ending of a file's name; of any other path, what lies there tells."""
_NAMED = (
    "folder:", "tfds:", "npz:", "parquet:", "csv:", "datasets:", "wds:", "cifar:", "mat:", "idx:",
)  # fmt: skip
"""What sources begin with that say their kind."""


def with_scheme(data: str) -> str:
    """A data source as jtl writes it: a plain path gets the scheme of its kind.

    Example:
        >>> with_scheme("digits"), with_scheme("folder:my-images"), with_scheme("arrays.npz")
        ('digits', 'folder:my-images', 'npz:arrays.npz')
    """
    scheme = _SCHEMES.get(os.path.splitext(data)[1].lower())
    if is_address(data):
        scheme, _, path = data.partition("://")
        return with_scheme(path) if scheme.lower() == "file" else without_secrets(data)
    if data == "digits" or data.startswith(_NAMED):
        return data
    if scheme is None and os.path.exists(place := os.path.expanduser(data)):
        scheme = kind_of_place(Path(place))
    elif scheme is None and data.endswith(".tar") and ("*" in data or "{" in data):
        scheme = "wds"
    return data if scheme is None else f"{scheme}:{data}"


def fold_of(text: str) -> tuple[int, int]:
    """The number of a fold, from 1 on, and of how many, from `2/5`.

    Raises:
        ValueError: It is none.
    """
    number, slash, count = text.partition("/")
    found = int(number), int(count)
    if not slash or not 1 <= found[0] <= found[1] or found[1] < 2:
        raise ValueError(text)
    return found


def _fold(flag: str, value: str | None) -> None:
    try:
        fold_of(value or "1/2")
    except ValueError:
        raise UserError(
            f"{flag} must be a fold and of how many, such as 2/5, not '{value}'."
        ) from None


def check_delimiter(task: Task, delimiter: str | None) -> None:
    """Raises `UserError` if labels are to be divided, but images have one each."""
    if delimiter is not None and task != "multilabel":
        raise UserError(
            "--label-delimiter: no effect without --task multilabel. Add that, or leave it out."
        )
    if delimiter == "":
        raise UserError("--label-delimiter must not be empty: give what stands between labels.")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The labelled images.

    Attributes:
        data: Your images: a folder or archive with one folder per class (my-images or
            folder:my-images), or another source. Others: 'tfds:NAME[:SPLITS]' (a prepared
            TensorFlow Datasets data set), 'npz:FILE' (NumPy arrays), 'parquet:FILES' (as used on
            the Hugging Face Hub), 'csv:FILE' (a table of image files and labels: .csv, .tsv, .jsonl
            or .parquet), 'datasets:FOLDER' (what Hugging Face's save_to_disk wrote), 'wds:FILES'
            (tar files of WebDataset), 'cifar:FILE' (CIFAR for Python), 'mat:FILES' (MATLAB, as of
            SVHN), 'idx:FOLDER' (MNIST's files), 'digits' (scikit-learn's handwritten digits), or an
            address of any of these (https://, s3://, gs://); see docs/data.md.
        task: Whether each image has exactly one class (auto), or any number of classes
            (multilabel): the labels are then lists, or columns of 0 and 1; see docs/data.md.
        label_delimiter: With --task multilabel, what separates the labels in a table's cells, such
            as ' ' for spaces. Default: |, ; or a comma, whichever is found.
        classes: Which folders are the classes if class folders contain folders: the outermost
            (top), or the innermost with images (leaf). Default: auto, which stops and asks you
            to choose if both are possible.
        split_lists: What to do with lists of each split's images next to the class folders, such as
            train.txt and test.txt: split the images as they say (read), or as if there were no
            lists (ignore).
        image_column: Column of a table, Parquet file or saved data set that holds the images, or
            their paths or names; of WebDataset, the ending of the images. Default: jtl recognizes
            it by its name and by what is in it.
        label_column: Column of a table, Parquet file or saved data set that holds the labels; of
            WebDataset, a key of its JSON or an ending; of CIFAR-100, coarse_labels. Default: jtl
            recognizes it by its name.
        split_column: Column of a table that gives each image's split (train, val or test); 'none'
            ignores such columns. Default: jtl recognizes it by its name and by what is in it.
        image_root: Folder, or zip or tar archive, that the paths in a table start at. Default: the
            table's folder.
        label_from: Where to read the labels of images without class folders. name: the file name
            without its final number (cat.0.jpg = cat); first-word: the first word of the file name;
            parent: the folder that the file is in; regex:EXPRESSION: what the expression captures
            as label, such as 'regex:^(?P<label>[a-z]+)_'.
        group_column: Column of a table that says which images belong together, such as those of one
            patient. Images of one group are never divided between splits.
        group_from: How to read from a file name which images belong together: name, first-word,
            parent or regex:EXPRESSION as for --label-from, such as 'regex:^(?P<group>p[0-9]+)_'.
            Images of one group are never divided between splits.
        exclude: Leave out the images that this file lists: the clean.csv of `jtl data clean`,
            another table with the column file, or a text with a name in each line.
        test_split: Hold out this share of the training images for the test, such as 0.15, if the
            data has no test split. Default: none.
        fold: One fold of a cross-validation, such as 2/5: divide the training images into five
            equal folds, train without the second, and validate on it; --folds 5 does so with each
            of them.
        bit_depth: How many of their 16 bits your images really use, such as 12 for many scanners
            and microscope cameras. Default: the fewest that hold the largest value in the data
            (auto).
        jpeg_decoding: How large JPEGs are decoded: at a half, a quarter or an eighth of their size
            where that is still at least twice what the network needs (scaled), which takes a
            third of the time for photographs from phones; or always whole (exact).
        on_bad_image: What to do with unreadable images: stop and list them (error), or leave them
            out (skip).
        image_size: Width and height that images are resized to for the network, in pixels, such as
            224. Default: the size the weights were trained at; for square images that all have one
            smaller size, four times that size, but at least 96 and at most the weights' own.
        fit: How images that are not square become square: the centre is cut out, as the weights
            expect (crop); the whole image gets a margin in the mean colour (pad); or it is squashed
            (squash). Evaluation, prediction and exports do the same.
        upsample: How small images are enlarged: bilinear, bicubic, or nearest:N, which repeats
            each pixel N times in both directions. Default: as in the weights' preprocessing.
        cache_dtype: Number format of cached features: the one they are computed in, float32, or
            bfloat16, which takes half the space of float32.
        cache_views: With augmentation, cache features of this many random versions of each
            training image; the epochs take turns using them. Default: a new random version in every
            epoch, and no cache.
        split_seed: Seed for the validation split when the data has none. Default: --seed.
    """

    data: str = "digits"
    task: Task = "auto"
    label_delimiter: str | None = None
    classes: ClassLevel = "auto"
    split_lists: SplitLists = "read"
    image_column: str | None = None
    label_column: str | None = None
    split_column: str | None = None
    image_root: str | None = None
    label_from: str | None = None
    group_column: str | None = None
    group_from: str | None = None
    exclude: Annotated[str | None, walk.Metavar("FILE")] = None
    test_split: Annotated[float | None, checks.positive, checks.share] = None
    fold: Annotated[str | None, _fold] = None
    bit_depth: Annotated[int | Literal["auto"], checks.within(8, 16)] = "auto"
    jpeg_decoding: Literal["scaled", "exact"] = "scaled"
    on_bad_image: OnBadImage = "error"
    image_size: Annotated[int | None, checks.within(32, 4096)] = None
    fit: Fit = "crop"
    upsample: str | None = None
    cache_dtype: Literal["computed", "float32", "bfloat16"] = "computed"
    cache_views: Annotated[int | None, checks.within(1, 1000)] = None
    split_seed: Annotated[int | None, checks.seed] = None

    def check(self) -> None:
        """Makes sure that `--upsample` is `bilinear`, `bicubic` or `nearest:N`.

        Raises:
            UserError: It is not, or `nearest:N` meets an `--image-size`, which it sets itself; or
                labels are to be divided that are not several.
        """
        check_delimiter(self.task, self.label_delimiter)
        if self.upsample in (None, "bilinear", "bicubic"):
            return
        name, _, times = self.upsample.partition(":")
        if name != "nearest" or not whole(times):
            raise UserError(
                "--upsample must be bilinear, bicubic or nearest:N (N = 1 or more), not "
                f"'{self.upsample}'."
            )
        if self.image_size is not None:
            raise UserError(
                f"--upsample {self.upsample} sets the input's size to {times} times the images'; "
                "leave --image-size out."
            )
