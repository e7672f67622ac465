"""Runs in folders whose names mean something to wildcards, URLs and markup."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jtl.common.paths import plain_path
from jtl.runs.checkpoints import reading
from jtl.train.fit import fit
from support import tiny
from weights_convert.checkpoint import folder as converted_folder

NAMES = ["q[34]x", "a*b", "what?", "back\\slash", "a$b %20#c", "plain é"]


@pytest.mark.parametrize("name", NAMES)
def test_converted_weights_in_such_a_folder(tiny_model, tmp_path, name):
    folder = tiny.write_weights(tmp_path / name / "weights")
    stored = converted_folder.read(folder).variables
    jax.tree.map(np.testing.assert_array_equal, stored, tiny.variables())
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_run_in_such_a_folder(tiny_data, tmp_path, name):
    folder = tmp_path / name / "run"
    run = fit(tiny.config(tiny_data, folder, mask="full", epochs=2), tiny.quiet())
    assert run.summary["epochs"] == 2
    assert reading.restore(folder, "latest").epoch == 2
    assert reading.saved_epochs(folder)[-1] == 2
    # Nothing was written beside it.
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_plain_path_is_left_as_it_is(tmp_path):
    with plain_path(tmp_path) as path:
        assert path == tmp_path
    odd = tmp_path / "x[1]" / "inner"
    with plain_path(odd) as path:
        assert path != odd
        (path / "file").write_text("here")
    assert (odd / "file").read_text() == "here"
    assert not path.exists()
