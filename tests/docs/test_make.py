"""How the Makefile installs: by uv, and by pip where uv cannot."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from support.paths import ROOT

pytestmark = pytest.mark.process


def write_program(path: Path, told: Path, *, settings: str = "", code: int = 0) -> None:
    """A program that notes how it is called; asked for pip's settings, it tells these."""
    path.write_text(
        f'#!/bin/sh\ncase "$*" in "-m pip config list") echo "{settings}"; exit;; esac\n'
        f'echo {path.name} "$@" >>"{told}"\nexit {code}\n'
    )
    path.chmod(0o755)


def made(folder: Path, target: str, settings: str = "") -> tuple[list[str], str]:
    """What is called to make a target in a virtual environment, and what make says."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    told = folder / "told"
    write_program(folder / "bin" / "python", told, settings=settings)
    # Jobs and flags of the make that runs the tests are none of these.
    ran = subprocess.run(
        ["make", f"VENV={folder}", f"{folder}/{target}"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    return told.read_text().splitlines(), ran.stderr


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    folder = tmp_path / "venv"
    (folder / "bin").mkdir(parents=True)
    return folder


@pytest.mark.parametrize("target", [".demo", ".docs", ".test"])
def test_uv_installs(venv, target):
    write_program(venv / "bin" / "uv", venv / "told")
    called, err = made(venv, target)
    assert called == [f"uv pip install --quiet --python {venv}/bin/python -e .[{target[1:]}]"]
    assert err == ""
    # The larger ones hold the smaller.
    stamps = [".demo", ".docs", ".test"]
    assert {p.name for p in venv.glob(".*")} == set(stamps[: stamps.index(target) + 1])


@pytest.mark.parametrize("missing", [False, True])
def test_where_uv_fails_pip_installs(venv, missing):
    if not missing:
        write_program(venv / "bin" / "uv", venv / "told", code=2)
    called, err = made(venv, ".demo")
    assert called[-1:] == ["python -m pip install --quiet -e .[demo]"]
    assert len(called) == 2 - missing
    assert "uv could not install -e '.[demo]', so pip does" in err


@pytest.mark.parametrize(
    ("settings", "program"),
    [
        ("global.index-url='https://mirror.example/simple'", "python"),
        (":env:.no-index='1'", "python"),
        ("global.extra-index-url='https://mirror.example/simple'", "uv"),
    ],
)
def test_an_index_in_pip_s_settings_is_used(venv, settings, program):
    write_program(venv / "bin" / "uv", venv / "told")
    [called], err = made(venv, ".demo", settings=settings)
    assert called.startswith(program)
    assert ("which uv does not read" in err) == (program == "python")
