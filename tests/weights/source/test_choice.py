"""`--model auto:fast` and `auto:best`, and lists sorted by what they go by."""

from __future__ import annotations

import pytest

from jtl.common.errors import UserError
from jtl.models import registry
from support import hub_double
from weights_convert.catalogue import speed
from weights_convert.catalogue.cost import COST, REFERENCE
from weights_convert.catalogue.weights import catalogue, published_accuracy
from weights_convert.source import choice, hub

RATES = {REFERENCE: 100.0, "efficientnet_lite1": 101.0, "efficientnet_lite2": 60.0}


@pytest.fixture
def machine(monkeypatch):
    """A machine without the hub and with three networks' weights; gives what it measured."""
    measured: list[str] = []

    def rate(name, progress):
        measured.append(name)
        return RATES[name]

    monkeypatch.setattr(hub, "reachable", lambda: False)
    monkeypatch.setattr(hub, "is_cached", lambda name: False)
    monkeypatch.setattr(choice.packages, "is_installed", lambda name: True)
    monkeypatch.setattr(speed, "kept_rate", rate)
    monkeypatch.setattr(choice, "COST", dict.fromkeys(RATES, 1.5))
    return measured


def test_fast_is_the_most_accurate_that_takes_no_longer(machine, monkeypatch):
    found = choice.choose("auto:fast", print)
    assert found.model == "efficientnet_lite1"  # Lite2 is more accurate, and slower.
    assert found.why == (
        "--model auto:fast: efficientnet_lite1 (ImageNet top-1 76.7 %), the most accurate of 3 "
        "that takes no longer for an image than efficientnet_lite0 (0.99 times, measured on this "
        "machine). The hub does not answer, so only weights here counted"
    )
    assert set(machine) == set(RATES)
    monkeypatch.setitem(RATES, "efficientnet_lite1", 99.0)
    assert choice.choose("auto:fast", print).model == REFERENCE


def test_best_is_the_most_accurate_in_ten_times_the_time(machine, monkeypatch):
    found = choice.choose("auto:best", print)
    assert found.model == "efficientnet_lite2"
    assert "1.5 times, by jtl's table" in found.why
    assert machine == []  # Far from the limit: nothing to measure.
    monkeypatch.setitem(choice.COST, "efficientnet_lite2", 9.0)
    assert choice.choose("auto:best", print).model == "efficientnet_lite2"
    assert set(machine) == {REFERENCE, "efficientnet_lite2"}
    monkeypatch.setitem(choice.COST, "efficientnet_lite2", 31.0)
    assert choice.choose("auto:best", print).model == "efficientnet_lite1"


def test_with_the_hub_all_defaults_count(machine, monkeypatch):
    monkeypatch.setattr(hub, "reachable", lambda: True)
    monkeypatch.setattr(choice, "COST", dict.fromkeys(registry.names(), 2.0))
    found = choice.choose("auto:best", print)
    by_accuracy = catalogue(order="accuracy")
    assert found.model == by_accuracy[0]["model"]
    assert "The hub" not in found.why
    # Weights that bind who uses them are never taken unasked.
    monkeypatch.setattr(choice, "FREE", ("mit",))
    [only] = [e["model"] for e in by_accuracy if e["weights"][0]["licence"] == "mit"]
    assert choice.choose("auto:best", print).model == only


def test_cached_weights_count_without_a_network(machine, monkeypatch):
    monkeypatch.setattr(hub, "is_cached", lambda name: name.startswith("resnet50."))
    monkeypatch.setitem(choice.COST, "resnet50", 3.0)
    assert choice.choose("auto:best", print).model == "resnet50"


def test_nothing_to_choose_from_says_what_to_do(machine, monkeypatch):
    monkeypatch.setattr(choice.packages, "is_installed", lambda name: "lite2" in name)
    found = choice.choose("auto:best", print)
    assert "efficientnet_lite2 (ImageNet top-1 77.6 %), the only backbone" in found.why
    monkeypatch.setattr(choice.packages, "is_installed", lambda name: False)
    with pytest.raises(UserError, match=r"no pretrained weights .* has not answered\. Name a mod"):
        choice.choose("auto:fast", print)
    with pytest.raises(UserError, match=r"unknown choice 'auto:good'\. Use auto:fast or auto:best"):
        choice.choose("auto:good", print)


def test_the_hub_is_asked_once(monkeypatch):
    with hub_double.running(monkeypatch) as double:
        name = hub.known_names()[0]
        assert not hub.reachable()
        double.files[f"timm/{name}", "config.json"] = b"{}"
        assert hub.reachable()


def test_speed_is_measured_once(tmp_path, monkeypatch):
    monkeypatch.setenv("JTL_CACHE", str(tmp_path))
    rates = iter([12.5, 99.0])
    monkeypatch.setattr(speed, "images_per_second", lambda name: next(rates))
    said: list[str] = []
    assert [speed.kept_rate("resnet18", said.append) for _ in range(2)] == [12.5, 12.5]
    assert said == ["Measuring the speed of resnet18 on this machine (once)"]
    assert speed.kept_rate("resnet34", said.append) == 99.0
    for path in tmp_path.rglob("*.json"):
        path.write_text("{")
    with pytest.raises(StopIteration):  # Damaged: measured again.
        speed.kept_rate("resnet18", said.append)


def test_every_backbone_has_its_cost():
    assert set(COST) == set(registry.names())
    assert COST[REFERENCE] == 1.0
    assert min(COST.values()) > 0


@pytest.mark.parametrize(
    ("order", "figure"),
    [
        ("accuracy", lambda e: published_accuracy(e) or 0),
        ("speed", lambda e: 1 / e["cost"]),
        ("accuracy-per-second", lambda e: (published_accuracy(e) or 0) / e["cost"]),
    ],
)
def test_lists_are_sorted(order, figure):
    figures = [figure(entry) for entry in catalogue(order=order)]
    assert figures == sorted(figures, reverse=True)
    assert len(figures) == len(registry.names())
