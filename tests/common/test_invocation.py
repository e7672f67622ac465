"""Commands in messages are spelled as the process was started."""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import SimpleNamespace

import pytest

from jtl.cli import app, commands
from jtl.common import invocation
from jtl.common.errors import UserError
from jtl.runs import console_text
from support.commands import main


def started(monkeypatch: pytest.MonkeyPatch, module: str | None) -> None:
    """As if this process ran a module, or (None) a script."""
    spec = None if module is None else ModuleSpec(module, None)
    monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace(__spec__=spec))


FORMS = [
    (None, "jtl train", "jtl weights"),
    ("pytest.__main__", "jtl train", "jtl weights"),
    ("jtl.evaluate.__main__", "python -m jtl.train", "python -m weights_convert"),
    ("weights_convert.__main__", "python -m jtl.train", "python -m weights_convert"),
    ("jtl.__main__", "python -m jtl train", "python -m jtl weights"),
]


@pytest.mark.parametrize(("module", "train", "weights"), FORMS)
def test_a_command_is_named_as_it_was_typed(monkeypatch, module, train, weights):
    started(monkeypatch, module)
    assert (invocation.command("train"), invocation.command("weights")) == (train, weights)
    text = "`jtl train` of jtl, jtl weights inspect, my-jtl train, a/jtl train, jtl trains"
    assert invocation.as_typed(text) == (
        f"`{train}` of jtl, {weights} inspect, my-jtl train, a/jtl train, jtl trains"
    )
    assert invocation.as_typed(invocation.as_typed(text)) == invocation.as_typed(text)


@pytest.mark.parametrize(("module", "train", "weights"), FORMS[1:3])
def test_help_errors_and_closing_lines_follow(
    monkeypatch, capsys, tiny_run, module, train, weights
):
    from jtl.common.progress import PlainConsole

    started(monkeypatch, module)
    assert main("train", "--help") == 0
    assert f"\n  {train} --data my-images --run-dir runs/mine\n" in capsys.readouterr().out

    def refused() -> int:
        raise UserError("use `jtl weights`")

    assert app.guarded(refused) == 2
    assert capsys.readouterr().err == f"error: use `{weights}`\n"
    console_text.print_summary(tiny_run.summary, tiny_run.folder, PlainConsole())
    evaluate = train.replace("train", "evaluate")
    assert f"\n  {evaluate} {tiny_run.folder}\n" in capsys.readouterr().out


def test_every_command_that_runs_as_a_module_is_in_the_list():
    assert set(invocation.MODULES) == set(commands.COMMANDS) - {"docs"}
    for module in invocation.MODULES.values():
        assert importlib.util.find_spec(f"{module}.__main__") is not None
