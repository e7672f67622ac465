"""Entries of one file that hold the same weights: one is taken, and nobody is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jtl.common.errors import UserError
from weights_convert.read.readers import read

torch = pytest.importorskip("torch")
KEY = "conv1.weight"


def weights(value: float = 1.0, prefix: str = "") -> dict[str, Any]:
    return {f"{prefix}{KEY}": torch.full((2, 3), value), f"{prefix}bn1.num": torch.tensor(7)}


def saved(tmp_path: Path, value: Any) -> Path:
    torch.save(value, tmp_path / "w.pth")
    return tmp_path / "w.pth"


TWO = [("model", "model_ema"), ("net_a", "net_b"), ("student", "teacher")]


@pytest.mark.parametrize("names", TWO)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_equal_entries(tmp_path: Path, names: tuple[str, str], prefix: str):
    one, other = names
    file = read(saved(tmp_path, {one: weights(), other: weights(prefix=prefix), "epoch": 3}))
    assert file.wrappers[0] == one
    assert file.entries == ()
    assert other in file.left_out
    np.testing.assert_array_equal(file.tensors[KEY], np.ones((2, 3)))
    assert read(tmp_path / "w.pth", other).wrappers[0] == other


def test_an_equal_entry_around_its_state_dict(tmp_path: Path):
    value = {"net_a": weights(), "net_b": {"state_dict": weights()}}
    assert read(saved(tmp_path, value)).wrappers == ("net_a",)


OTHERS = [
    weights(2.0),
    {KEY: torch.ones(2, 3)},
    {**weights(), KEY: torch.ones(3, 2)},
    {**weights(), KEY: torch.ones(2, 3, dtype=torch.float64)},
    {**weights(), KEY: torch.full((2, 3), float("nan"))},
]


@pytest.mark.parametrize("other", OTHERS, ids=range(len(OTHERS)))
def test_different_entries(tmp_path: Path, other: dict[str, Any]):
    assert read(saved(tmp_path, {"model": weights(), "model_ema": other})).entries == ("model_ema",)
    with pytest.raises(UserError, match="Tensors are inside 'net_a', 'net_b': name one with"):
        read(saved(tmp_path, {"net_a": weights(), "net_b": other}))


def test_one_that_differs_among_equal_ones_is_named(tmp_path: Path):
    value = {"model": weights(), "ema": weights(2.0), "model_ema": weights()}
    assert read(saved(tmp_path, value)).entries == ("ema",)
