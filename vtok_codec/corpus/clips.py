"""Encodes one clip of a corpus, and describes the result for the index."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from vtok_codec.codec.encoder import encode_video
from vtok_codec.codec.tokenizer import Tokenizer
from vtok_codec.container.reader import TokenChunk, VtkReader
from vtok_codec.container.records import Totals
from vtok_codec.corpus.index import OK, TOO_LARGE, TRUNCATED, UNREADABLE, ClipRow
from vtok_codec.corpus.plan import Plan
from vtok_codec.corpus.sources import ClipSource, opened
from vtok_codec.errors import InputError, SettingError
from vtok_codec.media.parts import make_part
from vtok_codec.media.reader import VideoReader
from vtok_codec.text import one_line


@dataclass(frozen=True)
class EncodedClip:
    """A clip of a shard."""

    row: ClipRow
    """Its row in the index; the offset in the tar is not known yet."""
    data: bytes = b""
    """The `.vtk` file; empty if there is none."""


def failed_clip(key: str, source: ClipSource, status: str, error: str) -> EncodedClip:
    """Return a clip that has no tokens, with one of `STATUSES` and the reason."""
    return EncodedClip(ClipRow(key, source.name, status, one_line(error)))


def encode_clip(key: str, source: ClipSource, tokenizer: Tokenizer, plan: Plan) -> EncodedClip:
    """Encode a clip. Whatever is wrong with the clip becomes its status.

    Args:
        key: The key of the clip.
        source: Where the clip is.
        tokenizer: The model.
        plan: The settings.
    """
    stream = io.BytesIO()
    try:
        with _upright(source, plan) as reader:
            info = reader.info
            if info.width * info.height > plan.max_pixels:
                reason = f"pictures of {info.width}x{info.height} have more than {plan.max_pixels} pixels"
                return failed_clip(key, source, TOO_LARGE, reason)
            summary = encode_video(info, reader.events(), tokenizer, plan.settings, stream)
    except (InputError, SettingError) as error:
        # Filters may fit some clips only, as a crop does.
        return failed_clip(key, source, UNREADABLE, str(error))
    except MemoryError:
        return failed_clip(key, source, TOO_LARGE, "out of memory")
    status, reason = (TRUNCATED, one_line(str(summary.failure))) if summary.failure else (OK, "")
    data = stream.getvalue()
    return EncodedClip(replace(describe(data), key=key, source=source.name, status=status, error=reason), data)


@contextmanager
def _upright(source: ClipSource, plan: Plan) -> Iterator[VideoReader]:
    """Open a clip whose pictures stand upright, since whoever trains on its tokens does not know how to turn them."""
    part = make_part(source.start_s, None if source.end_s is None else source.end_s - source.start_s)
    with VideoReader(opened(source), audio=False, filters=plan.filters, name=source.name, part=part) as reader:
        if not reader.info.rotation:
            yield reader
            return
    # Filters get pictures that are turned already.
    with VideoReader(opened(source), audio=False, filters="null", name=source.name, part=part) as reader:
        yield reader


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
