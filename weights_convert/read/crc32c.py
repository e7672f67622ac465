"""CRC-32C (Castagnoli, RFC 3720 appendix B.4) of large arrays, with NumPy alone.

A remainder is linear: that of two parts, one behind the other, is the first's, moved on by the
length of the second, plus the second's. So thousands of parts are read side by side, byte by byte,
and joined in pairs.
"""

from __future__ import annotations

import functools

import numpy as np

_POLYNOMIAL = 0x82F63B78
_MASK_DELTA = 0xA282EAD8
_ALL = 0xFFFFFFFF
_LANES = 2**14
_SHORT = 4096


def masked(data: memoryview | bytes) -> int:
    """The checksum as TensorFlow and LevelDB store it: rotated, and a constant added."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & _ALL


def crc32c(data: memoryview | bytes) -> int:
    """The checksum of some bytes."""
    values = np.frombuffer(data, np.uint8)
    width = len(values) // _LANES
    state = _ALL
    if len(values) >= _SHORT and width:
        lanes = values[: width * _LANES].reshape(_LANES, width)
        crcs = np.zeros(_LANES, np.uint32)
        # The register's first content counts as if it were in front of the bytes.
        crcs[0] = _ALL
        for column in np.ascontiguousarray(lanes.T):
            crcs = _table()[(crcs ^ column) & 0xFF] ^ (crcs >> 8)
        length = width
        while len(crcs) > 1:
            crcs = _moved(crcs[::2], length) ^ crcs[1::2]
            length *= 2
        state = int(crcs[0])
        values = values[width * _LANES :]
    table = _table().tolist()
    for byte in values.tolist():
        state = table[(state ^ byte) & 0xFF] ^ (state >> 8)
    return state ^ _ALL


@functools.cache
def _table() -> np.ndarray:
    """The remainder of each byte, uint32 [256]."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ np.uint32(_POLYNOMIAL), table >> 1)
    return table.astype(np.uint32)


def _moved(crcs: np.ndarray, length: int) -> np.ndarray:
    """Remainders as they are after `length` more bytes of 0."""
    bits = _bits_after(length)
    moved = np.zeros_like(crcs)
    for bit in range(32):
        moved ^= (crcs >> np.uint32(bit) & 1) * bits[bit]
    return moved


@functools.lru_cache(maxsize=256)
def _bits_after(length: int) -> np.ndarray:
    """What each of the 32 bits has become after `length` bytes of 0, uint32 [32]."""
    bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
    power = _table()[bits & 0xFF] ^ bits >> 8
    while length:
        if length & 1:
            bits = _through(power, bits)
        power = _through(power, power)
        length >>= 1
    return bits


def _through(matrix: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Each vector of bits, times a matrix given by what it makes of each bit."""
    ones = vectors[:, None] >> np.arange(32, dtype=np.uint32) & 1
    return np.bitwise_xor.reduce(ones * matrix[None], axis=1)
