"""Checkpoints: what is kept, what comes back, what is refused."""

from __future__ import annotations

import json
import shutil

import jax
import numpy as np
import optax
import pytest

from jtl.common import hashes
from jtl.common.errors import UserError
from jtl.runs.checkpoints import reading
from jtl.runs.checkpoints.contents import FINGERPRINTS
from support import checkpoints, tiny

STATE = {"momentum": np.zeros(3, np.float32)}
META = {
    "class_names": ["a", "é"],
    "cut": "head",
    "cached_prefix": True,
    "nested": {"x": [1, 2.5]},
    "start": None,
}


def variables(value: float):
    return {
        "params": {"head": {"kernel": np.full((2, 3), value, np.float32)}},
        "batch_stats": {"stem": {"mean": np.full(4, -value, np.float32)}},
    }


def write(folder, accuracies):
    state = optax.adam(0.1).init({"kernel": np.zeros(3, np.float32)})
    checkpoints.write(folder, accuracies, variables, state, META)


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
        restored = reading.restore(tmp_path, which)
        assert restored.epoch == epoch
        assert restored.meta == META
        jax.tree.map(np.testing.assert_array_equal, restored.variables, variables(epoch))


def test_what_comes_back_has_the_bits_that_went_in(tmp_path):
    odd = np.array([np.nan, -0.0, np.inf, 1e-45, np.pi], np.float32)
    tree = {**tiny.variables(), "odd": {"values": odd}}
    checkpoints.write(tmp_path, [0.5], lambda _: tree, STATE, META)
    got = reading.restore(tmp_path).variables
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
    write(tmp_path, [0.5])
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["1"]


def test_not_a_run(tmp_path):
    for folder, why in ((tmp_path, "it has no 'checkpoints' folder"), (tmp_path / "x", "no such")):
        with pytest.raises(UserError, match=f"is not a run: .*{why}"):
            reading.restore(folder)
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(UserError, match="is not a run"):
        reading.restore(file)


def test_no_finished_checkpoint(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="has no finished checkpoint"):
        reading.restore(tmp_path)


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
    (folder / "checkpoints" / "1" / FINGERPRINTS).write_text("[]")


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
    checkpoints.write(tmp_path, [0.5], lambda _: tiny.variables(), STATE, META)
    reading.restore(tmp_path)
    damage(tmp_path)
    with pytest.raises(
        UserError, match=r"^the checkpoint of epoch 1 in '.*' cannot be read: \S"
    ) as raised:
        reading.restore(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("read", [reading.restore, reading.check])
def test_damaged_metrics_name_the_checkpoint(tmp_path, read):
    write(tmp_path, [0.9, 0.2])
    damage_metrics(tmp_path)
    with pytest.raises(
        UserError, match=r"cannot be read: 1 \(metrics/metrics has changed"
    ) as raised:
        read(tmp_path)
    assert "Delete the damaged checkpoint's folder" in str(raised.value)
    # As the message says: the other one can still be read.
    shutil.rmtree(tmp_path / "checkpoints" / "1")
    assert reading.restore(tmp_path).epoch == 2


def test_orbax_own_notes_are_not_needed(tmp_path):
    write(tmp_path, [0.9])
    damage_notes(tmp_path)
    assert reading.restore(tmp_path).epoch == 1


def rewritten(folder, change):
    """A checkpoint whose metadata are others, and whole."""
    path = folder / "checkpoints" / "1"
    content = change((path / "meta" / "metadata").read_text())
    (path / "meta" / "metadata").write_text(content)
    files = {k: v for k, v in hashes.of_files(path).items() if "/" in k}
    (path / FINGERPRINTS).write_text(json.dumps(files))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            '"cut"',
            '"format_version": 4, "cut"',
            "its format is version 4, but",
        ),
        ("2.5", "NaN", "meta contains NaN, which is not a number"),
        ("2.5", "-Infinity", "meta contains -Infinity, which is not a number"),
    ],
)
def test_metadata_of_another_kind_are_refused(tmp_path, old, new, told):
    write(tmp_path, [0.9])
    rewritten(tmp_path, lambda text: text.replace(old, new))
    with pytest.raises(UserError, match=told):
        reading.restore(tmp_path)


def test_readers_change_nothing(tmp_path):
    write(tmp_path, [0.9, 0.2])
    unfinished = tmp_path / "checkpoints" / "3.orbax-checkpoint-tmp-7"
    unfinished.mkdir()
    before = {path: path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*"))}
    for which in ("best", "latest"):
        reading.restore(tmp_path, which)
    assert {path: path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*"))} == before


def test_a_checkpoint_that_is_replaced_while_it_is_read(tmp_path, monkeypatch):
    write(tmp_path, [0.9])
    later = tmp_path / "later"
    write(later, [0.9, 0.95])
    chosen = reading._chosen

    def replaced(run_dir, which):
        epoch = chosen(run_dir, which)
        if epoch == 1:
            (later / "checkpoints" / "2").rename(tmp_path / "checkpoints" / "2")
            (tmp_path / "checkpoints" / "1").rename(tmp_path / "gone")
        return epoch

    monkeypatch.setattr(reading, "_chosen", replaced)
    assert reading.restore(tmp_path).epoch == 2
