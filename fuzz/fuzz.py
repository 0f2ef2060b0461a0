"""Fuzzes the code that reads untrusted bytes with libFuzzer. It may raise only the errors that it documents.

    bin/setup fuzz && .venv/bin/python fuzz/fuzz.py {container,sealed,header,packing} [CORPUS…] [libFuzzer's options]

The golden files of the tests are the seeds, in addition to any given corpus. `-max_total_time=20` ends the run after
20 s. `-rss_limit_mb` (here 512 by default) limits its memory. The input of a crash is written to `crash-…` in the
working folder.
"""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["vtok_codec"]):
    from sealing import with_checksums

    from vtok_codec.container.header_json import header_from_json, header_to_json
    from vtok_codec.container.reader import TokenChunk, VtkReader
    from vtok_codec.errors import FormatError, ModelError
    from vtok_codec.stream.unpacking import salvaged_events
    from vtok_codec.stream.verifying import verify
    from vtok_codec.tokens.coders import PRIOR, WAVES, ZSTD, CoderSpec, DigitLayout
    from vtok_codec.tokens.prior.prior import Prior, parse_prior

_DATA = Path(__file__).resolve().parent.parent / "tests" / "data"
_GOLDEN = sorted(_DATA.glob("golden-*.vtk"))
_PRIOR = parse_prior((_DATA / "prior-golden.safetensors").read_bytes())
"""The prior that the golden files of versions 1.1 and 2.0 name."""
_CODERS: tuple[CoderSpec, ...] = (ZSTD, WAVES, PRIOR)
_LEVELS = (8, 8, 8, 5, 5, 5)
"""The number of values of each digit of the shipped models."""
_RSS_LIMIT_MB = 512
"""The limit of the memory of the process in MB."""


def _find_prior(sha256: str) -> Prior:
    if sha256 != _PRIOR.sha256:
        raise ModelError("there is no such prior")
    return _PRIOR


def container(data: bytes) -> None:
    """Verify a whole file, and read what can be recovered from it."""
    for read in (
        lambda stream: verify(stream, priors=_find_prior),
        lambda stream: list(salvaged_events(VtkReader(stream), _find_prior)),
    ):
        try:
            read(io.BytesIO(data))
        except (FormatError, ModelError):
            continue


def sealed(data: bytes) -> None:
    """Read a whole file like `container`, with correct checksums, so that the fuzzer reaches the code behind them."""
    container(with_checksums(data))


def header(data: bytes) -> None:
    """Parse the JSON of a header."""
    try:
        header_from_json(data)
    except FormatError:
        return


def packing(data: bytes) -> None:
    """Unpack the digits of a chunk. The first four bytes choose the coder and the shape."""
    if len(data) < 4:
        return
    spec = _CODERS[(data[0] >> 6) % len(_CODERS)]
    levels, most_tokens = (_PRIOR.levels, _PRIOR.tokens) if spec is PRIOR else (_LEVELS, 4)
    limits = (most_tokens, 6, 9, 9)
    tokens, frames, rows, columns = (byte % limit + 1 for byte, limit in zip(data, limits, strict=False))
    coder = spec.make(DigitLayout(levels, tokens, prior=_PRIOR))
    try:
        coder.unpack(data[4:], (tokens * len(levels), frames, rows, columns))
    except ValueError:
        return


def seeds(target: str) -> list[bytes]:
    """Return the seeds for a target: the golden files, or parts of them."""
    return [seed for path in _GOLDEN for seed in _seeds_of(path.read_bytes(), target)]


def _seeds_of(golden: bytes, target: str) -> list[bytes]:
    if target in ("container", "sealed"):
        return [golden, golden[: len(golden) // 2]]
    reader = VtkReader(io.BytesIO(golden))
    if target == "header":
        return [header_to_json(reader.header)]
    chunks = [event for event in reader.events() if isinstance(event, TokenChunk)]
    numbers = [[spec.id for spec in _CODERS].index(chunk.coder) for chunk in chunks]
    return [bytes([number << 6, 0, 0, 0]) + chunk.packed for number, chunk in zip(numbers, chunks, strict=True)]


def main() -> None:
    """Run libFuzzer on one target."""
    targets: dict[str, Callable[[bytes], None]] = {f.__name__: f for f in (container, sealed, header, packing)}
    if len(sys.argv) < 2 or sys.argv[1] not in targets:
        raise SystemExit(__doc__)
    name, given = sys.argv[1], sys.argv[2:]
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(seeds(name)):
            (Path(folder) / str(number)).write_bytes(seed)
        # libFuzzer writes new inputs into the first folder, which must not be that of the tests' data.
        arguments = [sys.argv[0], f"-rss_limit_mb={_RSS_LIMIT_MB}", "-timeout=5", "-max_len=20000", *given, folder]
        atheris.Setup(arguments, targets[name])
        atheris.Fuzz()


if __name__ == "__main__":
    main()
