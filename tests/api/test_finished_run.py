"""What `jtl.fit` gives, as a notebook shows it, and what it takes besides paths."""

from __future__ import annotations

import dataclasses
import html
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import jtl
from jtl import api
from jtl.config.options import Config
from jtl.data.sources import registry
from jtl.data.sources.in_memory import as_source


@pytest.fixture
def run(tiny_run):
    return jtl.Run.of(tiny_run)


def test_a_run_and_a_classifier_are_three_lines(run):
    for text in (repr(run), repr(jtl.load(run)), repr(run.evaluate())):
        assert len(text.splitlines()) == 3
        assert len(text) < 1000
    assert f"jtl run '{run.folder}': tiny, head_only, on {run.config.data.data}" in repr(run)
    accuracy = f"accuracy {run.summary['val_accuracy']:.3f} (95 % interval "
    assert accuracy in repr(run)
    assert accuracy in repr(run.evaluate())
    unfinished = jtl.Run(run.folder, run.config, {}, run.history)
    assert repr(unfinished).endswith("\nnot finished: 2 epochs so far")


def test_a_notebook_shows_curve_table_and_nothing_unescaped(run, monkeypatch):
    name = "<script>alert(1)</script>"
    classes = {name: next(iter(run.summary["val_classes"].values()))}
    monkeypatch.setattr(run, "summary", {**run.summary, "val_classes": classes})
    page = run._repr_html_()
    assert "<script>" not in page
    assert html.escape(name) in page
    assert re.findall(r'src="data:image/png;base64,\w', page)
    assert "<table>" in page
    clf = dataclasses.replace(jtl.load(run), class_names=(name, "b"))
    assert "<script>" not in clf._repr_html_()
    assert "<td>1</td>" in run.history._repr_html_()


def test_plots_mistakes_and_explanations(run, tiny_data, tmp_path):
    for plot in (run.plot_curves(), run.plot_confusion()):
        assert plot._repr_png_().startswith(b"\x89PNG")
        assert plot.path.parent == run.folder
    if run.summary["val_accuracy"] < 1:
        assert run.mistakes().path.name == "mistakes.png"
    (plot,) = run.explain(tiny_data / "val" / "ash" / "0.png", tmp_path / "why")
    assert plot.path.parent == tmp_path / "why"


def test_a_run_is_scored_on_other_data(run):
    pixels = np.zeros((3, 8, 8, 3), np.uint8)
    found = run.evaluate((pixels, list(run.summary["class_names"])))
    assert found.scores["count"] == 3
    with pytest.raises(jtl.UserError, match="missing"):
        run.evaluate((["nowhere.png"], ["ash"]))


def test_the_history_is_a_list_that_pandas_can_take(run):
    assert [line["epoch"] for line in run.history] == [1, 2]
    pytest.importorskip("pandas")
    assert list(run.history.to_pandas()["epoch"]) == [1, 2]


def test_the_history_needs_pandas_only_for_a_data_frame(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)  # As where it is not installed.
    with pytest.raises(jtl.UserError, match="pip install pandas"):
        run.history.to_pandas()


def test_notebooks_show_the_message_alone():
    shell = pytest.importorskip("IPython.core.interactiveshell").InteractiveShell()
    shown = []
    shell._showtraceback = lambda kind, error, lines: shown.append(lines)
    shell.run_cell("import jtl\njtl.fit('nowhere')")
    (lines,) = shown
    assert lines[0].startswith("UserError: there is no file or folder 'nowhere'")
    assert not any("Traceback" in line for line in lines)


@pytest.fixture
def images(tmp_path):
    for index in range(6):
        pixels = np.full((8, 8, 3), 40 * index, np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    return [tmp_path / f"{index}.png" for index in range(6)]


def test_arrays_are_a_source(tmp_path, monkeypatch):
    monkeypatch.setenv("JTL_CACHE", str(tmp_path))
    pixels = np.arange(6 * 4 * 4 * 3, dtype=np.uint8).reshape(6, 4, 4, 3)
    for labels in ([0, 1] * 3, ["ant", "bee"] * 3):
        found = registry.find(as_source((pixels, labels)))
        assert found.class_names == (("0", "1") if labels[0] == 0 else ("ant", "bee"))
        read = found.splits["train"]
        np.testing.assert_array_equal(read.labels, [0, 1] * 3)
        np.testing.assert_array_equal(read.read(np.arange(6), None), pixels)
    # The same arrays again are the same source, kept once.
    assert as_source((pixels, ["ant", "bee"] * 3)) == as_source((list(pixels), ["ant", "bee"] * 3))
    assert len(list((tmp_path / "given").iterdir())) == 2


def test_files_and_labels_are_a_source(images, tmp_path, monkeypatch):
    monkeypatch.setenv("JTL_CACHE", str(tmp_path / "cache"))
    labels = ["ant", "bee"] * 3
    found = registry.find(as_source((images, labels)))
    assert found.class_names == ("ant", "bee")
    assert sorted(found.splits["train"].labels) == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    "names", ["part_1 part_2", "a a_augmented", "cars masks photos", "test train", "images masks"]
)
def test_labels_of_a_program_are_classes_whatever_they_look_like(
    images, tmp_path, monkeypatch, names
):
    monkeypatch.setenv("JTL_CACHE", str(tmp_path / "cache"))
    names = tuple(names.split())
    found = registry.find(as_source((images, [*names * 3][:6])))
    assert found.class_names == names
    assert len(found.splits["train"]) == 6
    assert (found.problems, found.notes, found.left_out) == ((), (), ())


def test_a_data_frame_is_a_source(images, tmp_path, monkeypatch):
    monkeypatch.setenv("JTL_CACHE", str(tmp_path / "cache"))
    columns = {"Path": images, "species": ["ant", "bee"] * 3, "split": ["train"] * 4 + ["val"] * 2}

    class Frame(dict):
        columns = property(lambda self: list(self))

    found = registry.find(as_source(Frame(columns)))
    assert {name: len(split) for name, split in found.splits.items()} == {"train": 4, "val": 2}
    with pytest.raises(jtl.UserError, match=r"has the columns a, but it needs one of files"):
        as_source(Frame({"a": [1]}))


def test_a_data_frame_of_pandas_is_a_source(images, tmp_path, monkeypatch):
    pandas = pytest.importorskip("pandas")
    monkeypatch.setenv("JTL_CACHE", str(tmp_path / "cache"))
    frame = pandas.DataFrame({"file": map(str, images), "label": ["ant", "bee"] * 3})
    found = registry.find(as_source(frame))
    assert found.class_names == ("ant", "bee")
    assert sorted(found.splits["train"].labels) == [0, 0, 0, 1, 1, 1]
    # Columns of it, other columns, and a part of the rows under their old index.
    assert as_source((frame["file"], frame["label"])) == as_source(frame)
    part = frame.assign(other=1.5)[frame["label"].eq("ant").to_numpy() | (frame.index > 1)]
    assert registry.find(as_source(part)).class_names == ("ant", "bee")
    frame["split"] = pandas.Categorical(["train"] * 4 + ["val"] * 2)
    found = registry.find(as_source(frame))
    assert {name: len(split) for name, split in found.splits.items()} == {"train": 4, "val": 2}
    frame.loc[0, "label"] = None
    with pytest.raises(jtl.UserError, match="1 image of 6 without a label"):
        as_source(frame)


def test_pandas_trains_and_gets_the_history(run, images):
    pandas = pytest.importorskip("pandas")
    assert list(run.history.to_pandas()["epoch"]) == [1, 2]
    names = run.summary["class_names"]
    frame = pandas.DataFrame({"image": images[: len(names)], "class": names})
    assert run.evaluate(frame).scores["count"] == len(names)


def test_labels_may_be_a_table_of_one_column(images, tmp_path, monkeypatch):
    monkeypatch.setenv("JTL_CACHE", str(tmp_path / "cache"))
    labels = ["ant", "bee"] * 3

    class Frame:  # Its items are the names of its columns, as of pandas.
        def __iter__(self):
            return iter(["label"])

        def __array__(self, dtype=None, copy=None):
            return np.array(labels, object)[:, None]

    for table in (Frame(), np.array(labels)[:, None]):
        assert as_source((images, table)) == as_source((images, labels))


def test_a_column_of_paths_is_a_list_of_files(images, tmp_path, monkeypatch):
    monkeypatch.setenv("JTL_CACHE", str(tmp_path / "cache"))
    labels = ["ant", "bee"] * 3
    for paths in (np.array(images, object), np.array(list(map(str, images)))):
        assert as_source((paths, np.array(labels))) == as_source((images, labels))
    assert as_source((images, ["nan", "bee"] * 3))  # A class may be called so.
    with pytest.raises(jtl.UserError, match="2 images of 6 without a label"):
        as_source((images, [None, float("nan"), 1, 2, 1, 2]))


@pytest.mark.slow
def test_a_run_is_exported(run, tmp_path):
    pytest.importorskip("flatbuffers")
    run = jtl.Run(shutil.copytree(run.folder, tmp_path / "run"), run.config, run.summary)
    done = run.export()
    assert Path(done.path).is_file()
    assert Path(done.path).is_relative_to(run.folder)
    assert "stablehlo" in done.loading
    with pytest.raises(jtl.UserError, match="exists"):
        run.export()
    assert run.export("stablehlo", tmp_path / "x.stablehlo").path == str(tmp_path / "x.stablehlo")
    with pytest.raises(jtl.UserError, match="there is no export format 'tensorrt'"):
        run.export("tensorrt")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (5, "data is of type int"),
        (None, "data is None"),
        (("a", "b", "c"), "data is of type tuple"),
        ([1, 2], "the images are of type int"),
        (("ants", "bees"), "the images are of type str"),
        ((np.zeros((2, 4, 4, 3), np.uint8), 5), "the labels are of type int"),
        ((np.zeros((2, 4, 4, 3), np.uint8), np.array(5)), "the labels are of type ndarray"),
        ((np.zeros((2, 4, 4, 3), np.uint8), "ab"), "the labels are of type str"),
        ((np.zeros((2, 4, 4, 3)), [0, 1]), r"float64 of shape \[2, 4, 4, 3\].*astype\('uint8'\)"),
        ((np.zeros((2, 4, 4, 3), np.uint8), [0]), "2 images and 1 label"),
        ((["x.png", "y.png"], ["a", "b"]), r"2 files missing: .*x\.png"),
        ((["x.png"], ["a", "b"]), "1 image and 2 labels"),
    ],
)
def test_other_data_are_refused(data, message):
    with pytest.raises(jtl.UserError, match=message):
        jtl.fit(data)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": None}, "model must be text, not None"),
        ({"epochs": "3"}, "epochs must be a whole number, not '3'"),
        ({"epochs": 2.5}, r"epochs must be a whole number, not 2\.5"),
        ({"head_batch_norm": 1}, "head_batch_norm must be True or False, not 1"),
        ({"head_widths": "512"}, "must be a whole number, or a list of these, not '512'"),
        ({"log_to": "disk"}, "must be one of tensorboard, wandb or mlflow, or a list of these"),
        ({"bn": "frzen"}, "bn must be one of .* Did you mean 'frozen'"),
        ({"mask": ["full"]}, r"mask must be text, not \['full'\]"),
    ],
)
def test_a_wrong_type_of_argument_is_refused(options, message):
    with pytest.raises(jtl.UserError, match=message):
        api.config_of(options)


def test_a_display_of_another_type_is_refused():
    with pytest.raises(jtl.UserError, match="display is of type bool"):
        jtl.fit(display=True)  # pyright: ignore[reportArgumentType]


def test_wrong_arguments_of_a_run_are_refused(run, images):
    for wrong, message in [
        (lambda: run.evaluate(split="tset"), "split must be val or test, not 'tset'"),
        (lambda: run.explain(images[0], 3), "out is of type int"),
        (lambda: run.explain("gone.png"), r"no image could be read: gone\.png"),
        (lambda: run.export(3), "there is no export format '3'"),
        (lambda: run.export(out=3), "out is of type int"),
    ]:
        with pytest.raises(jtl.UserError, match=message):
            wrong()


def test_values_of_near_types_are_understood(tmp_path):
    given = {
        "epochs": np.int64(3), "lr": np.float32(0.5), "head_widths": 64, "cache_budget": 0,
        "l2": 0.5, "color_jitter": 0.4, "run_dir": str(tmp_path), "log_to": "tensorboard",
    }  # fmt: skip
    config = api.config_of(given)
    assert isinstance(config, Config)
    found = SimpleNamespace(**{**vars(config.train), **vars(config.model), **vars(config.run)})
    assert (found.epochs, found.lr, found.head_widths) == (3, 0.5, (64,))
    assert (found.cache_budget, found.l2, found.log_to) == ("0", "0.5", ("tensorboard",))
    assert type(found.epochs) is int
    assert config.augment.color_jitter == "0.4"
