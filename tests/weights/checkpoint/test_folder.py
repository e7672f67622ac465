from __future__ import annotations

import dataclasses
import datetime
import errno
import json
import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from jtl import models
from jtl.common.errors import UserError
from jtl.common.trees import lookup
from support import weights_samples as samples
from weights_convert.checkpoint import description
from weights_convert.checkpoint import folder as converted_folder
from weights_convert.convert.rules import leaf_paths


def edit(folder: Path, **changes) -> None:
    path = folder / "weights.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in {**facts, **changes}.items() if v != "DROP"}))


def zeros(shapes):
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint") / "weights"
    converted_folder.write(folder, samples.checkpoint())
    return folder


@pytest.fixture
def folder(pristine, tmp_path):
    return Path(shutil.copytree(pristine, tmp_path / "weights"))


def test_what_was_written_is_read_back_bit_for_bit(folder):
    before, after = samples.checkpoint(), converted_folder.read(folder)
    assert leaf_paths(after.variables) == leaf_paths(before.variables)
    for path in leaf_paths(before.variables):
        leaf = lookup(after.variables, path)
        assert type(leaf) is np.ndarray
        assert leaf.dtype == np.float32
        np.testing.assert_array_equal(leaf, lookup(before.variables, path))
    facts = [f.name for f in dataclasses.fields(before) if f.name not in ("variables", "created")]
    for name in facts:
        assert getattr(after, name) == getattr(before, name), name
    assert after.conventions["norm"] == models.NormSpec(epsilon=1e-3, momentum=0.9)
    assert datetime.datetime.fromisoformat(after.created).utcoffset() == datetime.timedelta(0)


def test_the_description_has_the_documented_keys(folder):
    facts = json.loads((folder / "weights.json").read_text())
    assert set(facts) == {
        "format_version",
        "model",
        "library",
        "conventions",
        "num_classes",
        "class_names",
        "preprocessing",
        "source",
        "sha256",
        "licence",
        "format",
        "created",
        "versions",
        "revision",
        "verified",
        "notes",
        "counters",
        "reading",
        "files",
    }
    assert facts["format_version"] == 1
    assert facts["preprocessing"].keys() == {
        "mean",
        "std",
        "crop_pct",
        "interpolation",
        "size",
        "channel_order",
    }
    assert facts["versions"].keys() == {"jtl", "jax", "flax", "orbax"}


def test_weights_without_a_classifier(tmp_path):
    variables = samples.variables()
    del variables["params"]["head"]
    bare = samples.checkpoint(variables=variables, num_classes=None, class_names=None, licence=None)
    converted_folder.write(tmp_path / "bare", bare)
    after = converted_folder.read(tmp_path / "bare")
    assert (after.num_classes, after.class_names, after.licence) == (None, None, None)
    assert "head" not in after.variables["params"]


def test_conventions_decide_which_params_there_are(tmp_path):
    conventions = {"conv_bias": True, "norm": models.NormSpec(1.001e-5, 0.99, unbiased=False)}
    classifier = models.create("resnet18", num_classes=2, conventions=conventions)
    shapes = models.variable_shapes(classifier)
    biased = samples.checkpoint(
        model="resnet18",
        variables=zeros(shapes),
        conventions=conventions,
        num_classes=2,
        class_names=None,
    )
    converted_folder.write(tmp_path / "biased", biased)
    after = converted_folder.read(tmp_path / "biased")
    assert after.conventions == conventions
    assert "bias" in after.variables["params"]["stem"]["conv1"]
    edit(tmp_path / "biased", conventions={})
    with pytest.raises(UserError, match="unexpected params/stage1/block1/conv1/bias"):
        converted_folder.read(tmp_path / "biased")


def test_num_params_counts_params_only():
    assert samples.checkpoint().num_params == 4_652_008 - 995 * 1281


# Writing.


def test_an_empty_folder_may_exist_and_parents_are_made(tmp_path):
    (tmp_path / "empty").mkdir()
    converted_folder.write(tmp_path / "empty", samples.checkpoint())
    converted_folder.write(tmp_path / "a" / "b", samples.checkpoint())
    models = {converted_folder.read(tmp_path / out).model for out in ("empty", "a/b")}
    assert len(models) == 1
    assert {p.name for p in tmp_path.iterdir()} == {"empty", "a"}


def test_a_folder_with_other_things_is_never_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="is not empty and is no converted checkpoint"):
            converted_folder.write(tmp_path, samples.checkpoint(), overwrite=overwrite)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_is_never_replaced(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match="is a file"):
        converted_folder.write(tmp_path / "out", samples.checkpoint(), overwrite=True)
    assert (tmp_path / "out").read_text() == "mine"


def test_a_converted_folder_is_replaced_only_when_asked(folder):
    with pytest.raises(UserError, match=r"already holds a converted checkpoint.*--overwrite"):
        converted_folder.write(folder, samples.checkpoint(source="new.pth"))
    assert converted_folder.read(folder).source == "timm:tf_efficientnet_lite0.in1k"
    converted_folder.write(folder, samples.checkpoint(source="new.pth"), overwrite=True)
    assert converted_folder.read(folder).source == "new.pth"
    assert [p.name for p in folder.parent.iterdir()] == ["weights"]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), UserError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_a_failure_in_the_middle_leaves_nothing(tmp_path, monkeypatch, error, expected):
    def fail(folder, facts):
        assert (folder / "variables").is_dir()  # Half of it is there.
        raise error

    monkeypatch.setattr(description, "save", fail)
    with pytest.raises(expected):
        converted_folder.write(tmp_path / "out", samples.checkpoint())
    assert list(tmp_path.iterdir()) == []


def test_a_failure_while_replacing_keeps_the_old(folder, monkeypatch):
    rename = os.rename

    def fail(source, target):
        if Path(source).parent.suffix == ".partial":
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(UserError, match=r"cannot write .*Input/output error\. Choose a folder"):
        converted_folder.write(folder, samples.checkpoint(source="new.pth"), overwrite=True)
    monkeypatch.undo()
    assert converted_folder.read(folder).source == "timm:tf_efficientnet_lite0.in1k"
    assert [p.name for p in folder.parent.iterdir()] == ["weights"]


def test_a_storage_error_of_another_type_is_reported(tmp_path, monkeypatch):
    import orbax.checkpoint as ocp

    def fail(*args, **kwargs):
        raise ValueError("RESOURCE_EXHAUSTED: No space left on device")

    monkeypatch.setattr(ocp.StandardCheckpointer, "save", fail)
    with pytest.raises(UserError, match="RESOURCE_EXHAUSTED: No space left"):
        converted_folder.write(tmp_path / "out", samples.checkpoint())
    assert list(tmp_path.iterdir()) == []


def test_a_parent_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*Not a directory"):
        converted_folder.write(tmp_path / "file" / "out", samples.checkpoint())


def arrives_late(monkeypatch, winner):
    """Makes another process win between the first look at the target and the rename."""
    save = description.save

    def save_after_the_winner(folder, facts):
        monkeypatch.setattr(description, "save", save)
        winner()
        save(folder, facts)

    monkeypatch.setattr(description, "save", save_after_the_winner)


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_loser_of_a_race_keeps_the_winners_folder(tmp_path, monkeypatch, overwrite):
    out = tmp_path / "out"
    won = samples.checkpoint(created="2026-01-01T00:00:00+00:00")
    arrives_late(monkeypatch, lambda: converted_folder.write(out, won))
    converted_folder.write(out, samples.checkpoint(), overwrite=overwrite)
    if not overwrite:
        assert converted_folder.read(out).created == won.created
    assert converted_folder.read(out).sha256 == won.sha256
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    "other",
    [
        {"sha256": "cd" * 32},
        {"preprocessing": models.Preprocessing(size=64)},
        {"conventions": {"norm": models.NormSpec(epsilon=1e-5)}},
        {"class_names": None},
    ],
)
def test_a_race_for_different_weights_is_an_error(tmp_path, monkeypatch, other):
    out = tmp_path / "out"
    arrives_late(monkeypatch, lambda: converted_folder.write(out, samples.checkpoint(**other)))
    with pytest.raises(UserError, match="another process wrote other weights"):
        converted_folder.write(out, samples.checkpoint())
    found, winner = converted_folder.read(out), samples.checkpoint(**other)
    assert {key: getattr(found, key) for key in other} == {
        key: getattr(winner, key) for key in other
    }
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    "changes",
    [
        {"conventions": {"paddings": "SAME"}},
        {"counters": {"stem/bn": 1.5}},
        {"class_names": ("a",)},
    ],
)
def test_what_could_not_be_read_is_not_written(tmp_path, changes):
    with pytest.raises(UserError, match="is damaged"):
        converted_folder.write(tmp_path / "out", samples.checkpoint(**changes))
    assert list(tmp_path.iterdir()) == []


# Reading.


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="there is no folder"):
        converted_folder.read(tmp_path / "nowhere")


def test_a_folder_of_something_else(tmp_path):
    with pytest.raises(UserError, match=r"is not a converted checkpoint: it has no weights\.json"):
        converted_folder.read(tmp_path)


def test_a_newer_format(folder):
    edit(folder, format_version=2)
    with pytest.raises(UserError, match=r"has format version 2; this jtl reads up to 1.*Upgrade"):
        converted_folder.read(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format_version": "1"}', "\x00\xff"])
def test_a_description_that_is_none(folder, text):
    (folder / "weights.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"is damaged: weights\.json"):
        converted_folder.read(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "DROP", "sha256": 3}, "'model' is missing, 'sha256' is 3"),
        ({"model": "resnet1"}, "unknown model 'resnet1'"),
        ({"num_classes": True}, "'num_classes' is True"),
        ({"num_classes": 0, "class_names": None}, "num_classes is 0"),
        ({"conventions": {"norms": 1}}, "unknown convention 'norms'"),
        ({"conventions": {"norm": {"eps": 1}}}, "unexpected keyword argument 'eps'"),
        ({"conventions": {"padding": 3}}, "convention 'padding' is 3"),
        ({"preprocessing": {}}, "preprocessing is {}"),
        ({"preprocessing": {"mean": [1, 2]}}, "preprocessing is"),
        ({"notes": [3]}, "notes is no list of texts"),
        ({"counters": {"stem/bn": "1"}}, "counters is no object of counts"),
        ({"reading": {"ignored": 3}}, "ignored is no list of texts"),
        ({"reading": {"more": 3}}, "unexpected keyword argument 'more'"),
        ({"class_names": ["ash"]}, "class_names are not 5 names"),
        ({"class_names": [1, 2, 3, 4, 5]}, "class_names are not 5 names"),
        ({"files": {"variables/manifest.ocdbt": "00"}}, "manifest.ocdbt has changed since"),
    ],
)
def test_a_damaged_description(folder, change, message):
    edit(folder, **change)
    with pytest.raises(UserError, match=message):
        converted_folder.read(folder)


def test_every_difference_to_the_model_is_listed_at_once(tmp_path):
    variables = samples.variables()
    del variables["params"]["stem"]["conv"]
    variables["params"]["final"]["extra"] = np.zeros(3, np.float32)
    variables["batch_stats"]["stem"]["bn"]["mean"] = np.zeros(7, np.float32)
    variables["batch_stats"]["stem"]["bn"]["var"] = np.zeros(32, np.float16)
    converted_folder.write(tmp_path / "out", samples.checkpoint(variables=variables))
    with pytest.raises(UserError) as caught:
        converted_folder.read(tmp_path / "out")
    message = str(caught.value)
    assert "4 problems between it and its model" in message
    assert "missing    params/stem/conv/kernel" in message
    assert "unexpected params/final/extra" in message
    assert "shape      batch_stats/stem/bn/mean is (7,), expected (32,)" in message
    assert "dtype      batch_stats/stem/bn/var is float16, expected float32" in message


def test_variables_of_another_model(folder):
    edit(folder, model="resnet18", conventions={})
    with pytest.raises(UserError, match="missing    batch_stats/stem/bn1/mean"):
        converted_folder.read(folder)


def largest_file(folder: Path) -> Path:
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def test_a_flipped_bit_in_the_variables(folder):
    path = largest_file(folder / "variables")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"is damaged: .*{path.name} has changed since"):
        converted_folder.read(folder)


def test_a_cut_file_of_the_variables(folder):
    path = largest_file(folder / "variables")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=f"is damaged: .*{path.name} has changed since"):
        converted_folder.read(folder)


def test_missing_variables(folder):
    (folder / "variables").rename(folder / "elsewhere")
    with pytest.raises(UserError, match=r"variables/.* cannot be read \(No such file"):
        converted_folder.read(folder)


def test_variables_that_orbax_cannot_read(folder):
    shutil.rmtree(folder / "variables")
    (folder / "variables").mkdir()
    edit(folder, files={})
    with pytest.raises(UserError, match=r"is damaged: variables/ cannot be read \("):
        converted_folder.read(folder)
