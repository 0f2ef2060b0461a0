"""Feeds what libFuzzer makes up to the parts that read untrusted bytes. Only typed errors may come out.

    bin/setup fuzz && .venv/bin/python fuzz/fuzz.py {container,sealed,header,packing} [CORPUS…] [libFuzzer's options]

Without a corpus it starts from the golden files of the tests. `-max_total_time=20` ends it after 20 s; `-rss_limit_mb`
(512 here) ends it where memory grows without bound. A crash is written to `crash-…` in the working folder.
"""

from __future__ import annotations

import io
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["vtok_codec"]):
    from vtok_codec.codec.tokenfile import salvaged_events, verify
    from vtok_codec.container.header import header_from_json
    from vtok_codec.container.reader import TokenChunk, VtkReader
    from vtok_codec.container.records import CRC, FIELDS
    from vtok_codec.container.writer import PREFIX
    from vtok_codec.errors import FormatError
    from vtok_codec.tokens.coders import WAVES, ZSTD_GROUPS, make_coder

_GOLDEN = sorted((Path(__file__).resolve().parent.parent / "tests" / "data").glob("golden-*.vtk"))
_LEVELS = (8, 8, 8, 5, 5, 5)
_RSS_LIMIT_MB = 512


def container(data: bytes) -> None:
    """A whole file: verified, and read past its damage."""
    for read in (verify, lambda stream: list(salvaged_events(VtkReader(stream)))):
        try:
            read(io.BytesIO(data))
        except FormatError:
            continue


def sealed(data: bytes) -> None:
    """The same with every CRC put right, so that what stands behind them is reached."""
    whole = bytearray(data)
    if len(whole) < PREFIX.size:
        return
    end = PREFIX.size + PREFIX.unpack_from(whole)[3]
    start = 0
    while end + CRC.size <= len(whole):
        CRC.pack_into(whole, end, zlib.crc32(whole[start:end]))
        start = end + CRC.size
        if start + FIELDS.size > len(whole):
            break
        end = start + FIELDS.size + FIELDS.unpack_from(whole, start)[1]
    container(bytes(whole))


def header(data: bytes) -> None:
    """The JSON of a header."""
    try:
        header_from_json(data)
    except FormatError:
        return


def packing(data: bytes) -> None:
    """The packed digits of a chunk, whose coder and shape the first bytes choose."""
    if len(data) < 4:
        return
    tokens, frames, rows, columns = (byte % limit + 1 for byte, limit in zip(data, (4, 6, 9, 9), strict=False))
    coder = make_coder(WAVES if data[0] & 0x80 else ZSTD_GROUPS, _LEVELS, tokens)
    try:
        coder.unpack(data[4:], (tokens * len(_LEVELS), frames, rows, columns))
    except ValueError:
        return


def seeds(target: str) -> list[bytes]:
    """What to start from: the golden files, or their parts."""
    return [seed for path in _GOLDEN for seed in _seeds_of(path.read_bytes(), target)]


def _seeds_of(golden: bytes, target: str) -> list[bytes]:
    if target in ("container", "sealed"):
        return [golden, golden[: len(golden) // 2]]
    reader = VtkReader(io.BytesIO(golden))
    if target == "header":
        return [golden[16 : golden.index(b"}", golden.index(b'"writer"')) + 1]]
    chunks = [event for event in reader.events() if isinstance(event, TokenChunk)]
    return [bytes([0x80 * (chunk.coder == WAVES), 0, 0, 0]) + chunk.packed for chunk in chunks]


def main() -> None:
    """Run libFuzzer on one target."""
    targets: dict[str, Callable[[bytes], None]] = {f.__name__: f for f in (container, sealed, header, packing)}
    if len(sys.argv) < 2 or sys.argv[1] not in targets:
        raise SystemExit(__doc__)
    name, given = sys.argv[1], sys.argv[2:]
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(seeds(name)):
            (Path(folder) / str(number)).write_bytes(seed)
        # libFuzzer takes the first folder for its own; a found input must not land among the tests' data.
        arguments = [sys.argv[0], f"-rss_limit_mb={_RSS_LIMIT_MB}", "-timeout=5", "-max_len=20000", *given, folder]
        atheris.Setup(arguments, targets[name])
        atheris.Fuzz()


if __name__ == "__main__":
    main()
