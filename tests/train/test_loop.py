"""What a run trains, what it leaves alone, and which epochs it keeps."""

from __future__ import annotations

import copy
import dataclasses
import errno
import json
import math
import shutil

import jax
import numpy as np
import pytest

from jtl.common.errors import UserError
from jtl.common.trees import lookup
from jtl.distributed.sharding import DataSharding
from jtl.evaluate.evaluation import evaluate_run
from jtl.predict import classifier as evaluation
from jtl.runs.checkpoints import reading, saving
from jtl.runs.checkpoints.contents import Restored
from jtl.runs.checkpoints.saving import CheckpointPolicy
from jtl.train import step as steps
from jtl.train import trainer
from jtl.train.checks import checked
from jtl.train.fit import fit
from jtl.train.run_records import frozen_unchanged
from jtl.train.setup import prepare_setup
from jtl.train.trainer import Trainer
from support import commands, tiny
from weights_convert.convert.rules import leaf_paths


def start_of(run):
    """The variables that a run begins with."""
    return prepare_setup(checked(run.config), tiny.quiet()).variables


def moved(run) -> set[tuple[str, ...]]:
    """The leaves that the latest checkpoint has changed."""
    start, end = start_of(run), reading.restore(run.folder, "latest").variables
    return {p for p in leaf_paths(start) if not np.array_equal(lookup(start, p), lookup(end, p))}


def test_everything_trains_under_full(full_run):
    summary = full_run.summary
    # As Keras counts: running statistics are no trainable params, even where they move.
    assert summary["trainable_params"] + summary["frozen_params"] == summary["total_params"]
    assert summary["trainable_params"] == sum(
        leaf.size for leaf in jax.tree.leaves(start_of(full_run)["params"])
    )
    assert (summary["cached_prefix"], summary["frozen_unchanged"]) == (False, True)
    assert moved(full_run) == set(leaf_paths(start_of(full_run)))


def test_only_the_head_moves_under_head_only(tiny_run):
    assert moved(tiny_run) == {("params", "head", "logits", leaf) for leaf in ("kernel", "bias")}


def test_a_run_starts_from_the_weights_and_a_zero_head(tiny_run):
    start, given = start_of(tiny_run), tiny.variables()
    assert set(leaf_paths(start)) == set(leaf_paths(given))
    for path in leaf_paths(given):
        expected = lookup(given, path)
        if path[1] == "head":
            expected = np.zeros_like(expected)
        np.testing.assert_array_equal(lookup(start, path), expected, err_msg=str(path))


def test_the_same_seed_gives_the_same_run(tiny_run, tiny_data, tmp_path):
    again = fit(tiny.config(tiny_data, tmp_path / "again"), tiny.quiet())
    other = fit(tiny.config(tiny_data, tmp_path / "other", seed=1), tiny.quiet())
    trees = [reading.restore(r.folder, "latest").variables for r in (tiny_run, again, other)]
    jax.tree.map(np.testing.assert_array_equal, trees[0], trees[1])
    with pytest.raises(AssertionError):
        jax.tree.map(np.testing.assert_array_equal, trees[0], trees[2])


# The frozen proof.


def flipped(array: np.ndarray) -> np.ndarray:
    """The array with the lowest bit of its first number turned."""
    bits = array.copy()
    bits.reshape(-1).view(np.uint32)[0] ^= 1
    return bits


def put(tree, path, value):
    tree = copy.deepcopy(tree)
    lookup(tree, path[:-1])[path[-1]] = value
    return tree


def is_unchanged(run, start, end) -> bool:
    setup = dataclasses.replace(prepare_setup(run.config, tiny.quiet()), variables=start)
    return frozen_unchanged(setup, Restored(1, end, {}))


@pytest.mark.parametrize("which", ["tiny_run", "full_run"])
def test_one_bit_of_any_frozen_leaf_counts(which, request):
    run = request.getfixturevalue(which)
    setup = prepare_setup(run.config, tiny.quiet())
    for path in leaf_paths(setup.variables):
        changed = put(setup.variables, path, flipped(lookup(setup.variables, path)))
        frozen = which == "tiny_run" and path[1] != "head"
        restored = Restored(1, changed, {})
        assert frozen_unchanged(setup, restored) is not frozen, path


@pytest.mark.parametrize(
    ("before", "after", "same"), [(0.0, -0.0, False), (math.nan, math.nan, True), (1.0, 1.0, True)]
)
def test_the_frozen_proof_compares_bits_not_numbers(tiny_run, before, after, same):
    path, variables = ("params", "stem", "bn", "bias"), tiny.variables()
    leaf = lookup(variables, path)
    start, end = (put(variables, path, np.full_like(leaf, value)) for value in (before, after))
    assert is_unchanged(tiny_run, start, end) is same


def test_the_frozen_proof_sees_missing_and_reshaped_leaves(tiny_run):
    path, variables = ("batch_stats", "stem", "bn", "mean"), tiny.variables()
    leaf = lookup(variables, path)
    assert is_unchanged(tiny_run, variables, tiny.variables())
    for changed in (leaf.reshape(1, -1), leaf.astype(np.float64)):
        assert not is_unchanged(tiny_run, variables, put(variables, path, changed))
    missing = tiny.variables()
    del missing["batch_stats"]["stem"]["bn"]["mean"]
    assert not is_unchanged(tiny_run, variables, missing)


@pytest.mark.parametrize(
    "path",
    [("params", "stage1", "block1", "conv", "kernel"), ("batch_stats", "stem", "bn", "mean")],
)
def test_the_summary_tells_of_changed_frozen_leaves(tiny_data, tmp_path, monkeypatch, path):
    whole = Trainer.variables

    def leaky(self):
        tree = jax.device_get(whole(self))
        return put(tree, path, flipped(lookup(tree, path)))

    monkeypatch.setattr(Trainer, "variables", leaky)
    run = fit(tiny.config(tiny_data, tmp_path / "run"), tiny.quiet())
    assert run.summary["frozen_unchanged"] is False


# What is kept of the epochs.


def fit_with_accuracies(data, folder, monkeypatch, accuracies, *, save_seconds, **train):
    """A run whose epochs validate as `accuracies` says, and its head after each epoch."""
    remaining, heads = iter(accuracies), []
    policy = CheckpointPolicy(seconds=save_seconds)
    monkeypatch.setattr(saving, "DEFAULT_POLICY", policy)

    def scripted(self: trainer.Trainer):
        heads.append(np.asarray(self.variables()["params"]["head"]["logits"]["kernel"]))
        return {"accuracy": next(remaining), "loss": 1.0}, None

    monkeypatch.setattr(trainer.Trainer, "evaluate", scripted)
    options = tiny.config(data, folder, epochs=len(accuracies), schedule="constant", **train)
    return fit(options, tiny.quiet()), heads


def test_classes_are_told_of_the_best_epoch(tiny_data, tmp_path, monkeypatch):
    accuracies, everything = iter([0.2, 0.9, 0.4]), iter([0, 1, 2])

    def scripted(self: trainer.Trainer):
        logits = np.zeros((len(self.inputs.examples["val"]), 3), np.float32)
        logits[:, next(everything)] = 1
        return {"accuracy": next(accuracies), "loss": 1.0}, logits

    monkeypatch.setattr(trainer.Trainer, "evaluate", scripted)
    summary = fit(tiny.config(tiny_data, tmp_path / "run", epochs=3), tiny.quiet()).summary
    assert [row["accuracy"] for row in summary["val_classes"].values()] == [0, 1, 0]
    assert summary["val_macro_f1"] == pytest.approx((0 + 0.5 + 0) / 3)


@pytest.mark.parametrize("save_seconds", [-1.0, 1e9], ids=["every epoch", "at the end"])
@pytest.mark.parametrize(
    ("accuracies", "best"),
    [
        ([0.2, 0.9, 0.4, 0.5], 2),
        ([0.9, 0.5, 0.4, 0.8], 1),
        ([0.1, 0.2, 0.3, 0.4], 4),
    ],
)
def test_best_and_latest_epoch_are_on_disk(
    tiny_data, tmp_path, monkeypatch, accuracies, best, save_seconds
):
    folder = tmp_path / "run"
    run, heads = fit_with_accuracies(
        tiny_data, folder, monkeypatch, accuracies, save_seconds=save_seconds
    )
    assert len(heads) == 4
    # The epochs had no logits: the best one is evaluated again.
    scores = evaluate_run(evaluation.load(folder), None, tiny.quiet()).scores
    assert run.summary["val_classes"] == scores["val_classes"]
    assert (run.summary["best_epoch"], run.summary["val_accuracy"]) == (best, max(accuracies))
    assert {int(p.name) for p in (folder / "checkpoints").iterdir()} == {best, 4}
    for which, epoch in (("best", best), ("latest", 4)):
        restored = reading.restore(folder, which)
        assert restored.epoch == epoch
        np.testing.assert_array_equal(
            restored.variables["params"]["head"]["logits"]["kernel"], heads[epoch - 1]
        )
    # The epochs differ, so that the comparison above can fail.
    assert len({head.tobytes() for head in heads}) == 4


@pytest.mark.parametrize(("patience", "epochs"), [(0, 6), (1, 3), (2, 4), (4, 6)])
def test_patience(tiny_data, tmp_path, monkeypatch, patience, epochs):
    accuracies = [0.1, 0.5, 0.4, 0.4, 0.4, 0.3]
    run, _ = fit_with_accuracies(
        tiny_data, tmp_path / "run", monkeypatch, accuracies, save_seconds=1e9, patience=patience
    )
    assert [line["epoch"] for line in tiny.lines_of(run)] == list(range(1, epochs + 1))
    assert (run.summary["epochs"], run.summary["best_epoch"]) == (epochs, 2)
    assert reading.restore(run.folder, "latest").epoch == epochs


def test_the_learning_rate_of_every_epoch_is_logged(tiny_run):
    lines = tiny.lines_of(tiny_run)
    per_epoch = 18 // 4
    for line in lines:
        step = line["epoch"] * per_epoch - 1
        expected = 0.05 * (1 + math.cos(math.pi * step / (2 * per_epoch))) / 2
        assert line["learning_rate"] == pytest.approx(expected, rel=1e-5)


def test_a_resumed_run_knows_that_its_patience_is_over(tiny_data, tmp_path):
    options = dict(mask="full", epochs=12, patience=1, lr=1.0)
    folder = tmp_path / "run"
    whole = fit(tiny.config(tiny_data, folder, **options), tiny.quiet())
    assert len(whole.history) < 12
    # As if it had been killed after its last save.
    (folder / "summary.json").unlink()
    resumed = fit(tiny.resumed(folder), tiny.quiet())
    for key in ("epochs", "best_epoch", "optimizer_bytes", "val_loss"):
        assert resumed.summary[key] == whole.summary[key]
    assert resumed.summary["optimizer_bytes"] > 0
    assert resumed.summary["train_seconds"] > whole.history[-1]["elapsed"] - 1e-3


@pytest.mark.parametrize("change", [{"lr": 0.5}, {"mask": "full"}])
def test_a_resumed_run_refuses_other_options(tiny_data, tmp_path, change):
    run = fit(tiny.config(tiny_data, tmp_path / "run"), tiny.quiet())
    (run.folder / "summary.json").unlink()
    asked = tiny.resumed(run.folder)
    asked = dataclasses.replace(asked, train=dataclasses.replace(asked.train, **change))
    [(name, value)] = change.items()
    with pytest.raises(UserError, match=rf"--{name} {value} \(the run has"):
        fit(asked, tiny.quiet())
    same = dataclasses.replace(tiny.resumed(run.folder), train=run.config.train)
    assert fit(same, tiny.quiet()).summary["epochs"] == 2


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--mask", "head_only"], "--mask head_only (the run has full"),
        (["--data=digits"], "data or weights have changed"),
        (["--batch_size=32"], "--batch-size 32 (the run has 4"),
        (["--no-aux-head", "--mask=full"], None),
    ],
)
def test_a_resumed_run_sees_options_that_are_as_by_default(full_run, tmp_path, given, told, capsys):
    folder = tmp_path / "run"
    shutil.copytree(full_run.folder, folder)
    (folder / "summary.json").unlink()
    code = commands.main("train", "--resume", "--run-dir", folder, *given)
    assert code == (2 if told else 0)
    assert (told or "") in capsys.readouterr().err
    assert "given" not in json.loads((folder / "config.json").read_text())["run"]


@pytest.mark.parametrize(
    "damage", ["", '{"epoch": 1}\n{"epo', '{"epoch": 2}\n{"epoch": 3}\n', "[]\n"]
)
def test_a_resumed_run_needs_the_lines_of_its_epochs(tiny_data, tmp_path, damage):
    run = fit(tiny.config(tiny_data, tmp_path / "run"), tiny.quiet())
    (run.folder / "summary.json").unlink()
    (run.folder / "metrics.jsonl").write_text(damage)
    with pytest.raises(UserError, match="it should list the 2 epochs"):
        fit(tiny.resumed(run.folder), tiny.quiet())


def test_a_run_that_fails_in_its_first_epoch_leaves_nothing(tiny_data, tmp_path):
    folder = tmp_path / "run"
    options = dict(mask="full", lr=1e9, optimizer="sgd", epochs=4)
    with pytest.raises(UserError, match="nothing was saved"):
        fit(tiny.config(tiny_data, folder, **options), tiny.quiet())
    assert not folder.exists()


def test_changed_data_are_not_taken_for_the_run_s_own(tiny_data, tmp_path):
    data = tmp_path / "copy" / "tiny"
    shutil.copytree(tiny_data.parent, data.parent)
    run = fit(tiny.config(data, tmp_path / "run"), tiny.quiet())
    classifier = evaluation.load(run.folder)
    evaluate_run(classifier, None, tiny.quiet())
    first = next((data / "train").rglob("*.png"))
    shutil.copy(first, first.with_name("another.png"))
    with pytest.raises(UserError, match="have changed since the run"):
        evaluate_run(classifier, None, tiny.quiet())
    scores = evaluate_run(classifier, f"folder:{data}", tiny.quiet()).scores
    assert scores["val_accuracy"] == run.summary["val_accuracy"]


def test_a_rules_file_may_not_change_under_a_run(tiny_data, tmp_path):
    rules = tmp_path / "rules.txt"
    rules.write_text("head=train\nstage2/block1=train\n.*=frozen\n")
    folder = tmp_path / "run"
    fit(tiny.config(tiny_data, folder, mask=f"rules:{rules}"), tiny.quiet())
    (folder / "summary.json").unlink()
    rules.write_text("head=train\n.*=frozen\n")
    with pytest.raises(UserError, match="cannot be resumed") as raised:
        fit(tiny.resumed(folder), tiny.quiet())
    assert "stage2/block1=train" in str(raised.value)


def test_a_run_whose_first_save_fails_leaves_nothing(tiny_data, tmp_path, monkeypatch):
    folder = tmp_path / "run"

    def full_disk(*args, **kwargs):
        (folder / "checkpoints" / "1.orbax-checkpoint-tmp").mkdir()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(saving.Checkpointer, "write", full_disk)
    with pytest.raises(OSError, match="No space left"):
        fit(tiny.config(tiny_data, folder), tiny.quiet())
    assert not folder.exists()


@pytest.mark.parametrize("mask", ["head_only", "last_stage"])
def test_steps_take_nothing_from_the_host_by_the_way(tiny_data, tmp_path, monkeypatch, mask):
    """An epoch of one program and of several; JAX refuses what was not put on the device."""
    run = fit(tiny.config(tiny_data, tmp_path / "run", mask=mask, epochs=1), tiny.quiet())
    assert all(run.history[0][name] > 0 for name in ("gradient_norm", "update_norm", "param_norm"))
    monkeypatch.setattr(DataSharding, "replicate", lambda self, tree: tree)
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
        fit(tiny.config(tiny_data, tmp_path / "other", mask=mask, epochs=1), tiny.quiet())


def test_another_learning_rate_needs_no_other_program(tiny_data, tmp_path, monkeypatch):
    programs: list[str] = []
    original = steps.train_epoch

    def lowered(*args, **kwargs):
        programs.append(original.lower(*args, **kwargs).as_text())
        return original(*args, **kwargs)

    monkeypatch.setattr(steps, "train_epoch", lowered)

    def trained(name: str, **options) -> dict:
        programs.clear()
        run = fit(tiny.config(tiny_data, tmp_path / name, epochs=1, **options), tiny.quiet())
        return run.history[-1]

    one = trained("one", mask="head_only", lr=0.05)
    [first] = programs
    two = trained("two", mask="head_only", lr=0.01)
    assert programs == [first]
    assert one["learning_rate"] == pytest.approx(5 * two["learning_rate"], rel=1e-6)
    assert one["train_loss"] != two["train_loss"]
    trained("sgd", mask="head_only", lr=0.05, optimizer="sgd")
    assert programs != [first]
