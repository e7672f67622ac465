"""The pickles inside PyTorch checkpoints, read without PyTorch and without running them.

A pickle is a program: it may name any importable object and call it. Here every name goes
through a whitelist, and a whitelisted name stands for an inert object of this module, never for
the real thing. A name that is not on the list refuses the file before anything is called.

The program is also walked once before it is run, because some instructions harm the interpreter
without naming anything: a memo index of 2**32 makes it allocate 64 GB, and a tuple nested some
100 000 deep overflows the C stack when it is hashed.

The instructions are those of Python's `pickletools`; the names are those `torch.save` writes
(PyTorch 0.1.12 to 2.x).
"""

from __future__ import annotations

import dataclasses
import io
import mmap
import pickle
import pickletools
from collections.abc import Callable
from typing import IO, Any, NamedTuple, cast

import ml_dtypes
import numpy as np

from jtl.common.errors import UserError
from weights_convert.read.mapped import empty

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

# Names whose value no weight depends on. Training checkpoints carry them beside the weights.
_DROPPED = {
    *(("torch", name) for name in ("device", "float16", "float32", "float64", "bfloat16")),
    *(("torch", name) for name in ("int8", "int16", "int32", "int64", "uint8", "bool")),
    *((module, name) for module in ("builtins", "__builtin__") for name in ("set", "frozenset")),
    ("argparse", "Namespace"),
    # In the state of a MultiStepLR.
    ("collections", "Counter"),
}

_MAX_INSTRUCTIONS = 500_000  # about 25 per tensor are usual
_MAX_NESTED_TUPLES = 1024
_MAX_INTEGER_BITS = 2048
_MAX_DIMENSIONS = 32

_SAFER = "Ask its author for a .safetensors file, or save `model.state_dict()` alone"
_AGAIN = "Download the file again, or ask its author for a .safetensors file"


class _Inert:
    """Base of every object a pickle can lay hands on: it takes no state from the file."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        """Drops `state`. Without this method the unpickler would set attributes itself."""


class _Dropped(_Inert):
    """Stands for something that is no weight, whatever it is called with."""

    def __init__(self, *arguments: object) -> None:
        pass


class StateDict(_Inert, dict[Any, Any]):
    """Stands for `collections.OrderedDict`, without an attribute dictionary to tamper with."""

    __slots__ = ()


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
        raise UserError(f"a tensor still waits to be negated or conjugated. {_SAFER}")
    return Tensor(storage, start, lengths, steps)


def _rebuild_parameter(data: object, *rest: object) -> Tensor:
    """Stands for `torch.nn.Parameter` and its rebuild function: the tensor itself."""
    if not isinstance(data, Tensor):
        raise UserError(f"a parameter that is not made of a tensor was met. {_AGAIN}")
    return data


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
    **dict.fromkeys(_DROPPED, _Dropped),
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
        try:
            return _ALLOWED[module_name, global_name]
        except KeyError:
            raise UserError(_refusal(module_name, global_name)) from None

    def persistent_load(self, pid: Any, /) -> Storage:
        """The storage named by ("storage", type, key, device, numel[, view])."""
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
            raise UserError(f"it refers to something other than a storage. {_SAFER}")
        _, kind, key, _, numel = pid[:5]
        if len(pid) == 6 and pid[5] is not None:
            raise UserError(
                "it holds storage views, which only PyTorch before 0.4 wrote and this reader does "
                f"not support. {_SAFER}"
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
    return (
        f"its pickle asks for {name!r}, which a state dict does not need. Nothing was executed. "
        "Allowed are tensors, their storages, OrderedDict and plain containers. "
        f"{_SAFER}"
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
        end = _check_program(data, start)
        if end > stop:
            raise UserError(f"its pickle runs into what follows it. {_AGAIN}")
        unpickler = _WeightsUnpickler(data[start:end])
        return Loaded(unpickler.load(), unpickler.storages, end)
    except UserError:
        raise
    # A damaged program can make the unpickler raise almost anything.
    except Exception as error:
        raise UserError(f"its pickle is damaged or cut short ({error!r:.200}). {_AGAIN}") from error


def _check_program(data: mmap.mmap, start: int) -> int:
    """Walks the instructions without running them, and returns where they end."""
    data.seek(start)
    stack: list[int | None] = []
    memo: dict[object, int] = {}
    instructions = pickletools.genops(cast(IO[bytes], data))
    for count, (opcode, argument, _) in enumerate(instructions):
        name = opcode.name
        harmful = (
            count >= _MAX_INSTRUCTIONS
            or name.startswith("EXT")
            or ("PUT" in name and not 0 <= cast(int, argument) <= count)
            or (type(argument) is int and argument.bit_length() > _MAX_INTEGER_BITS)
            or _step(opcode, argument, stack, memo) > _MAX_NESTED_TUPLES
        )
        if harmful:
            raise UserError(
                f"its pickle is not one that `torch.save` writes (instruction {count}, {name}). "
                f"Nothing was executed. {_SAFER}"
            )
    return data.tell()


def _step(
    opcode: pickletools.OpcodeInfo,
    argument: object,
    stack: list[int | None],
    memo: dict[object, int],
) -> int:
    """Applies one instruction to the stack of tuple counts, and returns the new top count.

    The stack holds, for every value, how many tuples are met when it is hashed: 0 for anything
    that is not a tuple. None is a mark.
    """
    name = opcode.name
    if "PUT" in name or name == "MEMOIZE":
        memo[len(memo) if name == "MEMOIZE" else argument] = cast(int, stack[-1])
        return 0
    if "GET" in name or name == "DUP":
        stack.append(stack[-1] if name == "DUP" else memo[argument])
        return 0
    if name == "MARK":
        stack.append(None)
        return 0
    before = opcode.stack_before
    operands: list[int | None] = []
    if pickletools.markobject in before:
        while (top := stack.pop()) is not None:
            operands.append(top)
        before = before[: before.index(pickletools.markobject)]
    operands += [stack.pop() for _ in before]
    tuples = 1 + sum(cast(list[int], operands)) if "TUPLE" in name else 0
    stack.extend([tuples] * len(opcode.stack_after))
    return tuples
