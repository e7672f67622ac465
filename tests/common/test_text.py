"""Names of other people's making do no harm in a terminal, in Markdown or in a spreadsheet."""

from __future__ import annotations

import io

import pytest
from rich.table import Table
from rich.text import Text

from jtl.cli import app
from jtl.common import text
from jtl.common.output import print_json
from jtl.common.progress import Display, PlainConsole

EVIL = "\x1b]0;owned\x07\x1b[2Jcat\x9b31m\x7f"
SAFE = "\ufffd]0;owned\ufffd\ufffd[2Jcat\ufffd31m\ufffd"


def test_no_control_character_reaches_a_console():
    console = PlainConsole(file=io.StringIO(), force_terminal=True, width=80)
    Display(console).message(EVIL)
    table = Table()
    table.add_column("class")
    table.add_row(Text(EVIL))
    console.print(table)
    said = console.file.getvalue()
    assert said.count("cat") == 2
    assert not any(c in said for c in "\x07\x7f\x9b")
    assert "\x1b]" not in said
    assert "\x1b[2J" not in said


def test_a_bar_is_still_drawn_and_its_names_are_safe():
    console = PlainConsole(file=io.StringIO(), force_terminal=True, width=80)
    with Display(console).track(EVIL, 2, "images") as advance:
        advance(2)
    said = console.file.getvalue()
    assert "2/2" in said
    assert "\x1b[2K" in said  # Its own commands.
    assert "\x1b[2J" not in said


def test_errors_and_json_are_safe(capsys):
    app._say(EVIL)
    print_json({"name": EVIL}, indent=None)
    out, err = capsys.readouterr()
    assert err == SAFE + "\n"
    assert out == '{"name": "\\u001b]0;owned\\u0007\\u001b[2Jcat\\u009b31m\\u007f"}\n'


def test_lines_and_tabs_stay():
    assert text.for_terminal("a\tb\nc é 猫") == "a\tb\nc é 猫"


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-cmd", "@SUM(A1)", "\t=1"])
def test_formulas_become_text(cell):
    assert text.for_spreadsheet(cell) == "'" + cell
    assert text.for_spreadsheet("cat" + cell) == "cat" + cell


def test_control_characters_do_nothing_in_a_table():
    # Some spreadsheets take a line break before a formula for none.
    assert text.for_spreadsheet("\r=1") == "'\ufffd=1"
    assert text.for_spreadsheet("\x1b[31mred") == "\ufffd[31mred"
    assert text.for_markdown("\x1b[31m") == "\ufffd\\[31m"
    assert text.for_spreadsheet("two\nlines") == "two\nlines"


def test_markup_becomes_text():
    told = "![x](http://a) <script>\n# `y` | z"
    assert text.for_markdown(told) == r"\!\[x\](http://a) \<script\> \# \`y\` \| z"


def test_long_names_stay_apart():
    left, right = (
        "Parus_major_left_side_of_the_head_2021",
        "Parus_major_right_side_of_the_head_2021",
    )
    short = text.shortened_apart(["ant", left, right, left], 20)
    assert short[0] == "ant"
    assert short[1] == short[3] != short[2]
    assert "left" in short[1]
    assert "right" in short[2]
    assert max(map(len, short)) <= 20
    # Where the ends differ, they are what is shown.
    assert text.shortened_apart(["Bombus_terrestris_audax"], 16) == ["Bombus...s_audax"]
