"""The pickles inside PyTorch checkpoints, read without PyTorch and without running them.

A pickle is a program: it may name any importable object and call it. Here every name goes
through a whitelist, and a whitelisted name stands for an inert object of this module, never for
the real thing. A name of Python's own library, of PyTorch or of NumPy that is not on the list
refuses the file before anything is called. A class of any other package, such as a script's own
configuration, may be instantiated, to an inert holder; called with arguments, as a function would
be, it refuses the file as well.

The program is also walked once before it is run; see `pickle_program`. The names are those that
`torch.save` writes (PyTorch 0.1.12 to 2.x).
"""

from __future__ import annotations

import dataclasses
import io
import mmap
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from jtl.common.errors import UserError
from weights_convert.read.mapped import empty
from weights_convert.read.pickle_program import SAFER, check_program
from weights_convert.read.torch_names import is_dropped, may_be_a_class

_DTYPES: dict[str, np.dtype] = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}


_MAX_DIMENSIONS = 32

_AGAIN = "Download the file again, or ask its author for a .safetensors file"


class _Inert:
    """Base of every object a pickle can lay hands on: it takes no state from the file."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        """Drops `state`. Without this method the unpickler would set attributes itself."""


class Dropped(_Inert):
    """Stands for something that is no weight, whatever it is called with."""

    __slots__ = ()

    def __new__(cls, *arguments: object) -> Dropped:
        """An object without a state, whatever the arguments are."""
        return super().__new__(cls)

    def __init__(self, *arguments: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        """Drops an item."""

    def append(self, value: object) -> None:
        """Drops `value`."""

    def extend(self, values: object) -> None:
        """Drops `values`."""


class Settings(Dropped):
    """Stands for `argparse.Namespace`; of it the options of a training script are kept."""

    __slots__ = ("values",)
    values: object

    def __setstate__(self, state: object) -> None:
        """Keeps the options; whoever reads them expects anything."""
        self.values = state


class StateDict(_Inert, dict[Any, Any]):
    """Stands for `collections.OrderedDict`, without an attribute dictionary to tamper with."""

    __slots__ = ()


class _Holder(StateDict):
    """Stands for an object of an unknown class: it keeps items, as a dictionary's subclass does."""

    __slots__ = ()
    asked_for: tuple[str, str] = ("", "")

    def __new__(cls, *arguments: object) -> _Holder:
        """Refuses arguments: what takes them may be a function, and nothing is called here."""
        if arguments:
            raise UserError(_refusal(*cls.asked_for))
        return super().__new__(cls)

    def __init__(self) -> None:
        super().__init__()

    def __hash__(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return id(self)

    def append(self, value: object) -> None:
        """Drops `value`: a list's subclass is no place for weights."""

    def extend(self, values: object) -> None:
        """Drops `values`; see `append`."""


@dataclasses.dataclass(frozen=True, eq=False)
class _StorageType(_Inert):
    dtype: np.dtype


@dataclasses.dataclass(frozen=True, eq=False)
class _Function(_Inert):
    """A whitelisted callable. An instance, because a function's defaults could be overwritten."""

    call: Callable[..., object]

    def __call__(self, *arguments: object) -> object:
        return self.call(*arguments)


@dataclasses.dataclass(frozen=True, eq=False)
class Storage(_Inert):
    """A flat run of `numel` little-endian elements that the pickle refers to by `key`."""

    key: str
    dtype: np.dtype
    numel: int


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor(_Inert):
    """A strided view of a storage; offset and strides count elements. Checked by `view`."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor as a dense array, in unbounded integers."""
        total = self.storage.dtype.itemsize
        for length in self.shape:
            total *= length
        return total

    def view(self, elements: np.ndarray) -> np.ndarray:
        """The tensor as a view of its storage.

        Args:
            elements: The whole storage, shape (numel,).

        Returns:
            An array of `shape` that shares memory with `elements`.

        Raises:
            UserError: The tensor reaches outside its storage.
        """
        if 0 in self.shape:
            return empty(self.shape, elements.dtype)
        # The stride of a length-1 dimension is never used and may hold any number.
        strides = [s if n > 1 else 0 for n, s in zip(self.shape, self.strides, strict=True)]
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, strides, strict=True))
        if last >= len(elements):
            raise UserError(
                f"a tensor of shape {self.shape} and strides {self.strides} reaches element {last} "
                f"of a storage that has {len(elements)}. {_AGAIN}"
            )
        return np.lib.stride_tricks.as_strided(
            elements[self.offset :],
            self.shape,
            [stride * elements.itemsize for stride in strides],
            writeable=False,
        )


def _counts(values: object) -> tuple[int, ...]:
    """`values` as a short tuple of non-negative 64-bit integers, or a refusal."""
    if (
        not isinstance(values, tuple)
        or len(values) > _MAX_DIMENSIONS
        or not all(type(value) is int and 0 <= value < 2**63 for value in values)
    ):
        raise UserError(f"a tensor with an impossible shape, stride or size was met. {_AGAIN}")
    return values


def _rebuild_tensor(
    storage: object, offset: object, shape: object, strides: object, *rest: object
) -> Tensor:
    """Stands for PyTorch's function; `rest` is requires_grad, backward hooks and metadata."""
    (start,), lengths, steps = _counts((offset,)), _counts(shape), _counts(strides)
    if not isinstance(storage, Storage) or len(lengths) != len(steps):
        raise UserError(f"a tensor without a storage or with too few strides was met. {_AGAIN}")
    if len(rest) > 2 and rest[2]:
        raise UserError(f"a tensor still waits to be negated or conjugated. {SAFER}")
    return Tensor(storage, start, lengths, steps)


def _rebuild_parameter(data: object, *rest: object) -> Tensor:
    """Stands for `torch.nn.Parameter` and its rebuild function: the tensor itself."""
    if not isinstance(data, Tensor):
        raise UserError(f"a parameter that is not made of a tensor was met. {_AGAIN}")
    return data


def _default_dict(factory: object = None) -> StateDict:
    """Stands for `collections.defaultdict`, which is filled afterwards."""
    return StateDict()


_ALLOWED: dict[tuple[str, str], object] = {
    ("torch._utils", "_rebuild_tensor_v2"): _Function(_rebuild_tensor),
    # PyTorch before 0.4, which wrote torchvision's first ResNet and DenseNet files.
    ("torch._utils", "_rebuild_tensor"): _Function(_rebuild_tensor),
    ("torch.nn.parameter", "Parameter"): _Function(_rebuild_parameter),
    ("torch._utils", "_rebuild_parameter"): _Function(_rebuild_parameter),
    ("torch", "Size"): _Function(_counts),
    **{
        (module, name): _StorageType(dtype)
        for module in ("torch", "torch.cuda")
        for name, dtype in _DTYPES.items()
    },
}


class _WeightsUnpickler(pickle.Unpickler):
    """An unpickler that knows the names of a state dict and no others."""

    def __init__(self, program: bytes) -> None:
        # Python 2 wrote names as byte strings.
        super().__init__(io.BytesIO(program), encoding="utf-8")
        self.storages: dict[str, Storage] = {}
        # Every pair costs the file at least one byte, unless one list is handed in many times.
        self._pairs_left = len(program)

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """The inert stand-in of a whitelisted name."""
        if (module_name, global_name) == ("collections", "OrderedDict"):
            return _Function(self._ordered_dict)
        if (module_name, global_name) == ("collections", "defaultdict"):
            return _Function(_default_dict)
        if known := _ALLOWED.get((module_name, global_name)):
            return known
        if (module_name, global_name) == ("argparse", "Namespace"):
            return Settings
        if is_dropped(module_name, global_name):
            return Dropped
        if not may_be_a_class(module_name, global_name):
            raise UserError(_refusal(module_name, global_name))
        return type("_Holder", (_Holder,), {"asked_for": (module_name, global_name)})

    def persistent_load(self, pid: Any, /) -> Storage:
        """The storage named by ("storage", type, key, device, numel[, view])."""
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
            raise UserError(f"it refers to something other than a storage. {SAFER}")
        _, kind, key, _, numel = pid[:5]
        if len(pid) == 6 and pid[5] is not None:
            raise UserError(
                "it holds storage views, which only PyTorch before 0.4 wrote and this reader does "
                f"not support. {SAFER}"
            )
        if not isinstance(kind, _StorageType) or type(key) is not str:
            raise UserError(f"a storage without a type or a name was met. {_AGAIN}")
        storage = Storage(key, kind.dtype, _counts((numel,))[0])
        known = self.storages.setdefault(key, storage)
        if (known.dtype, known.numel) != (storage.dtype, storage.numel):
            raise UserError(f"storage {key[:60]!r} is declared twice and differently. {_AGAIN}")
        return known

    def _ordered_dict(self, pairs: object = ()) -> StateDict:
        """Stands for OrderedDict(); Python 2 handed in a list of pairs."""
        if not isinstance(pairs, (list, tuple)) or len(pairs) > self._pairs_left:
            raise UserError(f"an OrderedDict made of something unusual was met. {_AGAIN}")
        self._pairs_left -= len(pairs)
        return StateDict(pairs)


def _refusal(module_name: str, global_name: str) -> str:
    name = f"{module_name}.{global_name}"[:120]
    if "qtensor" in name or name.startswith(("torch.Q", "torch.q")):
        return (
            f"it holds quantized tensors ({name!r}). Allowed are floating point, integer and "
            "boolean tensors. Convert from the checkpoint before quantization"
        )
    if name.startswith("torch.nn.modules."):
        return (
            f"it holds a whole model ({name!r}), whose classes only the program that made it has. "
            "Nothing was executed. Save its weights alone, there: "
            "torch.save(torch.load(FILE, weights_only=False).state_dict(), 'weights.pth')"
        )
    return (
        f"its pickle asks for {name!r}, which a state dict does not need. Nothing was executed. "
        "Allowed are tensors, their storages, OrderedDict and plain containers. "
        f"{SAFER}"
    )


class Loaded(NamedTuple):
    """What one pickle held, the storages it refers to by key, and where it ended."""

    value: object
    storages: dict[str, Storage]
    end: int


def load_pickle(data: mmap.mmap, start: int, stop: int) -> Loaded:
    """Reads the pickle that lies at `data[start:stop]`, which may go on behind it.

    Args:
        data: The whole file.
        start: Offset of the pickle's first byte.
        stop: Offset behind the last byte it may use.

    Returns:
        Its value, made of plain Python values, `StateDict`, `Tensor` and inert stand-ins.

    Raises:
        UserError: The pickle is damaged, too large, or names something off the whitelist; the
            caller adds the file's name.
    """
    try:
        end = check_program(data, start)
        if end > stop:
            raise UserError(f"its pickle runs into what follows it. {_AGAIN}")
        unpickler = _WeightsUnpickler(data[start:end])
        return Loaded(unpickler.load(), unpickler.storages, end)
    except UserError:
        raise
    # A damaged program can make the unpickler raise almost anything.
    except Exception as error:
        raise UserError(f"its pickle is damaged or cut short ({error!r:.200}). {_AGAIN}") from error
