"""Predicting: as in validation, in batches, from anything that holds images."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tarfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import jtl
from jtl.common.errors import UserError
from jtl.predict import classifier as evaluation
from jtl.predict import inputs
from jtl.predict import predictions as prediction
from jtl.train.fit import fit
from support import tiny
from support.commands import main, python


@pytest.fixture(scope="module")
def run(tiny_data, tmp_path_factory):
    """A run that has learnt something."""
    folder = tmp_path_factory.mktemp("runs") / "learnt"
    return fit(tiny.config(tiny_data, folder, epochs=20), tiny.quiet())


@pytest.fixture(scope="module")
def classifier(run):
    return evaluation.load(run.folder)


@pytest.fixture
def mixed(tiny_data, tmp_path) -> Path:
    """A folder: three good images, a damaged one between them, and a text."""
    folder = tmp_path / "mixed"
    for name in tiny.CLASSES:
        shutil.copytree(
            tiny_data / "val" / name, folder / name, ignore=lambda *_: ["1.png", "2.png"]
        )
    (folder / "birch" / "bad.png").write_text("no image")
    (folder / "notes.txt").write_text("no image either")
    return folder


def files_of(data: Path) -> list[Path]:
    return sorted((data / "val").rglob("*.png"))


# The Python interface.


def test_predictions_are_those_of_validation(run, classifier, tiny_data):
    files = files_of(tiny_data)
    predictions = classifier.predict(files, top_k=2)
    assert len(predictions) == len(files) == 9
    truth = [file.parent.name for file in files]
    assert (
        np.mean([a == b for a, b in zip(predictions.labels, truth, strict=True)])
        == (run.summary["val_accuracy"])
    )
    assert run.summary["val_accuracy"] > 0.6
    rows = [tiny.CLASSES.index(name) for name in truth]
    shares = np.exp(predictions.logits) / np.exp(predictions.logits).sum(-1, keepdims=True)
    loss = -np.log(shares[np.arange(9), rows]).mean()
    assert loss == pytest.approx(run.summary["val_loss"], rel=1e-5)
    scaled = np.exp(predictions.logits / run.summary["temperature"])
    assert run.summary["temperature"] != 1
    np.testing.assert_allclose(
        predictions.probabilities, scaled / scaled.sum(-1, keepdims=True), rtol=1e-5
    )
    assert predictions[3:5].temperature == predictions.temperature
    np.testing.assert_allclose(predictions.probabilities.sum(-1), 1, rtol=1e-6)
    first = predictions[0]
    assert (first.name, first.label) == (str(files[0]), predictions.labels[0])
    assert len(first.classes) == 2
    assert first.probability == predictions.probabilities[0].max() > first.classes[1][1]


def test_probabilities_are_not_scaled_where_nothing_was_fitted(tiny_run, tmp_path):
    folder = shutil.copytree(tiny_run.folder, tmp_path / "run")
    path = folder / "summary.json"
    summary = json.loads(path.read_text())
    assert jtl.load(folder).temperature == summary["temperature"] != 1
    # Of an earlier version; of another epoch, while a run goes on; not there yet; damaged.
    older = {key: value for key, value in summary.items() if key != "temperature"}
    for content in (older, {**summary, "best_epoch": summary["best_epoch"] + 1}, {}, [], None):
        path.write_text("{" if content is None else json.dumps(content))
        assert jtl.load(folder).temperature == 1
    path.unlink()
    assert jtl.load(folder).temperature == 1


def test_a_image_is_the_same_however_it_is_given(classifier, tiny_data, tmp_path):
    files = files_of(tiny_data)
    pixels = np.stack([np.asarray(Image.open(file)) for file in files])
    with zipfile.ZipFile(tmp_path / "val.zip", "w") as archive:
        for file in files:
            archive.write(file, file.relative_to(tiny_data))
    expected = classifier.predict(files).logits
    assert len(np.unique(expected, axis=0)) == 9
    ways = {
        "folder": tiny_data / "val",
        "zip": str(tmp_path / "val.zip"),
        "array": pixels,
        "arrays": list(pixels),
        "pillow": [Image.open(file) for file in files],
        "mixed": [files[0], pixels[1:4], Image.open(files[4]), [pixels[5], files[6:]]],
    }
    for way, given in ways.items():
        np.testing.assert_array_equal(classifier.predict(given).logits, expected, err_msg=way)
    names = classifier.predict(ways["zip"]).names
    assert names[0] == str(tmp_path / "val.zip" / "val" / "ash" / "0.png")


def test_batches_do_not_matter(classifier, tiny_data, monkeypatch):
    files = files_of(tiny_data)
    whole = classifier.predict(files)
    # Two of four and one that is filled up.
    monkeypatch.setattr(prediction, "BATCH", 4)
    parts = classifier.predict(files)
    assert parts.names == whole.names
    np.testing.assert_allclose(parts.logits, whole.logits, rtol=1e-5, atol=1e-6)
    one = classifier.predict(files[5])
    np.testing.assert_allclose(one.logits[0], whole.logits[5], rtol=1e-5, atol=1e-6)


def test_sizes_and_modes_may_be_mixed(classifier, tmp_path):
    random = np.random.default_rng(0)
    small = random.integers(0, 256, (8, 8, 3), np.uint8)
    tall = random.integers(0, 256, (40, 20), np.uint8)
    given = [tall, small, tall[..., None], np.dstack([tall] * 3), Image.fromarray(tall), small]
    logits = classifier.predict(given).logits
    for row in (2, 3, 4):
        np.testing.assert_array_equal(logits[row], logits[0])
    np.testing.assert_array_equal(logits[5], logits[1])
    assert not np.allclose(logits[0], logits[1])


def test_sequences_of_predictions(classifier, tiny_data):
    predictions = classifier.predict(tiny_data / "val")
    assert [p.label for p in predictions] == predictions.labels
    part = predictions[2:4]
    assert (part.names, part.labels) == (predictions.names[2:4], predictions.labels[2:4])
    assert predictions[-1].name == predictions.names[8]
    assert repr(predictions).startswith("9 predictions\n")
    assert len(classifier.predict([])) == 0


def test_unreadable_images_are_told_beside_the_others(classifier, mixed, tmp_path):
    absent = tmp_path / "absent.png"
    with pytest.warns(UserWarning, match=r"3 of 6 images could not be read:[\s\S]*\.unreadable"):
        predictions = classifier.predict([absent, mixed])
    assert predictions.names == tuple(str(mixed / name / "0.png") for name in tiny.CLASSES)
    first, second, third = predictions.unreadable
    assert third.name == str(mixed / "notes.txt")
    assert str(first) == f"{absent}: No such file or directory"
    assert second.name == str(mixed / "birch" / "bad.png")
    assert second.reason.startswith("not an image, or damaged")


def test_a_missing_file_is_an_error(classifier, tmp_path):
    with pytest.raises(jtl.UserError, match=r"could not be read:\n  .*gone.png: No such"):
        classifier.predict(tmp_path / "gone.png")


@pytest.mark.parametrize("name", ["a.jfif", "b", "c.JPG_large"])
def test_content_decides_what_is_an_image(classifier, tmp_path, name):
    Image.new("RGB", (8, 8), (3, 2, 1)).save(tmp_path / name, "JPEG")
    assert classifier.predict(tmp_path).names == (str(tmp_path / name),)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (np.zeros((2, 8, 8, 3)), r"array of float64, not of uint8\. Of values from 0 to 1"),
        (np.zeros((8, 8, 7), np.uint8), r"image is an array of shape \[8, 8, 7\]\. Give a path"),
        ([np.zeros((8, 8), np.uint8), 5], r"image 1 is of type int\. Give a path"),
        (None, r"image is None\. Give a path"),
        (b"a.png", r"image is of type bytes\. Give a path"),
        ({"a.png": 1}, r"image is of type dict\. Give a path"),
        (np.zeros((0, 8, 3), np.uint8), r"of shape \[0, 8, 3\]"),
    ],
)
def test_what_is_no_image(classifier, given, told):
    with pytest.raises(jtl.UserError, match=told):
        classifier.predict(given)


@pytest.mark.parametrize("top_k", [0, -1, "3", None, True, 1.5])
def test_top_k_is_a_count(classifier, top_k):
    with pytest.raises(jtl.UserError, match="top_k must be a whole number of at least 1"):
        classifier.predict(np.zeros((8, 8, 3), np.uint8), top_k=top_k)


@pytest.mark.parametrize("given", [None, 3, b"runs/mine", [], np.zeros(3)])
def test_what_is_no_run(given):
    with pytest.raises(jtl.UserError, match=r"^run is (None|of type \w+)\. Give a path\.$"):
        jtl.load(given)


def test_a_classifier_is_its_run(classifier):
    assert jtl.load(classifier).folder == classifier.folder


def test_a_folder_without_images(classifier, tmp_path):
    with pytest.raises(jtl.UserError, match=r"there is no image in .* content: JPEG"):
        classifier.predict(tmp_path)


def test_an_archive_is_known_by_its_content(tiny_data, tmp_path):
    with zipfile.ZipFile(tmp_path / "download", "w") as archive:
        archive.write(files_of(tiny_data)[0], "a.png")
    (item,) = inputs.items(tmp_path / "download")
    assert item.name == str(tmp_path / "download" / "a.png")
    assert item.load().size == (8, 8)


def test_fit_and_load(tiny_data, tmp_path, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = dict(model="tiny", weights=str(tiny_data.parent / "weights"), batch_size=4, lr=0.05)
    again = jtl.fit(tiny_data, epochs=20, run_dir="runs/api", display=tiny.quiet(), **options)
    assert again.folder == Path("runs/api")
    for key in ("val_accuracy", "val_loss", "best_epoch"):
        assert again.summary[key] == run.summary[key]
    image = files_of(tiny_data)[0]
    assert jtl.load(again).predict(image).logits.shape == (1, 3)
    assert jtl.load("runs/api").epoch == again.summary["best_epoch"]


def test_fit_names_the_nearest_option():
    with pytest.raises(ValueError, match=r"no option bacth_size\. Did you mean 'batch_size'\?"):
        jtl.fit(bacth_size=3)
    with pytest.raises(ValueError, match=r"no option learning_rate\. Did you mean 'lr'\?"):
        jtl.fit(learning_rate=0.1)
    with pytest.raises(ValueError, match="no option json"):
        jtl.fit(json=True)


@pytest.mark.process
def test_importing_jtl_is_light():
    code = "import sys, jtl; print(sorted(m for m in sys.modules if '.' not in m)); jtl.fit"
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert "jax" not in done.stdout
    assert "numpy" not in done.stdout


# The command.


def test_the_command_prints(run, tiny_data, capsys):
    files = files_of(tiny_data)[::3]
    assert main("predict", run.folder, *files, "--top-k", 2, "--json") == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["name"] for answer in answers] == [str(file) for file in files]
    for answer in answers:
        (first, p1), (second, p2) = answer["classes"]
        assert {first, second} < set(tiny.CLASSES)
        assert 1 >= p1 >= p2 >= 0

    assert main("predict", run.folder, files[0]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(files[0])
    assert len(lines) == 4
    assert all(re.fullmatch(r" +\d+\.\d %  (ash|birch|cedar)", line) for line in lines[1:])


def test_unreadable_images_are_listed_and_not_fatal(run, mixed, capsys):
    assert main("predict", run.folder, mixed, "--json") == 0
    captured = capsys.readouterr()
    answers = [json.loads(line) for line in captured.out.splitlines()]
    assert [Path(answer["name"]).name for answer in answers] == [
        "0.png", "0.png", "bad.png", "0.png", "notes.txt",
    ]  # fmt: skip
    assert set(answers[2]) == {"name", "error"}
    lines = captured.err.splitlines()
    assert lines[0] == "2 of 5 images could not be read:"
    assert lines[1].startswith(f"  {mixed}/birch/bad.png: not an image")


def test_nothing_readable_is_an_error(run, tmp_path, capsys):
    assert main("predict", run.folder, tmp_path / "a.png", "--out", tmp_path / "p.csv") == 2
    told = capsys.readouterr().err
    assert f"error: 1 of 1 image could not be read:\n  {tmp_path}/a.png: No such file" in told
    assert list(tmp_path.iterdir()) == []


def rows_of(path: Path) -> list[dict[str, object]]:
    """A table's rows, numbers as such, without what is empty."""
    if path.suffix == ".csv":
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    else:
        from pyarrow import parquet

        rows = parquet.read_table(path).to_pylist()
    return [
        {k: float(v) if k.startswith("p") else v for k, v in row.items() if v not in ("", None)}
        for row in rows
    ]


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_tables(run, mixed, tmp_path, form, capsys):
    (mixed / "birch" / "0.png").rename(mixed / "birch" / 'a, "b" ü.png')
    out = tmp_path / f"predictions.{form}"
    out.write_text("what was there")
    assert main("predict", run.folder, mixed, "--top-k", 2, "--out", out) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"Saved the predictions to '{out}'" in captured.err
    assert "predicting: 5/5 images" in captured.err
    rows = rows_of(out)
    assert [Path(str(row["name"])).name for row in rows] == [
        "0.png", 'a, "b" ü.png', "bad.png", "0.png", "notes.txt",
    ]  # fmt: skip
    with pytest.warns(UserWarning, match="2 of 5 images could not be read"):
        expected = jtl.load(run).predict(mixed, top_k=2)
    for row, said in zip([rows[0], rows[1], rows[3]], expected, strict=True):
        (first, p1), (second, p2) = said.classes
        if form == "csv":  # Six digits are all that float32 has.
            p1, p2 = float(f"{p1:.6g}"), float(f"{p2:.6g}")
        assert row == {
            "name": said.name,
            "class": first,
            "probability": pytest.approx(p1, rel=1e-6),
            "class_2": second,
            "probability_2": pytest.approx(p2, rel=1e-6),
        }
    assert form == "parquet" or not re.search(r"\d\.\d{9,}", out.read_text())
    assert set(rows[2]) == {"name", "error"}
    assert {path.name for path in tmp_path.iterdir()} == {"mixed", out.name}


def test_a_file_of_json_lines(run, mixed, tmp_path, capsys):
    assert main("predict", run.folder, mixed, "--json") == 0
    printed = capsys.readouterr().out
    assert main("predict", run.folder, mixed, "--out", tmp_path / "p.jsonl") == 0
    assert (tmp_path / "p.jsonl").read_text() == printed


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--out", "p.txt"], r"--out 'p\.txt' must end in \.csv, \.jsonl, \.parquet"),
        (["--out", "/proc/p.csv"], r"cannot write --out '/proc/p\.csv': "),
        (["--out", "p.csv", "--json"], "Leave one of them out"),
        (["--top-k", 0], "--top-k must be at least 1"),
    ],
)
def test_options_that_cannot_be(run, tiny_data, options, told, capsys, elsewhere):
    assert main("predict", run.folder, files_of(tiny_data)[0], *options) == 2
    assert re.search(told, capsys.readouterr().err)
    assert list(elsewhere.iterdir()) == []


def test_a_table_appears_whole_or_not_at_all(run, mixed, tmp_path, monkeypatch):
    out = tmp_path / "p.csv"
    out.write_text("what was there")

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(prediction, "forward", interrupted)
    assert main("predict", run.folder, mixed, "--out", out) == 130
    assert out.read_text() == "what was there"
    assert {path.name for path in tmp_path.iterdir()} == {"mixed", "p.csv"}


def test_parquet_says_what_it_needs(run, mixed, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert main("predict", run.folder, mixed, "--out", tmp_path / "p.parquet") == 2
    assert "pip install 'jtl[parquet]'" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="pipes and devices of POSIX")
def test_what_has_no_end_is_unreadable_and_the_others_are_predicted(
    classifier, tiny_data, tmp_path, monkeypatch
):
    os.mkfifo(tmp_path / "pipe.png")
    with open(tmp_path / "huge.png", "wb") as file:
        file.truncate(2**40)
    good = files_of(tiny_data)[0]
    named = [tmp_path / "pipe.png", tmp_path / "huge.png", Path("/dev/zero"), good]
    with pytest.warns(UserWarning, match="3 of 4 images could not be read"):
        found = classifier.predict(named)
    assert [prediction.name for prediction in found] == [str(good)]
    reasons = [bad.reason for bad in found.unreadable]
    assert reasons == [
        "not a file, but a pipe or a device",
        "more than 1,024 MB, too large for an image",
        "not a file, but a pipe or a device",
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="pipes and devices of POSIX")
def test_what_has_no_end_in_a_folder_is_unreadable_too(
    classifier, tiny_data, tmp_path, monkeypatch
):
    shutil.copy(files_of(tiny_data)[0], tmp_path / "good.png")
    for name in ("pipe.png", "pipe", "sub/pipe.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        os.mkfifo(tmp_path / name)
    (tmp_path / "zero").symlink_to("/dev/zero")
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as door:
        door.bind("door.png")  # Paths of sockets are short.
        with pytest.warns(UserWarning, match="5 of 6 images could not be read"):
            found = classifier.predict(tmp_path)
    assert found.names == (str(tmp_path / "good.png"),)
    assert {bad.reason for bad in found.unreadable} == {"not a file, but a pipe or a device"}
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(tmp_path / "good.png", "good.png")
        archive.add(tmp_path / "pipe.png", "pipe.png")
    with pytest.warns(UserWarning, match="1 of 2 images could not be read"):
        (bad,) = classifier.predict(tmp_path / "x.tar").unreadable
    assert (bad.name, bad.reason) == (str(tmp_path / "x.tar/pipe.png"), "a pipe or a device")


def test_names_that_begin_with_a_tilde(classifier, tiny_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(files_of(tiny_data)[0], "~nobody-of-that-name.png")
    with pytest.warns(UserWarning, match="~nor-this: No such file"):
        found = classifier.predict(["~nobody-of-that-name.png", "~nor-this"])
    assert found.names == ("~nobody-of-that-name.png",)
    assert [bad.name for bad in found.unreadable] == ["~nor-this"]


def test_an_empty_path_is_refused(run, classifier, tiny_data, capsys, monkeypatch):
    monkeypatch.chdir(files_of(tiny_data)[0].parent)  # Where a path of nothing would find images.
    with pytest.raises(UserError, match="path of an image is empty"):
        classifier.predict("")
    assert main("predict", run.folder, "") == 2
    out, err = capsys.readouterr()
    assert not out
    assert "empty" in err


def test_cells_that_spreadsheets_would_run(run, tiny_data, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(files_of(tiny_data)[0], "=HYPERLINK(A1).png")
    Path("@bad.png").write_text("")
    images = ("=HYPERLINK(A1).png", "@bad.png")
    assert main("predict", run.folder, *images, "--out", "safe.csv") == 0
    assert main("predict", run.folder, *images, "--out", "raw.csv", "--raw-csv") == 0
    assert [row["name"] for row in rows_of(Path("safe.csv"))] == [f"'{name}" for name in images]
    assert [row["name"] for row in rows_of(Path("raw.csv"))] == list(images)
    assert main("predict", run.folder, *images, "--raw-csv") == 2
    assert "--raw-csv needs --out" in capsys.readouterr().err


def test_names_do_not_rule_the_terminal(run, tiny_data, tmp_path, capsys):
    good, bad = tmp_path / "\x1b[2Jgood.png", tmp_path / "\x1b[2Jbad.png"
    shutil.copy(files_of(tiny_data)[0], good)
    bad.write_text("")
    assert main("predict", run.folder, good, bad) == 0
    out, err = capsys.readouterr()
    assert "\ufffd[2Jgood.png" in out
    assert "\ufffd[2Jbad.png" in err
    assert "\x1b" not in out + err


def test_nothing_is_written_through_links_of_explanations(run, tiny_data, tmp_path):
    image, out, mine = files_of(tiny_data)[0], tmp_path / "out", tmp_path / "mine"
    mine.write_text("mine")
    out.mkdir()
    (out / f"0001-{image.stem}.png").symlink_to(mine)
    (out / "table.csv").symlink_to(mine)
    assert main("predict", run.folder, image, "--explain", out, "--out", out / "table.csv") == 0
    assert mine.read_text() == "mine"
    assert (out / f"0001-{image.stem}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.process
@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell")
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_standard_streams_may_be_closed(run, tiny_data, tmp_path, closed):
    code = (
        "import sys; from jtl.models import registry; from support import tiny; "
        "from support.commands import main; registry.ENTRIES[tiny.ENTRY.name] = tiny.ENTRY; "
        "sys.exit(main('predict', sys.argv[1], sys.argv[2], '--out', sys.argv[3]))"
    )
    command = [sys.executable, "-c", code, run.folder, files_of(tiny_data)[0], tmp_path / "t.csv"]
    shell = f"{shlex.join(map(str, command))} {closed}"
    ran = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, timeout=300)
    assert (ran.returncode, "Traceback" in ran.stderr) == (0, False), ran.stderr
    assert len(rows_of(tmp_path / "t.csv")) == 1


def test_a_quoted_pattern_stands_for_the_files_that_match(tiny_run, tiny_data, tmp_path, capsys):
    for name in ("b.png", "a.png", "c.txt", "[x].png"):
        shutil.copy(tiny_data / "val" / "ash" / "0.png", tmp_path / name)
    assert main("predict", tiny_run.folder, tmp_path / "?.png", tmp_path / "[x].png") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith(" ")]
    # A file that has the name itself is no pattern.
    assert lines == [str(tmp_path / name) for name in ("a.png", "b.png", "[x].png")]
    assert main("predict", tiny_run.folder, tmp_path / "*.gif") == 2
    assert f"error: no file matches '{tmp_path}/*.gif'." in capsys.readouterr().err


@pytest.mark.parametrize("command", ["predict", "evaluate", "export", "compare"])
def test_a_mistyped_run_gets_a_suggestion(command, tmp_path, monkeypatch, capsys):
    (tmp_path / "runs" / "head").mkdir(parents=True)
    (tmp_path / "runs" / "head" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert main(command, "runs/hed", *(["x.png"] if command == "predict" else [])) == 2
    message = "'runs/hed' is not a run: there is no such folder. Did you mean 'runs/head'?"
    assert capsys.readouterr().err == f"error: {message}\n"


def test_frames_after_the_first_are_told(run, classifier, tmp_path, capsys):
    random = np.random.default_rng(0)
    first, *rest = (Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8)) for _ in range(3))
    names = [str(tmp_path / name) for name in ("a.gif", "b.tif")]
    for name in names:
        first.save(name, save_all=True, append_images=rest)
    first.save(tmp_path / "c.png")
    assert main("predict", run.folder, tmp_path) == 0
    told = "2 images have several frames or pages (animations, TIFF stacks), for example"
    assert f"{told} {names[0]}" in capsys.readouterr().err
    with pytest.warns(UserWarning, match="2 images have several frames or pages"):
        classifier.predict(tmp_path)
    with Image.open(names[0]) as opened, pytest.warns(UserWarning, match="1 image has several"):
        classifier.predict(opened)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        classifier.predict(tmp_path / "c.png")
