"""The clips in the tar of a shard: as `.vtk` files, described for the index, and compared with it."""

from __future__ import annotations

import io
import json
import math
import tarfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import BinaryIO

from vtok_codec.container.reader import TokenChunk, VtkReader
from vtok_codec.container.records import Totals
from vtok_codec.corpus.clip_source import TAR_BLOCK, Cell, ClipSource
from vtok_codec.corpus.index import OK, ClipRow
from vtok_codec.errors import FormatError
from vtok_codec.stream.unpacking import PriorFinder
from vtok_codec.stream.verifying import verify


@dataclass(frozen=True)
class EncodedClip:
    """A clip of a shard."""

    row: ClipRow
    """Its row in the index; the offset in the tar is not known yet."""
    data: bytes = b""
    """The `.vtk` file; empty if there is none."""


def describe(data: bytes) -> ClipRow:
    """Return what the index says about a `.vtk` file: its shape, its GOPs and its rate.

    Raises:
        FormatError, DamageError: The file is not whole.
    """
    reader = VtkReader(io.BytesIO(data))
    header = reader.header
    latents: list[int] = []
    frames: list[int] = []
    begin = end = digest = None
    for event in reader.events():
        if isinstance(event, TokenChunk):
            if event.first:
                latents.append(0)
                frames.append(0)
            latents[-1] += event.latent_shape[0]
            frames[-1] += len(event.pts)
            begin = event.pts[0] if begin is None else begin
            end = event.pts[-1] + event.last_duration
        elif isinstance(event, Totals):
            digest = event.token_digest
    assert begin is not None and end is not None and digest is not None
    rows, columns = header.model.layout.grid(header.height, header.width)
    return ClipRow(
        key="",
        source="",
        status=OK,
        error="",
        size=len(data),
        tokens_sha256=digest.hex(),
        width=header.width,
        height=header.height,
        rows=rows,
        columns=columns,
        tokens_per_position=header.tokens_per_position,
        rate=float(header.rate or 0),
        frames=sum(frames),
        latents=sum(latents),
        gop_latents=tuple(latents),
        gop_frames=tuple(frames),
        gop_offsets=tuple(entry.offset for entry in reader.index()),
        bits_per_pixel=8 * len(data) / (sum(frames) * header.width * header.height),
        seconds=float((end - begin) * header.time_base),
    )


def wrong_with(data: bytes, row: ClipRow, priors: PriorFinder) -> str | None:
    """Return what is wrong with a clip, or None if it is what its row in the index says.

    Args:
        data: The `.vtk` file.
        row: The row.
        priors: Finds the prior that the file names.

    Raises:
        ModelError: The prior is missing.
    """
    try:
        summary = verify(io.BytesIO(data), priors)
        found = describe(data)
    except FormatError as error:
        return str(error)
    if summary.totals.token_digest.hex() != row.tokens_sha256:
        return "its tokens are not those of the index"
    about = {name: getattr(row, name) for name in ("key", "source", "status", "error", "offset")}
    for name, value in asdict(replace(found, **about)).items():
        if getattr(row, name) != value:
            return f"its {name} is {value}, and the index says {getattr(row, name)}"
    return None


def rows_in_tar(tar: Path, inputs: Sequence[tuple[str, ClipSource]]) -> list[ClipRow]:
    """Return the rows of the whole clips in a tar, as the lost index had them. A damaged tar is read up to the damage.

    Args:
        tar: The tar.
        inputs: The keys and the sources of the clips of the shard.
    """
    sources, rows, status = dict(inputs), {}, {}
    with suppress(tarfile.TarError, EOFError, ValueError), tarfile.open(tar) as members:
        for member in members:
            key, _, suffix = member.name.rpartition(".")
            file = members.extractfile(member)
            if key not in sources or file is None:
                continue
            data = file.read()
            if suffix == "vtk":
                with suppress(FormatError):
                    row = replace(describe(data), key=key, source=sources[key].name, offset=member.offset_data)
                    rows[key] = row
            elif suffix == "json":
                status[key] = json.loads(data).get("status")
    return [row for key, row in rows.items() if status.get(key) == OK]


class ShardWriter:
    """Writes a shard's tar: `KEY.vtk` and `KEY.json` for each clip, in the layout of WebDataset.

    The tar holds no times and no owners, so that the same clips always make the same bytes.

    Args:
        stream: Where to write the tar.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._tar = tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - closed by close()

    def add(self, clip: EncodedClip, user: Mapping[str, Cell]) -> ClipRow:
        """Add a clip, if it has tokens.

        Args:
            clip: The clip.
            user: The user's columns of the clip.

        Returns:
            The row of the clip with its place in the tar.
        """
        row = clip.row
        if not clip.data:
            return row
        offset = self._put(f"{row.key}.vtk", clip.data)
        about = {
            "source": row.source,
            "status": row.status,
            "size": [row.height, row.width],
            "rate": row.rate,
            "frames": row.frames,
            "gop_latents": row.gop_latents,
            **user,
        }
        # JSON has no NaN and no infinity.
        plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in about.items()}
        self._put(f"{row.key}.json", json.dumps(plain, ensure_ascii=False).encode())
        return replace(row, offset=offset)

    def close(self) -> None:
        """Finish the tar."""
        self._tar.close()

    def _put(self, name: str, data: bytes) -> int:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        self._tar.addfile(member, io.BytesIO(data))
        return self._tar.offset - -(-len(data) // TAR_BLOCK) * TAR_BLOCK
