"""`--exclude`: lists of images to leave out, as `jtl data clean` or people write them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from jtl.common.errors import UserError
from jtl.data.sources.registry import SourceOptions, find, load
from jtl.train.fit import fit
from support import tiny
from support.commands import main
from support.data_files import class_folders, flat


def names_of(spec: str, listed: Path) -> set[str]:
    found = find(spec, SourceOptions(exclude=str(listed)))
    return {name for split in found.splits.values() for name in split.names}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return class_folders(tmp_path / "data", "a", "b", count=4)


LISTS = {
    "csv": ("file,exclude\na/0.png,yes\nb/1.png,no\n", {"a/0.png"}),
    "without a column exclude": ("file,label\na/0.png,a\nb/1.png,b\n", {"a/0.png", "b/1.png"}),
    "one column": ("file\na/0.png\n", {"a/0.png"}),
    "plain": ("a/0.png\n\n b/1.png \n", {"a/0.png", "b/1.png"}),
    "Excel": ("\ufefffile;exclude\r\na/0.png;YES\r\nb/1.png;\r\n", {"a/0.png"}),
    "tabs": ("exclude\tfile\nx\ta/0.png\n", {"a/0.png"}),
    "quotes": ('"file","exclude"\n"a/0.png","1"\n', {"a/0.png"}),
    "twice": ("file,exclude\na/0.png,no\na/0.png,yes\n", {"a/0.png"}),
    "only a head": ("file,exclude\n", set()),
    "nothing": ("", set()),
}


@pytest.mark.parametrize("case", LISTS)
def test_lists(case: str, folder: Path, tmp_path: Path):
    text, gone = LISTS[case]
    listed = tmp_path / "list.csv"
    listed.write_text(text, encoding="utf-8")
    everything = {f"{name}/{index}.png" for name in "ab" for index in range(4)}
    assert names_of(f"folder:{folder}", listed) == everything - gone


REFUSED = {
    "unknown": ("a/0.png\nc/9.png\n", r"1 of 2 names are not images of .*: c/9\.png\. Its images"),
    "no answer": (
        "file,exclude\na/0.png,maybe\n",
        r"must be yes or no in every row: see row 2",
    ),
    "a whole class": ("".join(f"a/{i}.png\n" for i in range(4)), "leaves no training images of a"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, folder: Path, tmp_path: Path):
    text, message = REFUSED[case]
    listed = tmp_path / "list.csv"
    listed.write_text(text)
    with pytest.raises(UserError, match=message):
        names_of(f"folder:{folder}", listed)


def test_a_list_that_is_missing(folder: Path, capsys):
    assert main("data", "check", folder, "--exclude", "nowhere.csv") == 2
    assert "error: --exclude nowhere.csv: No such file" in capsys.readouterr().err


def test_names_that_a_spreadsheet_would_run(tmp_path: Path):
    root = class_folders(tmp_path / "data", "=x", "b", count=3)
    flat().save(root / "=x" / "=1+1.png")
    listed = tmp_path / "list.csv"
    listed.write_text("file,exclude\n'=x/=1+1.png,yes\n=x/0.png,yes\n")
    assert names_of(f"folder:{root}", listed) >= {"=x/1.png", "=x/2.png"}
    assert not names_of(f"folder:{root}", listed) & {"=x/=1+1.png", "=x/0.png"}


def test_of_every_kind_of_source(tmp_path: Path):
    rows = np.arange(12)
    np.savez(tmp_path / "x.npz", images=np.zeros((12, 8, 8), np.uint8), labels=rows % 2)
    listed = tmp_path / "list.txt"
    listed.write_text("images[3]\nimages[4]\n")
    data = load(f"npz:{tmp_path / 'x.npz'}", SourceOptions(exclude=str(listed)))
    assert len(data.train) + len(data.val) == 10
    assert not {"images[3]", "images[4]"} & {*data.train.names, *data.val.names}
    note = "Left out 2 of 12 images, which "
    assert any(each.startswith(note) and "(2 training)" in each for each in data.notes)
    whole = load(f"npz:{tmp_path / 'x.npz'}")
    assert whole.fingerprint != data.fingerprint
    listed.write_text("images[4]\nimages[3]\n")
    again = load(f"npz:{tmp_path / 'x.npz'}", SourceOptions(exclude=str(listed)))
    assert again.fingerprint == data.fingerprint


def test_a_run_keeps_its_list(tiny_data: Path, tmp_path: Path, capsys, monkeypatch):
    listed = tmp_path / "list.csv"
    listed.write_text("file,exclude\ntrain/ash/0.png,yes\nval/ash/0.png,yes\n")
    config = tiny.config(tiny_data, tmp_path / "run")
    config = tiny.dataclasses.replace(
        config, data=tiny.dataclasses.replace(config.data, exclude=str(listed))
    )
    tiny.fit_until(1, config, monkeypatch)
    assert main("train", "--resume", "--run-dir", tmp_path / "run", "--exclude", "other.csv") == 2
    assert "--exclude other.csv (the run has " in capsys.readouterr().err
    listed.write_text("file,exclude\ntrain/ash/1.png,yes\n")
    assert main("train", "--resume", "--run-dir", tmp_path / "run") == 2
    err = capsys.readouterr().err
    assert "cannot be resumed, because its data or weights have changed" in err
    assert "lost: train/ash/1.png" in err
    listed.write_text("file,exclude\ntrain/ash/0.png,yes\nval/ash/0.png,yes\n")
    run = fit(tiny.resumed(tmp_path / "run"), tiny.quiet())
    assert (run.summary["num_train"], run.summary["num_val"]) == (17, 8)
    assert any("Left out 2 of 27 images" in note for note in run.summary["notes"])
    capsys.readouterr()
    # Its own images without those; others whole, though they have images of the same names.
    assert main("evaluate", tmp_path / "run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["count"] == 8
    other = tiny.write_folder(tmp_path / "other", train=2, val=2)
    assert main("evaluate", tmp_path / "run", "--data", other, "--json") == 0
    assert json.loads(capsys.readouterr().out)["count"] == 6
    own = "--exclude", listed
    assert main("evaluate", tmp_path / "run", "--data", tiny_data, *own, "--json") == 0
