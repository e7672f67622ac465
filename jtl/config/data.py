"""Options of the labelled images."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from jtl.common.errors import UserError
from jtl.common.quantities import whole
from jtl.config import checks

OnBadImage = Literal["error", "skip"]


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The labelled images.

    Attributes:
        data: The images: 'folder:PATH' (a folder, zip or tar with a folder for each class, in
            train/ and val/, or without them to be split), 'tfds:NAME[:SPLITS]' (a prepared data
            set of TensorFlow Datasets), 'npz:FILE' (NumPy arrays), 'parquet:FILES' (as of
            Hugging Face) or 'digits' (of scikit-learn); see docs/data.md.
        on_bad_image: What is done about images that cannot be read: error lists them and
            trains nothing; skip leaves them out, and the summary says so.
        image_size: Height and width of the network's input in pixels. Default: that of the
            weights; for images that are all smaller, four times theirs, but 96 at least.
        upsample: How small images are enlarged: bilinear, bicubic, or nearest:N, which
            repeats each pixel N times both ways. Default: as the weights' preprocessing.
        cache_dtype: Number format that the frozen part's outputs are kept in: that in which they
            are computed, or another; bfloat16 halves the size of float32.
        cache_views: With augmentation, keeps the frozen part's outputs for this many random draws
            of each training image, which the epochs see in turn. Default: another draw in every
            epoch, and nothing kept.
        split_seed: Decides the validation split where the data have none. Default: --seed.
    """

    data: str = "digits"
    on_bad_image: OnBadImage = "error"
    image_size: Annotated[int | None, checks.within(32, 4096)] = None
    upsample: str | None = None
    cache_dtype: Literal["computed", "float32", "bfloat16"] = "computed"
    cache_views: Annotated[int | None, checks.within(1, 1000)] = None
    split_seed: Annotated[int | None, checks.seed] = None

    def check(self) -> None:
        """Makes sure that `--upsample` is `bilinear`, `bicubic` or `nearest:N`.

        Raises:
            UserError: It is not, or `nearest:N` meets an `--image-size`, which it sets itself.
        """
        if self.upsample in (None, "bilinear", "bicubic"):
            return
        name, _, times = self.upsample.partition(":")
        if name != "nearest" or not whole(times):
            raise UserError(
                "--upsample must be bilinear, bicubic or nearest:N with N from 1 on, not "
                f"'{self.upsample}'."
            )
        if self.image_size is not None:
            raise UserError(
                f"--upsample {self.upsample} sets the input's size to {times} times the images'; "
                "leave --image-size out."
            )
