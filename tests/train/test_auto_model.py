"""A run whose backbone was left to jtl."""

from __future__ import annotations

import dataclasses
import json

import pytest

from jtl import weights
from jtl.common.errors import UserError
from jtl.config.model import ModelConfig
from jtl.distributed import processes
from jtl.train import command
from jtl.train.auto_model import with_model
from jtl.train.fit import fit
from support import tiny


@pytest.fixture
def chosen(tiny_data, monkeypatch):
    """`tiny`, whatever is asked for, with weights of its own; gives what was."""
    asked: list[str] = []
    resolve, own = weights.resolve, str(tiny_data.parent / "weights")
    monkeypatch.setattr(weights, "resolve", lambda _, *args, **named: resolve(own, *args, **named))

    def choose(word, progress):
        asked.append(word)
        return "tiny"

    monkeypatch.setattr(weights, "choose", choose)
    return asked


def configured(data, folder, model="auto:fast", **train):
    config = tiny.config(data, folder, **train)
    run = dataclasses.replace(config.run, given=(*config.run.given, "model"))
    return dataclasses.replace(config, model=ModelConfig(model=model), run=run)


@pytest.mark.slow
def test_a_run_keeps_what_was_chosen(tiny_data, tmp_path, monkeypatch, chosen):
    config = configured(tiny_data, tmp_path / "run", epochs=2)
    tiny.fit_until(1, config, monkeypatch)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["model"]["model"] == "tiny"
    # The same command goes on with it, and chooses no other.
    monkeypatch.setattr(weights, "choose", None)
    again = dataclasses.replace(config, run=dataclasses.replace(config.run, resume="must"))
    assert len(fit(again, tiny.quiet()).history) == 2
    named = dataclasses.replace(again, model=ModelConfig(model="resnet18"))
    with pytest.raises(UserError, match=r"--model resnet18 \(the run has tiny\)"):
        fit(named, tiny.quiet())


@pytest.mark.slow
def test_commands_that_train_no_single_run_choose_too(tiny_data, tmp_path, monkeypatch, chosen):
    config = configured(tiny_data, None)
    command.command(dataclasses.replace(config, run=dataclasses.replace(config.run, dry_run=True)))
    assert chosen == ["auto:fast"]
    series = configured(tiny_data, tmp_path / "seeds", epochs=1)
    series = dataclasses.replace(series, run=dataclasses.replace(series.run, seeds=2))
    command.command(series, background_plots=False)
    assert chosen == ["auto:fast"] * 2
    again = dataclasses.replace(series, run=dataclasses.replace(series.run, resume="must"))
    command.command(again, background_plots=False)
    assert chosen == ["auto:fast"] * 2  # As the runs that are there.


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"weights": "timm:resnet50.a1_in1k"}, "--weights"),
        ({"truncate_at": "stage3"}, "--truncate-at"),
        ({"aux_head": True}, "--aux-head"),
    ],
)
def test_what_says_something_of_one_network_is_refused(tiny_data, chosen, options, flag):
    config = tiny.config(tiny_data, None)
    config = dataclasses.replace(config, model=ModelConfig(model="auto:best", **options))
    with pytest.raises(UserError, match=f"{flag} says something of one network"):
        with_model(config, tiny.quiet())
    assert chosen == []


def test_several_processes_name_their_model(tiny_data, chosen, monkeypatch):
    monkeypatch.setattr(processes, "is_distributed", lambda: True)
    with pytest.raises(UserError, match=r"several processes train\. Name the model"):
        with_model(configured(tiny_data, None), tiny.quiet())


def test_a_name_is_left_as_it_is(tiny_data, chosen):
    config = tiny.config(tiny_data, None)
    assert with_model(config, tiny.quiet()) is config
    assert chosen == []
