"""The cost model of docs/scaling.md: counted by jtl, held against what others published."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from support.commands import python
from support.paths import BENCHMARKS


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(BENCHMARKS)


@pytest.fixture
def costs() -> dict[tuple[str, str], dict[str, Any]]:
    from harness import scaling_costs

    return scaling_costs.load()


def test_the_document_holds_what_the_script_prints(costs):
    import scaling_model

    document = scaling_model.DOCUMENT.read_text(encoding="utf-8")
    assert scaling_model.written(document, costs) == document
    row = costs["resnet50", "full"]
    other = {**costs, ("resnet50", "full"): {**row, "live_layers": 54}}
    assert scaling_model.written(document, other) != document
    with pytest.raises(SystemExit, match="no place for the table 'counts'"):
        scaling_model.written("", costs)


def test_every_figure_names_its_source():
    from harness.scaling_inputs import FIGURES, TIMM_SOURCE

    document = (BENCHMARKS.parent / "docs" / "scaling.md").read_text(encoding="utf-8")
    for name, figure in FIGURES.items():
        ours = ("http", "assumption", "the same", "`jtl.")
        assert any(word in figure.source for word in ours), name
    assert TIMM_SOURCE in document


def test_kept_counts_are_jtl_s(costs, tmp_path):
    from harness import scaling_costs

    key = ("efficientnet_lite0", "head_only")
    assert scaling_costs.count(*key, tmp_path) == pytest.approx(costs[key])


@pytest.mark.parametrize(
    ("model", "multiply_adds", "params", "layers"),
    [
        # As timm publishes them; params with ten classes, statistics included.
        ("resnet50", 4.11e9, 23_508_032 + 20_490 + 2 * 26_560, 53),
        ("densenet121", 2.87e9, 6_953_856 + 10_250 + 2 * 41_824, 121),
        ("efficientnet_lite0", 0.40e9, 3_371_008 + 12_810 + 2 * 21_008, 49),
    ],
)
def test_counts_are_those_of_the_networks(costs, model, multiply_adds, params, layers):
    from harness import scaling_costs

    rows = {mask: costs[model, mask] for mask in scaling_costs.MASKS}
    full = rows["full"]
    # Zeros of padding, which are not counted, are a few hundredths.
    assert 0.9 < full["forward_flops"] / (2 * multiply_adds) < 1.02
    assert (full["total_params"], full["live_layers"]) == (params, layers)
    # The first convolution needs no gradient of its input; normalization costs Lite0 a little.
    steps = {mask: row["step_flops"] / full["forward_flops"] for mask, row in rows.items()}
    assert 2.9 < steps["full"] < 3.15
    # Gradients of inputs, none of kernels but those of the first stage.
    assert 1.95 < steps["norm_only"] < 2.2
    assert 2.05 < steps["first_stages:1"] < 2.5
    for mask in ("last_stage", "last_stages:2"):
        row = rows[mask]
        suffix = row["forward_flops"] - row["prefix_flops"]
        assert 2.3 < row["step_flops"] / suffix <= 3.1
        assert 0 < row["live_layers"] == row["layers"] < layers
        assert 0 < row["kept_bytes"] < full["kept_bytes"]
    head = rows["head_only"]
    assert head["prefix_flops"] == pytest.approx(head["forward_flops"], rel=1e-3)
    assert (head["layers"], head["live_layers"]) == (0, 0)
    for row in rows.values():
        # Adam's two numbers, and a count for each group.
        assert 0 <= row["optimizer_bytes"] - 8 * row["trainable_params"] < 1000
        assert (row["feature_values"] > 0) == (row["prefix_flops"] > 0)


def test_the_model_meets_published_rates(costs):
    from harness import scaling_times as times
    from harness.scaling_inputs import value

    full = costs["resnet50", "full"]
    modelled = times.rates(full).training / full["step_flops"]
    assert modelled == pytest.approx(value("a100_torch") * value("h100_by_a100"), rel=0.1)
    assert 1.3 < value("mlperf_8") / 8 / modelled < 2  # Tuned by hand for years.


def training(costs: Any, mask: str, images: int, devices: int) -> Any:
    from harness import scaling_times as times

    speed = times.rates(costs["resnet50", "full"])
    return times.Training(costs["resnet50", mask], speed, images, times.Cluster(devices))


def test_a_training_s_seconds_by_hand(costs):
    one = training(costs, "full", 1_000_000, 1)
    # 12 cores decode 3,600 images a second: slower than the steps, 4,360, in every epoch, as
    # 150 GB of decoded images are more than 0.4 x 256 GiB.
    assert (one.tier, one.held, one.cached(10)) == ("", False, None)
    assert one.uncached(10) == pytest.approx(60 + 10 * 1e6 / 3600)
    assert one.from_images(True).bottleneck == "decoding"
    # The devices of 64 have all images; then steps decide, with 61 steps' all-reduces: of 94 MB,
    # of 16,384 images, of the hits, and three for each of 53 layers.
    many = training(costs, "full", 1_000_000, 64)
    assert many.held
    assert many.divided
    exchanged = 4 * many.row["trainable_params"] + 64 * 256 * 150_528
    network = 2 * 63 / 64 * exchanged / 339e9 + (3 + 3 * 53) * 69e-6
    later = 1e6 / 64 / 4359.3 + 1e6 / 64 / 256 * network
    assert many.from_images(False).seconds == pytest.approx(later, rel=1e-3)
    low, high = many.dollars(3600)
    assert (low, high) == pytest.approx((64 * 1.99, 64 * 6.88))


def test_features_move_down_as_images_grow(costs):
    tiers = [training(costs, "last_stage", n, 1).tier for n in (50_000, 200_000, 10**6, 10**8)]
    assert tiers == ["device", "host", "disk", "no room"]
    assert training(costs, "last_stage", 10**6, 64).tier == "device"
    # A host's disk has its own share, and a batch wants rows of all.
    spread = training(costs, "last_stage", 10**8, 64)
    assert (spread.tier, spread.cached(10)) == ("no room", None)
    assert replace(spread, by_host=True).tier == "disk"
    cached = training(costs, "head_only", 10**6, 1)
    assert cached.cached(100) < cached.uncached(100) / 50
    # A batch of 32 divides among no more than 32 devices.
    few = training(costs, "head_only", 1000, 64)
    assert (few.used.devices, few.per_device, few.steps) == (32, 1, 1000 / 32)


def test_quantities_have_two_digits():
    from harness import quantities

    told = [quantities.seconds(s) for s in (6.9e-5, 0.0106, 99.6, 7100, 43_000, 2.8e6)]
    assert told == ["69 µs", "11 ms", "100 s", "120 min", "12 h", "32 days"]
    assert [quantities.size(n) for n in (0, 12, 401_408, 9.96e11)] == [
        *("0", "12 B", "400 kB", "1.0 TB"),
    ]


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
    document = (BENCHMARKS.parent / "docs" / "scaling.md").read_text(encoding="utf-8")
    assert "| " + " | ".join(columns) + " |" in document


def test_flags_replace_the_number_of_devices(monkeypatch):
    import scaling

    option = "--xla_force_host_platform_device_count"
    monkeypatch.setenv("XLA_FLAGS", f"--xla_dump_to=a {option}=3")
    assert scaling.flags(8).split() == ["--xla_dump_to=a", f"{option}=8"]


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
