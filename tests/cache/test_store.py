"""Kept features: found whole or not at all, whatever happens to the process, disk or files."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jtl.cache import entry as entry_module
from jtl.cache import sizes
from jtl.cache import store as store_module
from jtl.cache.entry import CHUNK_ROWS, DESCRIPTION, VALUES, ArraySpec
from jtl.cache.store import LEFTOVER_SECONDS, PARTIAL, FeatureStore
from jtl.common import quantities
from jtl.common.errors import UserError
from support import stores


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path, said: list[str]) -> FeatureStore:
    return FeatureStore(tmp_path / "deep" / "features", said.append)


def held_names(store: FeatureStore) -> list[str]:
    return [held.name for held in store.entries()]


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("count", [1, CHUNK_ROWS, 70])
def test_what_is_written_is_read(store, said, mapped, dtype, count):
    spec, key = ArraySpec((count, 3, 5), dtype), stores.key()
    assert store.load(key, mapped=mapped) is None
    stores.write(store, key, spec)
    loaded = store.load(key, mapped=mapped)
    assert loaded is not None
    entry, values = loaded
    assert (entry.spec, entry.facts) == (spec, stores.FACTS)
    assert isinstance(values, np.memmap) == mapped
    assert values.dtype == spec.numpy
    np.testing.assert_array_equal(values, stores.values(spec))
    # As NumPy reads it.
    plain = np.load(store.folder / key.name / VALUES)
    np.testing.assert_array_equal(plain.view(spec.numpy), values)
    assert stores.files(store) == {key.name, f"{key.name}/{VALUES}", f"{key.name}/{DESCRIPTION}"}
    assert not said


def test_rows_may_come_in_any_portions(store):
    key, values = stores.key(), stores.values()
    with store.claim(key, stores.SPEC) as claim:
        for portion in np.split(values, [1, 2, 33, 33, 64]):
            claim.append(portion)
        claim.finish()
    np.testing.assert_array_equal(store.load(key, mapped=False)[1], values)


def test_errors_inside_a_claim_are_its_callers(store, said):
    """An image that cannot be read is no fault of the cache's."""
    stores.write(store, stores.key("kept"))

    def fails(name: str) -> None:
        with store.claim(stores.key(name), stores.SPEC) as claim:
            assert (claim is None) == (name == "kept")
            raise FileNotFoundError

    for name in ("new", "kept"):
        with pytest.raises(FileNotFoundError):
            fails(name)
    assert not said


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "the header": lambda e: flip(e / VALUES, 20),
    "the header's padding": lambda e: flip(e / VALUES, 120),
    "the first value": lambda e: flip(e / VALUES, 128),
    "the last value": lambda e: flip(e / VALUES, -1),
    "a value between": lambda e: flip(e / VALUES, 2500),
    "the end": lambda e: os.truncate(e / VALUES, (e / VALUES).stat().st_size - 4),
    "more": lambda e: (e / VALUES).write_bytes((e / VALUES).read_bytes() + b"0000"),
    "all values": lambda e: (e / VALUES).unlink(),
    "an empty file": lambda e: os.truncate(e / VALUES, 0),
    "the description": lambda e: (e / DESCRIPTION).write_text("{"),
    "no object": lambda e: (e / DESCRIPTION).write_text("[1]"),
    "its end": lambda e: os.truncate(e / DESCRIPTION, 40),
    "no description": lambda e: (e / DESCRIPTION).unlink(),
}


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("what", DAMAGES)
def test_damage_is_said_and_removed(store, said, what, mapped):
    key = stores.key()
    stores.write(store, key)
    assert store.load(key, mapped=mapped) is not None
    DAMAGES[what](store.folder / key.name)
    assert store.load(key, mapped=mapped) is None
    assert len(said) == 1
    assert "computing features again" in said[0]
    assert stores.files(store) == set()
    stores.write(store, key)
    assert store.load(key, mapped=mapped) is not None


def test_an_entry_under_another_name_is_none(store, said):
    stores.write(store, stores.key("a"))
    (store.folder / stores.key("a").name).rename(store.folder / stores.key("b").name)
    assert store.load(stores.key("b"), mapped=False) is None
    assert len(said) == 1


def test_every_bit_of_a_description_counts(store, said):
    key = stores.key()
    stores.write(store, key)
    path = store.folder / key.name / DESCRIPTION
    content = path.read_bytes()
    for position in range(len(content) - 1):  # The last is the line's end.
        path.write_bytes(
            content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]
        )
        with pytest.raises(entry_module.DamagedEntry):
            entry_module.Entry.read(store.folder / key.name, key.digest)


WRITE = """
import sys, time
from pathlib import Path
import numpy as np
from support import stores
from jtl.cache.store import FeatureStore as Store
store = Store(Path(sys.argv[1]), lambda text: print(text, flush=True))
with store.claim(stores.key(), stores.SPEC) as claim:
    if claim is None:
        print("shared", flush=True)
    else:
        rows = stores.values()
        print("claimed", claim.rows, flush=True)
        claim.append(rows[claim.rows : 40])
        print("written", flush=True)
        sys.stdin.readline()
        claim.append(rows[40:])
        claim.finish()
        print("finished", flush=True)
"""


def writer(store: FeatureStore) -> subprocess.Popen[str]:
    """Another process that writes an entry, and waits for a line when it has written a chunk."""
    script = WRITE
    return subprocess.Popen(
        [sys.executable, "-c", script, str(store.folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def expect(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    assert process.stdout.readline().strip() == line


@pytest.mark.process
def test_a_killed_process_leaves_whole_chunks_to_go_on_with(store, said):
    key = stores.key()
    process = writer(store)
    expect(process, "claimed 0")
    expect(process, "written")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert store.load(key, mapped=False) is None
    assert held_names(store) == [key.name + PARTIAL]
    # As if the kill had come in the middle of the next chunk.
    with open(store.folder / (key.name + PARTIAL) / VALUES, "ab") as file:
        file.write(b"part of a row")
    with store.claim(key, stores.SPEC) as claim:
        assert claim.rows == CHUNK_ROWS
        np.testing.assert_array_equal(claim.written(), stores.values()[:CHUNK_ROWS])
        claim.append(stores.values()[CHUNK_ROWS:])
        claim.finish()
    np.testing.assert_array_equal(store.load(key, mapped=False)[1], stores.values())
    assert held_names(store) == [key.name]
    assert not said


@pytest.mark.parametrize("what", ["values", "checksums", "header"])
def test_a_damaged_beginning_is_begun_again(store, what):
    key = stores.key()
    with store.claim(key, stores.SPEC) as claim:
        claim.append(stores.values()[:64])
    partial = store.folder / (key.name + PARTIAL)
    flip(partial / ("checksums" if what == "checksums" else VALUES), 5 if what == "header" else -1)
    with store.claim(key, stores.SPEC) as claim:
        assert claim.rows == (0 if what == "header" else 32)
        claim.append(stores.values()[claim.rows :])
        claim.finish()
    np.testing.assert_array_equal(store.load(key, mapped=False)[1], stores.values())


@pytest.mark.process
def test_another_process_is_waited_for_and_its_work_shared(store):
    first = writer(store)
    expect(first, "claimed 0")
    expect(first, "written")
    second = writer(store)
    expect(second, "waiting for another process that is computing the same features")
    first.communicate("\n")
    out, _ = second.communicate()
    assert out.split() == ["shared"]
    np.testing.assert_array_equal(store.load(stores.key(), mapped=False)[1], stores.values())
    assert not [name for name in stores.files(store) if name.endswith((".lock", PARTIAL))]


@pytest.mark.process
def test_the_lock_of_a_dead_process_frees_itself_and_a_stuck_one_is_left(store, said, monkeypatch):
    monkeypatch.setattr(store_module, "PATIENCE_SECONDS", 0.5)
    process = writer(store)
    expect(process, "claimed 0")
    expect(process, "written")
    with store.claim(stores.key(), stores.SPEC) as claim:
        assert claim is None
    assert ["waiting" in text for text in said] == [True, False]
    assert "cannot cache" in said[1]
    assert store.remove(stores.key().name + PARTIAL) == 0  # In use.
    process.kill()
    process.communicate()
    with store.claim(stores.key(), stores.SPEC) as claim:
        assert claim is not None
        assert claim.rows == CHUNK_ROWS


def test_a_full_disk_is_said_once_and_gets_its_space_back(store, said, monkeypatch):
    def write(file, data, real=entry_module._write):
        if file.tell() + len(data) > 3000:
            file.write(data[:10])
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file, data)

    monkeypatch.setattr(entry_module, "_write", write)
    for name in "ab":
        with store.claim(stores.key(name), stores.SPEC) as claim:
            for portion in np.split(stores.values(), [32, 64]):
                claim.append(portion)
            assert not claim.alive
            claim.finish()
        assert store.load(stores.key(name), mapped=False) is None
    assert said == [f"jtl cannot cache features in '{store.folder}': No space left on device"]
    assert held_names(store) == []


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (2500, 2500))
"""


@pytest.mark.process
def test_a_limit_on_files_is_met_like_a_full_disk(store):
    script = LIMITED + WRITE
    ran = subprocess.run(
        [sys.executable, "-c", script, str(store.folder)],
        input="\n",
        capture_output=True,
        text=True,
        check=True,
    )
    *_, refused, _ = ran.stdout.splitlines()
    assert refused.endswith("File too large")
    assert held_names(store) == []


def sizes_limit(monkeypatch: pytest.MonkeyPatch, entries: float) -> None:
    """Room for so many entries of the usual size, descriptions included."""
    monkeypatch.setenv(sizes.LIMIT, str(int(entries * (stores.SPEC.nbytes + 1000))))


def test_the_longest_unused_makes_way(tmp_path, said, monkeypatch):
    folder = tmp_path / "features"
    sizes_limit(monkeypatch, 3)
    for hours, name in ((3, "a"), (2, "b"), (1, "c")):
        key = stores.key(name)
        stores.write(FeatureStore(folder, said.append), key)
        then = time.time() - 3600 * hours
        os.utime(folder / key.name / DESCRIPTION, (then, then))
    # Used now, by another process.
    loaded = FeatureStore(folder, said.append).load(stores.key("a"), mapped=True)
    assert loaded is not None
    store = FeatureStore(folder, said.append)
    stores.write(store, stores.key("d"))
    names = {"abcd"[i]: stores.key("abcd"[i]).name for i in range(4)}
    assert set(held_names(store)) == {names[n] for n in "acd"}
    # What this process has used stays, even where nothing else can go.
    assert store.load(stores.key("a"), mapped=False) is not None
    stores.write(store, stores.key("e"))
    kept = {names["a"], names["d"], stores.key("e").name}
    assert set(held_names(store)) == kept
    with store.claim(stores.key("f"), stores.SPEC) as claim:
        assert claim is None
    assert set(held_names(store)) == kept
    assert len(said) == 1
    assert sizes.LIMIT in said[0]
    # Another process may remove what is mapped here.
    FeatureStore(folder, said.append).remove(names["a"])
    np.testing.assert_array_equal(loaded[1], stores.values())


def test_what_cannot_fit_removes_nothing(store, said, monkeypatch):
    sizes_limit(monkeypatch, 2)
    stores.write(FeatureStore(store.folder, said.append), stores.key("a"))
    with store.claim(stores.key("b"), ArraySpec((300, 3, 5), "float32")) as claim:
        assert claim is None
    assert held_names(store) == [stores.key("a").name]
    assert len(said) == 1
    assert "18.0 kB" in said[0]


def test_a_limit_of_zero_keeps_nothing_in_silence(store, said, monkeypatch):
    monkeypatch.setenv(sizes.LIMIT, "0")
    with store.claim(stores.key(), stores.SPEC) as claim:
        assert claim is None
    assert held_names(store) == []
    assert not said


def test_leftovers_go_when_they_are_old(store):
    for name in "ab":
        with store.claim(stores.key(name), stores.SPEC) as claim:
            claim.append(stores.values()[:40])
    then = time.time() - LEFTOVER_SECONDS - 60
    for path in (store.folder / (stores.key("a").name + PARTIAL)).iterdir():
        os.utime(path, (then, then))
    (store.folder / f"{'0' * 32}.old").mkdir()
    (store.folder / "mine").mkdir()
    stores.write(FeatureStore(store.folder, print), stores.key("c"))
    kept = {stores.key("b").name + PARTIAL, stores.key("c").name}
    assert set(held_names(store)) == kept
    assert (store.folder / "mine").is_dir()


def test_a_folder_that_cannot_be_written_serves_and_keeps_nothing(store, said, monkeypatch):
    stores.write(store, stores.key("a"))

    def refuse(*args, **kwargs):
        raise OSError(errno.EROFS, "Read-only file system")

    # Permissions do not stop root, so that the system's calls are made to refuse.
    monkeypatch.setattr(os, "utime", refuse)
    monkeypatch.setattr(Path, "mkdir", refuse)
    assert store.load(stores.key("a"), mapped=False) is not None
    with store.claim(stores.key("b"), stores.SPEC) as claim:
        assert claim is None
    assert said == [f"jtl cannot cache features in '{store.folder}': Read-only file system"]


def test_without_locks_nothing_is_kept_and_no_lock_stays(store, said, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    with store.claim(stores.key(), stores.SPEC) as claim:
        assert claim is None
    assert said == [
        f"jtl cannot cache features in '{store.folder}': the file system has no locks "
        "(Function not implemented). Set JTL_CACHE to a folder elsewhere"
    ]
    monkeypatch.undo()
    stores.write(store, stores.key())
    assert store.load(stores.key(), mapped=False) is not None


def test_a_file_in_the_place_of_the_folder_is_said(tmp_path, said):
    (tmp_path / "features").write_text("no folder")
    store = FeatureStore(tmp_path / "features", said.append)
    assert store.load(stores.key(), mapped=False) is None
    with store.claim(stores.key(), stores.SPEC) as claim:
        assert claim is None
    assert len(said) == 1
    assert "cannot cache features" in said[0]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("1000000", 10**6),
        ("4GB", 4 * 10**9),
        ("500 MB", 5 * 10**8),
        ("1.5gib", 3 * 2**29),
        ("2k", 2000),
        (".5T", 5 * 10**11),
        ("12B", 12),
    ],
)
def test_sizes_are_read(text, count):
    assert quantities.parse_bytes("--cache-budget", text) == count


@pytest.mark.parametrize("text", ["", "GB", "-1", "4 XB", "1e9", "4iB", "4 G B", "nan", "0x10"])
def test_other_texts_are_no_sizes(text):
    with pytest.raises(UserError, match="--cache-budget must be a size such as 4GB"):
        quantities.parse_bytes("--cache-budget", text)


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (999_950, "1.0 MB")]
)
def test_sizes_are_told(count, text):
    assert quantities.format_bytes(count) == text


def test_the_default_limit_is_a_share_of_the_disk(tmp_path, monkeypatch):
    monkeypatch.delenv(sizes.LIMIT, raising=False)
    usage = shutil.disk_usage(tmp_path)
    for free, used, limit in (
        (10**9, 0, 10**8),
        (10**9, 10**9, 2 * 10**8),
        (10**13, 0, 2 * 10**10),
    ):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, f=free: usage._replace(free=f))
        assert sizes.disk_limit(tmp_path / "none" / "yet", used) == limit
