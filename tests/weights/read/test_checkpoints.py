"""Checkpoints as training programs leave them: other objects beside the weights, other names."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import json
import pathlib
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from jtl.common.errors import UserError
from weights_convert.read import sharded
from weights_convert.read.readers import read

pytestmark = pytest.mark.peer

STATE = {"conv.weight": torch.arange(6.0).reshape(2, 3), "conv.bias": torch.ones(2)}


class Settings(collections.OrderedDict[str, Any]):
    """As scripts keep their configuration: a dictionary's subclass with attributes."""


class Weights(collections.OrderedDict[str, Any]):
    """A state dict of a class of its own."""


@dataclasses.dataclass
class Options:
    lr: float = 0.1
    names: tuple[str, ...] = ("a",)


class Meters(list[float]):
    """A list's subclass."""


def objects() -> dict[str, Any]:
    counts: Any = collections.defaultdict(list)
    counts["a"].append(1.0)
    queue = collections.deque([1.0], maxlen=3)
    return {
        "NumPy scalar": np.float64(0.93),
        "NumPy array": np.zeros((2, 3), np.float32),
        "NumPy boolean": np.bool_(True),
        "NumPy dtype": np.dtype("float32"),
        "NumPy type": np.float32,
        "random state": np.random.RandomState(0),
        "NumPy generator": np.random.default_rng(0),
        "path": pathlib.Path("runs/1"),
        "Windows path": pathlib.PureWindowsPath("runs"),
        "torch dtype": torch.float16,
        "torch version": torch.torch_version.TorchVersion("2.1"),
        "device": torch.device("cpu"),
        "time": datetime.datetime(2024, 1, 1),
        "defaultdict": counts,
        "deque": queue,
        "counter": collections.Counter("aab"),
        "namespace": types.SimpleNamespace(lr=0.1),
        "bytes": b"\xff\x00",
        "complex": 1j,
        "set": {1, 2},
        "OrderedDict's subclass": Settings(lr=0.1, out=pathlib.Path("x")),
        "dataclass": Options(),
        "class": Options,
        "list's subclass": Meters([0.1, 0.2]),
    }


def same(found: dict[str, np.ndarray]) -> bool:
    return list(found) == list(STATE) and all(
        np.array_equal(found[key], STATE[key].numpy()) for key in STATE
    )


@pytest.mark.parametrize("new_zip", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", objects())
def test_harmless_objects_beside_the_weights_are_ignored(tmp_path, name, protocol, new_zip):
    path = tmp_path / "x.pth"
    checkpoint = {name: objects()[name], "state_dict": STATE}
    torch.save(checkpoint, path, pickle_protocol=protocol, _use_new_zipfile_serialization=new_zip)
    source = read(path)
    assert same(source.tensors)
    assert (source.wrappers, source.left_out) == (("state_dict",), (name,))


def test_a_state_dict_of_a_class_of_its_own(tmp_path):
    torch.save(Weights(STATE), tmp_path / "x.pth")
    assert same(read(tmp_path / "x.pth").tensors)
    torch.save({"model": Settings(STATE)}, tmp_path / "y.pth")
    assert same(read(tmp_path / "y.pth").tensors)


class _Call:
    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call


def function_of_a_package(*arguments: object) -> None:
    """Would be called by a pickle that asks for it."""
    raise AssertionError(f"called with {arguments}")


@pytest.mark.parametrize(
    ("call", "asked_for"),
    [
        (_Call(function_of_a_package, ("rm",)), "function_of_a_package"),
        (_Call(getattr, (STATE, "clear")), "builtin"),
        (_Call(np.load, ("x",)), "numpy"),
        (_Call(torch.hub.load, ("x", "y")), "torch.hub"),
        (_Call(np.testing.assert_equal, (1, 2)), "numpy.testing"),
    ],
)
def test_what_would_be_called_is_refused(tmp_path, call, asked_for):
    torch.save({"state_dict": STATE, "more": call}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=rf"asks for .*{asked_for}.*Nothing was executed"):
        read(tmp_path / "x.pth")


def test_a_whole_model_says_how_to_save_its_weights(tmp_path):
    torch.save(torch.nn.Linear(2, 3), tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"holds a whole model .*\.state_dict\(\), 'weights.pth'"):
        read(tmp_path / "x.pth")


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated")
def test_torchscript_says_how_to_save_its_weights(tmp_path):
    script = torch.jit.trace(torch.nn.Linear(2, 3), torch.zeros(1, 2))
    torch.jit.save(script, tmp_path / "x.pt")
    with pytest.raises(UserError, match=r"TorchScript .*torch.jit.load\(FILE\).state_dict\(\)"):
        read(tmp_path / "x.pt")
    torch.save(torch.jit.load(tmp_path / "x.pt").state_dict(), tmp_path / "weights.pth")
    assert list(read(tmp_path / "weights.pth").tensors) == ["weight", "bias"]


# Entries.

OPTIMIZER = {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]}


@pytest.mark.parametrize(
    "entries",
    [
        ("model_state_dict",),
        ("net",),
        ("ema",),
        ("net", "ema"),
        ("network",),
        ("my_own_name",),
        ("ema", "shadow"),
    ],
)
def test_entries_that_hold_the_weights(tmp_path, entries):
    if entries == ("ema", "shadow"):
        content: dict[str, Any] = {"ema": {"decay": 0.99, "shadow": STATE}}
    else:
        content = {name: STATE if name == entries[0] else {} for name in entries}
        if len(entries) > 1:
            content["ema"] = {"conv.weight": torch.zeros(1)}
    torch.save({"epoch": 3, "optimizer": OPTIMIZER, **content}, tmp_path / "x.pth")
    source = read(tmp_path / "x.pth")
    assert same(source.tensors)
    assert source.wrappers == (entries if entries[1:] == ("shadow",) else entries[:1])
    assert {"epoch", "optimizer"} <= set(source.left_out)


def test_entries_that_are_a_choice(tmp_path):
    average = {key: tensor / 2 for key, tensor in STATE.items()}
    torch.save({"student": STATE, "teacher": average}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"inside 'student', 'teacher': name one with --entry"):
        read(tmp_path / "x.pth")
    assert read(tmp_path / "x.pth", "teacher").wrappers == ("teacher",)


@pytest.mark.parametrize(
    "name", ["exp_avg", "fisher", "gradients", "task_vector", "momentum_buffer"]
)
def test_what_an_optimizer_keeps_of_each_weight_is_none(tmp_path, name):
    torch.save({"epoch": 3, name: STATE}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=f"holds no tensors by name, but 'epoch', '{name}'"):
        read(tmp_path / "x.pth")
    torch.save({"model": STATE, name: STATE}, tmp_path / "x.pth")
    assert read(tmp_path / "x.pth").wrappers == ("model",)


# Several files.


def shards(folder: Path, **changes: Any) -> Path:
    """Two files of three tensors, and their index."""
    folder.mkdir(exist_ok=True)
    tensors = {name: np.full(3, i, np.float32) for i, name in enumerate(("a", "b", "c"))}
    files = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    files["c"] = files["b"]
    for file in set(files.values()):
        save_file({k: a for k, a in tensors.items() if files[k] == file}, folder / file)
    index = {"metadata": {"total_size": 36}, "weight_map": files | changes}
    path = folder / f"model.safetensors{sharded.SUFFIX}"
    path.write_text(json.dumps(index))
    return path


def test_tensors_in_several_files(tmp_path):
    path = shards(tmp_path / "model")
    source = read(path)
    assert {key: array[0] for key, array in source.tensors.items()} == {"a": 0, "b": 1, "c": 2}
    assert source.format == "safetensors"
    assert source.size_bytes == sum(p.stat().st_size for p in path.parent.iterdir())
    # Every file counts for what the weights are called by.
    other = path.parent / "model-00002-of-00002.safetensors"
    save_file({"b": np.ones(3, np.float32), "c": np.zeros(3, np.float32)}, other)
    assert read(path).sha256 != source.sha256
    assert sharded.checkpoint_in(path.parent) == path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d": "model-00001-of-00002.safetensors"}, "its files lack d"),
        ({"a": "model-00003-of-00002.safetensors"}, "'model-00003-of-00002.safetensors': there"),
        ({"a": "../secret.safetensors"}, "files outside of its folder"),
        ({"a": 3}, "weight_map names no files"),
    ],
)
def test_an_index_that_does_not_fit(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        read(shards(tmp_path / "model", **changes))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"weight_map": {}}'])
def test_an_index_that_is_none(tmp_path, text):
    path = tmp_path / f"model.safetensors{sharded.SUFFIX}"
    path.write_text(text)
    with pytest.raises(UserError, match=r"it is empty|it is no index"):
        read(path)


def test_a_pickle_cannot_fill_a_holder_with_what_is_called(tmp_path):
    """A class of a package is made without arguments only, also by the older instructions."""
    module = function_of_a_package.__module__
    for call in (
        f"c{module}\nfunction_of_a_package\n(S'rm'\ntR.",
        f"(c{module}\nfunction_of_a_package\nS'rm'\no.",
        f"(S'rm'\ni{module}\nfunction_of_a_package\n.",
    ):
        (tmp_path / "x.pth").write_bytes(b"\x80\x02" + call.encode())
        with pytest.raises(UserError, match=r"asks for .*function_of_a_package"):
            read(tmp_path / "x.pth")


PARTS = ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"]


@pytest.mark.parametrize("part", PARTS)
def test_parts_that_were_wrapped_one_by_one(tmp_path, part):
    def names(*keys: str) -> list[str]:
        state = {key.format(part): STATE["conv.bias"] for key in keys}
        torch.save(state, tmp_path / "w.pth")
        found = read(tmp_path / "w.pth")
        assert (f"{part}." in found.wrappers) == (part not in "".join(found.tensors))
        return [*found.tensors]

    assert names("conv.w", "a.1.{}.w", "b.{}.2.w") == ["conv.w", "a.1.w", "b.2.w"]
    assert names("{0}.conv.w", "{0}.a.{0}.1.w", "{0}.b.{0}.1.w") == ["conv.w", "a.1.w", "b.1.w"]
    # One part is a prefix, which --strip-prefix may name; and names must not become the same.
    for keys in (("net.{}.w", "criterion.w"), ("a.{}.w", "a.w", "b.{}.w")):
        assert names(*keys) == [key.format(part) for key in keys]


def test_the_one_entry_beside_tensors_of_the_training(tmp_path):
    """DINO's center is a tensor, and no network."""
    for name, layers in (("center", 1), ("queue_ptr", 1), ("fc.weight", 0)):
        torch.save({"teacher": STATE, name: torch.zeros(1, 3)}, tmp_path / "w.pth")
        assert len(read(tmp_path / "w.pth").wrappers) == layers
