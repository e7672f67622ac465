"""Dividing a step among virtual devices: how far losses are apart, and that the script runs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from support.commands import python
from support.paths import BENCHMARKS


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(BENCHMARKS)


def row(mask: str, devices: int, *losses: float) -> dict[str, Any]:
    return {
        **{"mask": mask, "devices": devices, "step_seconds": 0.01, "images_per_second": 400.0},
        **{"train_loss": list(losses), "val_loss": [1.0] * len(losses), "peak_bytes": 1e9},
    }


def test_losses_apart():
    import scaling

    one = row("full", 1, 2.0, 1.0)
    assert scaling.apart(row("full", 2, 2.0, 1.0), one) == 0
    assert scaling.apart(row("full", 8, 2.0, 1.01), one) == pytest.approx(0.005)
    assert scaling.apart(row("full", 8, 2.0, 1e-9), row("full", 1, 2.0, 0.0)) < scaling.TOLERANCE
    assert scaling.TOLERANCE < 0.005
    columns = scaling.columns([one, row("full", 8, 2.0, 1.01)])
    assert columns["losses apart, at most"] == ["-", "5.0e-03"]


def test_flags_replace_the_number_of_devices(monkeypatch):
    import scaling

    option = "--xla_force_host_platform_device_count"
    monkeypatch.setenv("XLA_FLAGS", f"--xla_dump_to=a {option}=3")
    assert scaling.flags(8).split() == ["--xla_dump_to=a", f"{option}=8"]


@pytest.mark.process
def test_scaling(tmp_path):
    lenient = {"PYTHONWARNINGS": "default", "JAX_NUMPY_RANK_PROMOTION": "allow"}
    ran = python(BENCHMARKS / "scaling.py", "--smoke", "--out", tmp_path, **lenient)
    assert ran.returncode == 0, ran.stderr
    stored = json.loads((tmp_path / "scaling.json").read_text(encoding="utf-8"))
    rows = {(row["mask"], row["devices"]): row for row in stored["rows"]}
    assert set(rows) == {(mask, n) for mask in ("full", "head_only") for n in (1, 2)}
    for measured in rows.values():
        assert measured["images_per_second"] * measured["step_seconds"] == pytest.approx(4)
        assert len(measured["train_loss"]) == len(measured["val_loss"]) == 1
    assert "| `full` | 2 |" in (tmp_path / "scaling.md").read_text(encoding="utf-8")
