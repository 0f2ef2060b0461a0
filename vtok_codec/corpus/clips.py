"""Encodes one clip of a corpus, and describes the result for the index."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from vtok_codec.codec.encoder import encode_video
from vtok_codec.codec.tokenizer import Tokenizer
from vtok_codec.corpus.clip_source import ClipSource, opened
from vtok_codec.corpus.index import OK, TOO_LARGE, TRUNCATED, UNREADABLE, ClipRow
from vtok_codec.corpus.plan import Plan
from vtok_codec.corpus.shard_tar import EncodedClip, describe
from vtok_codec.errors import InputError, SettingError
from vtok_codec.media.parts import make_part
from vtok_codec.media.reader import VideoReader
from vtok_codec.text import one_line


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
