"""The names that a checkpoint's pickle may ask for beside those of tensors."""

from __future__ import annotations

import re
import sys

# Names whose value no weight depends on. Training checkpoints carry them beside the weights.
_DROPPED_NAMES: dict[str, str] = {
    "torch": "device float16 float32 float64 bfloat16 int8 int16 int32 int64 uint8 bool",
    "torch.torch_version": "TorchVersion",
    "types": "SimpleNamespace",
    # What protocols before 2 make plain objects with; the class stands beside it.
    "copyreg": "_reconstructor",
    "copy_reg": "_reconstructor",
    # How protocol 2 spells bytes, and NumPy's scalars with them.
    "_codecs": "encode",
    **dict.fromkeys(
        ("builtins", "__builtin__"),
        "set frozenset complex bytearray slice range xrange object dict list tuple int long float "
        "str unicode bool bytes",
    ),
    # In the state of a MultiStepLR; as a queue of losses.
    "collections": "Counter deque",
    **dict.fromkeys(
        ("pathlib", "pathlib._local"),
        "Path PosixPath WindowsPath PurePath PurePosixPath PureWindowsPath",
    ),
    "datetime": "datetime date time timedelta timezone",
    "decimal": "Decimal",
    "fractions": "Fraction",
    "uuid": "UUID",
    "typing": "Any Union Optional Dict List Tuple",
    **dict.fromkeys(("numpy.core.multiarray", "numpy._core.multiarray"), "scalar _reconstruct"),
    "numpy": "dtype ndarray bool_ float16 float32 float64 int8 int16 int32 int64 uint8 uint16 "
    "uint32 uint64 str_ bytes_",
    "numpy.random._pickle": "__randomstate_ctor __generator_ctor __bit_generator_ctor",
    "numpy.random._mt19937": "MT19937",
    "numpy.random._pcg64": "PCG64",
    "numpy.random.bit_generator": "SeedSequence __pyx_unpickle_SeedSequence",
}
_DROPPED = {(module, n) for module, names in _DROPPED_NAMES.items() for n in names.split()}
_NUMPY_DTYPE = re.compile(r"[A-Z][A-Za-z0-9]{0,30}DType")
# Packages whose names are not taken for those of harmless classes.
_STRICT = {*sys.stdlib_module_names, "__builtin__", "copy_reg", "torch", "numpy"}


def is_dropped(module_name: str, global_name: str) -> bool:
    """Whether no weight depends on the value of what has this name."""
    is_dtype = module_name == "numpy.dtypes" and _NUMPY_DTYPE.fullmatch(global_name) is not None
    return is_dtype or (module_name, global_name) in _DROPPED


def may_be_a_class(module_name: str, global_name: str) -> bool:
    """Whether it may be the harmless class of a package, as far as its name tells."""
    # A dotted name is an attribute of a class, if not of something else.
    return module_name.partition(".")[0] not in _STRICT and global_name.isidentifier()
