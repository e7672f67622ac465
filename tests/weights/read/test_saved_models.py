"""TensorFlow's checkpoints and SavedModels: read as Keras's weights, or refused."""

from __future__ import annotations

import contextlib
import shutil

import numpy as np
import pytest

from jtl.common.errors import UserError
from support import tensor_bundles, weights_samples
from weights_convert.convert.conversion import convert
from weights_convert.read import crc32c, sharded
from weights_convert.read.readers import read
from weights_convert.source import source_conversion, sources

ARRAYS = {
    "Conv1/kernel": np.arange(24, dtype=np.float32).reshape(2, 2, 3, 2),
    "Conv1/bias": np.ones(2, np.float32),
    "half/kernel": np.arange(4, dtype=np.float16),
    "double/kernel": np.arange(4, dtype=np.float64),
    "none/kernel": np.zeros((0, 3), np.float32),
}


def test_checksums():
    """Of RFC 3720, appendix B.4; longer ones as byte by byte."""
    assert crc32c.crc32c(b"123456789") == 0xE3069283
    assert crc32c.crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c.crc32c(b"\xff" * 32) == 0x62A8AB43
    for size in (0, 1, 2**14 - 1, 2**14, 5 * 2**14 + 77):
        data = np.random.default_rng(size).bytes(size)
        assert crc32c.crc32c(data) == _byte_by_byte(data)


def _byte_by_byte(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_arrays_are_read_exactly(tmp_path):
    folder = tensor_bundles.write_saved_model(tmp_path / "saved", ARRAYS)
    found = read(sharded.checkpoint_in(folder) or "")
    assert (found.format, found.tensors.keys()) == ("tensorflow", ARRAYS.keys())
    for key, array in ARRAYS.items():
        assert found.tensors[key].dtype == array.dtype
        np.testing.assert_array_equal(found.tensors[key], array)
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    assert found.size_bytes == sum(sizes)


def test_what_is_no_weight_is_left_out(tmp_path):
    arrays = {
        "layer/.ATTRIBUTES/VARIABLE_VALUE": np.ones(3, np.float32),
        "layer/.OPTIMIZER_SLOT/optimizer/m/.ATTRIBUTES/VARIABLE_VALUE": np.ones(3, np.float32),
        "optimizer/_variables/1/.ATTRIBUTES/VARIABLE_VALUE": np.ones(3, np.float32),
        "save_counter/.ATTRIBUTES/VARIABLE_VALUE": np.array(1, np.int64),
    }
    names = dict(zip(arrays, ("Conv1/depthwise_kernel:0", "Adam/m", "Adam/v", "save"), strict=True))
    found = read(tensor_bundles.write_bundle(tmp_path, arrays, names, "ckpt-1"))
    assert list(found.tensors) == ["Conv1/kernel"]
    assert set(found.left_out) == {"layer", "optimizer", "save_counter"}
    plain = {"net/weights": np.ones(3, np.float32), "net/weights/Momentum": np.ones(3, np.float32)}
    found = read(tensor_bundles.write_bundle(tmp_path, plain, None, "model.ckpt"))
    assert list(found.tensors) == ["net/weights"]


def test_two_variables_of_one_name(tmp_path):
    arrays = {"a": np.ones(3, np.float32), "b": np.ones(3, np.float32)}
    names = {"a": "dense/kernel", "b": "dense/kernel"}
    path = tensor_bundles.write_bundle(tmp_path, arrays, names)
    assert list(read(path).tensors) == ["dense/kernel"]
    tensor_bundles.write_bundle(tmp_path, {**arrays, "b": 2 * arrays["b"]}, names)
    with pytest.raises(UserError, match="two variables called 'dense/kernel'"):
        read(path)


def test_a_model_of_keras_converts(tmp_path):
    """As its folder, as its program, and as a checkpoint that is alone in a folder."""
    arrays = weights_samples.tensors("mobilenet_v2", "keras")
    expected = convert(arrays)
    folder = tensor_bundles.write_saved_model(tmp_path / "saved", arrays)
    alone = tmp_path / "alone"
    tensor_bundles.write_bundle(alone, arrays, {key: key for key in arrays}, "ckpt-7")
    for place in (folder, folder / "saved_model.pb", alone, alone / "ckpt-7.index"):
        found = source_conversion.convert_source(sources.locate(str(place)))
        assert (found.model, found.library, found.num_classes) == ("mobilenet_v2", "keras", 5)
        assert found.preprocessing.mean == (0.5, 0.5, 0.5)
        kernel = found.variables["params"]["stem"]["conv"]["kernel"]
        np.testing.assert_array_equal(
            kernel, expected.variables["params"]["stem"]["conv"]["kernel"]
        )
    shutil.copytree(alone, tmp_path / "two")
    tensor_bundles.write_bundle(tmp_path / "two", ARRAYS, None, "ckpt-8")
    with pytest.raises(UserError, match=r"several checkpoints of TensorFlow. Name the .index file"):
        source_conversion.convert_source(sources.locate(str(tmp_path / "two")))


def test_the_graph_of_a_saved_model_counts(tmp_path):
    """Its configuration where it has one; else the names of its layers that scale images."""
    arrays = weights_samples.tensors("mobilenet_v2", "keras")
    layers = [
        {"class_name": "Conv2D", "config": {"name": "Conv1", "dilation_rate": 2}},
        {"class_name": "Conv2D", "config": {"name": "Conv_1"}},
    ]
    config = {"class_name": "Functional", "config": {"layers": layers}}
    folder = tensor_bundles.write_saved_model(tmp_path / "saved", arrays, config)
    before = sharded.digest(sharded.checkpoint_in(folder) or "")
    with pytest.raises(UserError, match=r"Conv2D \('Conv1'\) with dilation_rate 2"):
        source_conversion.convert_source(sources.locate(str(folder)))
    (folder / tensor_bundles.METADATA).unlink()
    assert sharded.digest(sharded.checkpoint_in(folder) or "") != before
    program = tensor_bundles.field(1, "model/batch_normalization/mul") + b"\5rescaling_1/mul"
    tensor_bundles.write_saved_model(folder, arrays, program=program)
    with pytest.raises(UserError, match=r"\brescaling_1\b"):
        source_conversion.convert_source(sources.locate(str(folder)))


def test_damage_is_found(tmp_path):
    path = tensor_bundles.write_bundle(tmp_path, ARRAYS, {key: key for key in ARRAYS})
    data = tmp_path / "variables.data-00000-of-00001"
    good, index = data.read_bytes(), path.read_bytes()
    data.write_bytes(b"\1" + good[1:])
    with pytest.raises(UserError, match="the checksum of 'Conv1/bias' is another"):
        read(path)
    data.write_bytes(good[:-1])
    with pytest.raises(UserError, match="a tensor ends after its file"):
        read(path)
    data.unlink()
    with pytest.raises(UserError, match=f"there is no file '{data.name}'"):
        read(path)
    data.write_bytes(good)
    rng = np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(index)
        damaged[rng.integers(0, len(index))] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        with contextlib.suppress(UserError):  # Unused bytes of the footer change nothing.
            assert read(path).tensors.keys() == ARRAYS.keys()
