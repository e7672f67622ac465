"""Greyscale images that use some of their 16 bits: found over the set, said, kept with the run."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jtl.common.errors import UserError
from jtl.data import verification
from jtl.data.decoding import BadImage, as_decoded, decode, decode_measured, is_deep
from jtl.data.sources.registry import find, load
from jtl.data.survey import survey
from jtl.data.verification import Verification
from jtl.evaluate.evaluation import evaluate_run
from jtl.predict import classifier as evaluation
from jtl.train.fit import fit
from support import tiny
from support.commands import main
from support.data_files import encode
from support.paths import SHARED_DATA


def deep(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values.astype(np.uint16)).save(buffer, "PNG")
    return buffer.getvalue()


def folder(root: Path, largest: int, count: int = 6) -> Path:
    """Classes of dark and bright noise; one pixel has the largest value."""
    random = np.random.default_rng(0)
    for label, name in enumerate(tiny.CLASSES):
        (root / name).mkdir(parents=True)
        for index in range(count):
            values = random.integers(0, largest // 3, (8, 8)) + label * (largest // 3)
            values[0, 0] = largest if name == "cedar" and not index else values[0, 0]
            (root / name / f"{index}.png").write_bytes(deep(values))
    return root


@pytest.mark.parametrize(
    ("largest", "bits"), [(255, 8), (256, 10), (1023, 10), (4095, 12), (4096, 14), (20_000, 16)]
)
def test_the_fewest_bits_that_hold_the_largest_value(tmp_path: Path, largest: int, bits: int):
    root = folder(tmp_path / "data", largest)
    data = load(f"folder:{root}", verify=Verification())
    assert data.bit_depth == bits
    brightest = max(int(s.read(np.arange(len(s)), None).max()) for s in (data.train, data.val))
    assert brightest == round(largest * 255 / (2**bits - 1))
    said = f"values up to {largest:,} of 65,535: they are read as images of {bits} bits"
    assert (said in " ".join(data.notes)) == (bits < 16)
    whole = load(f"folder:{root}", verify=Verification(), bit_depth=16)
    assert (whole.fingerprint == data.fingerprint) == (bits == 16)
    if bits > 8:
        with pytest.raises(UserError, match=f"--bit-depth {bits - 2}: .* up to {largest:,}"):
            load(f"folder:{root}", verify=Verification(), bit_depth=bits - 2)


def test_all_16_bits_are_as_before():
    values = np.arange(65_536).reshape(256, 256)
    pixels = np.asarray(decode(deep(values), "x"))[..., 0]
    np.testing.assert_array_equal(pixels, (values + 128) // 257)


def test_the_depth_is_remembered_and_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = folder(tmp_path / "data", 4000)
    monkeypatch.setattr(verification, "WORTH_SECONDS", 0.0)
    check = Verification("error", tmp_path / "cache")
    assert [load(f"folder:{root}", verify=check).bit_depth for _ in range(2)] == [12, 12]
    monkeypatch.setattr(verification, "DECODED_BYTES", 0)  # Now by the headers and a sample.
    data = load(f"folder:{root}", verify=Verification())
    assert data.bit_depth == 12
    (root / data.train.names[0]).write_bytes(deep(np.full((8, 8), 9000)))
    with pytest.raises(UserError, match=r"values up to 9,000, and of 12 bits .* --bit-depth"):
        data.train.read(np.arange(len(data.train)), None)


def test_the_depth_is_kept_with_the_run(tiny_data: Path, tmp_path: Path, capsys):
    root = folder(tmp_path / "data", 4095)
    weights = str(tiny_data.parent / "weights")
    run = fit(tiny.config(root, tmp_path / "run", weights=weights), tiny.quiet())
    classifier = evaluation.load(run.folder)
    assert classifier.inputs.bit_depth == 12
    assert "images of 12 bits" in " ".join(run.summary["notes"])
    # One image's own range does not count, nor that of other data.
    (root / "cedar" / "0.png").rename(tmp_path / "bright.png")
    logits = classifier.predict(tmp_path / "bright.png").logits
    eight = Image.fromarray(np.asarray(decode((tmp_path / "bright.png").read_bytes(), "x", 12)))
    np.testing.assert_array_equal(logits, classifier.predict(eight).logits)
    (tmp_path / "bright.png").rename(root / "cedar" / "0.png")
    assert main("evaluate", run.folder, "--json") == 0
    assert json.loads(capsys.readouterr().out)["val_loss"] == run.summary["val_loss"]
    dark = folder(tmp_path / "dark", 300)
    scores = evaluate_run(classifier, f"folder:{dark}", tiny.quiet())
    assert scores.images.read(np.arange(3), None).max() < 300 * 255 / 4095 + 1


def test_a_depth_without_effect_is_refused(tiny_data: Path, tmp_path: Path, capsys):
    options = ["--data", tiny_data, "--model", "tiny", "--weights", tiny_data.parent / "weights"]
    assert main("train", *options, "--bit-depth", 12, "--run-dir", tmp_path / "run") == 2
    assert "--bit-depth 12: no effect on 'folder:" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_check_says_the_range(tmp_path: Path, capsys):
    cases = SHARED_DATA.parent / "cases" / "layouts.zip"
    if not cases.exists():
        pytest.skip("layouts.zip is not in ../shared/cases")
    with zipfile.ZipFile(cases) as archive:
        names = [n for n in archive.namelist() if n.startswith("twelve-bit/")]
        archive.extractall(tmp_path, names)
    assert main("data", "check", tmp_path / "twelve-bit") == 0
    assert "of 65,535: they are read as images of 12 bits" in capsys.readouterr().out


def deep_colour(values: np.ndarray, kind: str, alpha: int = 2) -> bytes:
    """A PNG or a plain TIFF of 16 bits a colour, [H, W, 3 or 4], which Pillow does not write."""
    height, width, colours = values.shape
    if kind == "PNG":

        def chunk(name: bytes, data: bytes) -> bytes:
            checksum = struct.pack(">I", zlib.crc32(name + data))
            return struct.pack(">I", len(data)) + name + data + checksum

        size = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[colours], 0, 0, 0)
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
        content = [chunk(b"IHDR", size), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
        return b"\x89PNG\r\n\x1a\n" + b"".join(content)
    order, data = kind[-1], values.astype(f"{kind[-1]}u2").tobytes()
    tags = [(256, width), (257, height), (258, None), (259, 1), (262, 2), (273, 8),
            (277, colours), (278, height), (279, len(data)), (284, 1)]  # fmt: skip
    tags += [(338, alpha)] if colours == 4 else []  # 1: colours are multiplied by it.
    at = 8 + len(data)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", at)
    table = struct.pack(f"{order}H", len(tags))
    for tag, value in tags:
        table += struct.pack(f"{order}HHI", tag, 4 if value is not None else 3,
                             1 if value is not None else colours)  # fmt: skip
        after = at + 2 + 12 * len(tags) + 4
        table += struct.pack(f"{order}I", after if value is None else value)
    bits = struct.pack(f"{order}{colours}H", *[16] * colours)
    return head + data + table + bytes(4) + bits


@pytest.mark.parametrize("kind", ["PNG", "TIFF <", "TIFF >"])
@pytest.mark.parametrize("colours", [3, 4])
def test_colour_of_twelve_bits(tmp_path: Path, kind: str, colours: int):
    random = np.random.default_rng(0)
    values = random.integers(0, 4096, (6, 4, colours))
    values[0, 0, 0] = 4095
    values[..., 3:] = 65_535  # Opaque.
    data = deep_colour(values, kind)
    image, deepest = decode_measured(data, "x")
    assert deepest == 4095
    np.testing.assert_array_equal(np.asarray(image), values[..., :3] >> 8)  # As Pillow has it.
    expected = np.floor(values[..., :3] * 255 / 4095 + 0.5)
    np.testing.assert_array_equal(np.asarray(decode(data, "x", 12)), expected)
    np.testing.assert_array_equal(np.asarray(decode(data, "x")), values[..., :3] >> 8)
    assert is_deep(data)
    with pytest.raises(BadImage, match=r"x: values up to 4,095, and of 10 bits the largest is 1,0"):
        decode(data, "x", 10)
    with pytest.raises(BadImage, match="give the file itself, not an image opened before"):
        as_decoded(Image.open(io.BytesIO(data)), "x", 12)
    for label in "ab":
        (tmp_path / label).mkdir()
        for index in range(3):
            (tmp_path / label / f"{index}.{kind[:3]}").write_bytes(data)
    found = load(f"folder:{tmp_path}", verify=Verification())
    assert found.bit_depth == 12
    np.testing.assert_array_equal(found.train.read(np.array([0]), None)[0], expected)
    assert "values up to 4,095 of 65,535: they are read as images of 12 bits" in found.notes[0]
    assert survey("x", find(f"folder:{tmp_path}"), lambda n: None).notes[0] == found.notes[0]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("opaque", ["all", "one", "none"])
def test_colours_multiplied_by_alpha(order: str, bits: int, opaque: str):
    """As of `Associated alpha data` in TIFF 6.0, page 77."""
    random = np.random.default_rng(1)
    colours = random.integers(0, 2**bits, (9, 7, 3))
    colours[0, 0] = 2**bits - 1
    alpha = random.integers(30_000, 65_000, (9, 7, 1))
    if opaque != "none":
        alpha[0, 0] = 65_535
    alpha = np.full_like(alpha, 65_535) if opaque == "all" else alpha
    stored = (colours * alpha + 32_767) // 65_535
    data = deep_colour(np.concatenate([stored, alpha], -1), f"TIFF {order}", alpha=1)
    assert is_deep(data)
    _, deepest = decode_measured(data, "x")
    assert abs(deepest - (2**bits - 1)) <= (2 if bits == 16 else 0)
    share = alpha / 65_535
    expected = colours / (2**bits - 1) * 255 * share + 255 * (1 - share)
    found = np.asarray(decode(data, "x", bits)).astype(float)
    assert np.abs(found - expected).max() < (2.6 if bits == 16 else 2.1)


def test_transparent_pixels_of_colours_multiplied_by_alpha():
    values = np.zeros((2, 2, 4), int)
    values[0, 0] = (4095, 100, 0, 65_535)
    values[1, 1] = (1, 1, 1, 2)  # By rounding more than its alpha allows.
    data = deep_colour(values, "TIFF <", alpha=1)
    assert decode_measured(data, "x")[1] == 4095
    pixels = np.asarray(decode(data, "x", 12))
    np.testing.assert_array_equal(pixels[[0, 0, 1], [0, 1, 0]], [[255, 6, 0], [255] * 3, [255] * 3])


def test_colour_of_sixteen_bits_is_as_before(tmp_path: Path):
    values = np.arange(65_536).reshape(256, 64, 4)[..., :3]
    data = deep_colour(values, "PNG")
    np.testing.assert_array_equal(np.asarray(decode(data, "x")), values >> 8)
    assert decode_measured(data, "x")[1] == 65_534
    eight = encode(Image.fromarray((values >> 8).astype(np.uint8)), "PNG")
    assert decode_measured(eight, "x")[1] == 0
    assert not is_deep(eight)


def bmp_of_16_bits_a_pixel() -> tuple[bytes, tuple[int, int, int]]:
    """RGB565, 2 by 2, of one colour; and that colour of 8 bits."""
    rows = struct.pack("<4H", *[31 << 11 | 21 << 5 | 8] * 4)
    size = struct.pack("<IiiHHIIiiII", 40, 2, 2, 1, 16, 3, len(rows), 2835, 2835, 0, 0)
    header = b"BM" + struct.pack("<IHHI", 66 + len(rows), 0, 0, 66)
    return header + size + struct.pack("<3I", 0xF800, 0x07E0, 0x001F) + rows, (255, 85, 65)


def grey_with_alpha() -> tuple[bytes, tuple[int, int, int]]:
    """A PNG of 16 bits, 2 by 2, opaque."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    rows = (b"\0" + struct.pack(">4H", 0x7F12, 0xFFFF, 0x7F12, 0xFFFF)) * 2
    size = struct.pack(">IIBBBBB", 2, 2, 16, 4, 0, 0, 0)
    content = [chunk(b"IHDR", size), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(content), (127, 127, 127)


@pytest.mark.parametrize("made", [bmp_of_16_bits_a_pixel, grey_with_alpha])
def test_colours_that_cannot_be_read_by_all_bits_are_read_as_eight(made):
    data, colour = made()
    assert not is_deep(data)
    image, deepest = decode_measured(data, "x")
    assert deepest == 0
    for pixels in (image, decode(data, "x"), decode(data, "x", 12)):
        np.testing.assert_array_equal(np.asarray(pixels), np.full((2, 2, 3), colour))
