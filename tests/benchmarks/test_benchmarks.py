"""Benchmarks: what their tables hold, and the scripts that others run.

`python benchmarks/all.py --smoke` runs every script.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.benchmark_smoke import run
from support.commands import python
from support.paths import BENCHMARKS
from support.search_results import found


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(BENCHMARKS)


def need(*packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


def published_gflop(multiply_adds: float) -> float:
    """Of a smoke run's batch, from the billions that are published for an image of 224 pixels.

    The smaller an image, the more of it is padding's zeros, which are not counted.
    """
    return 4 * 2 * multiply_adds * (32 / 224) ** 2


@pytest.mark.process
def test_accuracy(tmp_path, monkeypatch):
    from harness import jtl_runs

    path, train, trained = tmp_path / "accuracy.jsonl", jtl_runs.train, []

    def stopped(*given: Any) -> Any:
        if trained:
            raise KeyboardInterrupt
        trained.append(train(*given))
        return trained[0]

    with monkeypatch.context() as patch:
        patch.setattr(jtl_runs, "train", stopped)
        with pytest.raises(KeyboardInterrupt):
            run("accuracy", "--out", tmp_path)
    begun = path.read_text(encoding="utf-8")
    # Called again, it goes on with what is missing.
    run("accuracy", "--out", tmp_path)
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    assert lines[0] == begun
    first, second = map(json.loads, lines)
    assert {json.loads(row["trial"])["seed"] for row in (first, second)} == {0}
    assert first["trial"] != second["trial"]
    assert all(0 <= row["test_accuracy"] <= 1 for row in (first, second))
    table = (tmp_path / "accuracy.md").read_text(encoding="utf-8")
    assert f"| one | `mask=head_only epochs=1 solver=sgd` | {first['test_accuracy']:.3f} |" in table
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.peer
@pytest.mark.process
def test_vs_finetuning(tmp_path):
    need("timm")
    run("vs_finetuning", "--out", tmp_path)
    lines = (tmp_path / "vs_finetuning.jsonl").read_text(encoding="utf-8").splitlines()
    full, once, as_long = map(json.loads, lines)
    # As many epochs as fit into the time of jtl's, found by a training of one epoch.
    fitting = 1 + int((full["seconds"] - once["seconds"]) / once["epoch_seconds"])
    assert as_long["epochs"] == max(min(fitting, 2), 1)
    table = (tmp_path / "vs_finetuning.md").read_text(encoding="utf-8")
    accuracy = f"{as_long['val']:.3f}"
    line = f"| timm, BatchNorm in eval mode | 1x | {as_long['epochs']} |"
    assert any(row.startswith(line) and accuracy in row for row in table.splitlines())
    assert (tmp_path / "vs_finetuning.png").read_bytes().startswith(b"\x89PNG")


def searched(seed: int, full: float, test: float | None) -> dict[str, Any]:
    result = found("accuracy", (0.5, full))
    extra = {**result["trials"][1], "name": f"only {seed}"}
    result["trials"] += [extra]
    return {"seed": seed, "found": {**result, "winner_name": "full", "test_accuracy": test}}


def test_the_table_of_seeds_holds_what_all_of_them_have():
    import freeze_strategies

    assert freeze_strategies.over_seeds([searched(0, 0.75, 0.7), searched(1, 0.85, None)]) == [
        "| trial | validation | seconds |",
        "|---|---|---|",
        "| probe: head_only | 0.500 (0.500 to 0.500) | 10 |",
        "| plan: full | 0.800 (0.750 to 0.850) | 20 |",
        "",
        "| seed | the winner | validation | test |",
        "|---|---|---|---|",
        "| 0 | full | 0.500 | 0.700 |",
        "| 1 | full | 0.500 | - |",
    ]


def test_freeze_strategies_searches_and_keeps_what_is_found(tmp_path, monkeypatch, capsys):
    import freeze_strategies
    from harness import machine, runs

    called: list[list[str]] = []

    def search(command: list[str], environment: dict[str, str]) -> Any:
        [out] = [word.partition("=")[2] for word in command if word.startswith("--out=")]
        called.append(command)
        spec = command[3]
        result = found("accuracy", (0.5, 0.75)) | {"folder": out, "options": {}, "data": spec}
        result["command"] = f"jtl train --data {spec} --mask full"
        for row in result["trials"]:
            row["owner"] = ["host", 1, 2.0]
        Path(out).mkdir()
        Path(out, "search.json").write_text(json.dumps(result), encoding="utf-8")
        return runs.Ended(31.5, None, 1000)

    monkeypatch.setattr(freeze_strategies, "timed", search)
    monkeypatch.setattr(machine, "product_rate", lambda: 500.0)
    words = ["freeze_strategies.py", "--data", "digits", "--train-per-class", "5", "--seeds", "2"]
    monkeypatch.setattr(sys, "argv", [*words, "--budget", "30s", "--out", str(tmp_path)])
    freeze_strategies.main()
    assert [command[-2] for command in called] == ["--seed=0", "--seed=1"]
    assert all({"--budget=30s", "--model=efficientnet_lite0"} <= set(c) for c in called)
    folder = tmp_path / "search_digits_efficientnet_lite0"
    text = (folder / "search.md").read_text(encoding="utf-8")
    assert text.startswith("# Search: tiny on digits\n")
    assert "| plan: full | 0.750 (0.750 to 0.750) | 20 |" in text
    assert "    jtl train --data digits --mask full\n" in text
    assert "](trials/" not in text  # Their folders are gone.
    assert (folder / "search.png").read_bytes().startswith(b"\x89PNG")
    stored = (folder / "searches.json").read_text(encoding="utf-8")
    for kept_out in ('"owner"', called[0][3]):  # What is of one machine.
        assert kept_out not in stored
    assert not {"folder", "options"} & json.loads(stored)["rows"][0]["found"].keys()
    # Called again, it goes on with what is missing: nothing.
    freeze_strategies.main()
    assert len(called) == 2


def test_subsets_keep_images_and_validation(tmp_path):
    from harness import datasets, subsets

    made = datasets.generate(tmp_path / "made", 30, side=32)
    source = subsets.opened(f"folder:{made.folder}")
    assert np.bincount(source.splits["train"].labels).tolist() == [9, 9]
    parts = [
        subsets.opened(subsets.write(source, tmp_path / str(seed), {"train": 4, "val": 3}, seed))
        for seed in (0, 1)
    ]
    pixels = [
        {name: split.read(range(len(split)), None) for name, split in part.splits.items()}
        for part in parts
    ]
    assert [len(p["train"]) for p in pixels] == [8, 8]
    assert (pixels[0]["train"] != pixels[1]["train"]).any()
    assert (pixels[0]["val"] == pixels[1]["val"]).all()
    whole = {image.tobytes() for image in source.splits["train"].read(range(18), None)}
    assert {image.tobytes() for image in pixels[0]["train"]} <= whole
    assert parts[0].class_names == source.class_names


def test_results_of_another_state_are_dropped(tmp_path):
    from harness.store import Store

    path, key = tmp_path / "results.json", ("model", "arm")
    row = {"model": "a", "arm": "b", "settings": {"batch": 4}, "ratio": 1.0}
    store = Store(path, {"source": "1"})
    store.put(key, {**row, "arm": "c"}, "first")
    store.put(key, row, "first")
    store.put(key, {**row, "ratio": 2.0}, "second")
    same = Store(path, {"source": "1"})
    assert same.commands == ["first", "second"]
    assert [(r["arm"], r["ratio"]) for r in same.rows] == [("c", 1.0), ("b", 2.0)]
    assert same.find({"batch": 4}, model="a", arm="b") == {**row, "ratio": 2.0}
    assert same.find({"batch": 8}, model="a", arm="b") is None
    assert Store(path, {"source": "2"}).rows == []


def test_images_are_chosen_evenly(tmp_path):
    from harness import datasets

    made = datasets.generate(tmp_path / "made", 40, side=32)
    assert (made.count, made.val) == (40, 15)
    with zipfile.ZipFile(tmp_path / "made.zip", "w") as archive:
        for path in made.folder.rglob("*.jpg"):
            archive.write(path, Path("some", path.relative_to(made.folder)))
    chosen = datasets.prepare(tmp_path / "chosen", tmp_path / "made.zip", 20)
    files = {p.relative_to(chosen.folder).as_posix() for p in chosen.folder.rglob("*.jpg")}
    assert (len(files), chosen.count) == (chosen.train + chosen.val, len(files))
    assert abs(chosen.count - 20) <= 2
    for name in files:
        assert (chosen.folder / name).read_bytes() == (made.folder / name).read_bytes()
    assert {name.rpartition("/")[0] for name in files} == {
        f"{split}/{label}" for split in ("train", "val") for label in ("ants", "bees")
    }
    everything = datasets.prepare(tmp_path / "all", tmp_path / "made.zip", 0)
    assert (everything.train, everything.val) == (made.train, made.val)


def test_a_failing_process_is_told(tmp_path):
    from harness import machine, runs

    command = [sys.executable, "-c", "import sys; sys.exit('what went wrong')"]
    with pytest.raises(SystemExit, match="what went wrong"):
        runs.timed(command, machine.environment(), tmp_path / "never")
    code = "import sys, time; open(sys.argv[1], 'w').write('x'); time.sleep(0.3)"
    ended = runs.timed([sys.executable, "-c", code, str(tmp_path / "f")], {}, tmp_path / "f")
    assert ended.first_seconds is not None
    assert 0 < ended.first_seconds < ended.seconds - 0.2


@pytest.mark.process
def test_accelerator(tmp_path):
    need("torch", "timm")
    arguments = ("--dtype", "bfloat16", "--peak-tflops", "0.5", "--out", tmp_path)
    run("accelerator", *arguments)
    stored = json.loads((tmp_path / "accelerator.json").read_text(encoding="utf-8"))
    rows = {row["side"]: row for row in stored["rows"]}
    assert set(rows) == {"jtl", "pytorch"}
    for row in rows.values():
        assert (row["model"], row["arm"], row["dtype"]) == ("resnet18", "full", "bfloat16")
        median = statistics.median(row["seconds"])
        assert row["images_per_second"] == pytest.approx(row["batch"] / median)
        assert 1e8 < row["peak_bytes"] < 1e11
    # Two images, forward and back; `published_gflop` is of four, forward alone.
    assert 2 < rows["jtl"]["step_gflop"] / (published_gflop(1.82) / 2) < 3
    assert rows["jtl"]["product_tflops"] > 0
    assert 0 <= rows["jtl"]["optimizer_bytes"] - rows["pytorch"]["optimizer_bytes"] < 1000
    table = (tmp_path / "accelerator.md").read_text(encoding="utf-8")
    share = rows["jtl"]["step_gflop"] / rows["jtl"]["batch"]
    share *= rows["jtl"]["images_per_second"] / 1000 / 0.5
    assert f"| {100 * share:.1f} | - |" in table
    assert (tmp_path / "accelerator.png").read_bytes().startswith(b"\x89PNG")
    run("accelerator", *arguments)
    again = json.loads((tmp_path / "accelerator.json").read_text(encoding="utf-8"))
    assert again["rows"] == stored["rows"]  # Nothing was measured twice.


def test_without_a_compiler_nothing_is_compiled(monkeypatch, capsys):
    need("torch", "timm")
    from harness.device import Device, usable_peers

    device = Device("cpu", "a CPU", None)
    both = ["pytorch", "pytorch_compiled"]
    monkeypatch.setenv("CXX", sys.executable)  # Any program: it is only looked for.
    assert usable_peers(both, device) == both
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert usable_peers(both, device) == ["pytorch"]
    assert "pytorch_compiled is left out: torch.compile finds no" in capsys.readouterr().err
    assert usable_peers(["pytorch"], device) == ["pytorch"]


@pytest.mark.process
def test_a_machine_without_an_accelerator_is_told_what_to_do():
    ran = python(BENCHMARKS / "accelerator.py")
    assert ran.returncode == 1
    assert "error: JAX finds no accelerator" in ran.stderr
    assert "--platform cpu" in ran.stderr


def test_a_device_that_nobody_knows_has_no_peak():
    from harness.peaks import peak_of

    known = peak_of("NVIDIA H100 80GB HBM3")
    assert known is not None
    assert (known.of("bfloat16"), known.of("float32")) == (989.4, 494.7)
    # A relative, a slower form and a part of what is known are not what is known.
    unknown = ("NVIDIA A10G", "NVIDIA H200 NVL", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", "TPU v4 lite")
    assert [peak_of(kind) for kind in (*unknown, "cpu")] == [None] * 5


@pytest.mark.parametrize("given", [None, 0.5])
def test_shares_are_never_of_a_guessed_peak(given):
    import accelerator

    told = accelerator.peak_told(None, {"peak_tflops": given}, "NVIDIA A10G")
    assert told.startswith("Peak as given: 0.5" if given else "No peak known for NVIDIA A10G:")


def test_what_does_not_fit_is_a_row_of_its_own(monkeypatch):
    import accelerator
    from harness.peaks import peak_of

    class Full:
        out_of_memory = "Out of memory allocating 9 bytes."

        def __init__(self, *given: Any, **variables: str):
            pass

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(accelerator, "Worker", Full)
    settings = accelerator.Settings(224, 20, 5, None)
    device = accelerator.Device("gpu", "NVIDIA L4", peak_of("NVIDIA L4"))
    key = ("resnet50", "full", "bfloat16", 4096)
    [row] = accelerator.rated(
        [accelerator.measure(*key, "jtl", settings=settings, device=device)], device.peak
    )
    assert row["out_of_memory"] == Full.out_of_memory
    assert (row["tflops"], row["share"], row["ratio"]) == (None, None, None)
