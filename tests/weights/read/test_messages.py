"""What is said of files that hold weights in a form that is not read."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from jtl.common.errors import UserError
from weights_convert.read import readers

pytestmark = pytest.mark.peer

ARRAYS = {"conv1.weight": np.ones((2, 3), np.float32), "fc.bias": np.ones(2, np.float32)}


def refusal(path) -> str:
    with pytest.raises(UserError) as caught:
        readers.read(path)
    message = str(caught.value)
    assert ".." not in message.replace("...", "")
    return message


def test_numpys_files(tmp_path):
    np.savez(tmp_path / "w.npz", **ARRAYS)
    np.savez_compressed(tmp_path / "c.npz", **ARRAYS)
    np.save(tmp_path / "w.npy", np.array(ARRAYS, object))
    for name in ("w.npz", "c.npz", "w.npy"):
        message = refusal(tmp_path / name)
        assert f"it is a NumPy .{name[-3:]} " in message
        assert "safetensors.numpy.save_file(" in message


def test_arrays_in_a_checkpoint_and_in_a_pickle(tmp_path):
    torch.save(ARRAYS, tmp_path / "w.pth")
    assert "is no tensor, perhaps NumPy arrays: 'conv1.weight', 'fc.bias'" in refusal(
        tmp_path / "w.pth"
    )
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(ARRAYS))
    assert "Save a dictionary of tensors as .safetensors" in refusal(tmp_path / "w.pkl")


def test_entries_to_choose_from(tmp_path):
    tensors = {key: torch.from_numpy(array) for key, array in ARRAYS.items()}
    torch.save({"student": tensors, "teacher": tensors, "epoch": 1}, tmp_path / "dino.pth")
    assert "'student', 'teacher': name one with --entry. Allowed" in refusal(tmp_path / "dino.pth")
