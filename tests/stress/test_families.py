"""Files of other libraries' layouts are trained from, and exports load back there: two of them."""

from __future__ import annotations

import json

import pytest

from support.paths import TESTS

pytestmark = [pytest.mark.slow, pytest.mark.peer]


def test_two_families_train_and_load_back(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(TESTS / "stress")
    import families

    # One that loads only with its modules' versions, and one that pools by its class token.
    assert families.main(["--smoke", "--out", str(tmp_path)]) == 0
    rows = [json.loads(x) for x in (tmp_path / "families.jsonl").read_text().splitlines()]
    assert [(row["family"], row["result"]) for row in rows] == [
        ("mnasnet", "loads back"),
        ("vit", "loads back"),
    ]
    # What is there is not done again.
    monkeypatch.setattr(families, "tried", None)
    assert families.main(["--smoke", "--out", str(tmp_path)]) == 0
    assert "| vit | timm | source.safetensors | timm |" in (tmp_path / "families.md").read_text()
