"""Names for people of ImageNet's classes, from the files that come with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jtl.data import command as check_command
from jtl.data.class_names import with_title
from jtl.data.sources.registry import find, load
from jtl.predict.command import _print
from jtl.predict.predictions import Prediction
from jtl.runs.files import SUMMARY, class_titles
from support.data_files import grown, noise

NUMBERS = ["n01440764", "n01443537", "n02123045"]
WORDS = ["tench, Tinca tinca", "goldfish, Carassius auratus", "tabby, tabby cat"]
TITLES = dict(zip(NUMBERS, WORDS, strict=True))
SHORT = {number: words.split(",")[0] for number, words in TITLES.items()}
INDEX = {str(n): [number, SHORT[number].replace(" ", "_")] for n, number in enumerate(NUMBERS)}
FILES = {
    "LOC_synset_mapping.txt": "\n".join(f"{n} {words}" for n, words in TITLES.items()),
    "synset_words.txt": "\n".join(f"{n} {words}" for n, words in TITLES.items()),
    "words.txt": "n00001740\tentity\n" + "\n".join(f"{n}\t{w}" for n, w in TITLES.items()),
    "Labels.json": json.dumps(TITLES),
    "imagenet_class_index.json": json.dumps(INDEX),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", ["", ".."])
def test_files_that_name_classes(tmp_path: Path, name: str, place: str):
    root = grown(tmp_path / "d" / "train", [f"{number}:2" for number in NUMBERS])
    (root / place / name).write_text(FILES[name])
    found = find(str(root))
    assert found.class_names == tuple(NUMBERS)
    assert found.titles == (SHORT if name.startswith("imagenet") else TITLES)
    assert found.labels_from.endswith(f"folders; {name} says what they are called")
    assert not found.left_out
    lines = load(str(root)).describe().lines()
    assert "n01440764 (tench) (2)" in lines[0]
    assert "= n01440764 (tench)" in lines[1]


@pytest.mark.parametrize(
    ("classes", "text"),
    [
        (["ant", "bee", "n01440764"], FILES["words.txt"]),
        (NUMBERS, "n01440764 tench"),
        (NUMBERS, ""),
        (NUMBERS, "\0" * 99),
        (NUMBERS, "{"),
        (NUMBERS, json.dumps([TITLES])),
        (NUMBERS, json.dumps(dict.fromkeys(NUMBERS, 3))),
        (NUMBERS, json.dumps({number: [number] for number in NUMBERS})),
        (NUMBERS, json.dumps({number: [3, "x"] for number in NUMBERS})),
        (NUMBERS, "tench n01440764\ngoldfish n01443537\ntabby n02123045"),
        (NUMBERS, "".join(f"{number} \n" for number in NUMBERS)),
    ],
)
def test_files_that_do_not(tmp_path: Path, classes: list[str], text: str):
    root = grown(tmp_path / "d", [f"{name}:2" for name in classes])
    for name in ("words.txt", "Labels.json"):
        (root / name).write_text(text)
    assert find(str(root)).titles == {}


def test_names_are_shown_beside_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    root = grown(tmp_path / "d", [f"{number}:2" for number in NUMBERS])
    for number, name in enumerate(sorted(root.rglob("*.png"))):
        name.write_bytes(noise("PNG") if number else name.read_bytes())
    (root / "words.txt").write_text(FILES["words.txt"])
    check_command.command(check_command.Options("check", str(root)))
    out = capsys.readouterr().out
    assert "\nn01443537 (goldfish)" in out
    (tmp_path / SUMMARY).write_text(json.dumps({"class_titles": TITLES}))
    _print(class_titles(tmp_path), Prediction("x.jpg", (("n02123045", 0.75), ("ant", 0.25))))
    assert capsys.readouterr().out == "x.jpg\n   75.0 %  n02123045 (tabby)\n   25.0 %  ant\n"
    for text in ("{}", "[]", "", '{"class_titles": [1]}'):
        (tmp_path / SUMMARY).write_text(text)
        assert class_titles(tmp_path) == {}
    assert class_titles(tmp_path / "nowhere") == {}
    assert with_title("ant", {"ant": "ant"}) == with_title("ant", {"ant": ","}) == "ant"
