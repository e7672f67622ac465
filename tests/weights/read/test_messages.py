"""What is said of files that hold weights in a form that is not read."""

from __future__ import annotations

import pickle
import re
import zipfile

import numpy as np
import pytest
import torch

from jtl.common.errors import UserError
from weights_convert.read import foreign, readers

pytestmark = pytest.mark.peer

ARRAYS = {"conv1.weight": np.ones((2, 3), np.float32), "fc.bias": np.ones(2, np.float32)}


def refusal(path) -> str:
    with pytest.raises(UserError) as caught:
        readers.read(path)
    message = str(caught.value)
    assert ".." not in message.replace("...", "")
    return message


def test_numpys_files(tmp_path):
    np.save(tmp_path / "w.npy", ARRAYS["fc.bias"])
    assert "it is a NumPy .npy file, which holds one array" in refusal(tmp_path / "w.npy")
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "w.npz", **ARRAYS)
        found = readers.read(tmp_path / "w.npz")
        assert found.format == "npz"
        assert found.tensors.keys() == ARRAYS.keys()
        for key, array in ARRAYS.items():
            np.testing.assert_array_equal(found.tensors[key], array)
    whole = (tmp_path / "w.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[:-30])
    assert "it is a damaged NumPy .npz archive" in refusal(tmp_path / "cut.npz")
    flipped = bytearray(whole)
    flipped[len(whole) // 4] ^= 0xFF
    (tmp_path / "flipped.npz").write_bytes(flipped)
    assert "it is a damaged NumPy .npz archive" in refusal(tmp_path / "flipped.npz")
    np.savez(tmp_path / "o.npz", x=np.array([{}], object), allow_pickle=True)
    assert "its array 'x' holds Python objects" in refusal(tmp_path / "o.npz")
    np.savez(tmp_path / "t.npz", x=np.array(["text"]))
    assert "its array 'x' holds <U4, not numbers" in refusal(tmp_path / "t.npz")


def test_arrays_in_a_checkpoint_and_in_a_pickle(tmp_path):
    torch.save(ARRAYS, tmp_path / "w.pth")
    assert "is no tensor, perhaps NumPy arrays: 'conv1.weight', 'fc.bias'" in refusal(
        tmp_path / "w.pth"
    )
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(ARRAYS))
    assert "Save a dictionary of tensors as .safetensors" in refusal(tmp_path / "w.pkl")


def test_entries_to_choose_from(tmp_path):
    tensors = {key: torch.from_numpy(array) for key, array in ARRAYS.items()}
    teacher = {key: tensor + 1 for key, tensor in tensors.items()}
    torch.save({"student": tensors, "teacher": teacher, "epoch": 1}, tmp_path / "dino.pth")
    assert "'student', 'teacher': name one with --entry. Allowed" in refusal(tmp_path / "dino.pth")


FOLDERS = {
    "saved_model.pb": "a SavedModel of TensorFlow without variables/variables.index. Load it there",
    "model.ckpt-100.index": "a folder of several checkpoints of TensorFlow. Name the .index file",
    "_METADATA": "a checkpoint of Orbax. Restore it there",
    "model.json": "a model of TensorFlow.js. Take the Keras model it was made of",
    "net.caffemodel": "a folder with a Caffe model. Name its .caffemodel file",
    "notes.txt": "it is a directory. Name one file inside it",
}


def test_vissl_keeps_the_network_in_three_dictionaries(tmp_path):
    tensors = {key: torch.from_numpy(array) for key, array in ARRAYS.items()}
    model = {"trunk": tensors, "heads": {"0.clf.weight": torch.ones(2, 2)}}
    torch.save({"classy_state_dict": {"base_model": {"model": model}}}, tmp_path / "v.torch")
    found = readers.read(tmp_path / "v.torch")
    assert found.tensors.keys() == ARRAYS.keys()
    assert found.wrappers == ("classy_state_dict", "base_model", "model", "trunk")


@pytest.mark.parametrize(
    ("name", "begins", "told"),
    [
        ("x.engine", b"\x08\x07", "an engine of TensorRT, which is compiled for one GPU; jtl"),
        ("x.msgpack", b"\x83\xa6", "Restore it with flax.serialization.msgpack_restore"),
        (
            "x.mlmodel",
            b"\x08\x07",
            "a Core ML model; jtl does not read such files. Take the PyTorch",
        ),
        ("x.pdparams", b"\x80\x04", "a file of PaddlePaddle, whose dense kernels are transposed"),
        ("x.pb", b"\x0a\x07", "whose weights are constants without layers"),
        ("x.ckpt", b"\x0a\x07", "those of TensorFlow before 1.0 have this ending, too; jtl"),
        ("x.ckpt.data-00000-of-00001", b"\x0a\x07", "Name the .index file next to it"),
        ("x.ckpt.meta", b"\x0a\x07", "without weights; jtl does not read such files. Name the"),
        ("x.ot", b"\0", "a file of tch-rs"),
        ("x.t7", b"\4", "a file of Lua Torch"),
        ("x.prototxt", b"name: 'net'", "Name the .caffemodel file that belongs to it"),
        ("x.bin", b"GGUF\3", "a file of llama.cpp and its relatives"),
        ("x.bin", b"MATLAB 5.0 MAT-file", "perhaps of MatConvNet"),
        ("x.bin", b"\x12\x01\0\0\0\0\0\0", "Load it with mxnet.ndarray.load and save its arrays"),
        ("x.pth", b"\x28\xb5\x2f\xfd", "it is compressed with zstd. Unpack it first"),
    ],
)
def test_a_file_of_another_program_says_what_would_make_it_readable(tmp_path, name, begins, told):
    path = tmp_path / name
    path.write_bytes(begins + bytes(600))
    assert told in refusal(path)
    assert (
        len([ending for ending in foreign._KINDS if re.fullmatch(ending, name.split(".")[-1])]) < 2
    )


def test_files_of_other_kinds(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pt2", "w") as archive:
        archive.writestr("x/archive_format", "pt2")
        archive.writestr("x/models/model.json", "{}")
    assert "torch.save(torch.export.load(FILE).state_dict, " in refusal(tmp_path / "x.pt2")
    (tmp_path / "dcp").mkdir()
    assert "it is a directory. Name one" in refusal(tmp_path / "dcp")
    (tmp_path / "dcp" / "__0_0.distcp").write_bytes(b"x")
    assert "format_utils dcp_to_torch" in refusal(tmp_path / "dcp")
    for name, told in FOLDERS.items():
        (tmp_path / f"of {name}").mkdir()
        (tmp_path / f"of {name}" / name).write_bytes(b"x")
        assert told in refusal(tmp_path / f"of {name}")
