"""The training data: the videos and images of some folders, kept decoded in memory up to a limit."""

from __future__ import annotations

import mmap
import sys
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vtok_codec.errors import TrainingError, VtokError, VtokWarning
from vtok_codec.media.formats import is_image_name, is_video_name
from vtok_codec.media.reader import VideoReader

MAX_FRAMES = 300
"""The largest number of frames to read from one file. Later frames are not used for training."""
MAX_CLIP_BYTES = 1 << 30
"""The largest size of one decoded clip in bytes: 172 frames of 1920×1080 pixels, or 43 of 3840×2160."""


class ClipLibrary:
    """The RGB clips of some folders, of which the most recently used ones stay decoded in memory.

    The size of the cache never changes what a clip holds, so runs with different budgets see the same data. A file that
    cannot be read is added to `unreadable` with a `VtokWarning`, and skipped from then on.
    """

    def __init__(self, folders: Iterable[Path], budget_bytes: int) -> None:
        """Find the files.

        Args:
            folders: Folders of videos and images, searched recursively.
            budget_bytes: The memory for decoded clips in bytes.

        Raises:
            TrainingError: One of them is no folder, or they hold neither a video nor an image.
        """
        folders = list(folders)
        if missing := [folder for folder in folders if not folder.is_dir()]:
            raise TrainingError(f"{missing[0]} is not a folder; name one with training videos or images")
        files = files_in(folders)
        self.videos = [path for path in files if is_video_name(path.name)]
        self.images = [path for path in files if is_image_name(path.name)]
        if not self.videos and not self.images:
            raise TrainingError(f"no video or image in {', '.join(map(str, folders))}; name another folder")
        self.unreadable: set[Path] = set()
        self._budget_bytes = budget_bytes
        self._held_bytes = 0
        self._cache: OrderedDict[Path, NDArray[np.uint8]] = OrderedDict()
        self._sizes: dict[Path, tuple[int, int, int]] = {}
        self._lock = Lock()

    def size(self, path: Path) -> tuple[int, int, int] | None:
        """Return the frames, height and width of a clip, or None if it cannot be read. Reads a clip that is new."""
        with self._lock:
            known = self._sizes.get(path)
        if known is None and (clip := self.read(path)) is not None:
            known = clip.shape[:3]
        return known

    def read(self, path: Path) -> NDArray[np.uint8] | None:
        """Return a clip, `T H W 3` as uint8, or None if it cannot be read."""
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
                warnings.warn(f"{error}; skipped", VtokWarning, stacklevel=2)
            return None
        with self._lock:
            if path in self._cache:
                # Another thread has read the clip in the meantime.
                return self._cache[path]
            self._cache[path] = clip
            self._sizes[path] = clip.shape[:3]
            self._held_bytes += clip.nbytes
            while self._held_bytes > self._budget_bytes and len(self._cache) > 1:
                self._held_bytes -= self._cache.popitem(last=False)[1].nbytes
        return clip


def clips_to_encode(
    library: ClipLibrary, paths: Sequence[Path], mirrored: bool, quiet: bool
) -> Iterator[NDArray[np.uint8]]:
    """Yield the clips of a library that can be read, `T H W 3` as uint8, with a progress bar on stderr.

    Args:
        library: The library.
        paths: The clips to read.
        mirrored: Whether to yield the mirror image of each clip as well.
        quiet: Whether to show no progress bar.
    """
    for path in tqdm(paths, "encoding the clips", disable=quiet or None, file=sys.stderr):
        clip = library.read(path)
        if clip is not None:
            yield clip
        if clip is not None and mirrored:
            yield np.ascontiguousarray(clip[:, :, ::-1])


def files_in(folders: Iterable[Path]) -> list[Path]:
    """Return all files of some folders, searched recursively, in the order of their whole paths.

    So the order is the same whether a run names the folders by relative paths or resumes with whole ones.
    """
    found = (
        (folder.resolve() / path.relative_to(folder), path)
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file()
    )
    return [path for _, path in sorted(found)]


def _read_clip(path: Path) -> NDArray[np.uint8]:
    """Read the first frames of a file into memory pages of their own.

    The system gets these pages back when the clip is dropped. Clips on the heap would leave holes among the small
    allocations of training, and the memory of a run would grow far beyond its budget.
    """
    with VideoReader(path, audio=False) as reader:
        height, width = reader.info.height, reader.info.width
        most = max(1, min(MAX_FRAMES, MAX_CLIP_BYTES // (height * width * 3)))
        # The size allows for `most` frames, but pages that are never written take no memory.
        clip = np.frombuffer(mmap.mmap(-1, most * height * width * 3), np.uint8).reshape(most, height, width, 3)
        frames = 0
        for frame in islice(reader.frames(), most):
            clip[frames] = frame.pixels
            frames += 1
    return clip[:frames]
