"""`python -m jtl.cache`: what is kept is told and removed, and nothing else."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from jtl.cache import command
from jtl.cache.entry import DESCRIPTION, VALUES
from jtl.cache.store import PARTIAL, FeatureStore
from jtl.cli import app
from jtl.common import paths
from jtl.common.paths import PROGRAMS
from support import commands, stores

A, B = stores.key("a"), stores.key("b")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder with two entries, the first one not used for three days."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("JTL_CACHE", str(folder))
    store = FeatureStore(folder / "features", print)
    for key in (A, B):
        stores.write(store, key)
    then = time.time() - 3 * 86400
    os.utime(store.folder / A.name / DESCRIPTION, (then, then))
    for path in (
        folder / PROGRAMS / f"jit_step-{64 * '0'}-cache",
        folder / PROGRAMS / "mine.txt",
        folder / paths.WEIGHTS / f"tiny-{16 * '0'}" / "weights.json",
        folder / paths.WEIGHTS / "mine" / "notes.txt",
        folder / paths.CHECKED / f"{32 * 'a'}.json",
        folder / paths.MEASURED / f"{32 * 'a'}.json",
        folder / "features" / "mine" / "notes.txt",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 100)
    return folder


def run(*args: object) -> int:
    return app.main(command.Options, command.command, prog="jtl.cache", args=[str(a) for a in args])


def listed(capsys: pytest.CaptureFixture[str], *args: object) -> dict[str, Any]:
    assert run("list", "--json", *args) == 0
    return json.loads(capsys.readouterr().out)


def names(told: dict[str, Any]) -> list[str]:
    return [row["key"] for row in told["features"]]


def test_the_list_says_what_there_is(cache, capsys):
    told = listed(capsys)
    assert names(told) == [A.name, B.name]
    row = told["features"][0]
    size = sum(path.stat().st_size for path in (cache / "features" / A.name).iterdir())
    assert abs(row.pop("unused_seconds") - 3 * 86400) < 60
    assert 0 <= row.pop("age_seconds") < 60
    assert row == {
        "key": A.name,
        "finished": True,
        "model": "tiny",
        "cut": "head",
        "data": "digits",
        "split": "train",
        "view": None,
        "shape": [70, 3, 5],
        "dtype": "float32",
        "bytes": size,
    }
    assert told["folder"] == str(cache)
    others = {name: told["bytes"][name] for name in ("programs", "weights", "sizes")}
    assert others == {"programs": 200, "weights": 200, "sizes": 100}
    assert run("list") == 0
    out = capsys.readouterr().out
    assert f"{A.name}\n  tiny before head, train of digits\n" in out
    assert "70 images, float32, last used 3 days ago, computed just now" in out
    assert "weights   200 bytes (converted)" in out


def test_unfinished_and_damaged_entries_are_listed_as_such(cache, capsys):
    with stores.claimed(FeatureStore(cache / "features", print), stores.key("c")) as claim:
        claim.append(stores.values()[:32])
    (cache / "features" / B.name / DESCRIPTION).write_text("{}")
    finished = {row["key"]: (row["finished"], row["shape"]) for row in listed(capsys)["features"]}
    assert finished == {
        A.name: (True, [70, 3, 5]),
        B.name: (True, None),
        stores.key("c").name + PARTIAL: (False, None),
    }
    assert run("list") == 0
    out = capsys.readouterr().out
    assert "unfinished, the next run continues it" in out
    assert "damaged" in out
    assert run("clear") == 0
    assert "Deleted 3 entries" in capsys.readouterr().out
    assert names(listed(capsys)) == []


@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        ([], []),
        ([A.name], [B.name]),
        ([A.name[:5]], [B.name]),
        ([A.name[:5], B.name[:5]], []),
        (["--older-than", "2.5"], [B.name]),
        (["--older-than", "4"], [A.name, B.name]),
        ([B.name, "--older-than", "2"], [A.name, B.name]),
    ],
)
def test_clear_removes_what_is_named(cache, capsys, arguments, left):
    before = {path for path in cache.rglob("*") if path.is_file()}
    assert run("clear", "--json", *arguments) == 0
    told = json.loads(capsys.readouterr().out)
    after = {path for path in cache.rglob("*") if path.is_file()}
    assert set(told["removed"]) == {A.name, B.name} - set(left)
    # Nothing else has gone.
    gone = {cache / "features" / n / f for n in told["removed"] for f in (VALUES, DESCRIPTION)}
    assert before - after == gone
    assert names(listed(capsys)) == left
    size = (stores.SPEC.nbytes + 128) * len(told["removed"])
    assert size <= told["bytes"] < size + 1000 * len(told["removed"]) + 1


def test_all_is_what_jtl_has_put_there(cache, capsys):
    assert run("clear", "--all") == 0
    assert "Deleted 2 entries" in capsys.readouterr().out
    left = {p.relative_to(cache).as_posix() for p in cache.rglob("*") if p.is_file()}
    assert left == {"programs/mine.txt", "weights/mine/notes.txt", "features/mine/notes.txt"}


def test_what_a_process_writes_stays_and_is_said(cache, capsys):
    with stores.claimed(FeatureStore(cache / "features", print), stores.key("c")) as claim:
        claim.append(stores.values())
        assert run("clear") == 2
        captured = capsys.readouterr()
        assert "Deleted 2 entries" in captured.out
        assert stores.key("c").name in captured.err
        claim.finish()
    assert names(listed(capsys)) == [stores.key("c").name]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "list or clear"),
        (["remove"], "must be one of list or clear, not 'remove'"),
        (["clear", "zz"], "no key starts with 'zz'"),
        (["clear", ""], "KEY needs a value, but the one given is empty"),
        (["list", "--older-than", "-1"], "--older-than must be at least 0"),
        (["clear", "--older-than", "soon"], "--older-than must be a number, not 'soon'"),
        (["list", "--all"], "it goes with clear"),
        (["clear", A.name, "--all"], "it goes with clear"),
        (["clear", "--al"], "Did you mean '--all'?"),
    ],
)
def test_bad_arguments_remove_nothing(cache, capsys, arguments, told):
    assert run(*arguments) == 2
    assert told in capsys.readouterr().err
    assert names(listed(capsys)) == [A.name, B.name]


@pytest.mark.process
def test_a_real_process_on_an_empty_folder(tmp_path):
    for action, told in (("list", "features  0 bytes"), ("clear", "Deleted 0 entries, 0 bytes")):
        ran = commands.python("-m", "jtl.cache", action, JTL_CACHE=str(tmp_path / "none"))
        assert (ran.returncode, ran.stderr) == (0, "")
        assert told in ran.stdout
    assert not (tmp_path / "none").exists()


def test_clearing_all_leaves_what_jtl_did_not_make(cache):
    """As where JTL_CACHE is the folder of somebody's project."""
    mine = [
        cache / paths.WEIGHTS / "resnet50" / "weights.json",  # Of weights_convert --out.
        cache / PROGRAMS / "my-cache",
        cache / PROGRAMS / "my-atime",
        cache / paths.CHECKED / "train.json",
        cache / paths.MEASURED / "mine.json",
    ]
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    assert run("clear", "--all") == 0
    assert all(path.read_text() == "mine" for path in mine)
    assert not any((cache / PROGRAMS).glob("jit_step*"))
    assert not any((cache / paths.WEIGHTS).glob("tiny*"))


@pytest.mark.parametrize("chosen", ["~nobody-of-that-name/x", None])
def test_a_home_that_is_not_known(chosen, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("HOME", "XDG_CACHE_HOME", "JTL_CACHE"):
        monkeypatch.delenv(name, raising=False)
    if chosen:
        monkeypatch.setenv("JTL_CACHE", chosen)
    # A user that /etc/passwd does not have.
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert run("list") == 2
    said = capsys.readouterr().err
    assert "Set JTL_CACHE to a folder that you can write to." in said
    assert (chosen or "no home folder") in said
    assert not any(tmp_path.iterdir())
