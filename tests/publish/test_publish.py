"""`jtl publish`: the folder, its upload to a double of the hub, and reading it back."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import constants
from safetensors import safe_open

import jtl
from jtl.config.options import Config, DataConfig, ModelConfig, RunConfig, TrainConfig
from jtl.publish import card, public
from jtl.runs.run import Run
from jtl.train.fit import fit
from support import hub_double, tiny
from support.commands import main

pytestmark = [
    pytest.mark.usefixtures("elsewhere"),
    # The hub's client sends large files as its transport no longer wants it.
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def hub(monkeypatch, tmp_path):
    """A hub without repositories, an empty cache, and a token."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("HF_TOKEN", hub_double.TOKEN)
    with hub_double.running(monkeypatch) as running:
        yield running


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images whose class names are meant to do harm."""
    root = tiny.write_folder(tmp_path_factory.mktemp("secret-place") / "d", train=2, val=2, size=40)
    for part in ("train", "val"):
        shutil.move(root / part / "ash", root / part / "<img src=x onerror=alert(1)>|x")
    return root


@pytest.fixture(scope="module")
def resnet(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A random ResNet18, which timm has."""
    config = Config(
        ModelConfig("resnet18", "random"),
        DataConfig(f"folder:{data}", image_size=40),
        TrainConfig("head_only", epochs=1, batch_size=2),
        RunConfig(tmp_path_factory.mktemp("runs") / "resnet"),
    )
    return fit(config, tiny.quiet())


def test_what_is_uploaded_is_read_back(resnet: Run, data: Path, hub, capsys):
    options = [
        "--to",
        "hf:me/trees",
        "--data-licence",
        "cc-by-4.0",
        "--licence",
        "MIT",
        "--private",
    ]
    assert main("publish", resnet.folder, *options) == 0
    printed = capsys.readouterr()
    assert f"{hub.endpoint}/me/trees/commit/{hub_double.COMMIT}" in printed.out
    assert hub.private == {"me/trees": True}
    assert {name for _, name in hub.files} == {
        "README.md", "config.json", "jtl.json", "model.safetensors", "selective.json",
        "summary.json",
    }  # fmt: skip
    found, own = jtl.load("hf:me/trees"), jtl.load(resnet.folder)
    np.testing.assert_array_equal(found.predict(data).logits, own.predict(data).logits)
    assert (found.class_names, found.temperature) == (own.class_names, own.temperature)
    # What a threshold comes to is measured on images that are not published.
    told = found.trust(abstain=0.3)[1]
    assert told.startswith("not sure below a probability of 0.3: it would answer for")
    assert told == own.trust(abstain=0.3)[1]
    # From the cache from now on, also of a named commit.
    hub.files.clear()
    assert jtl.load(f"hf:me/trees@{hub_double.COMMIT}").epoch == own.epoch
    assert main("predict", "hf:me/trees", data / "val" / "birch" / "0.png", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["classes"]) == 3
    assert main("evaluate", "hf:me/trees") == 2
    assert "was published without its images" in capsys.readouterr().err
    assert main("evaluate", "hf:me/trees", "--data", data, "--json") == 0
    assert json.loads(capsys.readouterr().out)["val_accuracy"] == resnet.summary["val_accuracy"]
    assert not list(Path.cwd().iterdir())


def test_nothing_private_is_published(resnet: Run, data: Path):
    done = jtl.publish(resnet, "hf:me/trees", dry_run=True, display=tiny.quiet())
    assert done.url is None
    private = [str(data.parent), data.parent.name, str(resnet.folder.parent), "0.png"]
    for path in done.folder.iterdir():
        held = path.read_bytes()
        assert [text for text in private if text.encode() in held] == [], path.name


def test_names_do_no_harm_in_the_card(resnet: Run):
    done = jtl.publish(resnet, "hf:me/trees", dry_run=True, display=tiny.quiet())
    _, header, text = (done.folder / "README.md").read_text().split("---\n", 2)
    assert r"\<img src=x onerror=alert(1)\>\|x" in text
    assert "<img" not in text.replace(r"\<img", "")
    stated = yaml.safe_load(header)
    assert stated["license"] == "other"
    assert stated["library_name"] == "timm"
    metrics = stated["model-index"][0]["results"][0]["metrics"]
    assert metrics[0]["value"] == round(resnet.summary["val_accuracy"], 4)


@pytest.mark.peer
def test_timm_loads_the_folder(resnet: Run, data: Path):
    timm = pytest.importorskip("timm")
    torch = pytest.importorskip("torch")
    done = jtl.publish(resnet, "hf:me/trees", dry_run=True, display=tiny.quiet())
    assert done.layout == "timm"
    model = timm.create_model(f"local-dir:{done.folder}", pretrained=True).eval()
    assert model.pretrained_cfg["label_names"] == resnet.summary["class_names"]
    config = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**config)
    from PIL import Image

    files = sorted((data / "val").rglob("*.png"))
    images = torch.stack([transform(Image.open(file)) for file in files])
    own = jtl.load(resnet.folder).predict(files).logits
    with torch.no_grad():
        logits = model(images).numpy()
    # float32 sums in another order, as of the exports.
    assert np.abs(logits - own).max() <= 1e-4 * np.abs(own).max()
    # For other classes, timm replaces the classifier.
    assert timm.create_model(f"local-dir:{done.folder}", pretrained=True, num_classes=7)


def test_what_timm_does_not_have_is_in_jtls_layout(tiny_run: Run, tiny_data: Path, capsys):
    assert main("publish", tiny_run.folder, "--to", "hf:me/tiny", "--dry-run", "--json") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["layout"] == "jtl"
    assert "note: timm and transformers cannot load it: tiny cannot be exported" in printed.err
    folder = tiny_run.folder / "published"
    with safe_open(folder / "model.safetensors", "numpy") as file:
        assert "params/head/logits/kernel" in set(file.keys())
    assert "pretrained_cfg" not in json.loads((folder / "config.json").read_text())
    found, own = jtl.load(folder), jtl.load(tiny_run)
    np.testing.assert_array_equal(found.predict(tiny_data).logits, own.predict(tiny_data).logits)
    # Again, in its place.
    assert main("publish", tiny_run.folder, "--to", "hf:me/tiny", "--dry-run") == 0


BAD = {
    "no hub": (["--to", "me/tiny"], "--to 'me/tiny' must be hf:USER/NAME"),
    "no user": (["--to", "hf:tiny"], "cannot be a name on the hub. Write it as hf:USER/NAME"),
    "another's": (["--to", "hf:others/x"], "the hub refuses the upload"),
    "another folder": (["--to", "hf:me/x", "--dry-run", "--out", "full"], "jtl did not publish it"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told(case: str, tiny_run: Run, capsys):
    Path("full").mkdir()
    Path("full", "mine").touch()
    args, message = BAD[case]
    assert main("publish", tiny_run.folder, *args) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in Path.cwd().rglob("*")] == ["full", "mine"]


def test_without_a_token(tiny_run: Run, hub, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN")
    assert main("publish", tiny_run.folder, "--to", "hf:me/tiny") == 2
    assert "the hub does not know you. Set HF_TOKEN" in capsys.readouterr().err
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    assert main("publish", tiny_run.folder, "--to", "hf:me/tiny") == 2
    assert "the hub does not know you. Set HF_TOKEN" in capsys.readouterr().err
    assert not hub.files


def test_without_a_network(tiny_run: Run, monkeypatch, capsys):
    hub_double.use(monkeypatch, "http://127.0.0.1:9")
    began = time.monotonic()
    assert main("publish", tiny_run.folder, "--to", "hf:me/tiny") == 2
    told = capsys.readouterr().err
    assert "the hub cannot be reached" in told
    assert "--dry-run writes the folder" in told
    assert main("predict", "hf:me/tiny", "x.png") == 2
    assert "Give the path of a folder with the repository's files" in capsys.readouterr().err
    assert time.monotonic() - began < 15


def test_what_the_hub_does_not_have(capsys):
    assert main("predict", "hf:me/nothing", "x.png") == 2
    assert "me/nothing on the hub has no jtl.json." in capsys.readouterr().err


def test_damage_is_told(tiny_run: Run, tmp_path: Path):
    folder = tmp_path / "copy"
    jtl.publish(tiny_run, "hf:me/tiny", dry_run=True, out=folder, display=tiny.quiet())
    for name, content, message in (
        ("jtl.json", "{", "cannot be read"),
        ("jtl.json", '{"format_version": 2}', "has format version 2"),
        ("jtl.json", '{"format_version": 1}', "damaged, or from another version"),
        ("model.safetensors", "x", "cannot be read"),
    ):
        whole = (folder / name).read_bytes()
        (folder / name).write_text(content)
        with pytest.raises(jtl.UserError, match=message):
            jtl.load(folder)
        (folder / name).write_bytes(whole)
    assert jtl.load(folder).epoch == tiny_run.summary["best_epoch"]


def test_names_of_sources():
    for source, name in {
        "digits": "digits",
        "folder:my-images": "my-images",
        f"folder:{os.sep}home{os.sep}me{os.sep}birds{os.sep}": "birds",
        "timm:resnet50.a1_in1k": "timm:resnet50.a1_in1k",
        "https://me:secret@example.org/a/birds.zip?token=1": "birds.zip",
        r"folder:C:\data\birds": "birds",
    }.items():
        assert public.name_of(source) == name


def test_long_lists_of_classes_end():
    names = [f"class {i}" for i in range(300)]
    assert "and 100 more" in card._classes({"class_names": names})
