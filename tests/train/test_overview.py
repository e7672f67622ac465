"""What is told before training starts: normalization by group, and what a dry run counts."""

from __future__ import annotations

import dataclasses
import io
import json
import re

import pytest
from rich.console import Console

from jtl.common.progress import Display
from jtl.config.options import TrainConfig
from jtl.train import dry_run
from jtl.train.checks import checked
from jtl.train.fit import fit
from jtl.train.setup import prepare_setup
from support import tiny


def test_the_first_lines_are_for_a_newcomer(tiny_data, tmp_path):
    out = io.StringIO()
    display = Display(Console(file=out, width=200))
    fit(tiny.config(tiny_data, tmp_path / "run", mask="last_stage", bn="batch"), display)
    lines = out.getvalue().splitlines()
    what = next(i for i, line in enumerate(lines) if line.startswith("Training tiny on "))
    assert lines[what].endswith(": 18 training and 9 validation images, 3 classes")
    assert lines[what + 1].startswith("mask last_stage for 2 epochs; 8 pixels; weights ")
    assert (
        lines[what + 2]
        == "Normalization layers (BatchNorm) use the averages of each batch (--bn batch)"
    )
    # What only those ask for who know the word.
    assert not any(word in out.getvalue() for word in ("cut", "leaves", "running averages"))


def test_a_dry_run_counts_the_forward_and_no_steps_of_a_solver(tiny_data, tmp_path):
    config = tiny.config(tiny_data, None, mask="full")
    stepping = dry_run.dry_run(prepare_setup(checked(config), tiny.quiet()))
    # A step takes about three times a forward, per image of a batch of four.
    forward = 4 * stepping["forward_flops_per_image"]
    assert 1.5 * forward < stepping["step_flops"] < 4.5 * forward
    options = TrainConfig(solver="lbfgs")
    solving = dry_run.dry_run(
        prepare_setup(checked(dataclasses.replace(config, train=options)), tiny.quiet())
    )
    assert solving["optimizer_bytes"] == 0
    assert solving["step_flops"] is None
    assert {row["learning_rate"] for row in solving["groups"]} == {None}
    assert "NaN" not in json.dumps(solving)
    out = io.StringIO()
    dry_run.print_dry_run(solving, Console(file=out, width=100))
    assert "GFLOP per image" in out.getvalue()
    assert "epochs of" not in out.getvalue()
    out = io.StringIO()
    dry_run.print_dry_run(stepping, Console(file=out, width=100))
    assert re.search(
        r"\n  time: about (under )?[\d.]+ s: 2 epochs of (under )?[\d.]+ s\n  not included: ",
        out.getvalue(),
    )


@pytest.mark.parametrize(
    ("figures", "told"),
    [
        ({}, "time: about 118 s: 57 s for the frozen layers (once) and 10 epochs of 6.1 s"),
        ({"cache_kept": True}, "time: about 61 s: 10 epochs of 6.1 s"),
        ({"step_flops": None}, "time: about 57 s for the frozen layers (once) and seconds for the"),
        ({"step_flops": None, "cache_kept": True}, "time: seconds for the head"),
    ],
)
def test_a_dry_run_says_of_what_its_time_is_the_sum(figures, told):
    phase = {"cached_prefix": True, "cache_kept": False, "estimated_prefix_seconds": 57}
    phase |= {"step_flops": 1, "estimated_epoch_seconds": 6.1, "epochs": 10}
    time, more = dry_run._time(phase | figures)
    assert time.startswith(told)
    assert "compiling" in more
