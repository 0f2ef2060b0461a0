"""Signed integers of variable length: zigzag coding, then seven bits per byte, the lowest bits first."""

from __future__ import annotations

MAX_VARINT_BYTES = 10
"""The largest size of a number, in bytes."""
_LIMIT = 1 << 63


def write_varint(value: int) -> bytes:
    """Serialize a signed 64-bit integer as 1 to 10 bytes.

    Raises:
        ValueError: The integer does not fit 64 bits.
    """
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
    """Parse the integer at index `position` of the data.

    Returns:
        The integer, and the index of the byte after it.

    Raises:
        ValueError: The data end within the integer, or it does not fit 64 bits.
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
