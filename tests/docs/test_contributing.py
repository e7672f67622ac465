"""CONTRIBUTING.md sends its reader to files that are there."""

from __future__ import annotations

import re

from support.paths import ROOT


def test_what_it_names_is_there():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = [ROOT / path for path in re.findall(r"`((?:jtl|weights_convert)/[\w/]+\.py)`", text)]
    # A folder, and what is meant in it: `jtl/data/`: `hold_out`; `folds`
    listed = r"`((?:jtl|weights_convert)/[\w/]*/)`:((?:[;, ]*`[\w/]+`)+)"
    for folder, names in re.findall(listed, text):
        for name in re.findall(r"`([\w/]+)`", names):
            place = ROOT / folder / name
            named.append(place if place.is_dir() else place.with_suffix(".py"))
    assert len(named) > 80
    assert [str(path.relative_to(ROOT)) for path in named if not path.exists()] == []
