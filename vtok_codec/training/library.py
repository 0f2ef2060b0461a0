"""The training data: any folders of videos and images, decoded once where memory allows."""

from __future__ import annotations

import mmap
import sys
from collections import OrderedDict
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from vtok_codec.errors import TrainingError, VtokError
from vtok_codec.media.reader import VideoReader

VIDEO_SUFFIXES = {".mp4", ".mkv", ".webm", ".mov", ".avi", ".gif", ".y4m", ".nut"}
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg"}
MAX_FRAMES = 300
"""Frames kept of one file, at most: what follows them is not trained on."""
MAX_CLIP_BYTES = 1 << 30
"""Of one file: 172 frames at 1920×1080, 43 at 3840×2160."""


class ClipLibrary:
    """RGB clips `T H W 3` by number, in a fixed order, kept decoded up to a budget of bytes.

    What a clip holds never depends on the cache, so a run repeats whatever the budget. A file that cannot be read is
    told once on stderr, counted in `unreadable`, and stands for nothing from then on.
    """

    def __init__(self, folders: Iterable[Path], budget_bytes: int) -> None:
        folders = list(folders)
        files = sorted(path for folder in folders for path in folder.rglob("*") if path.is_file())
        self.videos = [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
        self.images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
        if not self.videos and not self.images:
            raise TrainingError(f"no video or image in {', '.join(map(str, folders))}; name another folder")
        self.unreadable: set[Path] = set()
        self._budget_bytes = budget_bytes
        self._held_bytes = 0
        self._cache: OrderedDict[Path, NDArray[np.uint8]] = OrderedDict()
        self._sizes: dict[Path, tuple[int, int, int]] = {}
        self._lock = Lock()

    def size(self, path: Path) -> tuple[int, int, int] | None:
        """Frames, height and width of the clip, or None where it cannot be read. It is read once for them."""
        with self._lock:
            known = self._sizes.get(path)
        if known is None and (clip := self.read(path)) is not None:
            known = clip.shape[:3]
        return known

    def read(self, path: Path) -> NDArray[np.uint8] | None:
        """The clip `T H W 3`, or None where it cannot be read."""
        with self._lock:
            if path in self._cache:
                self._cache.move_to_end(path)
                return self._cache[path]
            if path in self.unreadable:
                return None
        try:
            clip = _read_clip(path)
        except VtokError as error:
            with self._lock:
                told = path in self.unreadable
                self.unreadable.add(path)
            if not told:
                print(f"vtok: {error}; skipped", file=sys.stderr)
            return None
        with self._lock:
            if path in self._cache:
                # Another thread was faster.
                return self._cache[path]
            self._cache[path] = clip
            self._sizes[path] = clip.shape[:3]
            self._held_bytes += clip.nbytes
            while self._held_bytes > self._budget_bytes and len(self._cache) > 1:
                self._held_bytes -= self._cache.popitem(last=False)[1].nbytes
        return clip


def _read_clip(path: Path) -> NDArray[np.uint8]:
    """The first frames of a file, in pages of their own, which the system gets back when they go.

    Clips that come and go among the small allocations of training leave holes in the heap that nothing fits: two runs
    of `bench/ablations.py` with 6 GiB of clips each grew to 12 GiB each within 500 steps. So kept, they take 1.1 to
    1.4 GiB beside their clips.
    """
    with VideoReader(path, audio=False) as reader:
        height, width = reader.info.height, reader.info.width
        most = max(1, min(MAX_FRAMES, MAX_CLIP_BYTES // (height * width * 3)))
        # Pages that are never written to take no memory.
        clip = np.frombuffer(mmap.mmap(-1, most * height * width * 3), np.uint8).reshape(most, height, width, 3)
        frames = 0
        for frame in islice(reader.frames(), most):
            clip[frames] = frame.pixels
            frames += 1
    return clip[:frames]
