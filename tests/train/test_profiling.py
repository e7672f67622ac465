"""`--profile`: what is in a trace, and that a training is none the worse for it."""

from __future__ import annotations

import dataclasses
import gzip
import json
from pathlib import Path
from typing import Any

import jax
import pytest

from jtl.common.errors import UserError
from jtl.config.options import Config, RunConfig, TrainConfig
from jtl.runs.checkpoints import reading
from jtl.train import profiling
from jtl.train.checks import checked
from jtl.train.fit import fit
from support import tiny


def profiled(config: Config, **run: Any) -> Config:
    return dataclasses.replace(config, run=dataclasses.replace(config.run, profile=True, **run))


def steps_in(folder: Path) -> tuple[set[str], list[int]]:
    """The XLA programs whose operations are in a trace, and the numbers of its training steps."""
    # jaxlib 0.12 sometimes crashes Python 3.13 when it reads the other form, xplane.pb.
    [path] = folder.glob("plugins/profile/*/perfetto_trace.json.gz")
    programs, numbers = set(), []
    for event in json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]:
        stats = event.get("args", {})
        if "hlo_op" in stats:
            programs.add(stats["hlo_module"])
        if event.get("name") == "train" and "step_num" in stats:
            numbers.append(int(stats["step_num"]))
    return programs, sorted(numbers)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "program", "numbers"),
    [
        (dict(mask="head_only"), "jit_train_epoch", []),  # One program for an epoch.
        (dict(mask="last_stage"), "jit__train_step", [1, 2, 3]),  # From features.
        (dict(mask="full", batch_size=2), "jit__train_step", [1, 2, 3, 4, 5]),  # Of nine.
    ],
    ids=lambda value: value["mask"] if isinstance(value, dict) else "",
)
def test_a_trace_holds_steps_and_the_training_is_the_same(
    options, program, numbers, tiny_data, tmp_path, capsys
):
    options = {"batch_size": 6, **options}
    plain = fit(tiny.config(tiny_data, tmp_path / "plain", **options), tiny.quiet())
    run = fit(profiled(tiny.config(tiny_data, tmp_path / "traced", **options)))
    folder = run.folder / "profile"
    told = capsys.readouterr().err
    count = len(numbers) or 3
    assert f"Saved a trace of {count} steps with mask {options['mask']}" in told
    assert str(folder) in told.replace("\n", "")
    programs, found = steps_in(folder)
    assert program in {name.partition("(")[0] for name in programs}
    assert found == numbers
    assert len(list(folder.glob("plugins/profile/*/*.xplane.pb"))) == 1  # For TensorBoard.
    for key in ("val_loss", "val_accuracy"):
        assert [line[key] for line in run.history] == [line[key] for line in plain.history]
    left, right = (
        jax.tree.leaves(reading.restore(each.folder, "latest").variables) for each in (plain, run)
    )
    assert all(a.tobytes() == b.tobytes() for a, b in zip(left, right, strict=True))


@pytest.mark.slow
def test_every_phase_has_a_trace_of_its_own(tiny_data, tmp_path):
    config = tiny.config(tiny_data, tmp_path / "run", phases="1,head_only;1,full", epochs=None)
    fit(profiled(config), tiny.quiet())
    for phase, program in (("phase1", "jit_train_epoch"), ("phase2", "jit__train_step")):
        programs, _ = steps_in(tmp_path / "run" / "profile" / phase)
        assert any(name.startswith(program) for name in programs)


def test_a_run_that_fails_leaves_no_trace(tiny_data, tmp_path, monkeypatch):
    original = profiling.trace

    def fail(*given: Any) -> int:
        original(*given)
        raise UserError("stopped")

    monkeypatch.setattr(profiling, "trace", fail)
    with pytest.raises(UserError, match="stopped"):
        fit(profiled(tiny.config(tiny_data, tmp_path / "run")), tiny.quiet())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Config(run=RunConfig(profile=True, dry_run=True)), r"^--profile needs a real training"),
        (Config(run=RunConfig(profile=True, find_lr=True)), r"^--profile needs a real training"),
        (
            Config(train=TrainConfig(solver="lbfgs"), run=RunConfig(profile=True)),
            r"^--profile: no effect with --solver lbfgs",
        ),
    ],
)
def test_refusals(config, message):
    with pytest.raises(UserError, match=message):
        checked(config)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["start_trace", "stop_trace"])
def test_a_profiler_that_fails_costs_no_training(which, tiny_data, tmp_path, monkeypatch, capsys):
    real = getattr(jax.profiler, which)

    def fail(*args, **options):
        if which == "stop_trace":
            real()
        raise RuntimeError("Only one profile may be run at a time.\nmore")

    plain = fit(tiny.config(tiny_data, tmp_path / "plain"), tiny.quiet())
    monkeypatch.setattr(jax.profiler, which, fail)
    run = fit(profiled(tiny.config(tiny_data, tmp_path / "traced")))
    said = capsys.readouterr().err.replace("\n", "")
    assert "profile: could not record a trace; training continues (Only one profile may be" in said
    keys = ("train_loss", "val_loss", "val_accuracy")
    assert [[e[k] for k in keys] for e in run.history] == [
        [e[k] for k in keys] for e in plain.history
    ]
