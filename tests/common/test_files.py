"""The one way to write: whole or not at all, never through links, as the umask says."""

from __future__ import annotations

import ast
import errno
import os
import stat
import time
from pathlib import Path

import pytest

from jtl.common import files

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=[0o022, 0o027, 0o002])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_permissions_are_those_of_the_umask_whatever_the_writer_did(tmp_path, umask):
    (tmp_path / "old").write_text("x")
    (tmp_path / "old").chmod(0o600)
    for name in ("old", "new"):
        files.replace_text(tmp_path / name, "y")
        assert mode(tmp_path / name) == 0o666 & ~umask
    with files.replacing(tmp_path / "folder") as made:
        (made / "inside").mkdir(parents=True, mode=0o700)
        (made / "inside" / "file").write_text("z")
        (made / "inside" / "file").chmod(0o600)
    assert mode(tmp_path / "folder") == mode(tmp_path / "folder/inside") == 0o777 & ~umask
    assert mode(tmp_path / "folder/inside/file") == 0o666 & ~umask


def test_nothing_is_written_through_a_link(tmp_path):
    mine, place = tmp_path / "mine", tmp_path / "place"
    mine.write_text("mine")
    for kind in (os.symlink, os.link):
        for write in (files.replace_text, files.append_text):
            kind(mine, place)
            write(place, "jtl")
            assert mine.read_text() == "mine"
            assert place.read_text() == ("jtl" if write == files.replace_text else "minejtl")
            assert not place.is_symlink()
            place.unlink()
    place.symlink_to(tmp_path / "nowhere")
    files.append_text(place, "jtl")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "place"]


@pytest.mark.parametrize("folder", [False, True])
def test_what_fails_leaves_what_was_there(tmp_path, monkeypatch, folder):
    place = tmp_path / "place"

    def write(path: Path, text: str) -> None:
        if folder:
            path.mkdir()
        (path / "file" if folder else path).write_text(text)

    def read() -> str:
        return (place / "file" if folder else place).read_text()

    write(place, "old")

    def fail_halfway() -> None:
        with files.replacing(place) as made:
            write(made, "half")
            raise EOFError

    with pytest.raises(EOFError):
        fail_halfway()
    assert read() == "old"
    with monkeypatch.context() as patch:
        patch.setattr(
            files, "_settle", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "broken"))
        )
        with pytest.raises(OSError, match="broken"), files.replacing(place) as made:
            write(made, "new")
    assert read() == "old"
    with (
        pytest.raises(OSError, match=r"exist|not empty"),
        files.replacing(place, overwrite=False) as made,
    ):
        write(made, "new")
    assert read() == "old"
    with files.replacing(place) as made:
        write(made, "new")
    assert read() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["place"]


def test_companions_are_placed_before_what_they_belong_to(tmp_path, monkeypatch):
    placed, place = [], files.place
    monkeypatch.setattr(
        files, "place", lambda made, path, **how: (placed.append(path), place(made, path, **how))
    )
    with files.replacing(tmp_path / "model") as made:
        made.write_text("model")
        made.with_name("model.json").write_text("facts")
    assert [path.name for path in placed] == ["model.json", "model"]
    assert (tmp_path / "model.json").read_text() == "facts"


def test_a_long_name(tmp_path):
    place = tmp_path / ("n" * 255)
    for text in ("one", "two"):
        files.replace_text(place, text)
        assert place.read_text() == text
    files.remove(place)
    for _ in range(2):
        with files.replacing(place) as made:
            made.mkdir()
    assert [path.name for path in tmp_path.iterdir()] == [place.name]


def test_a_removed_link_leaves_what_it_leads_to(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/file").write_text("mine")
    (tmp_path / "link").symlink_to("folder")
    files.remove(tmp_path / "link")
    files.remove(tmp_path / "missing")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert (tmp_path / "folder/file").read_text() == "mine"


def test_a_leftover_that_is_still_written_is_no_leftover(tmp_path):
    with files.partial(tmp_path / "table.csv") as unfinished:
        unfinished.write_text("rows")
        os.utime(unfinished.parent, (0, 0))
        files.remove_leftovers(tmp_path)
        assert unfinished.read_text() == "rows"
        then = time.time() - files.LEFTOVER_SECONDS - 1
        os.utime(unfinished, (then, then))
        files.remove_leftovers(tmp_path)
        assert not unfinished.exists()


def test_nobody_else_renames_into_place():
    """One module knows how; the feature cache's entries, which are gone on with, are their own."""
    renames = {"rename", "renames", "replace", "link", "fsync", "mkstemp", "NamedTemporaryFile"}
    found = set()
    for path in (
        p for room in ("jtl", "weights_convert", "benchmarks") for p in (ROOT / room).rglob("*.py")
    ):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Attribute(ast.Name("os" | "tempfile"), attr) if attr in renames:
                    found.add(path.relative_to(ROOT).as_posix())
    assert found == {"jtl/common/files.py"}
