"""The members of a plain tar archive, several times as fast as by tarfile if they are plain."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

_BLOCK = 512
_FILE, _FOLDER, _PAX = b"0", b"5", b"x"
_IDLE = (b"mtime", b"atime", b"ctime", b"uid", b"gid", b"uname", b"gname", b"comment")
"""Keywords of pax headers that say nothing of a member's name, size or place."""
_LONGEST_PAX = 2**16


class Member(NamedTuple):
    """A file or a folder in an archive.

    Attributes:
        name: Its path.
        folder: Whether it is a folder.
        offset: Where its bytes begin.
        size: How many there are.
    """

    name: str
    folder: bool
    offset: int
    size: int


def plain_members(path: Path) -> list[Member] | None:
    """All members, in their order; None where tarfile must look.

    That is where there are links, long names, other kinds of files, sizes of more than 8 GB, or
    any sign of damage. POSIX.1-2017, pax, "ustar Interchange Format".
    """
    members: list[Member] = []
    with open(path, "rb") as file:
        descriptor, end = file.fileno(), os.fstat(file.fileno()).st_size
        place = 0
        while True:
            head = os.pread(descriptor, _BLOCK, place)
            if len(head) < _BLOCK:
                return None
            if not head[0]:
                return members if head == bytes(_BLOCK) else None
            size, kind = _size(head), head[156:157]
            begin = place + _BLOCK
            if size is None or begin + size > end:
                return None
            if kind == _PAX:
                if size > _LONGEST_PAX or not _is_idle(os.pread(descriptor, size, begin)):
                    return None
            elif kind in (_FILE, _FOLDER):
                name = head[:100].partition(b"\0")[0]
                if prefix := head[345:500].partition(b"\0")[0]:
                    name = prefix + b"/" + name
                folder = kind == _FOLDER
                if (folder and size) or (not folder and name.endswith(b"/")):
                    return None
                members.append(Member(name.decode("utf-8", "surrogateescape"), folder, begin, size))
            else:
                return None
            place = begin + -(-size // _BLOCK) * _BLOCK


def _size(head: bytes) -> int | None:
    """What a header says of the size; None if the header is damaged or of another kind."""
    total = 256 + sum(head[:148]) + sum(head[156:])
    try:
        if head[257:262] != b"ustar" or int(head[148:156].rstrip(b"\0 "), 8) != total:
            return None
        size = int(head[124:136].rstrip(b"\0 ") or b"0", 8)
    except ValueError:
        return None
    return size if size >= 0 else None


def _is_idle(records: bytes) -> bool:
    """Whether pax records, `LENGTH KEYWORD=VALUE` and a line's end, change nothing that counts."""
    while records:
        length, _, rest = records.partition(b" ")
        if not length.isdigit() or not 0 < int(length) <= len(records):
            return False
        if rest.partition(b"=")[0] not in _IDLE:
            return False
        records = records[int(length) :]
    return True
