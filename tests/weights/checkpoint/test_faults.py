"""Writers that are killed, and writers that meet: a place holds a whole checkpoint or nothing."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jtl import weights
from jtl.common import files
from support import weights_samples as samples
from weights_convert.checkpoint import folder as converted_folder

# Converts into one new folder after another until it is killed, so that every kill is in time.
WRITER = """
import sys
from pathlib import Path
from weights_convert.checkpoint import folder as converted_folder
from weights_convert.source import source_conversion, sources
source = sources.locate(sys.argv[1])
converted = source_conversion.convert_source(source)
print("ready", flush=True)
for number in range(10_000):
    converted_folder.write(Path(sys.argv[2]) / str(number), converted)
"""
# Stops where all is written and nothing has its name yet.
HELD = f"""
import os, time
def rename(*_):
    print("held", flush=True)
    time.sleep(600)
os.rename = rename
{WRITER}
"""


def start(*arguments: object, **options) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)


@pytest.mark.process
@pytest.mark.usefixtures("warm_starts")
def test_killed_at_any_moment_a_writer_leaves_whole_folders_or_none(tmp_path):
    file = samples.write_file(tmp_path / "source.safetensors")
    delays = random.Random(0)
    places = [tmp_path / f"place{index}" for index in range(6)]
    finished = 0
    for pair in zip(places[::2], places[1::2], strict=True):
        writers = [start(WRITER, file, place) for place in pair]
        for writer, place in zip(writers, pair, strict=True):
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            # However slow the machine is, the first of a pair has written one.
            while place == pair[0] and not list(place.glob("[0-9]*")):
                time.sleep(0.01)
            time.sleep(delays.uniform(0.05, 0.8))
            writer.kill()
            writer.communicate()
        for place in pair:
            for entry in place.glob("[0-9]*"):
                converted_folder.read(entry)
                finished += 1
    assert finished


@pytest.mark.process
def test_a_writer_that_is_killed_before_its_last_step_leaves_no_folder(tmp_path):
    place = tmp_path / "place"
    writer = start(HELD, samples.write_file(tmp_path / "source.safetensors"), place)
    try:
        assert writer.stdout is not None
        assert [writer.stdout.readline() for _ in range(2)] == ["ready\n", "held\n"]
    finally:
        writer.kill()
        writer.communicate()
    (left,) = place.iterdir()
    assert left.match(".jtl-*.partial")


@pytest.mark.process
def test_two_processes_that_fill_one_cache(tmp_path):
    file = samples.write_file(tmp_path / "source.safetensors")
    script = (
        "import sys\n"
        "from jtl import weights\n"
        f"found = weights.resolve(sys.argv[1], {samples.MODEL!r})\n"
        "print(found.sha256, found.num_params)\n"
    )
    environment = {**os.environ, "JTL_CACHE": str(tmp_path / "cache")}
    writers = [start(script, file, env=environment) for _ in range(2)]
    said = {writer.communicate(timeout=120)[0] for writer in writers}
    assert [writer.returncode for writer in writers] == [0, 0]
    assert len(said) == 1
    (entry,) = (tmp_path / "cache" / "weights").iterdir()
    assert said == {f"{converted_folder.read(entry).sha256} {samples.checkpoint().num_params}\n"}


def leftover(folder: Path, name: str, hours: float) -> Path:
    path = folder / name
    (path / "variables").mkdir(parents=True)
    old = time.time() - 3600 * hours
    os.utime(path, (old, old))
    return path


def test_old_leftovers_are_cleared_and_others_are_not(tmp_path):
    gone = [leftover(tmp_path, ".jtl-a.partial", 2), leftover(tmp_path, ".jtl-b.old", 30)]
    (tmp_path / ".jtl-c.partial").write_text("a file of an export")
    os.utime(tmp_path / ".jtl-c.partial", (0, 0))
    kept = [
        leftover(tmp_path, ".jtl-d.partial", 0.5),
        leftover(tmp_path, ".other.partial", 50),
        leftover(tmp_path, "jtl-e.partial", 50),
    ]
    converted_folder.write(tmp_path / "out", samples.checkpoint())
    assert not any(path.exists() for path in (*gone, tmp_path / ".jtl-c.partial"))
    assert all((path / "variables").is_dir() for path in kept)


def killed_between_its_renames(monkeypatch, out: Path) -> None:
    """Leaves `out`'s parent as a writer that is killed while it replaces `out` leaves it."""

    class Killed(BaseException):
        pass

    rename = os.rename

    def fail(source, target):
        if Path(source).parent.suffix == ".partial" or Path(source).suffix == ".old":
            raise Killed
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", fail)
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(Killed):
            converted_folder.write(out, samples.checkpoint(source="new"), overwrite=True)


def test_what_was_set_aside_is_not_lost(tmp_path, monkeypatch):
    out = tmp_path / "out"
    converted_folder.write(out, samples.checkpoint(source="precious"))
    # Converted long ago.
    os.utime(out, (0, 0))
    killed_between_its_renames(monkeypatch, out)
    assert not out.exists()
    converted_folder.write(tmp_path / "sibling", samples.checkpoint())
    (aside,) = tmp_path.glob(".jtl-*.old")
    assert converted_folder.read(aside).source == "precious"
    # Once nobody can be at it any more, it gets its place back; or goes, if that is taken.
    os.utime(aside, (0, 0))
    files.remove_leftovers(tmp_path)
    assert converted_folder.read(out).source == "precious"
    killed_between_its_renames(monkeypatch, out)
    converted_folder.write(out, samples.checkpoint(source="later"))
    (aside,) = tmp_path.glob(".jtl-*.old")
    os.utime(aside, (0, 0))
    files.remove_leftovers(tmp_path)
    assert not aside.exists()
    assert converted_folder.read(out).source == "later"


def test_the_cache_is_cleared_of_leftovers_too(tmp_path, monkeypatch):
    monkeypatch.setenv("JTL_CACHE", str(tmp_path))
    gone = leftover(tmp_path / "weights", ".jtl-a.partial", 2)
    file = samples.write_file(tmp_path / "source.safetensors")
    weights.resolve(str(file), samples.MODEL)
    assert not gone.exists()
