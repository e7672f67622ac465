"""What a conversion understood of a file, printed and kept, and the options that decide it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from jtl import weights
from jtl.common.errors import UserError
from jtl.common.paths import WEIGHTS
from support import weights_samples as samples
from support.commands import main as run
from weights_convert.__main__ import main
from weights_convert.checkpoint import folder as converted_folder

FOREIGN = {"model_ema.conv.weight": np.ones((3, 3, 1, 1), np.float32)}


@pytest.fixture
def lightning(tmp_path) -> Path:
    """A network under a prefix, a loss's weights, and a moving average."""
    tensors = {f"net.backbone.{key}": array for key, array in samples.tensors().items()}
    tensors |= {"criterion.weight": np.ones(5, np.float32), **FOREIGN}
    return samples.write_file(tmp_path / "x.safetensors", tensors)


def converted(arguments: list[str], capsys, tmp_path: Path) -> tuple[str, dict]:
    out = tmp_path / "out"
    assert main([*arguments, "--out", str(out), "--overwrite"]) == 0
    return capsys.readouterr().out, json.loads((out / "weights.json").read_text())["reading"]


def test_what_was_understood_is_printed_and_kept(lightning, capsys, tmp_path):
    printed, reading = converted([str(lightning)], capsys, tmp_path)
    assert "'net.backbone.' stripped" in printed
    assert "1 key ignored, of the training, not of the network: criterion.weight" in printed
    assert "1 key ignored, outside of the prefix 'net.backbone.': model_ema.conv.weight" in printed
    assert reading["prefix"] == "net.backbone."
    assert reading["ignored_because"] == {
        "of the training, not of the network": ["criterion.weight"],
        "outside of the prefix 'net.backbone.'": ["model_ema.conv.weight"],
    }
    kept = converted_folder.read(tmp_path / "out")
    assert kept.reading.ignored_because["of the training, not of the network"]
    assert "`net.backbone.`" in (tmp_path / "out" / "README.md").read_text()


def test_the_options_decide(lightning, capsys, tmp_path):
    options = ["--strip-prefix", "net.backbone.", "--ignore-keys", r"model_ema\..*", "--bgr"]
    printed, reading = converted([str(lightning), *options], capsys, tmp_path)
    assert "BGR" in printed
    assert reading["preprocessing_by"].startswith("--bgr")
    assert reading["ignored_because"]["--ignore-keys"] == ["model_ema.conv.weight"]
    for option, value in (("--strip-prefix", "other."), ("--ignore-keys", "other")):
        out = str(tmp_path / "no")
        assert main([str(lightning), option, value, "--out", out]) == 2
        assert f"{option} '{value}'" in capsys.readouterr().err
        assert not (tmp_path / "no").exists()


def test_training_reads_with_the_same_options(lightning, tmp_path):
    cache, messages = tmp_path / "cache", []
    reading = weights.Reading(strip_prefix="net.backbone.", ignore_keys="model_ema.*", bgr=True)
    found = weights.resolve(str(lightning), samples.MODEL, cache, messages.append, reading)
    assert found.preprocessing.channel_order == "bgr"
    assert any("criterion.weight" in message for message in messages)
    # Another reading of the same file is another entry of the cache.
    plain = weights.resolve(str(lightning), samples.MODEL, cache)
    assert plain.preprocessing.channel_order == "rgb"
    again = weights.resolve(str(lightning), samples.MODEL, cache, messages.append, reading)
    assert again.preprocessing == found.preprocessing
    assert len(list((cache / WEIGHTS).iterdir())) == 2


def test_options_change_nothing_of_converted_weights(tmp_path):
    converted_folder.write(tmp_path / "out", samples.checkpoint())
    with pytest.raises(UserError, match=r"--entry, --bgr cannot change anything"):
        weights.resolve(
            str(tmp_path / "out"), samples.MODEL, reading=weights.Reading(entry="x", bgr=True)
        )


def test_a_folder_as_on_the_hub(tmp_path):
    """Shards, an index and timm's config.json; a shard that changes is converted anew."""
    folder, cache = tmp_path / "model", tmp_path / "cache"
    folder.mkdir()
    tensors = samples.tensors()
    files = {key: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, key in enumerate(tensors)}

    def write() -> None:
        for name in set(files.values()):
            part = {
                key: np.ascontiguousarray(a) for key, a in tensors.items() if files[key] == name
            }
            save_file(part, folder / name)

    write()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    (folder / "config.json").write_text(json.dumps(samples.CONFIG))
    found = weights.resolve(str(folder), samples.MODEL, cache)
    assert (found.num_classes, found.class_names) == (5, tuple(samples.CONFIG["label_names"]))
    assert (found.source, found.preprocessing.size) == ("model", 192)
    last = list(tensors)[-1]
    tensors[last] = tensors[last] + 1
    write()
    other = weights.resolve(str(folder), samples.MODEL, cache)
    assert other.sha256 != found.sha256


def test_the_two_files_of_transformers(tmp_path):
    samples.write_file(tmp_path / "model.safetensors")
    labels = {str(i): name for i, name in enumerate("abcde")}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "x", "id2label": labels}))
    processor = {
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [0.4, 0.5, 0.6],
        "size": {"shortest_edge": 160},
        "crop_pct": 0.9,
        "resample": 2,
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    found = weights.resolve(str(tmp_path), samples.MODEL, tmp_path / "cache")
    pre = found.preprocessing
    assert (pre.mean, pre.std, pre.size) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 160)
    assert (pre.crop_pct, pre.interpolation) == (0.9, "bilinear")
    assert found.class_names == tuple("abcde")


@pytest.mark.slow
def test_training_has_the_options(lightning, capsys):
    command = [f"--weights={lightning}", f"--model={samples.MODEL}", "--dry-run"]
    assert run("train", *command, "--strip-prefix=other.") == 2
    assert "no key begins with --strip-prefix 'other.'" in capsys.readouterr().err
    options = ["--strip-prefix=net.backbone.", "--ignore-keys=(model_ema|criterion).*"]
    assert run("train", *command, *options) == 0
    assert "2 keys ignored, --ignore-keys" in capsys.readouterr().err
    assert run("train", "--weights=random", "--bgr", "--dry-run") == 2
    assert "--bgr: no effect with --weights random" in capsys.readouterr().err
