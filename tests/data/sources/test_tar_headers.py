"""The members of tar archives: as tarfile lists them, or left to it."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jtl.data.sources.archives import TarStore
from jtl.data.sources.tar_headers import plain_members


def archive(path: Path, form: int, *names: str, mtime: float = 5, **more: object) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name.removesuffix("/"))
            data = bytes([65 + number]) * (400 * number)
            info.mtime = mtime  # pyright: ignore[reportAttributeAccessIssue]
            if name.endswith("/"):
                info.type = tarfile.DIRTYPE
            else:
                info.size = len(data)
            for key, value in more.items():
                setattr(info, key, value)
            tar.addfile(info, None if name.endswith("/") else io.BytesIO(data))
    return path


PLAIN = ("a/", "a/1.jpg", "a/2.cls", "b/ü.jpg", "b/x y.jpg", "c" * 90 + "/" + "d" * 60 + ".jpg")
FORMS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mtime", [5, 5.25])
def test_as_tarfile_lists_them(tmp_path: Path, form: int, mtime: float):
    names = [name for name in PLAIN if form == tarfile.USTAR_FORMAT or len(name) < 100]
    if form == tarfile.PAX_FORMAT:
        names = [name for name in names if name.isascii()]  # Others are in pax headers.
    path = archive(tmp_path / "x.tar", form, *names, mtime=mtime)
    found = plain_members(path)
    assert found is not None
    with tarfile.open(path) as tar:
        wanted = [(m.name, m.isdir(), m.offset_data, m.size) for m in tar]
    assert [(name.rstrip("/"), *rest) for name, *rest in found] == wanted
    assert len(found) == len(names)


def resized(path: Path, size: int) -> Path:
    path.write_bytes(path.read_bytes()[:size])
    return path


LEFT_TO_TARFILE: dict[str, Callable[[Path], Path]] = {
    "a link": lambda p: archive(p, 1, "a", type=tarfile.SYMTYPE, linkname="b", size=0),
    "a hard link": lambda p: archive(p, 1, "a", type=tarfile.LNKTYPE, linkname="b", size=0),
    "a pipe": lambda p: archive(p, 1, "a", type=tarfile.FIFOTYPE, size=0),
    "a long name": lambda p: archive(p, tarfile.GNU_FORMAT, "a" * 200),
    "a long name in pax": lambda p: archive(p, tarfile.PAX_FORMAT, "a" * 200),
    "a name in pax": lambda p: archive(p, tarfile.PAX_FORMAT, "ü"),
    "a size in pax": lambda p: archive(p, tarfile.PAX_FORMAT, "a", pax_headers={"size": "0"}),
    "no end": lambda p: resized(archive(p, 1, "a", "b"), 1024),
    "half a header": lambda p: resized(archive(p, 1, "a", "b"), 700),
    "half a file": lambda p: resized(archive(p, 1, "a", "b", "c"), 2100),
    "nothing": lambda p: resized(archive(p, 1, "a"), 0),
    "text": lambda p: [p.write_bytes(b"text" * 999), p][1],
}


@pytest.mark.parametrize("case", LEFT_TO_TARFILE)
def test_what_is_left_to_tarfile(tmp_path: Path, case: str):
    assert plain_members(LEFT_TO_TARFILE[case](tmp_path / "x.tar")) is None


def test_damage_anywhere_in_headers_is_left_to_tarfile(tmp_path: Path):
    """But for what the checksum does not cover: none of the bytes that count."""
    path = archive(tmp_path / "x.tar", tarfile.PAX_FORMAT, "a/1.jpg", "a/2.jpg", mtime=1.5)
    good, data = plain_members(path), path.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.choice(1024, 200, replace=False).tolist():
        spoilt = bytearray(data)
        spoilt[place] ^= 0xFF
        path.write_bytes(spoilt)
        assert plain_members(path) in (None, good), place


def test_trees_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    names = ("a/", "a/1.jpg", "a/2.cls", "a/1.jpg", ".hid/3.jpg", "__MACOSX/4.jpg", "b/5.txt")
    path = archive(tmp_path / "x.tar", tarfile.GNU_FORMAT, *names)
    fast = TarStore(path)
    tree = fast.tree()
    monkeypatch.setattr("jtl.data.sources.archives.plain_members", lambda path: None)
    slow = TarStore(path)
    assert slow.tree() == tree
    assert [fast.read(i) for i in tree.images] == [slow.read(i) for i in tree.images]
