"""Decodes with ONNX Runtime instead of torch: the deterministic decoder of an exported codec."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtok_codec.codec.pixel_decoder import DecoderState
from vtok_codec.container.window_tokens import WindowTokens
from vtok_codec.cores import usable_cores
from vtok_codec.errors import ModelError
from vtok_codec.graph_files import find_graph
from vtok_codec.media.types import Pixels
from vtok_codec.models.onnx_parts import CodecPart, GraphAbout, about_from_metadata
from vtok_codec.prior_files import find_prior
from vtok_codec.text import first_line
from vtok_codec.tokens.prior.prior import Prior
from vtok_codec.tokens.radix import Digits
from vtok_codec.weights_file import WeightsFile

_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
_SHARED_MEMORY = "session.use_env_allocators"
_State = list[NDArray[np.float32]]


class OnnxDecoder:
    """The deterministic decoder of a codec, run by ONNX Runtime on the CPU. See `PixelDecoder`.

    Args:
        weights: The weights of the codec. The graphs lie beside them.
        threads: The number of threads; None for one per core.

    Raises:
        ModelError: There are no graphs of these weights, or they cannot be used.
        ModuleNotFoundError: ONNX Runtime is not installed.
    """

    lanes = 1
    bytes_per_pixel = 1200
    """The memory in bytes that decoding a chunk takes for each pixel of a frame."""

    def __init__(self, weights: WeightsFile, threads: int | None = None) -> None:
        config = weights.codec_config
        self.id, self.max_tokens, self.layout = weights.id, config.max_tokens, config.layout
        self._weights = weights
        self._later = _Graph(weights, CodecPart.DECODER, threads)
        self._first = _Graph(weights, CodecPart.FIRST_DECODER, threads) if self.layout.phases > 1 else None

    def find_prior(self, sha256: str) -> Prior:
        """Find a prior by its hash; see `vtok_codec.prior_files.find_prior`."""
        return find_prior(sha256, self._weights.path.parent)

    def decode(
        self,
        digits: Digits,
        size: tuple[int, int],
        frames: int,
        state: DecoderState,
        gop: int = 0,
        window_tokens: WindowTokens | None = None,
    ) -> tuple[Pixels, DecoderState]:
        """Decode a chunk or a part of one; see `vtok_codec.codec.tokenizer.Tokenizer.decode`."""
        skipped, begin = self.layout.filled_frames(state is None), 0
        parts: list[Pixels] = []
        while begin < digits.shape[1]:
            end = begin + self.layout.stored_latents(1, first=state is None)
            pixels, state = self._step(digits[:, begin:end], state)
            parts.append(pixels[:, : size[0], : size[1]])
            begin = end
        return np.concatenate(parts)[skipped : skipped + frames], state

    def _step(self, digits: Digits, state: _State | None) -> tuple[Pixels, _State]:
        """Decode one time step of the latent grid."""
        tokens = len(digits) // len(self.id.levels)
        if state is None and self._first:
            return self._first.run(digits, tokens, [])
        return self._later.run(digits, tokens, self._later.start(digits.shape[2:]) if state is None else state)


class _Graph:
    """A graph, loaded."""

    def __init__(self, weights: WeightsFile, part: CodecPart, threads: int | None) -> None:
        import onnxruntime as runtime

        path, data = find_graph(weights, part)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads or usable_cores()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # The graph names the weights file, which need not lie beside it.
        options.add_session_config_entry(_WEIGHTS_FOLDER, str(weights.path.resolve().parent))
        # Both graphs take memory from one place, and no more than they need.
        _share_memory()
        options.add_session_config_entry(_SHARED_MEMORY, "1")
        options.enable_mem_pattern = False
        try:
            self._session = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            # ONNX Runtime raises errors of many kinds, with lines of its own source code.
            raise ModelError(f"{path} cannot be used: {first_line(error)}") from error
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.about: GraphAbout = about_from_metadata(metadata, str(path))
        # The graph names places in one file, so that weights which read the same tokens are not enough.
        if self.about.weights_sha256 != weights.sha256 or self.about.part is not part:
            raise ModelError(f"{path} was made of other weights than {weights.path}; make it again with 'vtok export'")
        expected = 2 + len(self.about.states) * (not part.is_first)
        channels = weights.codec_config.latent_channels
        if self.about.latent_channels != channels or len(self._session.get_inputs()) != expected:
            raise ModelError(f"{path} is not what its metadata say; make it again with 'vtok export'")
        self._path = path

    def start(self, grid: tuple[int, ...]) -> _State:
        """Return the state before the first latent frame."""
        rows, columns = grid
        return [
            np.zeros((1, shape.channels, shape.frames, rows * shape.rows, columns * shape.columns), np.float32)
            for shape in self.about.states
        ]

    def run(self, digits: Digits, tokens: int, state: _State) -> tuple[Pixels, _State]:
        """Decode digits `P t h w` of one time step. Returns pixels `T H W 3`, and the state after it."""
        whole = np.zeros((1, self.about.latent_channels, *digits.shape[1:]), np.uint8)
        whole[0, : len(digits)] = digits
        inputs: dict[str, Any] = {"digits": whole, "tokens": np.array([tokens])}
        inputs |= {f"state_{number}": each for number, each in enumerate(state)}
        try:
            pixels, *after = self._session.run(None, inputs)
        except Exception as error:
            # ONNX Runtime raises errors of many kinds, with lines of its own source code.
            raise ModelError(f"{self._path} cannot be run: {first_line(error)}") from error
        return pixels, after


@cache
def _share_memory() -> None:
    """Create the allocator that all graphs share, which grows by what is asked for instead of doubling."""
    import onnxruntime as runtime

    info = runtime.OrtMemoryInfo("Cpu", runtime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, runtime.OrtMemType.DEFAULT)
    runtime.create_and_register_allocator(info, runtime.OrtArenaCfg({"arena_extend_strategy": 1}))
