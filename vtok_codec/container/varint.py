"""Signed integers of variable length: zigzag, then seven bits a byte, the lowest first."""

from __future__ import annotations

MAX_VARINT_BYTES = 10
_LIMIT = 1 << 63


def write_varint(value: int) -> bytes:
    """A signed 64-bit integer as 1 to 10 bytes."""
    if not -_LIMIT <= value < _LIMIT:
        raise ValueError(f"{value} does not fit 64 bits")
    rest = value << 1 if value >= 0 else (-value << 1) - 1
    out = bytearray()
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """The integer at `position`, and the position after it.

    Raises:
        ValueError: the data end within it, or it does not fit 64 bits.
    """
    rest = shift = 0
    for byte in data[position : position + MAX_VARINT_BYTES]:
        rest |= (byte & 0x7F) << shift
        position += 1
        shift += 7
        if byte < 0x80:
            if rest >> 64:
                break
            return (rest >> 1 if rest & 1 == 0 else -((rest + 1) >> 1)), position
    raise ValueError("a number is cut short or too long")
