"""The kinds of sources by the word before the colon, and the function that opens each."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping

from jtl.data.sources.image_groups import with_groups
from jtl.data.sources.source_options import SourceOptions
from jtl.data.splits import OpenedSource


@dataclasses.dataclass(frozen=True)
class Scheme:
    """A kind of source.

    Attributes:
        example: How it is written.
        description: What it is, for messages.
        loader: "MODULE:FUNCTION" of what finds it by what follows the colon; imported when asked
            for, as some need libraries that not every installation has.
        bare: Whether it is written without a colon.
        options: The fields of `SourceOptions` that it has.
    """

    example: str
    description: str
    loader: str
    bare: bool = False
    options: tuple[str, ...] = ()

    def find(self, rest: str, options: SourceOptions) -> OpenedSource:
        """Opens the source that `rest` names; raises `UserError` if it cannot."""
        module, _, function = self.loader.partition(":")
        finder: Callable[..., OpenedSource] = getattr(importlib.import_module(module), function)
        names = [name for name in self.options if name != "group_from"]
        found = finder(rest, **{name: getattr(options, name) for name in names})
        return found if options.group_from is None else with_groups(found, options.group_from)


SCHEMES: Mapping[str, Scheme] = {
    "folder": Scheme(
        "folder:my-images",
        "a folder with one folder per class, or a zip or tar of one",
        "jtl.data.sources.folder:load_folder",
        options=("classes", "split_lists", "label_from", "group_from"),
    ),
    "tfds": Scheme(
        "tfds:cifar10",
        "a data set that TensorFlow Datasets has prepared",
        "jtl.data.sources.tfds:load_tfds",
        options=("task",),
    ),
    "npz": Scheme(
        "npz:mnist.npz",
        "NumPy arrays of images and labels",
        "jtl.data.sources.npz:load_npz",
        options=("task",),
    ),
    "parquet": Scheme(
        "parquet:data/*.parquet",
        "files with encoded images, as used on the Hugging Face Hub",
        "jtl.data.sources.parquet:load_parquet",
        options=("image_column", "label_column", "task", "label_delimiter"),
    ),
    "datasets": Scheme(
        "datasets:saved",
        "a folder that Hugging Face's save_to_disk wrote",
        "jtl.data.sources.saved_datasets:load_saved",
        options=("image_column", "label_column", "task", "label_delimiter"),
    ),
    "wds": Scheme(
        "wds:train-{000..012}.tar",
        "tar files of WebDataset",
        "jtl.data.sources.webdataset:load_webdataset",
        options=("image_column", "label_column", "task", "label_delimiter", "group_from"),
    ),
    "cifar": Scheme(
        "cifar:cifar-10-python.tar.gz",
        "the files of CIFAR-10 or CIFAR-100 for Python",
        "jtl.data.sources.cifar:load_cifar",
        options=("label_column",),
    ),
    "mat": Scheme(
        "mat:train_32x32.mat",
        "MATLAB files of images and labels, as of SVHN",
        "jtl.data.sources.matlab:load_matlab",
    ),
    "idx": Scheme(
        "idx:MNIST/raw",
        "MNIST's files, and those of Fashion-MNIST, KMNIST and EMNIST",
        "jtl.data.sources.idx:load_idx",
    ),
    "csv": Scheme(
        "csv:labels.csv",
        "a table of image files and their labels",
        "jtl.data.sources.tables:load_table",
        options=(
            "image_column",
            "label_column",
            "split_column",
            "image_root",
            "group_column",
            "group_from",
            "task",
            "label_delimiter",
        ),
    ),
    "digits": Scheme(
        "digits",
        "1,797 handwritten digits from scikit-learn",
        "jtl.data.sources.arrays:load_digits",
        bare=True,
    ),
}
"""The kinds of sources by the word before the colon."""
