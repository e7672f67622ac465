"""Keras's HDF5 files: right ones are read exactly, wrong ones refused, none followed elsewhere."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np
import pytest

from jtl.common.errors import UserError
from weights_convert.read import h5_files
from weights_convert.read.readers import read

RNG = np.random.default_rng(0)
KERNEL = RNG.standard_normal((3, 3, 2, 4), np.float32)
BIAS, GAMMA, BETA, MEAN, VAR = RNG.standard_normal((5, 4), np.float32)
DENSE = RNG.standard_normal((4, 5), np.float32)
NORM = {"gamma": GAMMA, "beta": BETA, "moving_mean": MEAN, "moving_variance": VAR}
LAYERS: dict[str, dict[str, np.ndarray]] = {
    "relu": {},
    "conv1_conv": {"kernel": KERNEL, "bias": BIAS},
    "conv1_bn": NORM,
    "predictions": {"kernel": DENSE, "bias": DENSE[0]},
}
GROUPS = {
    "relu": "activation",
    "conv1_conv": "conv2d",
    "conv1_bn": "batch_normalization_12",
    "predictions": "dense",
}
EXPECTED = {f"{layer}/{leaf}": a for layer, leaves in LAYERS.items() for leaf, a in leaves.items()}


def write_weights(path: Path, parent: str = "layers", named: bool = True) -> Path:
    """A file as Keras 3's `save_weights` lays it out."""
    with h5py.File(path, "w") as file:
        file.create_group("vars").attrs["name"] = "model"
        for layer, leaves in LAYERS.items():
            group = file.create_group(f"{parent}/{GROUPS[layer]}/vars")
            if named:
                group.attrs["name"] = layer
            for index, array in enumerate(leaves.values()):
                group[str(index)] = array
    return path


def write_legacy(path: Path, root: str = "model_weights", suffix: str = "") -> Path:
    """A file as Keras's older layout has it; `root` is empty for weights alone."""
    with h5py.File(path, "w") as file:
        top = file.create_group(root) if root else file
        top.attrs["layer_names"] = np.array([layer.encode() for layer in LAYERS])
        for layer, leaves in LAYERS.items():
            write_layer(top, layer, {f"{layer}/{leaf}{suffix}": a for leaf, a in leaves.items()})
        file.create_group("optimizer_weights").attrs["weight_names"] = np.array([b"x"])
    return path


def write_layer(top: h5py.Group, layer: str, arrays: dict[str, np.ndarray]) -> None:
    group = top.create_group(layer)
    group.attrs["weight_names"] = np.array([name.encode() for name in arrays])
    for name, array in arrays.items():
        group.create_dataset(name, data=array)


def assert_holds(path: Path, expected: dict[str, np.ndarray], layout: str) -> None:
    source = read(path)
    assert source.format == layout
    assert source.tensors.keys() == expected.keys()
    for key, array in expected.items():
        assert source.tensors[key].dtype == array.dtype
        assert not source.tensors[key].flags.writeable
        np.testing.assert_array_equal(source.tensors[key], array)


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read(path)
    return str(caught.value)


# Right files.


@pytest.mark.parametrize("parent", ["layers", "_layer_checkpoint_dependencies"])
def test_the_layout_of_keras_3(tmp_path, parent):
    assert_holds(write_weights(tmp_path / "a.h5", parent), EXPECTED, "keras-weights-h5")


def test_a_file_without_names(tmp_path):
    expected = {
        f"{GROUPS[key.partition('/')[0]]}/{key.partition('/')[2]}": array
        for key, array in EXPECTED.items()
    }
    assert_holds(write_weights(tmp_path / "a.h5", named=False), expected, "keras-weights-h5")


@pytest.mark.parametrize("root", ["model_weights", ""])
@pytest.mark.parametrize("suffix", ["", ":0"])
def test_the_older_layout(tmp_path, root, suffix):
    assert_holds(write_legacy(tmp_path / "a.h5", root, suffix), EXPECTED, "keras-h5")


def test_an_optimizers_state_is_no_weight(tmp_path):
    path = write_weights(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        file["optimizer/vars/0"] = np.int64(7)
    assert_holds(path, EXPECTED, "keras-weights-h5")


def test_normalization_without_scales(tmp_path):
    path = write_weights(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        group: Any = file["layers/batch_normalization_12/vars"]
        del group["0"]
        for index in range(3):
            group.move(str(index + 1), str(index))
    expected = {key: a for key, a in EXPECTED.items() if key != "conv1_bn/gamma"}
    assert_holds(path, expected, "keras-weights-h5")


def test_a_layer_of_an_unknown_class_keeps_its_positions(tmp_path):
    path = write_weights(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        file["layers/my_layer/vars/0"] = BIAS
        file["layers/my_layer/loose"] = GAMMA
    expected = {**EXPECTED, "my_layer/0": BIAS, "layers/my_layer/loose": GAMMA}
    assert_holds(path, expected, "keras-weights-h5")


def test_a_model_inside_the_model(tmp_path):
    with h5py.File(tmp_path / "new.h5", "w") as file:
        for place, name in (("functional/layers/conv2d", "conv1_conv"), ("dense", "dense")):
            file.create_group(f"layers/{place}/vars").attrs["name"] = name
        file["layers/functional/layers/conv2d/vars/0"] = KERNEL
        file["layers/dense/vars/0"] = DENSE
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file.attrs["layer_names"] = np.array([b"resnet50", b"dense"])
        inner = {"m/resnet50/conv1/conv/kernel:0": KERNEL, "m/resnet50/conv1/bn/gamma:0": GAMMA}
        write_layer(file, "resnet50", inner)
        write_layer(file, "dense", {"m/dense/kernel:0": DENSE})
    expected = {"dense/kernel": DENSE, "conv1_conv/kernel": KERNEL}
    assert_holds(tmp_path / "new.h5", expected, "keras-weights-h5")
    expected = {"conv/kernel": KERNEL, "bn/gamma": GAMMA, "dense/kernel": DENSE}
    assert_holds(tmp_path / "old.h5", expected, "keras-h5")


def test_layers_of_one_name_in_two_models(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for place in ("functional", "functional_1"):
            group = file.create_group(f"layers/{place}/layers/conv2d/vars")
            group.attrs["name"] = "conv1_conv"
            group["0"] = KERNEL
    expected = {"functional/conv2d/kernel": KERNEL, "functional_1/conv2d/kernel": KERNEL}
    assert_holds(tmp_path / "a.h5", expected, "keras-weights-h5")


def test_lists_in_several_attributes(tmp_path):
    path = write_legacy(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        top: Any = file["model_weights"]
        names = list(top.attrs["layer_names"])
        del top.attrs["layer_names"]
        for index, name in enumerate(names):
            top.attrs[f"layer_names{index}"] = np.array([name])
    assert_holds(path, EXPECTED, "keras-h5")


@pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16", ">f4", "int32", "bool"])
def test_types(tmp_path, dtype):
    kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    array = KERNEL.astype(kind)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for index, data in enumerate((array, np.zeros(0, kind))):
            dataset = file.create_dataset(f"layers/conv2d/vars/{index}", data=data)
            if dtype == "bfloat16":
                dataset.attrs["dtype"] = "bfloat16"  # As Keras does.
    source = read(tmp_path / "a.h5").tensors
    assert source["conv2d/kernel"].dtype == kind
    np.testing.assert_array_equal(source["conv2d/kernel"], array)
    assert source["conv2d/bias"].shape == (0,)


# What is never followed, unpacked or believed.


def replace(path: Path, name: str, create: Callable[[h5py.File], object]) -> Path:
    with h5py.File(path, "a") as file:
        if name in file:
            del file[name]
        create(file)
    return path


@pytest.mark.parametrize("layout", ["weights", "legacy"])
@pytest.mark.parametrize("kind", ["external", "soft", "dangling", "virtual", "storage"])
def test_nothing_leads_out_of_the_file(tmp_path, layout, kind):
    write = {"weights": write_weights, "legacy": write_legacy}[layout]
    path = write(tmp_path / "a.h5")
    other = write(tmp_path / "other.h5")
    name = {
        "weights": "layers/conv2d/vars/1",
        "legacy": "model_weights/conv1_conv/conv1_conv/bias",
    }[layout]

    def create(file: h5py.File) -> None:
        if kind == "virtual":
            sources = h5py.VirtualLayout((4,), np.float32)
            sources[:] = h5py.VirtualSource(other, name, (4,))
            file.create_virtual_dataset(name, sources)
        elif kind == "storage":
            external = [(str(other), 0, 16)]
            file.create_dataset(name, (4,), np.float32, external=external)
        else:
            links = {
                "external": h5py.ExternalLink(other, name),
                "dangling": h5py.ExternalLink(tmp_path / "nowhere.h5", name),
                "soft": h5py.SoftLink(f"/{name[:-1]}0"),
            }
            file[name] = links[kind]

    message = refusal(replace(path, name, create))
    where = "kept in another file" if kind in ("virtual", "storage") else "a link to another place"
    assert where in message
    assert "Nothing was" in message


@pytest.mark.parametrize("target", ["layers", "layers/conv2d"])
def test_a_group_that_is_a_link(tmp_path, target):
    path = write_weights(tmp_path / "a.h5")
    other = write_weights(tmp_path / "other.h5")
    replace(path, target, lambda file: file.update({target: h5py.ExternalLink(other, target)}))
    assert "is a link to another place or file" in refusal(path)


@pytest.mark.parametrize("options", [{"chunks": (1, 1, 1, 1)}, {"compression": "gzip"}])
def test_nothing_is_unpacked(tmp_path, options):
    name = "layers/conv2d/vars/0"
    path = write_weights(tmp_path / "a.h5")
    replace(path, name, lambda file: file.create_dataset(name, (1000,) * 4, np.float32, **options))
    assert path.stat().st_size < 100_000
    assert "is kept in chunks or compressed, which Keras never does" in refusal(path)


def test_an_array_that_was_never_stored(tmp_path):
    name = "layers/conv2d/vars/0"
    path = write_weights(tmp_path / "a.h5")
    replace(path, name, lambda file: file.create_dataset(name, (1000,) * 4, np.float32))
    assert f"declares {4 * 10**12} bytes, and 0 are there" in refusal(path)


def test_one_array_under_many_names(tmp_path):
    path = write_weights(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        file["layers/my/vars/0"] = np.zeros(2**20, np.float32)
        for index in range(1, 20):
            file[f"layers/my/vars/{index}"] = file["layers/my/vars/0"]
    assert "its arrays add up to 83886" in refusal(path)


def test_a_group_inside_itself(tmp_path):
    path = write_weights(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        file["layers/loop"] = file["layers"]
    assert "there at two places or nested too deep" in refusal(path)


def test_groups_without_end(tmp_path):
    path = write_weights(tmp_path / "a.h5", parent="/".join(["layers"] * 40))
    assert "there at two places or nested too deep" in refusal(path)


@pytest.mark.parametrize(
    "value",
    [np.array([b"x"]), "text", np.zeros(2, "V3"), np.zeros(2, [("a", "f4")]), h5py.Empty("f4")],
)
def test_what_is_no_array_of_numbers(tmp_path, value):
    name = "layers/conv2d/vars/0"
    path = write_weights(tmp_path / "a.h5")
    replace(path, name, lambda file: file.update({name: value}))
    message = refusal(path)
    assert "is of an unusual type" in message or "has no shape" in message


# What is missing or wrong.


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("layer_names", "its group '/model_weights' lacks the attribute 'layer_names'"),
        ("conv1_bn", "'/model_weights/conv1_bn' is missing in it"),
        ("conv1_bn/conv1_bn", "'/model_weights/conv1_bn/conv1_bn' is missing in it"),
        ("conv1_bn/conv1_bn/beta", "'/model_weights/conv1_bn/conv1_bn/beta' is missing in it"),
        ("conv1_bn weight_names", "its group '/model_weights/conv1_bn' lacks the attribute"),
    ],
)
def test_missing_parts_of_the_older_layout(tmp_path, name, message):
    path = write_legacy(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        top: Any = file["model_weights"]
        if name.endswith("_names"):
            *group, attribute = name.split()
            del (top[group[0]] if group else top).attrs[attribute]
        else:
            del top[name]
    assert message in refusal(path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (np.array([b"conv1_conv", b"conv1_conv"]), "it holds 'conv1_conv/kernel' twice"),
        (np.array([b""]), "a name of a layer or of a weight is damaged: ''"),
        (np.array([b"\xff\xfe"]), "is damaged or cut short ("),
        (np.array([b"a" * 600]), "a name of a layer or of a weight is damaged: 'aaa"),
        (np.array([3, 4]), "a name of a layer or of a weight is damaged: "),
        (np.array([b"a\nb"]), "a name of a layer or of a weight is damaged: 'a\\nb'"),
        (np.array([[b"a"]]), "has the impossible shape (1, 1)"),
        ("conv1_conv", "has the impossible shape ()"),
        (np.array([b"../model_weights/relu"]), "'/model_weights/..' is missing in it"),
        (np.array([b"."]), "'/model_weights/.' is missing in it"),
        (np.array([b"relu"]), "it is a Keras file without weights"),
        (np.zeros(0), "it is a Keras file without weights"),
    ],
)
def test_names_that_cannot_be(tmp_path, names, message):
    path = write_legacy(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        file["model_weights"].attrs["layer_names"] = names
    assert message in refusal(path)


def test_groups_and_arrays_in_each_others_place(tmp_path):
    for name, value, message in (
        ("model_weights", BIAS, "'model_weights' in it is no group"),
        ("model_weights/conv1_bn", BIAS, "'conv1_bn' in it is no group"),
        ("model_weights/conv1_bn/conv1_bn/beta/x", BIAS, "is a group instead of an array"),
    ):
        path = write_legacy(tmp_path / "a.h5")
        with h5py.File(path, "a") as file:
            del file[name.removesuffix("/x")]
            file[name] = value
        assert message in refusal(path)


def test_another_programs_file(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = BIAS
    assert "it is an HDF5 file that Keras did not write: it holds 'x'" in refusal(tmp_path / "a.h5")
    with h5py.File(tmp_path / "b.h5", "w"):
        pass
    assert "it holds nothing" in refusal(tmp_path / "b.h5")
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file.create_group("layers")
    assert "it is a Keras file without weights" in refusal(tmp_path / "c.h5")


# Damage. The library crashes on some of it, and never returns from some.


def test_a_crash_and_a_hang_end_in_a_message(tmp_path, monkeypatch):
    path = write_weights(tmp_path / "a.h5")
    monkeypatch.setattr(h5_files, "_PATIENCE_SECONDS", 0.01)
    assert "after 0.01 seconds the HDF5 library had not found its way" in refusal(path)
    monkeypatch.undo()
    for code, message in (
        ("import os; os.kill(os.getpid(), 11)", "the HDF5 library crashed on it"),
        ("raise SystemExit('no h5py')", "reading its index failed (no h5py)"),
    ):
        package = tmp_path / "weights_convert" / "read"
        package.mkdir(parents=True, exist_ok=True)
        for folder in (package, package.parent):
            (folder / "__init__.py").write_text("")
        (package / "h5_index.py").write_text(code)
        with monkeypatch.context() as patch:
            patch.syspath_prepend(tmp_path)
            assert message in refusal(path)


@pytest.mark.slow
def test_a_heap_that_the_library_never_leaves(tmp_path, monkeypatch):
    path = write_weights(tmp_path / "a.h5")
    data = bytearray(path.read_bytes())
    # Free space of no bytes behind the last name: its index is 0, and here its size as well.
    heap = data.index(b"GCOL")
    position = heap + 16
    while data[position : position + 2] != b"\0\0":
        size = int.from_bytes(data[position + 8 : position + 16], "little")
        position += 16 + -(-size // 8) * 8
    data[position + 8 : position + 16] = bytes(8)
    path.write_bytes(data)
    monkeypatch.setattr(h5_files, "_PATIENCE_SECONDS", 3)
    assert "it is an HDF5 file that is damaged" in refusal(path)


# Indexes many files, each in a fork: a process of its own without a start of its own.
FORKS = """
import json, os, signal, sys
from weights_convert.read import h5_index
for path in sys.stdin.read().split("\\n"):
    output, end = os.pipe()
    if not os.fork():
        signal.alarm(5)
        with os.fdopen(end, "w") as file:
            json.dump(h5_index.index(path), file)
        os._exit(0)
    os.close(end)
    with os.fdopen(output) as file:
        text = file.read()
    print(json.dumps([os.WTERMSIG(os.wait()[1]), text]))
"""


def read_all(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each file was read, or else refused; anything else fails the test."""
    done = subprocess.run(
        [sys.executable, "-c", FORKS],
        input="\n".join(map(str, paths)),
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert done.stderr == ""  # A traceback of Python's would be there.
    outcomes = {}
    for path, line in zip(paths, done.stdout.splitlines(), strict=True):
        signal, text = json.loads(line)
        # What a crash and a hang end in is tested by themselves.
        outcomes[str(path)] = {"error": "damaged."} if signal else json.loads(text)
    monkeypatch.setattr(h5_files, "_index", outcomes.__getitem__)
    results = []
    for path in paths:
        try:
            arrays = read(path).tensors
        except UserError:
            results.append(False)
        else:
            assert sum(array.nbytes for array in arrays.values()) <= 8 * 2**20
            results.append(True)
    return results


@pytest.mark.process
@pytest.mark.parametrize("write", [write_weights, write_legacy])
def test_cut_files(tmp_path, monkeypatch, write):
    whole = write(tmp_path / "whole.h5").read_bytes()
    paths = []
    for size in range(8, len(whole), len(whole) // 80):
        paths.append(tmp_path / f"{size}.h5")
        paths[-1].write_bytes(whole[:size])
    assert not any(read_all(paths, monkeypatch))


@pytest.mark.process
@pytest.mark.parametrize("write", [write_weights, write_legacy])
def test_flipped_bytes_are_refused_or_read(tmp_path, monkeypatch, write):
    whole = write(tmp_path / "whole.h5").read_bytes()
    rng = random.Random(write.__name__)
    paths = []
    for index in range(250):
        data = bytearray(whole)
        for _ in range(rng.choice([1, 1, 2, 8])):
            # Most of a file's structure lies before its numbers.
            stop = rng.choice([len(data), len(data) // 4])
            data[rng.randrange(9, stop)] = rng.choice([0, 255, rng.randrange(256)])
        paths.append(tmp_path / f"{index}.h5")
        paths[-1].write_bytes(data)
    results = read_all(paths, monkeypatch)
    assert 20 < sum(results) < 230
