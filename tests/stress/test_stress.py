"""SIGKILL in real processes: resumed runs end bit for bit as the whole one; and a short soak."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jtl.runs.checkpoints import saving
from support.paths import TESTS
from support.run_folders import SCRIPT, arguments

pytestmark = [
    pytest.mark.slow,
    pytest.mark.process,
    pytest.mark.usefixtures("warm_starts"),
]


@pytest.fixture(scope="module")
def scripts() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(TESTS / "stress")
        import kill_resume
        import soak

        yield kill_resume, soak


@pytest.fixture(scope="module")
def images(scripts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from trainings import write_images

    return write_images(tmp_path_factory.mktemp("kill") / "data", 40, 32)


@pytest.fixture(scope="module")
def tiny_net(tiny_data: Path) -> list[str]:
    """A program that trains the tiny backbone: what it computes is not the point."""
    return [
        sys.executable,
        str(SCRIPT),
        "--model=tiny",
        f"--weights={tiny_data.parent / 'weights'}",
    ]


@pytest.fixture(scope="module")
def whole(
    scripts, images: Path, tiny_net: list[str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    kill, _ = scripts
    folder = tmp_path_factory.mktemp("whole") / "run"
    kill.run(kill.command(images, folder, by=tiny_net))
    return kill.final_bits(folder)


def phase_is_logged(kill: Any, folder: Path) -> Callable[[], bool]:
    """The second phase's last epoch is done, its checkpoint not yet begun."""
    return lambda: kill.state_of(folder).epochs >= 4


def phase_is_saved(kill: Any, folder: Path) -> Callable[[], bool]:
    """The first phase's checkpoint is whole, the next phase begins."""
    return lambda: 2 in kill.state_of(folder).checkpoints


def phase_is_being_saved(kill: Any, folder: Path) -> Callable[[], bool]:
    return kill.in_save(folder / "checkpoints", 2, 0.0)


def epoch_has_begun(kill: Any, folder: Path) -> Callable[[], bool]:
    """The steps of a phase's second epoch."""
    return kill.in_epoch(folder, 4, 0.0)


@pytest.mark.parametrize(
    "moment", [phase_is_logged, phase_is_saved, phase_is_being_saved, epoch_has_begun]
)
def test_killed_at_any_moment(scripts, images, tiny_net, whole, tmp_path, moment):
    kill, _ = scripts
    folder = tmp_path / "run"
    arguments = kill.command(images, folder, by=tiny_net)
    state = kill.killed(arguments, folder, moment(kill, folder))
    assert state is not None, "the run ended before it could be killed"
    assert state.epochs < 8
    if state.checkpoints:
        assert kill.final_bits(folder) != whole
    kill.resume(arguments)
    assert kill.final_bits(folder) == whole
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 8


def test_killed_while_saving_within_an_epoch(scripts, images, tiny_net, tmp_path, monkeypatch):
    kill, _ = scripts
    folder, other = tmp_path / "run", tmp_path / "whole"
    arguments, whole = (
        kill.command(images, place, smoke=True, often=True, by=tiny_net)
        for place in (folder, other)
    )
    monkeypatch.setenv("TINY_OFTEN", "1")
    kill.run(whole)
    state = kill.killed(arguments, folder, kill.in_save(folder / "midway", 3, 0.0))
    assert state is not None, "the run ended before it could be killed"
    assert state.within
    kill.resume(arguments)
    assert kill.final_bits(folder) == kill.final_bits(other)
    assert kill.state_of(folder).within == ()


def test_a_program_saves_often(scripts, monkeypatch):
    import trainings

    started: list[str] = []
    monkeypatch.setattr(saving, "DEFAULT_POLICY", saving.DEFAULT_POLICY)
    monkeypatch.setattr("runpy.run_module", lambda name, **_: started.append(name))
    _, option, code = trainings.program(often=True)
    exec(code, {})
    assert (option, started) == ("-c", ["jtl.train"])
    assert (saving.DEFAULT_POLICY.seconds, saving.DEFAULT_POLICY.share) == (0.0, float("inf"))


@pytest.mark.parametrize(
    ("hits", "code", "told"),
    [
        # What is saved in the background lets no place be missed.
        ("t s w c T", 0, "5 kills: 2 in an epoch (1 with no save), 3 changing phases (1 with no"),
        ("t s! c", 1, "0 finishing (0 with no save), 1 saving, 0 saving within an epoch; 1 ended"),
        ("t t f c", 1, "no run was killed saving or saving within an epoch: try more --kills"),
        ("T s w s", 1, "no run was killed in an epoch or changing phases: try more --kills"),
    ],
)
def test_what_kills_must_have_hit(scripts, monkeypatch, capsys, hits, code, told):
    kill, _ = scripts
    states = {
        "t": kill.Killed(3, (2,), False),
        "s": kill.Killed(4, (2,), True),
        "c": kill.Killed(4, (2, 4), False),
        "f": kill.Killed(8, (8,), False),
        "w": kill.Killed(2, (2,), False, (30,), True),
        "T": kill.Killed(5, (2,), True),
    }
    results = [(states[hit[0]], not hit.endswith("!")) for hit in hits.split()]
    monkeypatch.setattr(kill, "trial", lambda *_, **__: results)
    monkeypatch.setattr("sys.argv", ["kill_resume.py"])
    assert kill.main() == code
    assert told in capsys.readouterr().out


def test_what_kills_missed_is_drawn_again(scripts, monkeypatch, tmp_path):
    kill, _ = scripts
    saving, quiet = kill.Killed(2, (), True), kill.Killed(2, (2,), False)
    asked, ends = [], [{"elapsed": float(epoch)} for epoch in range(1, 9)]
    monkeypatch.setattr(kill, "run", lambda _: None)
    monkeypatch.setattr(kill, "resume", lambda *_, **__: None)
    monkeypatch.setattr(kill, "final_bits", lambda _: {})
    monkeypatch.setattr(kill, "lines_of", lambda _: ends)
    monkeypatch.setattr(kill, "drawn", lambda kind, *_: asked.append(kind))
    hits = {
        kill.TRAINING: [kill.Killed(1, (), False)],
        kill.SAVING: [saving],
        kill.CHANGING: [saving, None, quiet],
        kill.WITHIN: [saving],
    }

    def killed(*_: object) -> object:
        left = hits[asked[-1]]
        return left.pop(0) if len(left) > 1 else left[0]

    monkeypatch.setattr(kill, "killed", killed)
    results = kill.trial(tmp_path, tmp_path, 4, 0)
    assert asked[:4] == list(kill.KINDS)
    # By turns with the other kind that was missed, and of that no more than three times four.
    assert asked.count(kill.CHANGING) == 3
    assert len(asked) == 12
    assert asked[-1] == kill.WITHIN
    assert kill.missed(results) == [kill.WITHIN]
    assert len(kill.trial(tmp_path, tmp_path, 3, 0, smoke=True)) == 3


def test_a_run_survives_each_event(scripts, tiny_data, tmp_path, monkeypatch):
    """The short form of what half an hour does with any number of runs."""
    import chaos

    def start(folder: Path) -> list[str]:
        return [sys.executable, str(SCRIPT), *arguments(tiny_data, folder, epochs=10)]

    monkeypatch.setenv("TINY_OFTEN", "1")
    happened = chaos.forced(start, tmp_path)
    assert all(happened[event] for event in chaos.Chaos.EVENTS)
    assert len(chaos.Chaos.EVENTS) == 7


def test_a_short_soak_is_flat(scripts, images, tmp_path):
    _, soak = scripts
    samples = soak.soak(images, tmp_path / "run", minutes=0.12, every=0.1)
    told = soak.verdict(samples)
    assert told["epochs"] > 3
    # So early, pools of threads and allocators still find their size: what leaks with every
    # tenth epoch is told, and the long form allows no thread more and a hundredth of memory.
    for name in ("threads", "files"):
        assert told[name]["late"] - told[name]["early"] <= told["between"] / 10, told
    assert told["rss"]["late"] < 1.1 * told["rss"]["early"], told


def test_growth_is_told(scripts):
    _, soak = scripts
    flat = [soak.Sample(second, 400_000_000, 20, 30, 0, second) for second in range(60)]
    assert all(soak.verdict(flat)[name]["flat"] for name in soak.SHOWN)
    busy = [soak.dataclasses.replace(s, threads=27) if s.epochs > 52 else s for s in flat]
    assert soak.verdict(busy)["threads"] == {"early": 20, "late": 20, "flat": True}
    assert soak.verdict(
        [soak.dataclasses.replace(s, rss=s.rss + 500_000 * s.epochs) for s in flat], 500_000
    )["rss"]["flat"]
    for name, grow in (("rss", 500_000), ("threads", 1), ("files", 1), ("children", 1)):
        leaking = [
            soak.dataclasses.replace(s, **{name: getattr(s, name) + grow * s.epochs}) for s in flat
        ]
        told = soak.verdict(leaking)
        assert [told[other]["flat"] for other in soak.SHOWN] == [o != name for o in soak.SHOWN]


SEARCH = """
import sys
from jtl.cli import commands
from jtl.models import registry
from jtl.search import mirrored, sampling, space
from support import tiny
registry.ENTRIES[tiny.ENTRY.name] = tiny.ENTRY
sampling.available = lambda: False
mirrored.measure = lambda engine, winner: None
space.STRATEGIES, space.heads = ("last_stage",), list
commands.run("search")
"""
"""Searches with the tiny backbone, and no longer than its plan takes."""


def test_a_killed_search_loses_the_trial_under_way_at_most(scripts, tiny_data, tmp_path):
    import kill_search

    folder = tmp_path / "search"
    weights = tiny_data.parent / "weights"
    words = [sys.executable, "-c", SEARCH, f"folder:{tiny_data}", "--model", "tiny", "--no-test"]
    words += ["--weights", str(weights), "--budget", "10m"]

    def until(reached: Callable[[], bool]) -> Callable[[], float]:
        def moment() -> float:
            end = time.monotonic() + 60
            while not reached() and time.monotonic() < end:
                time.sleep(0.005)
            return 0.0

        return moment

    def second_has_begun() -> bool:
        return any((folder / "trials").glob("002-*/metrics.jsonl"))

    states, told = kill_search.trial(words, folder, [until(second_has_begun)])
    assert told == []
    assert [len(state.finished) for state in states] == [1, 2]
    assert states[0].running == (2,)


def test_what_a_search_loses_is_told(scripts, tmp_path):
    import kill_search

    def row(number: int, **more: object) -> str:
        line = {"number": number, "state": "done", "stage": "plan", "options": {"lr": number}}
        return json.dumps({**line, **more}) + "\n"

    def state(*rows: str, logits: str = "x") -> kill_search.State:
        (tmp_path / "trials.jsonl").write_text("".join(rows))
        for number in (1, 2):
            folder = tmp_path / "trials" / f"00{number}-x"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "val_logits.npy").write_text(logits)
        return kill_search.state_of(tmp_path)

    running = row(1, state="running")
    before = state(running, row(1), row(2))
    assert before.running == ()
    assert kill_search.lost(before, state(running, row(1), row(2))) == []
    assert kill_search.lost(before, state(row(1))) == ["trial 2 is finished no more"]
    assert kill_search.lost(before, state(row(1, seconds=2), row(2))) == [
        "trial 1 has another line"
    ]
    assert kill_search.lost(before, state(row(1), row(2), logits="y")) == [
        "trial 1 has another val_logits.npy",
        "trial 2 has another val_logits.npy",
    ]
    twice = state(row(1), row(2), row(3, state="running"), row(4, state="running"))
    assert kill_search.lost(before, twice) == ["several trials were under way: (3, 4)"]
    again = state(row(1), row(2, options={"lr": 1}))
    assert 'trained twice: {"lr": 1}' in kill_search.lost(before, again)
