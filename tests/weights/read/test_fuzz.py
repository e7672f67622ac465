"""Malformed checkpoints, hundreds of them: an error in words, nothing written, nothing run."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from jtl.common.errors import UserError
from support import weights_samples as samples
from weights_convert.__main__ import main
from weights_convert.checkpoint import folder as converted_folder
from weights_convert.convert.conversion import convert

MODEL = samples.MODEL
Tensors = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, bytes]:
    """Good files by suffix: they convert, so what is refused is refused for its damage."""
    import torch

    folder = tmp_path_factory.mktemp("whole")
    arrays = samples.tensors(num_classes=3)
    samples.write_file(folder / "w.safetensors", arrays)
    state = {key: torch.from_numpy(np.ascontiguousarray(a)) for key, a in arrays.items()}
    torch.save(state, folder / "w.pth")
    torch.save(state, folder / "w.pt", _use_new_zipfile_serialization=False)
    return {path.suffix: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def attempt(tmp_path, capsys) -> Callable[[bytes, str], str | None]:
    """Converts a file; gives the message of its refusal, or None if it was converted whole."""
    path, out = tmp_path / "fuzz", tmp_path / "out"

    def run(content: bytes, suffix: str) -> str | None:
        file = path.with_suffix(suffix)
        file.write_bytes(content)
        code = main([str(file), "--model", MODEL, "--out", str(out), "--overwrite"])
        error = capsys.readouterr().err
        file.unlink()
        if code == 0:
            assert converted_folder.read(out).num_classes is not None
            return None
        assert code == 2
        assert error.startswith("error: ")
        assert "Traceback" not in error
        assert not any(p.name != "out" for p in tmp_path.iterdir())
        return error

    return run


# Files cut and flipped.


@pytest.mark.peer
@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
def test_good_files_convert(whole, attempt, suffix):
    assert attempt(whole[suffix], suffix) is None


@pytest.mark.peer
@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
def test_truncations(whole, attempt, tmp_path, suffix):
    good = whole[suffix]
    rng = np.random.default_rng(0)
    offsets = {0, 1, 2, 7, 8, 9, 63, 64, 512, len(good) - 1, len(good) - 8, len(good) // 2}
    offsets |= set(rng.integers(0, 100_000, 8).tolist())
    offsets |= set(rng.integers(0, len(good), 5).tolist())
    for offset in sorted(offsets):
        error = attempt(good[:offset], suffix)
        assert error is not None, offset
        assert "cannot read" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.peer
@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
def test_flipped_bytes_where_files_describe_themselves(whole, attempt, suffix):
    good = whole[suffix]
    rng = np.random.default_rng(1)
    if suffix == ".safetensors":
        described = [(0, 8 + int.from_bytes(good[:8], "little"))]
    elif suffix == ".pth":
        # The pickle, and the archive's directory at the end.
        described = [(0, 40_000), (len(good) - 40_000, len(good))]
    else:
        described = [(0, 40_000)]
    refused = 0
    for number in range(24):
        start, stop = described[number % len(described)]
        damaged = bytearray(good)
        for _ in range(int(rng.integers(1, 4))):
            damaged[int(rng.integers(start, stop))] ^= int(rng.integers(1, 256))
        refused += attempt(bytes(damaged), suffix) is not None
    # A byte of padding, or of a tensor's number in the stream, may change without being noticed.
    assert refused >= 16


@pytest.mark.peer
def test_a_flipped_byte_in_a_torch_archive_is_always_noticed(whole, attempt):
    good = whole[".pth"]
    with zipfile.ZipFile(io.BytesIO(good)) as packed:
        # Only padding between the records is without a checksum.
        records = [r for r in packed.infolist() if "/data/" in r.filename and r.file_size > 1000]
    rng = np.random.default_rng(2)
    for record in rng.choice(np.array(records, object), 6, replace=False):
        name, extra = struct.unpack("<HH", good[record.header_offset :][26:30])
        start = record.header_offset + 30 + name + extra
        damaged = bytearray(good)
        # The last bit of some number's fraction: nothing else would show it.
        damaged[start + 4 * int(rng.integers(0, record.file_size // 4))] ^= 1
        error = attempt(bytes(damaged), ".pth")
        assert error is not None
        assert "does not match its checksum" in error


@pytest.mark.slow
def test_noise_and_other_formats(attempt, tmp_path):
    rng = np.random.default_rng(3)
    for number in range(24):
        head = [b"", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n", b"\x80\x02"][number % 4]
        for suffix in (".safetensors", ".pth"):
            assert attempt(head + rng.bytes(int(rng.integers(0, 3000))), suffix) is not None
    assert not (tmp_path / "out").exists()


# Headers of safetensors that lie.


def safetensors_of(header: bytes, body: bytes = b"\0" * 64) -> bytes:
    return struct.pack("<Q", len(header)) + header + body


LYING_HEADERS = [
    b"{}",
    b"{",
    b"[]",
    b"null",
    b'{"a": 1}',
    b'{"a": {}}',
    b'{"a": {"dtype": "F32", "shape": [16], "data_offsets": [0, 65]}}',
    b'{"a": {"dtype": "F32", "shape": [15], "data_offsets": [0, 64]}}',
    b'{"a": {"dtype": "F32", "shape": [16], "data_offsets": [64, 0]}}',
    b'{"a": {"dtype": "F32", "shape": [-16], "data_offsets": [0, 64]}}',
    b'{"a": {"dtype": "F32", "shape": [4294967296, 4294967296], "data_offsets": [0, 64]}}',
    b'{"a": {"dtype": "F33", "shape": [16], "data_offsets": [0, 64]}}',
    b'{"a": {"dtype": "F8_E4M3", "shape": [64], "data_offsets": [0, 64]}}',
    b'{"a": {"dtype": "F32", "shape": [8], "data_offsets": [0, 32]}}',
    b'{"a": {"dtype": "F32", "shape": [8], "data_offsets": [32, 64]}}',
    b'{"a": {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]}, '
    b'"a": {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]}}',
    b'{"a": {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]}, '
    b'"b": {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]}}',
    b'{"__metadata__": {"a": 1}}',
    b'{"__metadata__": 3, "a": {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]}}',
    b'{"\xff": {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]}}',
    b"[" * 5000,
    b'{"a":' * 5000,
]


@pytest.mark.parametrize("header", LYING_HEADERS, ids=range(len(LYING_HEADERS)))
def test_headers_that_lie(attempt, header):
    assert attempt(safetensors_of(header), ".safetensors") is not None


@pytest.mark.parametrize("length", [0, 2**20, 2**40, 2**63, 2**64 - 1])
def test_header_lengths_that_lie(attempt, length):
    content = struct.pack("<Q", length) + b'{"a": 1}' + b"\0" * 64
    assert attempt(content, ".safetensors") is not None


# Pickles with code, and bombs.


class Call:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function: Callable, *arguments: object):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


CALLS = {
    "mkdir": Call(os.mkdir, "executed"),
    "system": Call(os.system, "touch executed"),
    "eval": Call(eval, "__import__('os').mkdir('executed')"),
    "exec": Call(exec, "open('executed', 'w')"),
    "open": Call(open, "executed", "w"),
    "import": Call(__import__, "antigravity"),
    "getattr": Call(getattr, "x", "upper"),
    "path": Call(Path, "executed"),
}


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("place", ["stream", "zip", "nested"])
def test_code_in_pickles_never_runs(attempt, tmp_path, monkeypatch, call, protocol, place):
    monkeypatch.chdir(tmp_path)
    value = {"state_dict": {"conv1.weight": CALLS[call]}} if place == "nested" else CALLS[call]
    content = pickle.dumps(value, protocol=protocol)
    if place != "stream":
        content = archive({"x/data.pkl": content, "x/version": b"3"})
    error = attempt(content, ".pth")
    assert error is not None
    assert not (tmp_path / "executed").exists()
    # A path beside weights is harmless; it stands for nothing, and is none.
    if place != "stream" and call != "path":
        assert "Nothing was executed" in error


def archive(records: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, content in records.items():
            file.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "records",
    [
        {},
        {"x/data.pkl": b""},
        {"x/data.pkl": b"\x80\x02."},
        {"x/data.pkl": b"\x80\x02}."},
        {"x/data.pkl": b"\x80\x02N."},
        {"x/data.pkl": b"\x80\x02K\x05."},
        {"x/data.pkl": b"\x80\x02(" + b"(" * 10_000 + b"."},
        {"x/data.pkl": b"\x80\x02)" + b"\x85" * 100_000 + b"."},
        {"x/data.pkl": b"\x80\x02Nr\xff\xff\xff\xff."},
        {"x/data.pkl": pickle.dumps({"a": 1}), "y/data.pkl": pickle.dumps({"a": 1})},
        {"x/data.pkl": pickle.dumps({"a": 1}), "x/constants.pkl": b""},
        {"readme.txt": b"hello"},
    ],
    ids=range(12),
)
def test_archives_that_hold_no_weights(attempt, records):
    assert attempt(archive(records), ".pth") is not None


def test_a_bomb_is_not_unpacked(attempt):
    bomb = archive({"x/data.pkl": b"\0" * 10_000_000}, zipfile.ZIP_DEFLATED)
    assert len(bomb) < 100_000
    assert "Nothing was unpacked" in (attempt(bomb, ".pth") or "")


# Tensors that do not fit: in memory, because it is the table's business and not the reader's.


def damages() -> Iterator[tuple[str, Callable[[Tensors], None], str]]:
    """(name, what happens to the tensors, what the message must hold), about 150."""
    keys = sorted(samples.tensors())
    rng = np.random.default_rng(4)
    for key in rng.choice(keys, 25, replace=False):
        yield f"missing {key}", lambda t, k=key: t.pop(k), f"missing    {key}"
        yield (
            f"extra {key}",
            lambda t, k=key: t.update({f"{k}.copy": t[k]}),
            f"unexpected {key}.copy",
        )
    for key in rng.choice(keys, 20, replace=False):
        for bad in (np.nan, np.inf):
            yield f"{bad} {key}", lambda t, k=key, b=bad: spoil(t, k, b), f"values     {key} holds"
    for key in rng.choice(keys, 20, replace=False):
        yield f"int {key}", lambda t, k=key: cast(t, k, np.int32), f"dtype      {key} is int32"
        yield f"axis {key}", lambda t, k=key: expand(t, k), f"shape      {key} is"
    for key in [k for k in keys if k.endswith("running_var")][:5]:
        yield f"negative {key}", lambda t, k=key: spoil(t, k, -1.0), "a variance with negative"


def spoil(tensors: Tensors, key: str, value: float) -> None:
    tensors[key] = tensors[key].copy()
    tensors[key].flat[tensors[key].size // 2] = value


def cast(tensors: Tensors, key: str, dtype: type) -> None:
    tensors[key] = tensors[key].astype(dtype)


def expand(tensors: Tensors, key: str) -> None:
    tensors[key] = tensors[key][..., None]


@pytest.mark.slow
def test_each_damaged_tensor_is_named():
    good = samples.tensors()
    cases = list(damages())
    assert len(cases) >= 130
    for name, damage, message in cases:
        tensors = dict(good)
        damage(tensors)
        with pytest.raises(UserError) as caught:
            convert(tensors, MODEL)
        assert message in str(caught.value), name
        assert "1 problem between" in str(caught.value), name


def test_every_problem_is_in_one_message():
    rng = np.random.default_rng(5)
    cases = list(damages())
    for _ in range(20):
        tensors, expected = dict(samples.tensors()), set()
        seen: set[str] = set()
        for index in rng.choice(len(cases), 6, replace=False):
            name, damage, message = cases[index]
            if (key := name.partition(" ")[2]) in seen:
                continue
            seen.add(key)
            damage(tensors)
            expected.add(message)
        with pytest.raises(UserError) as caught:
            convert(tensors, MODEL)
        assert all(message in str(caught.value) for message in expected)
        assert f"{len(seen)} problem" in str(caught.value)


def test_swapped_shapes_name_both():
    for one, other in (
        ("conv_stem.weight", "conv_head.weight"),
        ("bn1.weight", "bn2.weight"),
        ("classifier.weight", "conv_head.weight"),
    ):
        tensors = dict(samples.tensors())
        tensors[one], tensors[other] = tensors[other], tensors[one]
        with pytest.raises(UserError) as caught:
            convert(tensors, MODEL)
        for key in (one, other):
            assert f"shape      {key} is " in str(caught.value)


def test_a_class_count_that_does_not_fit_its_bias():
    for width in (1, 4, 6, 1000):
        tensors = dict(samples.tensors())
        tensors["classifier.bias"] = np.zeros(width, np.float32)
        with pytest.raises(UserError) as caught:
            convert(tensors, MODEL)
        assert f"shape      classifier.bias is ({width},), expected (5,)" in str(caught.value)


@pytest.mark.parametrize(
    ("model", "library"),
    [
        ("resnet18", "timm/torchvision"),
        ("densenet121", "timm/torchvision"),
        ("densenet121", "torchvision (old keys)"),
        ("efficientnet_lite1", "timm"),
        ("efficientnet_lite2", "lukemelas"),
    ],
)
def test_another_architecture_is_recognized(model, library):
    with pytest.raises(UserError, match=f"look like {model}.* try --model {model}"):
        convert(samples.tensors(model, library, 3), MODEL)


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"": np.zeros(3, np.float32)},
        {"weight": np.zeros((), np.float32)},
        {"x" * 10_000: np.zeros(3, np.float32)},
        {"\0\x1b[31m": np.zeros(3, np.float32)},
        {"conv1.weight": np.zeros((64, 3, 7, 7), np.float32)},
        {"conv_stem.weight": np.zeros((0, 3, 3, 3), np.float32)},
    ],
    ids=range(7),
)
@pytest.mark.parametrize("model", [None, MODEL])
def test_tensors_of_nothing(tensors, model):
    with pytest.raises(UserError):
        convert(tensors, model)
