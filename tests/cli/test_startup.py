"""What commands import before they have something to compute, and the program `jtl`."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from jtl.cli import commands

SLOW = ("jax", "flax", "optax", "orbax", "scipy", "matplotlib")
LIGHT = [
    *([name, "--help"] for name in commands.COMMANDS),
    *(["weights", name, "--help"] for name in ("convert", "list", "inspect", "export")),
    ["--help"],
    ["--version"],
    ["weights", "list"],
    ["cache", "list"],
    ["compare", "run"],
    ["train", "--maks", "full"],
]
PROGRAM = f"""
import sys
from jtl.cli import commands
slow = set({SLOW})
for words in {LIGHT}:
    sys.argv = ["jtl", *words]
    try:
        commands.main()
    except SystemExit as ended:
        assert ended.code == (2 if "--maks" in words else 0), (words, ended.code)
    assert not slow & sys.modules.keys(), (words, slow & sys.modules.keys())
"""


def test_what_computes_nothing_imports_no_jax(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"train": {"lr": 1.0}}))
    line = {"epoch": 1, "val_accuracy": 0.5, "val_loss": 1.0, "elapsed": 1.0}
    (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    monkeypatch.setenv("JTL_CACHE", str(tmp_path / "cache"))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"jtl {metadata.version('jtl')}" in done.stdout.splitlines()
    assert "resnet50                25.6 M " in done.stdout
    assert "Did you mean '--mask'?" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["trian"], 2, "error: there is no command 'trian'. Did you mean 'train'?"),
        (["weights", "lst"], 2, "error: there is no command 'lst'. Did you mean 'list'?"),
        (["cache", "lsit"], 2, "Did you mean 'list'?"),
        (["data", "chekc", "digits"], 2, "Did you mean 'check'?"),
        ([], 2, "usage: jtl COMMAND"),
    ],
)
def test_a_mistyped_command_gets_a_suggestion(words, code, message, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["jtl", *words])
    monkeypatch.setattr(commands.app, "quiet_libraries", lambda: None)
    with pytest.raises(SystemExit) as ended:
        commands.main()
    captured = capsys.readouterr()
    assert (ended.value.code, captured.out) == (code, "")
    assert message in captured.err


@pytest.mark.parametrize(
    ("words", "begins"),
    [
        (["help"], "usage: jtl COMMAND"),
        (["help", "cache"], "usage: jtl cache list|clear"),
        (["version"], "jtl "),
    ],
)
def test_help_and_version_are_words_too(words, begins, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["jtl", *words])
    monkeypatch.setattr(commands.app, "quiet_libraries", lambda: None)
    with pytest.raises(SystemExit) as ended:
        commands.main()
    captured = capsys.readouterr()
    assert (ended.value.code, captured.err) == (0, "")
    assert captured.out.startswith(begins)


def test_the_package_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "jtl", "cache"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr == (
        "error: python -m jtl cache needs list or clear. For example:\n"
        "  python -m jtl cache list\nSee python -m jtl cache --help.\n"
    )


def test_a_module_runs_the_command_of_its_name():
    for name in ("train", "data", "cache"):
        done = subprocess.run(
            [sys.executable, "-m", f"jtl.{name}", "--help"],
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        action = {"data": "check|clean ", "cache": "list|clear "}.get(name, "")
        assert done.stdout.startswith(f"usage: python -m jtl.{name} {action}[OPTIONS]")
        assert f"\n  python -m jtl.{name} " in done.stdout
