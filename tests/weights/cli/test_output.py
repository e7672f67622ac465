"""What the command says, in words and as JSON, and that no input ends it with a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jtl.common.text import for_markdown
from support import weights_samples as samples
from weights_convert.__main__ import main
from weights_convert.checkpoint import folder
from weights_convert.cli import listing
from weights_convert.verify import report as verify

MODEL = samples.MODEL


@pytest.fixture
def lite(tmp_path) -> Path:
    return samples.write_file(tmp_path / "lite.safetensors")


def torch_state(arrays=None) -> dict:
    import torch

    arrays = samples.tensors() if arrays is None else arrays
    return {key: torch.from_numpy(np.ascontiguousarray(a)) for key, a in arrays.items()}


# JSON.


def test_a_conversion_as_json(lite, tmp_path, capsys):
    assert main([str(lite), "--out", str(tmp_path / "out"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    found = folder.read(tmp_path / "out")
    assert facts["folder"] == str(tmp_path / "out")
    assert (facts["model"], facts["num_classes"], facts["num_params"]) == (
        MODEL,
        5,
        found.num_params,
    )
    assert facts["conventions"]["norm"]["epsilon"] == 1e-3
    assert facts["preprocessing"]["size"] == 224
    assert facts["reading"]["dtypes"] == {"float32": len(samples.tensors())}
    assert facts["notes"] == list(found.notes)
    assert facts["sha256"] == found.sha256


def test_a_failed_verification_as_json(lite, tmp_path, capsys, monkeypatch):
    from weights_convert.verify.tables import Figure, UnitRow, Verification

    figure = Figure("x", 1.0, "<=", 1e-4)
    row = UnitRow("stem", 2, 0.5, 0.25)
    failed = Verification("m", "s", "r 1.0", "Input.", (row,), (figure,))
    monkeypatch.setattr(verify, "verify", lambda *_: failed)
    arguments = [str(lite), "--out", str(tmp_path / "out"), "--json", "--verify"]
    assert main(arguments) == 1
    facts = json.loads(capsys.readouterr().out)
    assert (facts["folder"], facts["verified"]["passed"]) == (None, False)
    assert facts["units"][0]["unit"] == "stem"
    assert not (tmp_path / "out").exists()


def test_an_export_as_json(tmp_path, capsys):
    folder.write(tmp_path / "folder", samples.checkpoint())
    out = tmp_path / "x.safetensors"
    arguments = ["export", str(tmp_path / "folder"), "--to", "timm", "--out", str(out), "--json"]
    assert main(arguments) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["file"], facts["library"]) == (str(out), "timm")
    assert facts["architecture"] == f"tf_{MODEL}"
    assert str(out) in facts["loading"]


# What was not converted is named.


@pytest.mark.peer
def test_ignored_keys_entries_and_dtypes_are_named_everywhere(tmp_path, capsys):
    import torch

    arrays = {key: array.astype(np.float16) for key, array in samples.tensors().items()}
    state = torch_state(arrays) | {"bn1.num_batches_tracked": torch.tensor([7, 7])}
    checkpoint = {"epoch": 3, "model": state, "model_ema": torch_state(), "optimizer": {}}
    path = tmp_path / "training.pth"
    torch.save(checkpoint, path)
    assert main([str(path), "--out", str(tmp_path / "out")]) == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows["tensors"] == f"{len(arrays)} float16, converted to float32"
    assert rows["wrappers"] == "model"
    card = (tmp_path / "out" / "README.md").read_text()
    reading = folder.read(tmp_path / "out").reading
    assert reading.left_out == ("epoch", "model_ema", "optimizer")
    # Not a counter as PyTorch writes it.
    assert reading.ignored == ("bn1.num_batches_tracked",)
    for name in ("`epoch`", "`bn1.num_batches_tracked`", f"{len(arrays)} float16"):
        assert name in card
    entry = "the weights are those of the entry 'model'; there are others under model_ema"
    assert any(entry in note for note in folder.read(tmp_path / "out").notes)
    assert for_markdown(entry) in card


@pytest.mark.peer
def test_a_flag_takes_another_entry(tmp_path, capsys):
    import torch

    average = torch_state() | {"bn1.bias": torch.full((32,), 7.0)}
    path = tmp_path / "training.pth"
    torch.save({"model": torch_state(), "model_ema": average, "net": {"w": 3}}, path)
    flags = ["--entry", "model_ema"]
    assert main([str(path), "--out", str(tmp_path / "out"), *flags]) == 0
    found = folder.read(tmp_path / "out")
    assert found.variables["params"]["stem"]["bn"]["bias"].tolist() == [7.0] * 32
    assert found.reading.wrappers == ("model_ema",)
    capsys.readouterr()
    for wrong in ("net", "modle"):
        assert main([str(path), "--out", str(tmp_path / "x"), "--entry", wrong]) == 2
        said = capsys.readouterr().err
        assert f"it has no entry '{wrong}' with tensors by name" in said
        assert "Entries with tensors are: 'model', 'model_ema'" in said
    assert main(["inspect", str(path), *flags]) == 0
    assert "wrappers    model_ema" in capsys.readouterr().out


def test_entries_are_pytorchs(lite, tmp_path, capsys):
    assert main([str(lite), "--out", str(tmp_path / "out"), "--entry", "model"]) == 2
    assert "only PyTorch's checkpoints have entries" in capsys.readouterr().err


# Nothing ends with a traceback.


def test_hundreds_of_problems_are_counted_and_the_first_are_listed(tmp_path, capsys):
    arrays = {f"{key}.more": array for key, array in samples.tensors().items()}
    path = samples.write_file(tmp_path / "x.safetensors", {**samples.tensors(), **arrays})
    assert main([str(path), "--model", MODEL, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert f"{len(arrays)} problems between the source and the model:" in said
    assert said.count("  unexpected ") == 12
    assert f"... and {len(arrays) - 12} more" in said
    assert "it is another network" in said


def test_keys_are_printed_harmless_and_short(tmp_path, capsys):
    arrays = samples.tensors() | {
        "\x1b[31mred\nerror: forged": np.zeros(3, np.float32),
        "x" * 100_000: np.zeros(3, np.float32),
    }
    path = samples.write_file(tmp_path / "x.safetensors", arrays)
    assert main([str(path), "--model", MODEL, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "\x1b" not in said
    assert "\nerror: forged" not in said
    assert "2 problems between" in said
    assert len(said) < 1000


def test_a_missing_kernel_of_the_classifier_is_the_only_problem(tmp_path, capsys):
    arrays = samples.tensors()
    del arrays["classifier.weight"]
    path = samples.write_file(tmp_path / "x.safetensors", arrays)
    assert main([str(path), "--model", MODEL, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "1 problem between" in said
    assert "missing    classifier.weight (for head/logits/kernel, shape (1280, 5))" in said


def test_a_file_name_that_is_no_text(tmp_path, capsys):
    path = samples.write_file(tmp_path / os.fsdecode(b"m\xff.safetensors"))
    assert main([str(path), "--out", str(tmp_path / "out")]) == 0
    assert folder.read(tmp_path / "out").source == "m\ufffd.safetensors"
    # Such a folder could be written, but not read.
    out = tmp_path / os.fsdecode(b"o\xff")
    assert main([str(path), "--out", str(out)]) == 2
    assert "is not UTF-8. Choose a folder" in capsys.readouterr().err
    assert not out.exists()
    # The terminal's encoding may not have what a file's name holds.
    assert main(["inspect", str(out)]) == 2


@pytest.mark.peer
def test_keys_that_are_no_text(tmp_path, capsys):
    import torch

    path = tmp_path / "x.pth"
    torch.save({"\ud800": torch.zeros(3)}, path)
    assert main(["inspect", str(path)]) == 0
    assert main(["inspect", str(path), "--json"]) == 0
    text = capsys.readouterr().out
    assert '"key": "\\ud800"' in text
    assert main([str(path), "--out", str(tmp_path / "out")]) == 2
    assert "the keys are those of no model" in capsys.readouterr().err


def test_an_export_below_a_file(tmp_path, capsys):
    folder.write(tmp_path / "folder", samples.checkpoint())
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "q.safetensors"
    assert main(["export", str(tmp_path / "folder"), "--to", "timm", "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: cannot write '{out}': ")


def test_a_report_that_cannot_be_written_is_found_first(lite, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(verify, "verify", lambda *_: pytest.fail("it was measured first"))
    arguments = [str(lite), "--out", str(tmp_path / "out"), "--report"]
    assert main([*arguments, str(lite / "report.md")]) == 2
    assert "cannot write the report" in capsys.readouterr().err
    assert main([*arguments, str(tmp_path)]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["lite.safetensors"]


def test_a_report_of_a_conversion_that_fails_leaves_no_folder(tmp_path, capsys):
    (tmp_path / "x.safetensors").write_text("no tensors")
    report = tmp_path / "new" / "deep" / "report.md"
    arguments = [str(tmp_path / "x.safetensors"), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--report", str(report)]) == 2
    assert "cannot read" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_ctrl_c_is_one_line(monkeypatch, capsys):
    def interrupted(_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(listing, "command", interrupted)
    assert main(["list"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.process
@pytest.mark.parametrize("words", [["inspect"], ["list"]])
def test_a_reader_that_has_seen_enough(lite, words):
    arguments = [*words, lite] if words == ["inspect"] else words
    process = subprocess.Popen(
        [sys.executable, "-m", "weights_convert", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    with process.stderr:
        assert process.stderr.read() == ""
    assert process.wait(60) == 141
