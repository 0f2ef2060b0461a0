"""The reader of the browser player gets the same tokens from every file as the reader in Python, and says the same."""

from __future__ import annotations

import hashlib
import io
import json
import random
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from helpers import DATA, LANES, inside
from sealing import with_checksums

from vtok_codec.container.prefix import MAX_HEADER_BYTES, PREFIX, deflated, inflated
from vtok_codec.container.reader import VtkReader
from vtok_codec.errors import FormatError, ModelError
from vtok_codec.prior_files import find_prior
from vtok_codec.stream.unpacking import UnpackedChunk, token_bytes, unpacked_events
from vtok_codec.tokens.prior.prior import Prior, parse_prior
from vtok_codec.tokens.radix import digits_to_tokens

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "player" / "example.vtk"
SMALL = sorted(DATA.glob("*.vtk"))
COMPACT = sorted(DATA.glob("*-2.0.vtk"))
"""Those of the newest version of the format."""
MUTATIONS = 1000

pytestmark = pytest.mark.skipif(not shutil.which("npm"), reason="needs Node.js")


@pytest.fixture(scope="module")
def read(player: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Iterable[Path]], list[dict[str, object]]]:
    """Reads files with the player's reader, by Node.js."""
    priors = tmp_path_factory.mktemp("priors")
    for path in [*(ROOT / "weights").glob("prior-*.safetensors"), DATA / "prior-golden.safetensors"]:
        shutil.copy(path, priors)

    def run(paths: Iterable[Path]) -> list[dict[str, object]]:
        command = ["node", str(player / "build" / "read.mjs"), str(priors), "-"]
        names = "\n".join(map(str, paths))
        result = subprocess.run(command, input=names, capture_output=True, text=True, check=True)
        return [json.loads(line) for line in result.stdout.splitlines()]

    return run


def known_prior(sha256: str) -> Prior:
    """A shipped prior, or that of the golden file."""
    golden = parse_prior((DATA / "prior-golden.safetensors").read_bytes())
    return golden if golden.sha256 == sha256 else find_prior(sha256)


def expected(data: bytes) -> dict[str, object]:
    """What the reader in Python says, in the words of the player's."""
    digest = hashlib.sha256()
    said: dict[str, object] = {"verdict": "ok", "frames": 0, "packets": 0, "tokens": None}
    try:
        reader = VtkReader(io.BytesIO(data))
        said["tokens"] = digest.hexdigest()
        for event in unpacked_events(reader, known_prior):
            if isinstance(event, UnpackedChunk):
                digest.update(token_bytes(digits_to_tokens(event.digits, reader.header.model.levels)))
                said |= {"frames": said["frames"] + len(event.chunk.pts), "tokens": digest.hexdigest()}  # type: ignore[operator]
            elif isinstance(event, list):
                said["packets"] += len(event)  # type: ignore[operator]
    except (FormatError, ModelError) as error:
        said["verdict"] = type(error).__name__
    return said


def mutated(data: bytes, rng: random.Random) -> bytes:
    """The data with some bytes changed, removed, repeated or cut off; every other time with correct checksums."""
    whole = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4])):
        at, size = rng.randrange(len(whole)), rng.choice([1, 1, 4, 32])
        kind = rng.randrange(6)
        if kind < 3:
            whole[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, whole[at] ^ (1 << rng.randrange(8)), rng.randrange(256)])
        elif kind == 3:
            del whole[at : at + size]
        elif kind == 4:
            whole[at:at] = whole[max(0, at - size) : at]
        else:
            del whole[at + 1 :]
    return with_checksums(bytes(whole)) if rng.random() < 0.7 else bytes(whole)


Reader = Callable[[Iterable[Path]], list[dict[str, object]]]


def agree(read: Reader, paths: list[Path]) -> list[dict[str, object]]:
    """Check that both readers say the same of files, and return it."""
    found = read(paths)
    assert len(found) == len(paths)
    for path, theirs in zip(paths, found, strict=True):
        ours = expected(path.read_bytes())
        assert {key: theirs[key] for key in ours} == ours, (path, theirs["message"])
    return found


def test_all_golden_and_former_files_give_the_same_tokens(read: Reader, tmp_path: Path) -> None:
    """With all three coders, both models, an enhanced first frame, four tokens, and sound."""
    paths = [*SMALL, EXAMPLE]
    for coder in ("prior", "waves", "zstd"):
        paths.append(tmp_path / f"{coder}.vtk")
        made = inside(
            "encode", LANES, paths[-1], "-t", 4, "--coder", coder, "--filter", "scale=104:72", "--duration", 1, "-q"
        )
        assert made == (0, "", "")
    assert all(said["verdict"] == "ok" for said in agree(read, paths))


def test_a_thousand_changed_files_get_the_same_verdict(read: Reader, tmp_path: Path) -> None:
    """Whether the changed bytes stand in the header, in records, in packed digits or at the end."""
    rng = random.Random(1)
    paths = []
    for number in range(MUTATIONS):
        paths.append(tmp_path / f"{number}.vtk")
        paths[-1].write_bytes(mutated(rng.choice(SMALL if number % 2 else COMPACT).read_bytes(), rng))
    verdicts = [said["verdict"] for said in agree(read, paths)]
    assert {"FormatError", "DamageError"} <= set(verdicts)


HEADERS = [
    ('"width":', '"width":1,"width":'),
    ('"rotation":-90', '"rotation":90.0'),
    ('"rotation":-90', '"rotation":-0'),
    ('"rotation":-90', '"rotation":1e1'),
    ('"rotation":-90', '"rotation":true'),
    ('"rotation":-90', '"rotation":NaN'),
    ('"rotation":-90', '"rotation":900'),
    ('"rotation":-90', '"rotation":90,"later":{"a":[1.5,-2E3,"\\ud834\\udd1e",null,{}]}'),
    ('"rotation":-90', '"rotation":90,"later":{"a":1,"a":2}'),
    ('"rotation":-90', '"rotation":90,"later":9' + "9" * 400),
    ('"rotation":-90', '"rotation":90,"later":Infinity'),
    ('"rotation":-90', '"rotation":90,'),
    ('"writer":"', '"writer":"\\u202e'),
    ('"writer":"', '"writer":"\\ud800'),
    ('"writer":"', '"writer":"\\u001b'),
    ('"writer":"', '"writer":"\t'),
    ('"writer":"', '"tags":{"title":"a\\tb\\nc"},"writer":"'),
    ('"writer":"', '"tags":{"title":"' + "𝄞" * 4091 + '"},"writer":"'),
    ('"writer":"', '"tags":{"title":"' + "𝄞" * 4092 + '"},"writer":"'),
    ('"writer":"', '"tags":{"":"a"},"writer":"'),
    ('"writer":"', '"tags":{"a":1},"writer":"'),
    ('{"width"', '\ufeff{"width"'),
    ('"width":', '"width" \n\t:'),
    ('"width":', '"width" \u00a0:'),
    ('"parameters":"', '"parameters":"A'),
    ('"parameters":"', '"parameters":"AAA\\u003d'),
    ('"parameters":"', '"parameters":" AAAA'),
]
"""Changes of the header's text, as what is replaced and what by."""


def with_header(data: bytes, stored: bytes) -> bytes:
    """A file with another header text, and with right CRCs."""
    magic, major, minor, size = PREFIX.unpack_from(data)
    return with_checksums(PREFIX.pack(magic, major, minor, len(stored)) + stored + data[PREFIX.size + size :])


@pytest.mark.parametrize("version", ["1.1", "2.0"])
def test_both_read_the_same_into_a_header(version: str, read: Reader, tmp_path: Path) -> None:
    """Python's JSON, numbers and texts are not those of JavaScript."""
    data = (DATA / f"golden-{version}.vtk").read_bytes()
    size = PREFIX.unpack_from(data)[3]
    stored = data[PREFIX.size : PREFIX.size + size]
    text = (stored if version == "1.1" else inflated(stored)).decode()
    paths = []
    for number, (old, new) in enumerate(HEADERS):
        assert old in text
        changed = text.replace(old, new, 1).encode()
        paths.append(tmp_path / f"{number}.vtk")
        paths[-1].write_bytes(with_header(data, changed if version == "1.1" else deflated(changed)))
    verdicts = [said["verdict"] for said in agree(read, paths)]
    # What is merely unknown or unusual changes the digest of the file, which comes last.
    assert {"FormatError", "DamageError"} == set(verdicts)


def test_both_refuse_a_header_that_is_not_deflated_well(read: Reader, tmp_path: Path) -> None:
    """Cut short, followed by more, of no deflate data at all, or larger than a header may be."""
    data = (DATA / "golden-2.0.vtk").read_bytes()
    size = PREFIX.unpack_from(data)[3]
    stored = data[PREFIX.size : PREFIX.size + size]
    text = inflated(stored)
    wrong = [
        stored[:-1],
        stored[:20],
        b"",
        stored + b"\x00",
        stored + stored,
        text,
        b"\xff" * 9,
    ]
    wrong += [deflated(text + b" " * (MAX_HEADER_BYTES + extra - len(text))) for extra in (-1, 0, 1, 1 << 24)]
    paths = []
    for number, stored in enumerate(wrong):
        paths.append(tmp_path / f"{number}.vtk")
        paths[-1].write_bytes(with_header(data, stored))
    verdicts = [said["verdict"] for said in agree(read, paths)]
    # Spaces behind the text are part of JSON, and only the digest of the file tells.
    assert verdicts == ["FormatError"] * 7 + ["DamageError"] * 2 + ["FormatError"] * 2
