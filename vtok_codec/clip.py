"""The Python API of `.vtk` files, which `vtok_codec` re-exports. Reading tokens needs no torch, decoding does."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

from vtok_codec.arguments import as_integer, as_seconds
from vtok_codec.container.reader import VtkReader
from vtok_codec.errors import FormatError, InputError
from vtok_codec.media.types import Frame
from vtok_codec.prior_files import priors_beside
from vtok_codec.registry import DETERMINISTIC
from vtok_codec.stream.limits import MAX_TOKEN_BYTES
from vtok_codec.stream.reading import read_gops, tokens_of
from vtok_codec.stream.verifying import FileSummary, summary_of
from vtok_codec.tokens.radix import Tokens

if TYPE_CHECKING:
    from vtok_codec.codec.decoders import Decoders
    from vtok_codec.tokens.prior.prior import Prior


class Clip:
    """A `.vtk` file. Used as a context manager, it releases its model at the end.

    Args:
        path: The file, or its contents as bytes, as a reader of WebDataset gives them.
        model: A shipped name or the path of the weights that made the file; by default the model that it names.
        device: `auto`, `cpu` or `cuda`.

    Raises:
        InputError: The file cannot be read.
        FormatError: It is not a `.vtk` file that this version can read.

    Example:
        >>> with vtok_codec.open("clip.vtk") as clip:
        ...     tokens = clip.tokens(gop=0)
        ...     for frame in clip.frames(start=10.0):
        ...         show(frame.pixels, clip.seconds(frame))
    """

    def __init__(
        self, path: str | Path | bytes | bytearray | memoryview, model: str | Path | None = None, device: str = "auto"
    ) -> None:
        self._bytes = None if isinstance(path, str | Path) else _contents(path)
        self._path = Path(path) if isinstance(path, str | Path) else Path("the .vtk file")
        self._model = model
        self._device = device
        self._decoders: Decoders | None = None
        with self._open() as stream:
            self.header = VtkReader(stream).header
            """The header of the file: the size and the rate of the video, its model and its tracks of sound."""

    def __enter__(self) -> Clip:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._decoders = None

    def __getstate__(self) -> dict[str, Any]:
        # Another process loads the model anew.
        return {**self.__dict__, "_decoders": None}

    def info(self) -> FileSummary:
        """Read and check the whole file, and summarize what it holds.

        Raises:
            InputError: The file has been replaced since.
            FormatError, DamageError: The first thing that is wrong, and where.
            ModelError: The prior with which the file was packed is missing.
        """
        with self._open() as stream:
            return summary_of(self._same(VtkReader(stream)), self._prior)

    def tokens(self, gop: int | None = None, max_bytes: int = MAX_TOKEN_BYTES) -> Tokens:
        """The tokens `t h w n` of one GOP, which `Codec.detokenize` takes, or of all GOPs one after another.

        Args:
            gop: The number of the GOP; None for all GOPs.
            max_bytes: The largest size of the array in bytes.

        Raises:
            InputError: There is no such GOP, or the tokens take more memory than `max_bytes`, or the file has been
                replaced since.
            FormatError, DamageError: The file cannot be read there.
            ModelError: The prior with which the file was packed is missing.
        """
        number = None if gop is None else as_integer(gop, "gop")
        with self._open() as stream:
            return tokens_of(self._same(VtkReader(stream)), self._prior, number, max_bytes)

    def gops(self, max_bytes: int = MAX_TOKEN_BYTES) -> Iterator[Tokens]:
        """Iterate over the tokens `t h w n` of each GOP, with one GOP in memory at a time.

        Args:
            max_bytes: The largest size of the tokens of a GOP in bytes.

        Raises:
            InputError: The tokens of a GOP take more memory than `max_bytes`, or the file has been replaced since.
            FormatError, DamageError: The file cannot be read that far.
            ModelError: The prior with which the file was packed is missing.
        """
        with self._open() as stream:
            yield from (gop.tokens for gop in read_gops(self._same(VtkReader(stream)), self._prior, max_bytes))

    def frames(
        self,
        start: float = 0.0,
        duration: float | None = None,
        tokens: int | None = None,
        decoder: str | Path = DETERMINISTIC,
        steps: int | None = None,
        seed: int = 0,
    ) -> Iterator[Frame]:
        """Iterate over the decoded frames.

        Args:
            start: Seconds to skip.
            duration: Seconds to decode; by default to the end.
            tokens: Read only this many tokens per position; by default all that the file has.
            decoder: See `Codec.detokenize`.
            steps: See `Codec.detokenize`.
            seed: See `Codec.detokenize`.

        Raises:
            SettingError: An argument is out of range.
            InputError: No frame lies there, or the file has been replaced since it was opened.
            FormatError, DamageError: The file cannot be read there.
            ModelError: The model that made the file is missing, or there is no such decoder.
        """
        from vtok_codec.codec.decoder import decode_events
        from vtok_codec.codec.decoders import Decoders, tokenizer_of
        from vtok_codec.codec.pixel_decoder import DecoderChoice

        count = None if tokens is None else as_integer(tokens, "tokens")
        start_s = as_seconds(start, "start")
        duration_s = None if duration is None else as_seconds(duration, "duration")
        decoders = self._decoders or Decoders(tokenizer_of(self.header.model, self._model, self._device))
        self._decoders = decoders
        chosen = decoders.choose(DecoderChoice(str(decoder), steps, seed), self.header.windows)
        with (
            self._open() as stream,
            closing(decode_events(self._same(VtkReader(stream)), chosen, count, start_s, duration_s)) as events,
        ):
            for event in events:
                if isinstance(event, Frame):
                    yield event

    def seconds(self, frame: Frame) -> float:
        """The time of a frame in seconds.

        If `frames` was called with a start or a duration, it counts from the start; otherwise it is the stored time.
        """
        return float(frame.pts * self.header.time_base)

    def _same(self, reader: VtkReader) -> VtkReader:
        """Return a reader of the file, if that is still the one that was opened."""
        if reader.header != self.header:
            raise InputError(f"{self._path} is another file than when it was opened; open it again")
        return reader

    def _prior(self, sha256: str) -> Prior:
        """Find a prior, also beside the weights that were named."""
        return priors_beside(str(self._model) if self._model else None)(sha256)

    @contextmanager
    def _open(self) -> Iterator[BinaryIO]:
        """Open the file anew, so that one use does not move the position of another, and name it in errors."""
        try:
            stream = self._path.open("rb") if self._bytes is None else io.BytesIO(self._bytes)
        except OSError as error:
            raise InputError(f"cannot read {self._path}: {error.strerror}") from error
        except ValueError as error:
            # A name with a NUL.
            raise InputError(f"cannot read {str(self._path)!r}: {error}") from None
        with stream:
            try:
                yield stream
            except FormatError as error:
                raise type(error)(f"{self._path}: {error}") from None


def _contents(given: object) -> bytes:
    """Return the contents of a file as bytes.

    Raises:
        InputError: They are of another type.
    """
    if not isinstance(given, bytes | bytearray | memoryview):
        raise InputError(f"name a .vtk file, or give its contents as bytes, not {type(given).__name__}")
    return bytes(given)
