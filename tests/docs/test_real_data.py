"""Real images, real weights: the figures that the README states."""

from __future__ import annotations

import zipfile
from functools import partial

import numpy as np
import pytest

from jtl import models, weights
from jtl.config.options import Config, DataConfig, RunConfig, TrainConfig
from jtl.data.decoding import HostTransform, decode
from jtl.data.preprocessing import Prepare
from jtl.models.inference import forward
from jtl.train.fit import fit

pytestmark = pytest.mark.slow

MODEL = "efficientnet_lite0"


def test_lite0_classifies_imagenet(shared_data, record_property):
    archive = zipfile.ZipFile(shared_data("imagenet-sample.zip"))
    with archive:
        files = [info for info in archive.infolist() if info.filename.endswith(".jpg")]
        names = [info.filename.rpartition("/")[2] for info in files]
        # A file's name starts with the index of its class among the 1000.
        labels = np.array([int(name[:4]) for name in names])
        assert (len(files), len(set(labels.tolist()))) == (500, 500)
        converted = weights.resolve("default", MODEL)
        host = HostTransform(224, 0.875, "bicubic")
        preprocessing = converted.preprocessing
        assert (preprocessing.size, preprocessing.crop_pct, preprocessing.interpolation) == (
            host.size,
            host.crop_pct,
            host.interpolation,
        )
        model = models.create(MODEL, conventions=converted.conventions)
        run = partial(
            forward, converted.variables, model=model, prepare=Prepare(224, preprocessing)
        )
        predicted = []
        for start in range(0, 500, 20):
            batch = [host(decode(archive.read(i), i.filename)) for i in files[start : start + 20]]
            predicted.append(np.asarray(run(np.stack(batch))).argmax(-1))
    top1 = np.mean(np.concatenate(predicted) == labels)
    record_property("top1", float(top1))
    print(f"top-1 {top1:.4f}")
    assert top1 >= 0.87


def test_the_default_run(tmp_path):
    run = fit(Config(run=RunConfig(run_dir=tmp_path / "run")))
    summary = run.summary
    print({key: summary[key] for key in ("val_accuracy", "val_loss", "train_seconds")})
    assert summary["val_accuracy"] >= 0.94
    assert (summary["frozen_unchanged"], summary["cached_prefix"]) == (True, True)
    assert (summary["num_train"], summary["num_val"], summary["num_classes"]) == (1438, 359, 10)
    # Published: 4,652,008 with 1000 classes on 1280 features.
    assert summary["trainable_params"] == 1280 * 10 + 10
    # L-BFGS fits the head: no optimizer keeps anything.
    assert summary["optimizer_bytes"] == 0


def test_ants_and_bees(shared_data, tmp_path):
    config = Config(
        data=DataConfig(f"folder:{shared_data('ants-bees.zip')}", image_size=224),
        train=TrainConfig(mask="head_only"),
        run=RunConfig(run_dir=tmp_path / "run"),
    )
    summary = fit(config).summary
    print({key: summary[key] for key in ("val_accuracy", "val_loss", "train_seconds")})
    assert summary["class_names"] == ["ants", "bees"]
    assert summary["val_accuracy"] >= 0.94
    assert (summary["frozen_unchanged"], summary["cached_prefix"]) == (True, True)
