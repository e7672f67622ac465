"""Progress: what a terminal of 80 columns and a log file show of it."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from jtl.common import progress
from jtl.common.progress import Display, Pace, PlainConsole
from jtl.runs.console_text import epoch_header, epoch_note, epoch_row

NOTE = epoch_note(
    {"train_loss": 12.345, "val_loss": 0.5, "val_accuracy": 1.0, "images_per_second": 128_939.4}
)


class Clock:
    """Time that passes when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress.time, "perf_counter", clock)
    return clock


def paced(steps: list[tuple[float, int]], total: int = 100) -> Pace:
    """A pace with its clock after steps of (seconds, units)."""
    clock = Clock()
    pace = Pace(total, clock)
    for seconds, units in steps:
        clock.now += seconds
        pace.advance(units)
    return pace


@pytest.mark.parametrize(
    ("steps", "left"),
    [
        ([], "-:--:--"),
        # However long a step is, the first one tells something.
        ([(40.0, 1)], "1:06:00"),
        # The first one compiles, and is left out as soon as there is another.
        ([(40.0, 1), (10.0, 1)], "0:16:20"),
        ([(40.0, 1), (10.0, 1), (20.0, 1)], "0:24:15"),
        # Epochs of a run that is resumed took no time now.
        ([(0.0, 50)], "-:--:--"),
        ([(0.0, 50), (40.0, 1), (10.0, 1)], "0:08:00"),
        ([(1.0, 50), (1.0, 50)], "0:00:00"),
    ],
)
def test_time_left(steps: list[tuple[float, int]], left: str):
    assert paced(steps).left() == left


def test_time_left_falls_between_steps():
    clock = Clock()
    pace = Pace(3, clock)
    clock.now += 100
    pace.advance(1)
    assert pace.left() == "0:03:20"
    clock.now += 30
    assert pace.left() == "0:02:50"
    clock.now += 1000
    assert pace.left() == "0:00:00"


def test_rate_leaves_out_what_was_done_before():
    assert paced([(0.0, 50), (10.0, 5)]).rate() == 0.5


def test_the_rate_has_the_right_plural():
    assert paced([(0.0, 0), (10.0, 10)]).shown("images") == "1 image/s"
    assert paced([(0.0, 0), (10.0, 20)]).shown("images") == "2 images/s"
    assert paced([(0.0, 0), (30.0, 2)]).shown("folds") == "0.07 folds/s"
    assert paced([(0.0, 0), (30.0, 0)]).shown("folds") == "0 folds/s"


@pytest.mark.parametrize(
    ("name", "unit"), [("training", "epochs"), ("features of validation images", "images")]
)
def test_a_terminal_of_80_columns_shows_everything(name: str, unit: str, clock: Clock):
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, color_system=None)
    with Display(console).track(name, 100_000, unit) as advance:
        clock.now += 45
        advance(50_000, NOTE)
    # The last image of the display, without the cursor's movements.
    lines = re.sub(r"\x1b\[[0-9?]*[A-Za-z]", "\n", out.getvalue()).replace("\r", "\n").split("\n")
    first, second = [line for line in lines if line.strip()][-2:]
    assert re.fullmatch(rf"{name} ━{{6,}}.* 50000/100000 {unit} 0:00:45 left", first.strip())
    assert second.strip() == NOTE
    assert max(map(len, lines)) <= 80


def test_a_log_says_how_long_it_takes_yet(clock: Clock):
    out = io.StringIO()
    with Display(Console(file=out, width=80)).track("training", 4, "epochs") as advance:
        for _ in range(4):
            clock.now += 60
            advance(1, NOTE)
    lines = out.getvalue().splitlines()
    assert lines[0] == f"training: 1/4 epochs, {NOTE}, 0:03:00 left"
    assert lines[2] == f"training: 3/4 epochs, {NOTE}, 0:01:00 left"
    assert lines[3] == f"training: 4/4 epochs, {NOTE}"


def test_a_log_is_silent_between():
    out = io.StringIO()
    with Display(Console(file=out, width=80)).track("training", 400, "epochs") as advance:
        for _ in range(400):
            advance(1)
    assert len(out.getvalue().splitlines()) == 1


def test_names_are_written_as_they_are():
    out = io.StringIO()
    for console in (PlainConsole(file=out), Console(file=out)):
        Display(console).message("d/[/red]br [bold]x[/bold] :heart: " + "long " * 30)
    text = "d/[/red]br [bold]x[/bold] :heart: " + "long " * 30
    assert [line.strip() for line in out.getvalue().splitlines()] == [text.strip()] * 2


def test_a_terminal_keeps_a_row_for_each_epoch(clock: Clock):
    lines = [
        {"epoch": epoch, "train_loss": 0.5, "val_loss": 0.4, "val_accuracy": accuracy,
         "images_per_second": 12_345.6}
        for epoch, accuracy in ((1, 0.8), (2, 0.75), (3, 0.9))
    ]  # fmt: skip
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, color_system=None)
    with Display(console).track("training", 3, "epochs", header=epoch_header()) as advance:
        for line, best in zip(lines, (True, False, True), strict=True):
            clock.now += 60
            advance(1, epoch_note(line), epoch_row(line, 3, best=best))
    shown = re.sub(r"\x1b\[[0-9?]*[A-Za-z]", "\n", out.getvalue()).replace("\r", "\n").split("\n")
    table = [line.rstrip() for line in shown if line.strip() and "training" not in line]
    assert table == [
        "             train   validation   validation",
        "    epoch     loss         loss     accuracy   images/s",
        "   1/3       0.500        0.400        0.800     12,346  best so far",
        "   2/3       0.500        0.400        0.750     12,346",
        "   3/3       0.500        0.400        0.900     12,346  best so far",
    ]
