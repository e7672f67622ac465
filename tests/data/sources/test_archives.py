"""Archives of class folders: tar as the folder, links in it, and what is refused."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jtl.common.errors import UserError
from jtl.data.sources.registry import load
from jtl.data.verification import Verification
from support.data_files import LISTED, class_folders, cut, damaged_png, flipped, opened, written


def pack(root: Path, name: str, *, members: dict[str, bytes] | None = None) -> Path:
    """An archive of good class folders and further members."""
    source = class_folders(root / "data", "a", "b")
    files = {p.relative_to(source).as_posix(): p.read_bytes() for p in source.rglob("*.png")}
    files |= members or {}
    path = root / name
    if name.endswith(".zip"):
        with zipfile.ZipFile(path, "w") as archive:
            for member, data in files.items():
                archive.writestr(member, data)
        return path
    mode: Any = "w:" + {"tar": ""}.get(name.split(".")[-1], name.split(".")[-1])
    with tarfile.open(path, mode) as tar:
        for member, data in files.items():
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


BAD_ARCHIVES: dict[str, tuple[Callable[[Path], Path], str]] = {
    **{
        f"{member} in {kind}": (
            lambda root, k=kind, m=member: pack(root, f"x.{k}", members={m: b"x"}),
            r"has paths that lead out of it \(1, for example",
        )
        for member in ("../a/odd.png", "/a/odd.png", "a/../../odd.png", "C:/odd.png")
        for kind in ("zip", "tar", "tar.gz")
    },
    "half a zip": (lambda root: cut(pack(root, "x.zip"), 0.5), "not a readable zip archive"),
    "half a tar": (lambda root: cut(pack(root, "x.tar"), 0.14), "not a readable tar archive"),
    "tar cut between members": (
        lambda root: cut(pack(root, "x.tar"), 0.2),
        "not a readable tar archive .it is cut off",
    ),
    "half a tar.gz": (lambda root: cut(pack(root, "x.tar.gz"), 0.5), "not a readable tar archive"),
    "half a tar.xz": (lambda root: cut(pack(root, "x.tar.xz"), 0.5), "not a readable tar archive"),
    "half a tar.bz2": (lambda root: cut(pack(root, "x.tar.bz2"), 0.5), "not a readable tar arch"),
    "damaged tar.gz": (lambda root: flipped(pack(root, "x.tar.gz"), 0.5), "not a readable tar"),
    "text as zip": (lambda root: written(root / "x.zip", b"text"), "not a readable zip archive"),
    "text as tar": (lambda root: written(root / "x.tar", b"text"), "not a readable tar archive"),
    "text": (lambda root: written(root / "x.rar", b"text"), "neither a folder nor a zip or tar"),
    "empty zip": (lambda root: written(root / "x.zip", b""), "not a readable zip archive"),
    "empty tar": (lambda root: written(root / "x.tar", b""), "not a readable tar archive"),
    "damaged member": (
        lambda root: pack(root, "x.zip", members={"a/odd.png": damaged_png()}),
        LISTED,
    ),
    "empty member": (lambda root: pack(root, "x.tar", members={"a/odd.png": b""}), LISTED),
}


@pytest.mark.parametrize("case", BAD_ARCHIVES)
def test_bad_archives(tmp_path: Path, case: str):
    write, message = BAD_ARCHIVES[case]
    with pytest.raises(UserError, match=message):
        opened(f"folder:{write(tmp_path)}")


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tar.bz2", "tar.xz", "tgz"])
def test_tar_reads_like_the_folder(tmp_path: Path, kind: str):
    root = class_folders(tmp_path / "d", "a", "b", count=40)
    path = tmp_path / f"d.{kind}"
    mode: Any = "w:" + kind.split(".")[-1].replace("tgz", "gz").replace("tar", "")
    with tarfile.open(path, mode) as tar:
        tar.add(root, "d")
    folder, archive = opened(f"folder:{tmp_path}"), opened(f"folder:{path}")
    assert archive.train.names == folder.train.names
    rows = np.arange(len(folder.train))
    pixels = archive.train.read(rows, None)
    np.testing.assert_array_equal(pixels, folder.train.read(rows, None))
    assert len(np.unique(pixels[:, 0, 0, :2], axis=0)) == len(rows)  # No two are alike.
    assert opened(f"folder:{path}").fingerprint == archive.fingerprint
    os.utime(path, ns=(0, 0))
    assert opened(f"folder:{path}").fingerprint != archive.fingerprint


@pytest.mark.parametrize("kind", ["", "gz"])
def test_links_in_a_tar(tmp_path: Path, kind: Any):
    path = pack(tmp_path, f"x.tar{'.' if kind else ''}{kind}")
    with tarfile.open(path, f"r:{kind}") as tar:
        files = {m.name: tar.extractfile(m).read() for m in tar}  # pyright: ignore
    with tarfile.open(path, f"w:{kind}") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for name, target, form in (
            ("a/hard.png", "b/1.png", tarfile.LNKTYPE),
            ("a/soft.png", "../b/0.png", tarfile.SYMTYPE),
            ("a/odd.png", "../../../etc/passwd", tarfile.SYMTYPE),
            ("a/pipe.png", "", tarfile.FIFOTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = form, target
            tar.addfile(info)
    with pytest.raises(UserError, match=r"1 of 7 images .*\n  a/odd.png: a link to nothing"):
        opened(f"folder:{path}")
    data = load(f"folder:{path}", verify=Verification("skip"), val_fraction=0.01)
    pixels = dict(zip(data.train.names, data.train.read(np.arange(4), None)[:, 0, 0], strict=True))
    pixels |= dict(zip(data.val.names, data.val.read(np.arange(2), None)[:, 0, 0], strict=True))
    assert pixels["a/hard.png"].tolist() == [1, 1, 0]
    assert pixels["a/soft.png"].tolist() == [1, 0, 0]


def test_compressed_tar_that_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("jtl.data.sources.archives._MEMORY_SHARE", 0.0)
    opened(f"folder:{pack(tmp_path, 'x.tar')}")
    with pytest.raises(UserError, match=r"is compressed, .* Unpack it, or make it a plain \.tar"):
        opened(f"folder:{pack(tmp_path, 'x.tar.gz')}")
