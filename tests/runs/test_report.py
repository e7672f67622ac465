"""Tables and curves: names as they are, and images that show what they should."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from jtl.runs import console_text, evaluation_plots, plot_worker, plots
from jtl.train import dry_run

SUMMARY: dict[str, Any] = {
    "model": "tiny",
    "weights": {"name": "w[tmp].pth"},
    "mask": "rules:stage[a-z]+/.*=train;.*=frozen",
    "trainable_params": 51,
    "total_params": 1711,
    "frozen_leaves": 10,
    "frozen_unchanged": True,
    "data": "folder:d/[/red]br/:heart:",
    "num_classes": 3,
    "num_val": 1200,
    "epochs": 1,
    "best_epoch": 1,
    "val_accuracy": 0.5,
    "test_accuracy": None,
    "val_macro_f1": 0.25,
    "val_classes": {
        "[red]ash": {"count": 1200, "accuracy": 0.5, "precision": None, "f1": 0.25},
        "nothing": {"count": 0, "accuracy": None, "precision": None, "f1": None},
    },
    "test_macro_f1": None,
    "test_classes": None,
    "train_seconds": 1.0,
    "feature_seconds": 0.5,
    "cached_prefix": True,
}


def history(epochs: int) -> list[dict[str, Any]]:
    return [
        {
            "epoch": epoch,
            "train_loss": 1 / epoch,
            "val_loss": 1.5 / epoch,
            "train_accuracy": 1 - 0.5 / epoch,
            "val_accuracy": 1 - 0.6 / epoch,
        }
        for epoch in range(1, epochs + 1)
    ]


def test_the_table_writes_names_as_they_are():
    out = io.StringIO()
    console_text.print_summary(SUMMARY, Path("runs/a [b]"), Console(file=out, width=200))
    text = out.getvalue()
    for told in (
        "w[tmp].pth",
        "stage[a-z]+/.*",
        "folder:d/[/red]br/:heart:",
        "Report: runs/a [b]/report.md\n",
    ):
        assert told in text
    assert "parameters (2.98 %), 1 epoch " in text
    out = io.StringIO()
    console_text.print_summary(
        {**SUMMARY, "solver": "lbfgs"}, Path("r"), Console(file=out, width=200)
    )
    assert "parameters (2.98 %), fitted by L-BFGS " in out.getvalue()
    cells = [re.split(r" *[│┃] *", line)[1:-1] for line in text.splitlines() if "[red]ash" in line]
    assert cells == [["[red]ash", "1,200", "0.500", "-", "0.250"]]
    assert re.search(r"class +┃ +images ┃ +recall ┃ +precision ┃ +F1", text)
    assert "nothing" not in text
    # What is to be copied can be pasted.
    assert "jtl predict 'runs/a [b]' IMAGES..." in text


@pytest.mark.parametrize(
    ("probes", "told"),
    [
        ({}, []),  # A run finished before there were probes, resumed once more.
        ({"probe_val_accuracy": None, "probe_test_accuracy": None}, []),
        ({"probe_val_accuracy": 0.75, "probe_test_accuracy": None}, [("validation", "0.750")]),
        (
            {"probe_val_accuracy": 0.75, "probe_test_accuracy": 0.5},
            [("validation", "0.750"), ("test", "0.500")],
        ),
    ],
)
def test_the_table_has_the_linear_probes_that_there_are(probes, told):
    out = io.StringIO()
    console_text.print_summary({**SUMMARY, **probes}, Path("run"), Console(file=out, width=200))
    assert re.findall(r"linear probe \((\w+)\) +│ (\S+)", out.getvalue()) == told


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({}, "unchanged (every value compared)"),
        (
            {"mask": "full"},
            "none; BatchNorm's stored averages are unchanged (every value compared)",
        ),
        ({"frozen_leaves": 0}, "none"),
        ({"frozen_unchanged": False}, "CHANGED: this is a bug in jtl, please report it"),
    ],
)
def test_what_is_said_of_frozen_layers(changed, told):
    assert console_text.frozen_layers({**SUMMARY, **changed}).startswith(told)


def test_of_many_classes_those_recognized_worst_are_listed():
    scores = {f"c{i}": {"count": 1, "accuracy": 1, "precision": 1, "f1": i / 9} for i in range(9)}
    scores["c0"] |= {"f1": 0.99}
    out = io.StringIO()
    Console(file=out, width=80).print(console_text.class_table(scores, "test", most=3))
    text = out.getvalue()
    assert re.findall(r"c\d", text) == ["c1", "c2", "c3"]
    assert "Classes (test images): the 3 with the lowest F1 of 9" in text


def test_a_dry_run_writes_names_as_they_are():
    phase = {
        "mask": "rules:stage[a-z]+/.*=x0.1",
        "epochs": 2,
        "groups": [
            {"label": "[red]x0.1", "leaves": 1, "params": 2, "learning_rate": 1.0, "bn": "none"}
        ],
        "trainable_params": 1,
        "frozen_params": 1,
        "total_params": 2,
        "optimizer_bytes": 8,
        "cut": "stem",
        "cached_prefix": False,
        "step_flops": None,
        "forward_flops_per_image": 1.0,
    }
    figures = dict(
        model="tiny", data="folder:[a]:heart:", num_train=1, num_val=1, image_size=8, batch_size=1
    )
    out = io.StringIO()
    dry_run.print_dry_run({**figures, "phases": [phase]}, Console(file=out, width=80))
    text = out.getvalue()
    for told in ("folder:[a]:heart:", "mask rules:stage[a-z]+/.*=x0.1, 2 epochs", "[red]x0.1"):
        assert told in text


@pytest.mark.parametrize("count", [1, 2, 30])
@pytest.mark.parametrize(
    "data",
    [
        "digits",
        "folder:a/$x_{$/b",
        "folder:写真/\t\u0378",
        "folder:/" + "long-name/" * 40,
        "folder:/" + "W" * 200,
        "folder:/" + "写真" * 100,
    ],
)
def test_curves(count: int, data: str, tmp_path: Path):
    path = tmp_path / "curves.png"
    title = plots.curves_title(model="tiny", mask=SUMMARY["mask"], data=data, accuracy="0.500")
    plots.draw_curves(path, history=history(count), best_epoch=1, title=title)
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert pixels.shape == (432, 1080, 3)
    # Curves of both axes in blue, each in its half.
    blue = np.abs(pixels - (0x00, 0x72, 0xB2)).sum(-1) < 30
    assert blue[:, :540].sum() > 20
    assert blue[:, 540:].sum() > 20
    # The title ends within the image, on both sides.
    frame = np.argmax((pixels < 50).all(-1).sum(1) > 400)  # The first row that is a line.
    title = pixels[: frame - 8]
    assert (title[:, :20] > 250).all()
    assert (title[:, -20:] > 250).all()
    assert (title < 128).any()


def test_names_are_measured_without_a_warning_where_no_font_has_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr("jtl.common.fonts.fallbacks", lambda text: ())
    title = plots.curves_title(model="tiny", mask="full", data="folder:写真", accuracy="0.500")
    plots.draw_curves(tmp_path / "curves.png", history=history(2), best_epoch=1, title=title)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """The figures that a test draws; their files are empty."""
    from matplotlib.figure import Figure

    monkeypatch.chdir(tmp_path)

    figures: list[Any] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *a, **k: figures.append(figure))
    return figures


def test_curves_show_where_another_mask_begins(drawn: list[Any]):
    lines = history(6)
    for line in lines:
        line["mask"] = "head_only" if line["epoch"] < 3 or line["epoch"] > 5 else "full"
    plots.draw_curves("x.png", history=lines, best_epoch=6, title="tiny")
    for axes in drawn[0].axes:
        dashed = [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "--"]
        assert dashed == [2.5, 5.5]
        told = [text.get_text() for text in axes.get_legend().get_texts()]
        assert told == ["train", "validation", "best epoch: 6", "mask changes"]


def test_a_run_of_l_bfgs_shows_the_penalties_that_it_tried(drawn: list[Any]):
    """It has no epochs: curves would be two dots."""
    fits = [{"l2": l2, "val_accuracy": accuracy} for l2, accuracy in ((1.0, 0.5), (0.1, 0.75))]
    line = {**history(1)[0], "l2": 0.1, "path": fits}
    plots.draw_curves("x.png", history=[line], best_epoch=1, title="tiny")
    [axes] = drawn[0].axes
    curve, chosen = axes.lines
    assert curve.get_xydata().tolist() == [[1.0, 0.5], [0.1, 0.75]]
    assert chosen.get_xdata() == [0.1, 0.1]
    assert axes.get_xscale() == "log"
    # A penalty that was given: nothing was compared.
    plots.draw_curves("x.png", history=[{**line, "path": fits[:1]}], best_epoch=1, title="tiny")
    assert len(drawn[1].axes) == 2


def test_curves_show_the_metric_that_decides(drawn: list[Any]):
    lines = [{**line, "val_auroc": 0.5 + line["epoch"] / 20} for line in history(6)]
    plots.draw_curves("x.png", history=lines, best_epoch=6, title="tiny")
    loss, accuracy, decides = drawn[0].axes
    assert [axes.get_ylabel() for axes in (loss, accuracy, decides)] == [
        "loss",
        "accuracy",
        "AUROC",
    ]
    curve, _ = decides.lines  # Of validation alone, and the best epoch.
    assert list(curve.get_ydata()) == [line["val_auroc"] for line in lines]
    fits = [
        {"l2": l2, "val_accuracy": 0.9, "val_macro_f1": f1} for l2, f1 in ((1, 0.5), (0.1, 0.7))
    ]
    line = {**history(1)[0], "l2": 0.1, "path": fits}
    plots.draw_curves("x.png", history=[line], best_epoch=1, title="tiny")
    [axes] = drawn[1].axes
    assert axes.get_ylabel() == "validation macro-F1"
    assert list(axes.lines[0].get_ydata()) == [0.5, 0.7]


@pytest.mark.parametrize("accuracies", [(0.8, 1.0), (1.0, 1.0), (0.0, 0.0), (0.0, 1.0)])
def test_curves_have_no_ticks_where_no_values_are(drawn: list[Any], accuracies):
    lines = [
        {**line, "train_accuracy": low, "val_accuracy": high, "train_loss": 0.0, "val_loss": 5.0}
        for line, (low, high) in zip(history(40), [accuracies, accuracies[::-1]] * 20, strict=True)
    ]
    plots.draw_curves("x.png", history=lines, best_epoch=6, title="tiny")
    plots.draw_comparison("x.png", runs=[("a", lines), ("b", lines[:3])])
    for loss, accuracy in (figure.axes for figure in drawn):
        for axes in (loss, accuracy):
            assert _shown(axes.xaxis)[0] >= 1
            assert _shown(axes.xaxis)[-1] <= 40
            assert _shown(axes.yaxis)[0] >= 0
            low, high = axes.get_ylim()
            for line in axes.lines[:2]:
                assert low < min(line.get_ydata()) <= max(line.get_ydata()) < high
        assert _shown(accuracy.yaxis)[-1] <= 1 + 1e-9


def _shown(axis: Any) -> list[float]:
    """The ticks that can be seen."""
    low, high = axis.get_view_interval()
    return [tick for tick in axis.get_majorticklocs() if low <= tick <= high]


def test_a_reliability_diagram_counts_its_images(drawn: list[Any]):
    bins = [
        {"from": 0.4, "to": 0.6, "count": 2, "confidence": 0.5, "accuracy": 1.0},
        {"from": 0.8, "to": 1.0, "count": 1200, "confidence": 0.9, "accuracy": 0.8},
    ]
    evaluation_plots.draw_reliability("x.png", bins=bins, error=0.1, title="tiny")
    above, below = drawn[0].axes
    assert [text.get_text() for text in below.texts] == ["2", "1,200"]
    (dots,) = (line for line in above.lines if line.get_marker() == "o")
    assert list(dots.get_ydata()) == [1.0, 0.8]
    assert not dots.get_clip_on()  # The first lies on the frame.


def test_one_epoch_has_one_tick(tmp_path: Path, drawn: list[Any]):
    for count in (1, 4):
        path = tmp_path / "curves.png"
        plots.draw_curves(path, history=history(count), best_epoch=1, title="tiny")
    one, four = ([list(axes.get_xticks()) for axes in figure.axes] for figure in drawn)
    assert one == [[1], [1]]
    assert all(tick == int(tick) for ticks in four for tick in ticks)
    assert all({1, 2, 3, 4} <= set(ticks) for ticks in four)


def test_a_long_path_loses_its_middle():
    data = "folder:/start/" + "x" * 500 + "/end"
    title = plots.curves_title(model="tiny", mask="full", data=data, accuracy="0.500")
    assert all(len(line) <= 110 for line in title.splitlines())
    assert title.count("\n") == 1
    assert "folder:/start/" in title
    assert title.endswith("/end")
    assert "validation accuracy 0.500" in title


@pytest.mark.usefixtures("real_plots")
def test_a_process_beside_draws_what_this_one_would(tmp_path: Path, monkeypatch):
    curves: dict[str, Any] = {"history": history(3), "best_epoch": 2, "title": "tiny"}
    with plot_worker.PlotWorker() as here:
        here.draw("draw_curves", tmp_path / "here.png", **curves)
    monkeypatch.setattr(plots, "draw_curves", None)
    with plot_worker.PlotWorker(background=True) as beside:
        beside.draw("draw_curves", tmp_path / "beside.png", **curves)
    assert (tmp_path / "beside.png").read_bytes() == (tmp_path / "here.png").read_bytes()


ISOLATED = """
import sys
from pathlib import Path
from jtl.runs import plot_worker
plot_worker._MAIN = "import json, sys; open('flags', 'w').write(repr(sys.flags))"
with plot_worker.PlotWorker(background=True) as beside:
    beside.start()
print(repr(sys.flags))
"""


@pytest.mark.process
@pytest.mark.parametrize("options", [["-P"], ["-I"], ["-E", "-s", "-P"]])
def test_a_process_beside_is_as_isolated_as_this_one(tmp_path: Path, options):
    # What lies in the working folder is imported by a Python that is not.
    (tmp_path / "json.py").write_text("raise SystemExit('imported from the working folder')")
    command = [sys.executable, *options, "-c", ISOLATED]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "flags").read_text() == ran.stdout.strip()


@pytest.mark.usefixtures("real_plots")
def test_without_the_process_beside_this_one_draws(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(plot_worker, "_MAIN", "raise SystemExit('no matplotlib here')")
    path = tmp_path / "curves.png"
    with plot_worker.PlotWorker(background=True) as beside:
        beside.draw("draw_curves", path, history=history(3), best_epoch=2, title="tiny")
    assert path.stat().st_size > 1000


@pytest.mark.usefixtures("real_plots")
def test_a_image_that_cannot_be_drawn_is_told(tmp_path: Path):
    path = tmp_path / "missing" / "curves.png"
    with pytest.raises(FileNotFoundError), plot_worker.PlotWorker(background=True) as beside:
        beside.draw("draw_curves", path, history=history(3), best_epoch=2, title="tiny")


def test_a_run_that_fails_ends_its_painter(tmp_path: Path):
    beside = plot_worker.PlotWorker(background=True)
    beside.start()
    beside.draw("draw_curves", tmp_path / "c.png", history=[], best_epoch=2, title="tiny")
    with pytest.raises(ZeroDivisionError), beside:
        raise ZeroDivisionError
    assert beside._process is not None
    assert beside._process.returncode is not None
