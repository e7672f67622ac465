"""What `jtl predict` does before it answers: as little as it can, as people wait for it."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from jtl import models
from jtl.config.options import Config
from jtl.data.input_plan import InputPlan
from jtl.data.preprocessing import Prepare
from jtl.models import HeadSpec, Preprocessing
from jtl.runs.checkpoints.model_description import describe_model
from support import checkpoints
from support.commands import python

PROBE = """
import atexit, gc, json, os, sys

collections = []
gc.callbacks.append(lambda phase, info: collections.append(info["generation"]))

def report():
    content = {"modules": sorted(sys.modules), "collections": len(collections) // 2}
    with open(os.environ["REPORT"], "w") as file:
        json.dump(content, file)

atexit.register(report)
"""
"""As `sitecustomize.py`, which Python runs first in every process that finds it."""
NEEDLESS = {
    *("orbax", "optax", "scipy", "matplotlib", "h5py", "safetensors", "weights_convert"),
    *("jtl.train", "jtl.optim", "jtl.freeze", "jtl.data.augment"),
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of a small backbone, as far as predicting needs it."""
    name, folder = "squeezenet1_1", tmp_path / "run"
    model = models.create(name, num_classes=2, head=HeadSpec())
    shapes = models.variable_shapes(model, 32)
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    inputs = InputPlan(None, Prepare(32, Preprocessing(size=32)))
    meta = describe_model(name, model, inputs, ["ash", "birch"], conventions={}, source={})
    checkpoints.write(folder, [0.5], lambda epoch: variables, {}, meta)
    (folder / "config.json").write_text(json.dumps(Config().to_dict()))
    return folder


@pytest.mark.process
def test_a_second_prediction_imports_compiles_and_collects_little(run, tmp_path):
    probe, cache, image = tmp_path / "probe", tmp_path / "cache", tmp_path / "image.png"
    probe.mkdir()
    (probe / "sitecustomize.py").write_text(PROBE)
    Image.new("RGB", (32, 32), "green").save(image)
    compiled, seen = [], {}
    for _ in range(2):
        ran = python(
            *("-m", "jtl.predict", run, image),
            JAX_COMPILATION_CACHE_DIR=None,
            JTL_CACHE=str(cache),
            PYTHONPATH=str(probe),
            REPORT=str(probe / "report.json"),
        )
        assert ran.returncode == 0, ran.stderr
        assert " 50.0 %  ash" in ran.stdout
        compiled.append({path.name for path in (cache / "programs").glob("*-cache")})
        seen = json.loads((probe / "report.json").read_text())
    assert any(name.startswith("jit_forward-") for name in compiled[0])
    assert compiled[1] == compiled[0]
    modules = set(seen["modules"])
    assert modules >= {"jax", "jtl.predict.classifier"}
    assert not NEEDLESS & {*modules, *(name.partition(".")[0] for name in modules)}
    # More than 350 if the collector does not wait until all is imported and read, else 75.
    assert seen["collections"] < 200
