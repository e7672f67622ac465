"""`jtl docs`: what `--help` points to can be read wherever jtl is installed."""

from __future__ import annotations

import re
import sysconfig
from pathlib import Path

import pytest

from jtl.cli import app, commands, docs
from support.paths import TESTS


def shown(*args: str) -> int:
    return app.main(docs.Options, docs.command, prog="jtl docs", args=list(args))


def test_the_list_has_every_page(capsys):
    assert shown() == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    pages = {path.stem for path in (TESTS.parent / "docs").glob("*.md")} - {"index"}
    assert listed == sorted(pages)


@pytest.mark.parametrize("name", ["freezing", "docs/freezing.md", "freezing.md"])
def test_a_page_is_shown_as_it_is(capsys, name):
    assert shown(name) == 0
    assert capsys.readouterr().out == (TESTS.parent / "docs/freezing.md").read_text("utf-8")


def test_a_mistyped_page_gets_a_suggestion(capsys):
    assert shown("freezin") == 2
    assert "Did you mean 'freezing'?" in capsys.readouterr().err


def test_an_installed_copy_is_found(tmp_path, monkeypatch, capsys):
    pages = tmp_path / "share" / "doc" / "jtl"
    pages.mkdir(parents=True)
    (pages / "freezing.md").write_text("# As installed\n", "utf-8")
    monkeypatch.setattr(docs, "__file__", str(tmp_path / "lib" / "jtl" / "cli" / "docs.py"))
    monkeypatch.setattr(sysconfig, "get_path", lambda name: {"data": str(tmp_path)}[name])
    assert shown() == 0
    assert capsys.readouterr().out.split(maxsplit=1) == ["freezing", "As installed\n"]
    (pages / "freezing.md").unlink()
    assert shown() == 2
    assert "the documentation is not installed" in capsys.readouterr().err


def test_help_points_to_pages_that_are_there():
    pointed = set()
    for command in commands.COMMANDS.values():
        path = Path(TESTS.parent, *command.module.split(".")).with_suffix(".py")
        pointed |= set(re.findall(r"docs/([\w-]+)\.md", path.read_text("utf-8")))
    for path in (TESTS.parent / "jtl" / "config").glob("*.py"):
        pointed |= set(re.findall(r"docs/([\w-]+)\.md", path.read_text("utf-8")))
    assert "freezing" in pointed
    assert all((TESTS.parent / "docs" / f"{name}.md").is_file() for name in pointed)


def test_the_site_has_every_page():
    index = (TESTS.parent / "docs" / "index.md").read_text("utf-8").splitlines()
    docs_folder = TESTS.parent / "docs"
    pages = [*docs_folder.glob("*.md"), *docs_folder.glob("api/*.md"), *docs_folder.glob("*.ipynb")]
    names = {path.relative_to(docs_folder).with_suffix("").as_posix() for path in pages}
    assert names - {"index"} <= set(index)
