"""A run and its folder: what it holds, what it says, and that failures leave nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path

import orbax.checkpoint as ocp
import pytest

from jtl.common.errors import UserError
from jtl.config.defaults import filled
from jtl.config.options import Config
from jtl.evaluate.evaluation import evaluate_run
from jtl.predict import classifier as evaluation
from jtl.runs import resume
from jtl.runs.folder import SUBFOLDERS
from jtl.runs.run import Run, claimed_run
from jtl.train import batch_size
from jtl.train.fit import fit
from support import tiny

SUMMARY_KEYS = {
    "model", "weights", "mask", "head", "data", "num_classes", "class_names", "total_params",
    "trainable_params", "frozen_params", "optimizer_bytes", "epochs", "best_epoch",
    "val_accuracy", "val_loss", "test_accuracy", "train_seconds", "images_per_second",
    "cached_prefix", "frozen_unchanged", "seed", "versions",
}  # fmt: skip


def test_the_folder_of_a_run(tiny_run):
    files = {path.name for path in tiny_run.folder.iterdir()}
    assert files == {
        "config.json", "metrics.jsonl", "summary.json", "curves.png", "report.md", "checkpoints",
        "data.json", "selective.json",
    }  # fmt: skip
    assert (tiny_run.folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    summary = json.loads((tiny_run.folder / "summary.json").read_text())
    assert summary == tiny_run.summary
    stored = json.loads((tiny_run.folder / "config.json").read_text())
    assert stored["class_names"] == list(tiny.CLASSES)
    assert Config.from_dict(stored) == filled(tiny_run.config) != tiny_run.config
    lines = tiny.lines_of(tiny_run)
    assert [line["epoch"] for line in lines] == [1, 2]
    for line in lines:
        assert {
            "train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate",
            "seconds", "images_per_second",
        } <= set(line)  # fmt: skip
    best = lines[summary["best_epoch"] - 1]
    assert (best["val_accuracy"], best["val_loss"]) == (
        summary["val_accuracy"],
        summary["val_loss"],
    )


def test_the_summary(tiny_run, tiny_data):
    summary = tiny_run.summary
    assert set(summary) >= SUMMARY_KEYS
    stem, block1, block2 = 4 * (3 * 9 + 2), 8 * (4 * 9 + 2), 16 * (8 * 9 + 2)
    statistics = 2 * (4 + 8 + 16)
    head = 16 * 3 + 3
    expected = {
        "model": "tiny",
        "weights": {"name": "tiny.safetensors", "sha256": "ab" * 32, "licence": None},
        "mask": "head_only",
        "head": "linear",
        "data": f"folder:{tiny_data}",
        "num_classes": 3,
        "class_names": list(tiny.CLASSES),
        "total_params": stem + block1 + block2 + statistics + head,
        "trainable_params": head,
        "frozen_params": stem + block1 + block2 + statistics,
        # Adam: two float32 slots for each of the head's params, and counters of 4 bytes.
        "optimizer_bytes": 8 * head + 8,
        "epochs": 2,
        "test_accuracy": None,
        "test_macro_f1": None,
        "test_classes": None,
        "cached_prefix": True,
        "frozen_unchanged": True,
        "seed": 0,
    }
    assert {key: summary[key] for key in expected} == expected
    assert 1 <= summary["best_epoch"] <= 2
    assert 0 < summary["train_seconds"] < 600
    assert summary["images_per_second"] > 0
    assert {"python", "jtl", "jax", "flax", "optax"} <= set(summary["versions"])


@pytest.mark.parametrize("which", ["tiny_run", "full_run"])
def test_evaluation_reproduces_the_summary_exactly(which, tiny_data, request):
    run = request.getfixturevalue(which)
    scores = evaluate_run(evaluation.load(run.folder), None, tiny.quiet()).scores
    assert scores == {
        "data": f"folder:{tiny_data}",
        "split": "val",
        "whole": False,
        "count": 9,
        "val_accuracy": run.summary["val_accuracy"],
        "val_loss": run.summary["val_loss"],
        "val_macro_f1": run.summary["val_macro_f1"],
        "val_classes": run.summary["val_classes"],
        "val_calibration": run.summary["val_calibration"],
        "epoch": run.summary["best_epoch"],
    }


def test_other_classes_are_refused(tiny_run, tmp_path):
    folder = tiny.write_folder(tmp_path / "data")
    for part in ("train", "val"):
        (folder / part / "cedar").rename(folder / part / "dogwood")
    with pytest.raises(
        UserError,
        match=r"other classes than the run '.*'\.\n  the run: ash, birch, cedar\n"
        r"  the data: ash, birch, dogwood",
    ):
        evaluate_run(evaluation.load(tiny_run.folder), f"folder:{folder}", tiny.quiet())


@pytest.mark.parametrize("text", [None, "{", "[]", "{}"])
def test_a_damaged_config_is_a_users_error(tiny_run, tmp_path, text):
    folder = tmp_path / "run"
    shutil.copytree(tiny_run.folder, folder)
    (folder / "config.json").unlink()
    if text is not None:
        (folder / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json' cannot be read: "):
        evaluation.load(folder)


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [
        ("train", "epochs", "two"),
        ("train", "lr", [0.05]),
        ("train", "batch_size", None),
        ("train", "seed", False),
        ("model", "dtype", "float31"),
        ("model", "head_widths", ["wide"]),
        ("steps", "decay_at", 0.5),
        ("augment", "mixup", "0.2"),
    ],
)
def test_a_config_of_other_types_is_damaged(tiny_run, tmp_path, group, name, value):
    stored = json.loads((tiny_run.folder / "config.json").read_text())
    stored[group][name] = value
    (tmp_path / "config.json").write_text(json.dumps(stored))
    with pytest.raises(UserError, match=f"it is damaged, or .* .TypeError: '{name}' is "):
        resume.stored_config(tmp_path)


def test_a_config_of_every_type_is_whole(tiny_run, tmp_path):
    stored = json.loads((tiny_run.folder / "config.json").read_text())
    stored["train"].update(lr=1, batch_size="auto", epochs=None, weight_decay=0.5)
    stored["model"].update(head_widths=[8, 16], head_batch_norm=True)
    stored["run"].update(log_to=["tensorboard"], run_dir="runs/x")
    (tmp_path / "config.json").write_text(json.dumps(stored))
    assert resume.stored_config(tmp_path).model.head_widths == (8, 16)


def test_a_test_split_is_scored_with_the_best_model(tiny_data, tmp_path):
    folder = tiny.write_folder(tmp_path / "data")
    (folder / "val").rename(folder / "test")
    tiny.write_folder(tmp_path / "more", train=1, val=2)
    (tmp_path / "more" / "val").rename(folder / "val")
    weights = str(tiny_data.parent / "weights")
    run = fit(tiny.config(folder, tmp_path / "run", epochs=3, weights=weights), tiny.quiet())
    classifier = evaluation.load(run.folder)
    files = sorted((folder / "test").rglob("*.png"))
    labels = classifier.predict(files).labels
    right = sum(label == file.parent.name for label, file in zip(labels, files, strict=True))
    assert run.summary["test_accuracy"] == right / 9
    assert run.summary["num_val"] == 6


# Folders that cannot be, and runs that fail.


def test_a_folder_with_content_is_refused(tiny_data, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "keep").write_text("mine")
    with pytest.raises(
        UserError, match=r"^--run-dir '.*run' is not empty: it contains keep\. Choose"
    ):
        fit(tiny.config(tiny_data, folder), tiny.quiet())
    assert [path.name for path in folder.iterdir()] == ["keep"]


def _config(folder):
    return dataclasses.replace(Config(), run=dataclasses.replace(Config().run, run_dir=folder))


FOREIGN = ["checkpoints/epoch=3.ckpt", "wandb/run-1", "metrics.jsonl", "data.json", "profile/x"]


@pytest.mark.parametrize("name", [*FOREIGN, "midway/notes", f".jtl-{'0f' * 16}.model.old"])
def test_what_another_program_wrote_is_refused_and_stays(tmp_path, name):
    # Names that jtl gives as well.
    file = tmp_path / "run" / name
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    (tmp_path / "run" / "checkpoints" / "3.orbax-checkpoint-tmp-5").mkdir(parents=True)
    begin = _config(tmp_path / "run")
    for begun in (False, True):
        with (
            pytest.raises(UserError, match="is not empty: it contains"),
            claimed_run(begin, print, begun=begun),
        ):
            pass
        assert file.read_text() == "mine"
    assert (tmp_path / "run" / "checkpoints" / "3.orbax-checkpoint-tmp-5").is_dir()


def test_what_jtl_never_writes_does_no_harm(tmp_path):
    names = {"lost+found", ".nfs0001", ".DS_Store", "slurm-1.out", "job.sh", "notes.txt"}
    for name in names:
        (tmp_path / name).write_text("theirs")
    told: list[str] = []
    with claimed_run(_config(tmp_path), told.append, begun=True):
        pass
    held = ".DS_Store, .nfs0001, job.sh and 3 more"
    assert told == [f"note: '{tmp_path}' also contains {held}, which jtl leaves alone"]
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(
        names, "theirs"
    )
    # There is no run to continue.
    with pytest.raises(UserError, match=r"is not empty: .* and 3 more\. Choose another folder\.$"):
        claimed_run(_config(tmp_path), told.append).__enter__()


def test_a_folder_that_holds_a_run_says_what_to_type(tmp_path):
    folder = tmp_path / "my run"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (tmp_path / "my run-2").mkdir()
    with pytest.raises(
        UserError, match=r"contains config\.json\. Choose .* add --resume to continue the run in it"
    ):
        claimed_run(_config(folder), print).__enter__()
    (folder / "summary.json").write_text("{}")
    with pytest.raises(UserError) as caught:
        claimed_run(_config(folder), print).__enter__()
    assert str(caught.value) == (
        f"--run-dir '{folder}' is not empty: it contains a finished run. To train again, choose "
        f"another folder, such as --run-dir '{folder}-3'; to see this run's results again, add "
        "--resume."
    )
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "summary.json"]


@pytest.mark.parametrize("name", ["seeds.json", "seed-3", "midway.removed", "report.md"])
def test_what_jtl_may_have_written_is_refused_beside_other_files(tmp_path, name):
    (tmp_path / "job.sh").touch()
    (tmp_path / name).touch()
    with pytest.raises(UserError, match=rf"it contains {name}\. Choose another folder\.$"):
        claimed_run(_config(tmp_path), print, begun=True).__enter__()
    assert {path.name for path in tmp_path.iterdir()} == {"job.sh", name}


@pytest.mark.parametrize("name", SUBFOLDERS)
def test_a_run_goes_on_through_no_link(tiny_run, tmp_path, name):
    folder, mine = shutil.copytree(tiny_run.folder, tmp_path / "run"), tmp_path / "mine"
    if (folder / name).exists():
        (folder / name).rename(mine)
    else:
        mine.mkdir()
    (folder / name).symlink_to(mine)
    (folder / "summary.json").unlink()
    before = sorted(mine.rglob("*"))
    with pytest.raises(UserError, match=f"run/{name}' is a link, and nothing is written through"):
        fit(tiny.resumed(folder), tiny.quiet())
    with pytest.raises(UserError, match="is not empty"):
        fit(tiny.config(Path("x"), folder), tiny.quiet())
    assert sorted(mine.rglob("*")) == before
    # Reading is another thing, and so is a run that lies elsewhere as a whole.
    assert evaluation.load(folder).epoch == evaluation.load(tiny_run.folder).epoch
    (folder / name).unlink()
    if name == "checkpoints":
        mine.rename(folder / name)
        (tmp_path / "link").symlink_to(folder)
        assert fit(tiny.resumed(tmp_path / "link"), tiny.quiet()).summary["epochs"] == 2


@pytest.mark.parametrize("damage", ["", "{", "{}", "[]"])
def test_a_damaged_summary_is_written_again(tiny_run, tmp_path, damage):
    folder = shutil.copytree(tiny_run.folder, tmp_path / "run")
    (folder / "summary.json").write_text(damage)
    lines, times = (folder / "metrics.jsonl").read_text(), ("train_seconds", "feature_seconds")
    again = fit(tiny.resumed(folder), tiny.quiet()).summary
    assert (folder / "metrics.jsonl").read_text() == lines
    assert json.loads((folder / "summary.json").read_text()) == again
    same = {k: v for k, v in tiny_run.summary.items() if k not in (*times, "features_reused")}
    assert {k: v for k, v in again.items() if k in same} == same


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="Linux's /proc")
def test_lines_of_epochs_are_on_the_disk_before_a_checkpoint(tiny_data, tmp_path, monkeypatch):
    happened, save, wait = [], ocp.CheckpointManager.save, os.fsync

    def saved(manager, epoch, **options):
        happened.append(("save", epoch))
        return save(manager, epoch, **options)

    def synced(descriptor):
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if path.name == "metrics.jsonl":
            happened.append(("on disk", path.read_text().count("\n")))
        wait(descriptor)

    monkeypatch.setattr(ocp.CheckpointManager, "save", saved)
    monkeypatch.setattr(os, "fsync", synced)
    fit(tiny.config(tiny_data, tmp_path / "run", solver="sgd"), tiny.quiet())
    at = happened.index(("save", 2))
    assert happened[at - 1] == ("on disk", 2)


def _asks(folder, epochs):
    told = []
    config = _config(folder)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, epochs=epochs))
    stored, more = resume._stored(config, folder, told.append)
    return stored.train.extended, more, "".join(told)


def test_added_epochs_are_taken_back_while_they_are_not_trained(tiny_run, tmp_path):
    folder = shutil.copytree(tiny_run.folder, tmp_path / "run")
    stored = json.loads((folder / "config.json").read_text())
    stored["train"]["extended"] = [4, 494]
    stored["phases"] += [{**stored["phases"][0], "epochs": more} for more in (4, 494)]
    (folder / "config.json").write_text(json.dumps(stored))
    assert _asks(folder, 10) == ((4, 4), 0, "The run will end after 10 epochs, not 500 as planned "
                                 "before")  # fmt: skip
    assert _asks(folder, 600) == ((4, 494, 100), 100, "")
    for said_before in (2, 6, 500):
        assert _asks(folder, said_before) == ((4, 494), 0, "")
    with pytest.raises(UserError, match="has 500 epochs"):
        _asks(folder, 5)
    (folder / "checkpoints" / "11").mkdir()
    with pytest.raises(UserError, match="has 500 epochs"):
        _asks(folder, 10)


@pytest.mark.parametrize(("more", "told"), [(1, "Adding 1 epoch as"), (2, "Adding 2 epochs as")])
def test_added_epochs_are_counted(tiny_run, tmp_path, more, told):
    folder, messages = shutil.copytree(tiny_run.folder, tmp_path / "run"), []
    resume._resumed(folder, resume.stored_config(folder), more, messages.append)
    assert told in messages[0]


def test_what_a_failed_run_leaves_can_be_started_again(tmp_path):
    # As after a full disk; or killed, where nothing could be cleared up.
    folder, killed = tmp_path / "run", tmp_path / "killed"

    def fail() -> None:
        with claimed_run(_config(folder), print):
            for name in ("checkpoints/3.orbax-checkpoint-tmp-5", "wandb/run-1"):
                (folder / name).mkdir(parents=True)
            for name in ("config.json", "metrics.jsonl", "curves.png", "report.md", "wandb.json"):
                (folder / name).write_text("{")
            shutil.copytree(folder, killed)
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert not folder.exists()
    (killed / "config.json").unlink()
    with claimed_run(_config(killed), print, begun=True):
        assert {path.name for path in killed.iterdir()} == {".lock", ".jtl-begun"}
    assert list(killed.iterdir()) == []


def test_a_finished_run_is_not_overwritten(tiny_run, tiny_data):
    before = (tiny_run.folder / "summary.json").read_bytes()
    with pytest.raises(UserError, match="is not empty"):
        fit(tiny.config(tiny_data, tiny_run.folder), tiny.quiet())
    assert (tiny_run.folder / "summary.json").read_bytes() == before


def test_a_file_is_no_folder(tiny_data, tmp_path):
    file = tmp_path / "run"
    file.write_text("mine")
    for path in (file, file / "below", file / "far" / "below"):
        with pytest.raises(UserError, match=f"'{path}'.*[Cc]hoose another"):
            fit(tiny.config(tiny_data, path), tiny.quiet())
    assert file.read_text() == "mine"


def test_an_unwritable_place(tiny_data):
    # /proc takes no folders, not even from root.
    with pytest.raises(UserError, match=r"^cannot write to the run's folder '/proc/jtl-run': "):
        fit(tiny.config(tiny_data, Path("/proc/jtl-run")), tiny.quiet())


def test_the_folder_is_checked_before_any_work(tiny_data, tmp_path, monkeypatch):
    monkeypatch.setattr(batch_size, "prepare_setup", lambda *_: pytest.fail("worked first"))
    with pytest.raises(UserError, match="cannot write"):
        fit(tiny.config(tiny_data, Path("/proc/jtl-run")), tiny.quiet())


FAILURES = {
    "weights": (dict(weights="nowhere/x.pth"), "nowhere/x.pth"),
    "package": (dict(weights="package:no-such"), "is not installed"),
    "mask": (dict(mask="haed_only"), "unknown mask"),
    "lr": (dict(lr=-1.0), "--lr must be"),
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("existing", [False, True], ids=["new", "empty"])
def test_early_failures_leave_nothing_behind(tiny_data, tmp_path, failure, existing):
    options, message = FAILURES[failure]
    folder = tmp_path / "a" / "b" / "run"
    if existing:
        folder.mkdir(parents=True)
    with pytest.raises(UserError, match=message):
        fit(tiny.config(tiny_data, folder, **options), tiny.quiet())
    assert folder.exists() == existing
    assert (tmp_path / "a").exists() == existing
    if existing:
        assert list(folder.iterdir()) == []


@pytest.mark.usefixtures("tiny_model")
def test_missing_data_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="There is no file or folder"):
        fit(tiny.config(tmp_path / "nodata", None, weights="random"), tiny.quiet())
    assert list(tmp_path.iterdir()) == []


def test_unreadable_images_leave_nothing_behind(tiny_data, tmp_path):
    folder = tiny.write_folder(tmp_path / "data")
    weights = str(tiny_data.parent / "weights")
    victim = folder / "train" / "birch" / "3.png"
    # The header is fine, so that only decoding finds it.
    victim.write_bytes(victim.read_bytes()[:-60])
    for mask in ("head_only", "full"):
        with pytest.raises(UserError, match=r"cannot be read:\n  train/birch/3\.png: damaged"):
            fit(tiny.config(folder, tmp_path / "run", mask=mask, weights=weights), tiny.quiet())
        assert not (tmp_path / "run").exists()


def test_any_exception_leaves_nothing_behind(tiny_data, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(batch_size, "prepare_setup", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(tiny.config(tiny_data, tmp_path / "run"), tiny.quiet())
    assert list(tmp_path.iterdir()) == []


def test_default_folders_are_named_and_numbered(tiny_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = [fit(tiny.config(tiny_data, None, epochs=1), tiny.quiet()) for _ in range(2)]
    assert len({run.folder for run in runs}) == 2
    for run in runs:
        assert run.folder.parts[0] == "runs"
        assert run.folder.name.startswith("tiny-tiny-head_only-2")
        assert (run.folder / "summary.json").is_file()


@pytest.mark.parametrize(
    ("scores", "until", "best"),
    [
        ([(0.5, 0.9), (0.5, 0.7), (0.5, 0.8), (0.4, 0.1)], None, 2),
        ([(0.5, 0.7), (0.5, 0.7)], None, 1),
        ([(0.5, 0.7), (0.6, 9e9)], None, 2),
        ([(0.5, 0.7), (0.6, 0.1)], 1, 1),
    ],
)
def test_the_best_epoch_is_the_first_of_highest_accuracy_and_lowest_loss(
    tmp_path, scores, until, best
):
    lines = [
        {"epoch": epoch, "val_accuracy": accuracy, "val_loss": loss}
        for epoch, (accuracy, loss) in enumerate(scores, 1)
    ]
    assert Run(tmp_path, Config(), history=lines).best_epoch(until) == best
