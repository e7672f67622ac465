"""`jtl data clean`: from a folder to its list and contact sheets, and back through `--exclude`."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import jtl
from jtl.cache import features
from jtl.cleaning import wrong_labels
from jtl.cleaning.findings import NEAR, UNREADABLE, WRONG
from jtl.cleaning.pool import pool_of
from jtl.config import walk
from jtl.config.options import Config
from jtl.train.checks import checked
from jtl.train.setup import prepare_setup
from support import tiny
from support.commands import main

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture(scope="module")
def flawed(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders with a wrong label, a copy in another split and a damaged file."""
    folder = tmp_path_factory.mktemp("flawed")
    tiny.write_weights(folder / "weights")
    root = tiny.write_folder(folder / "tiny", train=10, val=4)
    shutil.copy(root / "train" / "birch" / "3.png", root / "train" / "ash" / "=wrong.png")
    (root / "train" / "birch" / "3.png").unlink()
    shutil.copy(root / "val" / "cedar" / "0.png", root / "train" / "cedar" / "copy.png")
    (root / "train" / "cedar" / "odd.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return root


def weights(flawed: Path) -> list[object]:
    return ["--model", "tiny", "--weights", flawed.parent / "weights"]


def test_what_is_wrong_is_listed_and_can_be_left_out(flawed: Path, capsys, monkeypatch):
    before = sorted((path, path.stat().st_mtime_ns) for path in flawed.rglob("*"))
    assert main("data", "clean", flawed, *weights(flawed)) == 0
    printed = capsys.readouterr()
    assert f"folder:{flawed}: 44 images, " in printed.out
    assert f"  jtl train --data {flawed} --exclude cleaning/clean.csv\n" in printed.out
    assert before == sorted((path, path.stat().st_mtime_ns) for path in flawed.rglob("*"))
    with Path("cleaning/clean.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    by_kind = {kind: [r for r in rows if r["kind"] == kind] for kind in (WRONG, NEAR, UNREADABLE)}
    first = by_kind[WRONG][0]
    assert (first["file"], first["label"]) == ("train/ash/=wrong.png", "ash")
    assert (first["suggested"], first["exclude"]) == ("birch", "yes")
    copies = {r["file"]: r for r in by_kind[NEAR] if r["other"] == "val/cedar/0.png"}
    assert copies["train/cedar/copy.png"]["exclude"] == "yes"
    assert [r["file"] for r in by_kind[UNREADABLE]] == ["train/cedar/odd.png"]
    for row in rows:
        row["exclude"] = "no"
    for row in (first, by_kind[UNREADABLE][0]):
        row["exclude"] = "yes"
    sheet = Image.open("cleaning/wrong-labels-1.jpg")
    assert sheet.width > 900
    assert np.asarray(sheet).std() > 10
    # The list was edited: it is not written over.
    assert main("data", "clean", flawed, *weights(flawed)) == 2
    assert "--out 'cleaning' holds a clean.csv already" in capsys.readouterr().err
    with Path("edited.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    given = [*weights(flawed), "--data", flawed, "--exclude", "edited.csv", "--epochs", "1"]
    assert main("train", *given, "--run-dir", "run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["num_train"] == 30


def test_features_of_a_run_are_used_again(flawed: Path, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setenv("JTL_CACHE", str(tmp_path / "cache"))
    computed: list[int] = []
    original = features.FeatureCache._rows

    def counting(self, cut, variables, part, first):
        computed.append(len(part.split))
        return original(self, cut, variables, part, first)

    monkeypatch.setattr(features.FeatureCache, "_rows", counting)
    given = [*weights(flawed), "--data", flawed / "train", "--on-bad-image", "skip", "--seed", 3]
    assert main("train", *given, "--run-dir", "run") == 0
    assert sum(computed) == 31
    assert main("data", "clean", flawed / "train", "--run", "run", "--json") == 0
    assert sum(computed) == 31
    told = json.loads(capsys.readouterr().out.partition("\n{")[2].join(["{", ""]))
    assert (told["images"], told["counts"][UNREADABLE]) == (32, 1)
    assert {row["split"] for row in told["findings"]} == {"train"}


REFUSED = {
    "no run": (["--run", "nowhere"], "'nowhere' is not a run"),
    "options of the run": (["--run", "x", "--model", "tiny"], "--model: no effect with --run"),
    "not empty": (["--out", "."], "--out '.' is not an empty folder"),
    "a file": (["--out", "file"], "--out 'file' is not an empty folder"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, flawed: Path, elsewhere: Path, capsys):
    (elsewhere / "file").touch()
    options, message = REFUSED[case]
    assert main("data", "clean", flawed, *options) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in elsewhere.iterdir()] == ["file"]


def test_clean_comes_first(flawed: Path, capsys):
    assert main("data", "--json", "clean", flawed) == 2
    assert "write clean before the options" in capsys.readouterr().err


def test_several_labels_from_python(tiny_model: str, tmp_path: Path):
    tiny.write_weights(tmp_path / "weights")
    random = np.random.default_rng(0)
    labels = (random.random((60, 3)) < 0.4).astype(np.uint8)
    images = random.integers(0, 120, (60, 8, 8, 3), np.uint8) + 120 * labels[:, None, None, :]
    labels[5] ^= np.array([1, 0, 0], np.uint8)
    found = jtl.clean(
        (images, labels), task="multilabel", model="tiny", weights=tmp_path / "weights",
        out=tmp_path / "out", display=tiny.quiet(),
    )  # fmt: skip
    assert "images[5]" in [row.file for row in found.rows if row.kind == WRONG]
    assert found.table.is_file()
    assert f"{len(found.rows)} finding" in repr(found)


@pytest.mark.slow
def test_wrong_labels_of_real_images_are_found(shared_data):
    # docs/data.md has the figures of the default size, which are better.
    spec = f"folder:{shared_data('trash.zip')}"
    config = walk.replace(Config(), {"data": spec, "image_size": 128, "augment": "none"})
    pool = pool_of(prepare_setup(checked(config), tiny.quiet()), tiny.quiet())
    train = np.flatnonzero(np.array(pool.splits) == "train")
    recalls, precisions = [], []
    for seed in range(3):
        random = np.random.default_rng(seed)
        wrong = random.choice(train, round(0.05 * len(train)), replace=False)
        given = pool.labels.copy()
        given[wrong] = (given[wrong] + random.integers(1, 6, len(wrong))) % 6
        suspects = wrong_labels.find(pool.features, given, 6)
        rows = [suspect.row for suspect in suspects if pool.splits[suspect.row] == "train"]
        found = len({*rows} & {*wrong.tolist()})
        recalls.append(found / len(wrong))
        precisions.append(found / len(rows))
    print(recalls, precisions)
    assert np.mean(recalls) >= 0.8
    assert np.mean(precisions) >= 0.5
