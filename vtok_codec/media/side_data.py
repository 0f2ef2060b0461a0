"""The side data of frames: what a file says about a picture beside its pixels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import av
from av.sidedata.sidedata import Type


def side_data(frame: av.VideoFrame) -> Iterator[tuple[str, bytes]]:
    """Yield the side data of a frame, each with the name of its kind in PyAV."""
    entries: Any = frame.side_data
    for entry in entries:
        yield entry.type.name, bytes(entry)


def _unknown_kind(cls: Any, value: object) -> Any:
    """Return a member of the enumeration `cls` for a value that it lacks."""
    member = object.__new__(cls)
    member._name_, member._value_ = f"UNKNOWN_{value}", value
    return member


# PyAV 18 refuses all side data of a frame if its list lacks one of their kinds, such as EXIF, which FFmpeg 8 attaches.
Type._missing_ = classmethod(_unknown_kind)  # type: ignore[assignment]
