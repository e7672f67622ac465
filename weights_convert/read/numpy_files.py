"""NumPy's `.npz` archives of arrays by name, as big_vision's and BiT's weights are."""

from __future__ import annotations

import zipfile
import zlib

import numpy as np

from jtl.common.errors import UserError
from weights_convert.printable import shown

_AGAIN = "Download the file again"


def read(path: str) -> dict[str, np.ndarray]:
    """The arrays of an archive, in memory; such files may be compressed.

    Raises:
        UserError: It is damaged, or has an array of Python objects, which would be a pickle.
    """
    arrays: dict[str, np.ndarray] = {}
    key = ""
    try:
        # NumPy leaves a damaged file open that it opened by itself.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            for key in archive.files:
                arrays[key] = archive[key]
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        if "allow_pickle" in str(error):
            raise UserError(
                f"its array '{shown(key, 60)}' holds Python objects, not numbers. Save it again "
                "with arrays of numbers alone"
            ) from None
        raise UserError(f"it is a damaged NumPy .npz archive. {_AGAIN}") from None
    for key, array in arrays.items():
        array.flags.writeable = False
        if array.dtype.hasobject or array.dtype.kind not in "fiubV":
            raise UserError(f"its array '{shown(key, 60)}' holds {array.dtype}, not numbers")
    return arrays
