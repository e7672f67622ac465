"""A pickle's instructions, walked without running them.

Some harm the interpreter without naming anything: a memo index of 2**32 makes it allocate 64 GB,
and a tuple nested some 100 000 deep overflows the C stack when it is hashed. The instructions are
those of Python's `pickletools`.
"""

from __future__ import annotations

import mmap
import pickletools
from typing import IO, cast

from jtl.common.errors import UserError

_MAX_INSTRUCTIONS = 500_000  # about 25 per tensor are usual
_MAX_NESTED_TUPLES = 1024
_MAX_INTEGER_BITS = 2048

SAFER = "Ask its author for a .safetensors file, or save `model.state_dict()` alone"
"""What to do about a file that is not read for its pickle."""


def check_program(data: mmap.mmap, start: int) -> int:
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
                f"Nothing was executed. {SAFER}"
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
