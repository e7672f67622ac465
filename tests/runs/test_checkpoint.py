"""Checkpoints: what is kept, what comes back, what is refused."""

from __future__ import annotations

import shutil

import jax
import numpy as np
import optax
import pytest

from jtl.common.errors import UserError
from jtl.runs import checkpoint
from support import tiny

STATE = {"momentum": np.zeros(3, np.float32)}
META = {"class_names": ["a", "é"], "cut": "head", "cached_prefix": True, "nested": {"x": [1, 2.5]}}


def variables(value: float):
    return {
        "params": {"head": {"kernel": np.full((2, 3), value, np.float32)}},
        "batch_stats": {"stem": {"mean": np.full(4, -value, np.float32)}},
    }


def write(folder, scores):
    with checkpoint.manager(folder) as checkpoints:
        for epoch, score in enumerate(scores, 1):
            state = optax.adam(0.1).init({"kernel": np.zeros(3, np.float32)})
            metrics = {"val_accuracy": 0.5, "best": score}
            checkpoint.save(checkpoints, epoch, variables(epoch), state, metrics, META)


def kept(folder) -> set[int]:
    return {int(path.name) for path in (folder / "checkpoints").iterdir()}


@pytest.mark.parametrize(
    ("accuracies", "best"),
    [
        ([0.2, 0.9, 0.4, 0.5], 2),
        ([0.9, 0.2, 0.4, 0.8], 1),
        ([0.1, 0.2, 0.3, 0.4], 4),
        ([0.5], 1),
    ],
)
def test_best_and_latest_are_kept_and_no_others(tmp_path, accuracies, best):
    write(tmp_path, accuracies)
    assert kept(tmp_path) == {best, len(accuracies)}
    for which, epoch in (("best", best), ("latest", len(accuracies))):
        restored = checkpoint.restore(tmp_path, which)
        assert restored.epoch == epoch
        assert restored.meta == META
        jax.tree.map(np.testing.assert_array_equal, restored.variables, variables(epoch))


def test_what_comes_back_has_the_bits_that_went_in(tmp_path):
    odd = np.array([np.nan, -0.0, np.inf, 1e-45, np.pi], np.float32)
    tree = {**tiny.variables(), "odd": {"values": odd}}
    with checkpoint.manager(tmp_path) as checkpoints:
        checkpoint.save(checkpoints, 1, tree, STATE, {"best": 1.0}, META)
    got = checkpoint.restore(tmp_path).variables
    assert jax.tree.structure(got) == jax.tree.structure(tree)
    for left, right in zip(*map(jax.tree.leaves, (got, tree)), strict=True):
        assert isinstance(left, np.ndarray)
        assert (left.dtype, left.shape, left.tobytes()) == (
            right.dtype,
            right.shape,
            right.tobytes(),
        )


def test_saving_waits_when_the_manager_closes(tmp_path):
    # Saving goes on in the background.
    with checkpoint.manager(tmp_path) as checkpoints:
        checkpoint.save(checkpoints, 1, variables(1.0), STATE, {"best": 1.0}, META)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["1"]


def test_not_a_run(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UserError, match=r"is not a run: it has no 'checkpoints' folder"):
            checkpoint.restore(folder)
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(UserError, match="is not a run"):
        checkpoint.restore(file)


def test_no_finished_checkpoint(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="holds no finished checkpoint"):
        checkpoint.restore(tmp_path)


def largest_file(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


def damage_truncate(folder):
    victim = largest_file(folder / "checkpoints" / "1" / "variables")
    victim.write_bytes(victim.read_bytes()[: victim.stat().st_size // 2])


def damage_empty(folder):
    for path in (folder / "checkpoints" / "1" / "variables").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")


def damage_meta(folder):
    for path in (folder / "checkpoints" / "1" / "meta").iterdir():
        path.write_text("{")


def damage_one_bit(folder):
    victim = largest_file(folder / "checkpoints" / "1" / "variables")
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)


def damage_metrics(folder):
    (folder / "checkpoints" / "1" / "metrics" / "metrics").write_bytes(b"\x00{")


def damage_notes(folder):
    (folder / "checkpoints" / "1" / "_CHECKPOINT_METADATA").write_bytes(b"\x00{")


def damage_missing(folder):
    largest_file(folder / "checkpoints" / "1" / "variables").unlink()


def damage_fingerprints(folder):
    (folder / "checkpoints" / "1" / checkpoint.FINGERPRINTS).write_text("[]")


@pytest.mark.parametrize(
    "damage",
    [
        damage_truncate,
        damage_empty,
        damage_meta,
        damage_one_bit,
        damage_missing,
        damage_fingerprints,
    ],
)
def test_damaged_files_are_a_users_error(tmp_path, damage):
    with checkpoint.manager(tmp_path) as checkpoints:
        metrics = {"best": 1.0}
        checkpoint.save(checkpoints, 1, tiny.variables(), STATE, metrics, META)
    checkpoint.restore(tmp_path)
    damage(tmp_path)
    with pytest.raises(
        UserError, match=r"^the checkpoint of epoch 1 in '.*' cannot be read: \S"
    ) as raised:
        checkpoint.restore(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("read", [checkpoint.restore, checkpoint.latest_epoch])
def test_damaged_metrics_name_the_checkpoint(tmp_path, read):
    write(tmp_path, [0.9, 0.2])
    damage_metrics(tmp_path)
    with pytest.raises(
        UserError, match=r"cannot be read: 1 \(metrics/metrics has changed"
    ) as raised:
        read(tmp_path)
    assert "Remove the damaged checkpoint's folder" in str(raised.value)
    # As the message says: the other one can still be read.
    shutil.rmtree(tmp_path / "checkpoints" / "1")
    assert checkpoint.restore(tmp_path).epoch == 2


def test_orbax_own_notes_are_not_needed(tmp_path):
    write(tmp_path, [0.9])
    damage_notes(tmp_path)
    assert checkpoint.restore(tmp_path).epoch == 1
