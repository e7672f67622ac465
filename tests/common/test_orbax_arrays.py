"""Reading what Orbax has written, without Orbax."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jtl.common import orbax_arrays
from jtl.common.orbax_arrays import read_tree
from jtl.common.trees import leaf_paths, lookup


def saved(folder: Path, tree: dict[str, Any]) -> Path:
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "tree", tree)
    return folder / "tree"


def tree() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(3, 3, 4, 5)).astype(np.float32)
    return {
        "params": {
            "stem": {"conv": {"kernel": kernel, "bias": np.zeros(5, np.float32)}},
            "scale": np.float32(2.5).reshape(()),
            "half": jnp.asarray(kernel[0], jnp.bfloat16),
            "steps": np.arange(3),
        },
        "batch_stats": {},
    }


def assert_same(read: dict[str, Any], expected: dict[str, Any]) -> None:
    assert set(leaf_paths(read)) == set(leaf_paths(expected))
    for path in leaf_paths(expected):
        leaf, wanted = lookup(read, path), np.asarray(lookup(expected, path))
        assert type(leaf) is np.ndarray
        assert (leaf.dtype, leaf.shape) == (wanted.dtype, wanted.shape)
        assert leaf.tobytes() == wanted.tobytes()
        assert leaf.flags.writeable


def test_a_tree_is_read_as_it_was_saved_and_without_orbax(tmp_path, monkeypatch):
    folder = saved(tmp_path, tree())
    monkeypatch.setattr(orbax_arrays, "read_by_orbax", None)
    assert_same(read_tree(folder), tree())
    assert read_tree(folder)["batch_stats"] == {}


@pytest.mark.parametrize("layout", ["a number", "a list", "another format"])
def test_what_jtl_does_not_write_is_left_to_orbax(tmp_path, monkeypatch, layout):
    content = {**tree(), **{"a number": {"n": 3}, "a list": {"l": [np.ones(2)]}}.get(layout, {})}
    if layout == "another format":
        handler = ocp.PyTreeCheckpointHandler(use_ocdbt=False)
        with ocp.Checkpointer(handler) as checkpointer:
            checkpointer.save(tmp_path / "tree", args=ocp.args.PyTreeSave(content))
        folder = tmp_path / "tree"
    else:
        folder = saved(tmp_path, content)
    monkeypatch.setattr(orbax_arrays, "_by_tensorstore", None)
    read = read_tree(folder)
    for name in content.keys() - tree().keys():
        assert np.array_equal(read.pop(name), content[name])
    assert_same(read, tree())


def test_values_that_are_gone_are_an_error_and_not_zeros(tmp_path):
    folder = saved(tmp_path, tree())
    for data in folder.glob("**/d/*"):
        data.unlink()
    with pytest.raises(Exception, match=r"NOT_FOUND|Error reading|not found|missing"):
        read_tree(folder)


def test_reading_a_run_or_weights_does_not_import_orbax(tiny_run, monkeypatch):
    import jtl

    for name in [name for name in sys.modules if name.partition(".")[0] == "orbax"]:
        monkeypatch.setitem(sys.modules, name, None)
    assert jtl.load(tiny_run.folder).epoch in (1, 2)
