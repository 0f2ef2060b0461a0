"""Codes batches of videos as torch tensors on the model's device, for training loops that tokenize as they go."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from vtok_codec.codec.tokenizer import MAX_LATENT, Tokenizer
from vtok_codec.errors import InputError
from vtok_codec.models.causal import State
from vtok_codec.models.onevae import RGB
from vtok_codec.models.precision import plain_types
from vtok_codec.stream.settings import EncodeSettings, check_token_count

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_FARTHEST = 1.5
"""How far from 0 the floats of a video may lie, since resampling overshoots."""
CHUNK_STEPS = EncodeSettings.chunk_latents
"""Time steps that pass through the model together: as many as in a file, so that the tokens are the same, unless the
rounding of fp32 decides."""


# Tensors of inference mode could enter no layer that trains.
@torch.no_grad()
@plain_types()
def tokenize_batch(tokenizer: Tokenizer, videos: Tensor, tokens_per_position: int) -> Tensor:
    """Encode a batch of videos, each as one GOP.

    Args:
        tokenizer: The model.
        videos: `B 3 T H W`, uint8 or floats in [−1, 1].
        tokens_per_position: Tokens to keep per latent position.

    Returns:
        Tokens, int32 `B t h w n` on the model's device.

    Raises:
        InputError: The tensor has another shape or type, or values far outside their range.
        SettingError: The model has fewer tokens per position.
    """
    check_token_count(tokens_per_position, tokenizer.max_tokens, tokenizer.id.name)
    planes = tokens_per_position * len(tokenizer.id.levels)
    state: State = None
    parts = []
    for chunk in _chunks(tokenizer, videos):
        digits, state = tokenizer.model.encode_digits(chunk, state)
        parts.append(digits[:, :planes])
    return _joined(torch.cat(parts, dim=2), tokenizer.id.levels)


# Tensors of inference mode could enter no layer that trains.
@torch.no_grad()
@plain_types()
def encode_latents(tokenizer: Tokenizer, videos: Tensor, tokens_per_position: int | None = None) -> Tensor:
    """Encode a batch of videos to latents without rounding (OneVAE, eq. 5), each as one GOP.

    Args:
        tokenizer: The model.
        videos: `B 3 T H W`, uint8 or floats in [−1, 1].
        tokens_per_position: How many tokens' channels to keep per latent position; None for all.

    Returns:
        Latents, float32 `B C t h w` on the model's device, with C = n·d channels for n tokens of d digits. They lie in
        [−1, 1], or up to a thousandth beyond. Rounded to the codes of their digits, they are `codes_of` the tokens.

    Raises:
        InputError: The tensor has another shape or type, or values far outside their range.
        SettingError: The model has fewer tokens per position.
    """
    tokens = tokenizer.max_tokens if tokens_per_position is None else tokens_per_position
    check_token_count(tokens, tokenizer.max_tokens, tokenizer.id.name)
    fsq, channels = tokenizer.model.fsq, tokens * len(tokenizer.id.levels)
    state: State = None
    parts = []
    for chunk in _chunks(tokenizer, videos):
        values, state = tokenizer.model.encode_values(chunk, state)
        parts.append(fsq.codes(values)[:, :channels].float())
    return torch.cat(parts, dim=2)


# Tensors of inference mode could enter no layer that trains.
@torch.no_grad()
@plain_types()
def decode_latents(tokenizer: Tokenizer, latents: Tensor) -> Tensor:
    """Decode a batch of latents, the inverse of `encode_latents`.

    Args:
        tokenizer: The model.
        latents: Floats `B C t h w`, where C is a multiple of a token's digits.

    Returns:
        Videos `B 3 T H W` in [−1, 1], floats on the model's device, padding included.

    Raises:
        InputError: The tensor has another shape or type, or a value is not finite.
    """
    tokenizer.check_process()
    if not isinstance(latents, Tensor):
        raise InputError(f"latents must be a torch tensor, not {type(latents).__name__}")
    per_token, whole = len(tokenizer.id.levels), tokenizer.model.config.latent_channels
    if latents.ndim != 5 or not latents.numel() or latents.shape[1] % per_token or latents.shape[1] > whole:
        raise InputError(
            f"latents must be B C t h w, C a multiple of {per_token} up to {whole}, not {tuple(latents.shape)}"
        )
    if latents.dtype not in _FLOATS or latents.layout != torch.strided:
        raise InputError(f"latents must be floats, not {latents.dtype}, {latents.layout}")
    if not bool((latents.abs() <= MAX_LATENT).all()):
        raise InputError(f"a latent is not a number from −{MAX_LATENT:g} to {MAX_LATENT:g}")
    _check_latents(tokenizer, latents.shape[2])
    model, placement = tokenizer.model, tokenizer.placement
    count = latents.shape[1] // per_token
    codes = model.whole(latents.to(placement.device, placement.dtype))
    counts = torch.full((len(latents),), count, device=placement.device)
    return _decoded(tokenizer, codes, lambda part, state: model.decoder(part, state, counts))


# Tensors of inference mode could enter no layer that trains.
@torch.no_grad()
@plain_types()
def detokenize_batch(tokenizer: Tokenizer, tokens: Tensor) -> Tensor:
    """Decode a batch of GOPs.

    Args:
        tokenizer: The model.
        tokens: Integers `B t h w n`.

    Returns:
        Videos `B 3 T H W` in [−1, 1], floats on the model's device, padding included.

    Raises:
        InputError: The tensor has another shape or type, or a value is not one of the model's tokens.
    """
    return _decoded(tokenizer, _split(tokenizer, tokens), tokenizer.model.decode_digits)


def codes_of(tokenizer: Tokenizer, tokens: Tensor) -> Tensor:
    """Return the codes that the decoder reads for tokens, as a continuous representation for diffusion models.

    Args:
        tokenizer: The model.
        tokens: Integers `B t h w n`.

    Returns:
        Codes, float32 `B (n·d) t h w` in [−1, 1], on the model's device.

    Raises:
        InputError: See `detokenize_batch`.
    """
    model, digits = tokenizer.model, _split(tokenizer, tokens)
    return model.fsq.codes(model.whole(digits))[:, : digits.shape[1]].float()


def _chunks(tokenizer: Tokenizer, videos: Tensor) -> Iterator[Tensor]:
    """Check a batch of videos, and yield its chunks as the encoder takes them."""
    if not isinstance(videos, Tensor):
        raise InputError(f"videos must be a torch tensor, not {type(videos).__name__}")
    if videos.ndim != 5 or videos.shape[1] != RGB or not videos.numel():
        raise InputError(f"videos must be B 3 T H W, not {tuple(videos.shape)}")
    if videos.dtype not in (torch.uint8, *_FLOATS) or videos.layout != torch.strided:
        raise InputError(f"videos must be uint8 or floats in [-1, 1], not {videos.dtype}, {videos.layout}")
    # Before anything that torch does in several threads.
    tokenizer.check_process()
    if videos.dtype.is_floating_point:
        _check_range(videos)
    layout, placement = tokenizer.layout, tokenizer.placement
    for begin, end in layout.chunks(videos.shape[2], CHUNK_STEPS):
        chunk = _as_video(videos[:, :, begin:end].to(placement.device), placement.dtype)
        yield _filled(tokenizer, chunk, first=begin == 0)


def _decoded(tokenizer: Tokenizer, latents: Tensor, decode: Callable[[Tensor, State], tuple[Tensor, State]]) -> Tensor:
    """Decode whole GOPs `B C t h w` chunk by chunk."""
    layout = tokenizer.layout
    state: State = None
    parts, begin = [], 0
    while begin < latents.shape[2]:
        end = begin + layout.stored_latents(CHUNK_STEPS, first=begin == 0)
        video, state = decode(latents[:, :, begin:end], state)
        parts.append(video[:, :, layout.filled_frames(begin == 0) :].float().clamp(-1, 1))
        begin = end
    return torch.cat(parts, dim=2)


def _check_latents(tokenizer: Tokenizer, latents: int) -> None:
    least = tokenizer.layout.phases
    if latents < least:
        raise InputError(f"a GOP of {tokenizer.id.name} has at least {least} latent frames, not {latents}")


def _check_range(videos: Tensor) -> None:
    """Refuse floats that cannot be meant as a video in [−1, 1], such as those from 0 to 255."""
    least, most = (float(end) for end in videos.aminmax())
    if not -_FARTHEST <= least <= most <= _FARTHEST:
        raise InputError(f"a video of floats must be in [−1, 1], not from {least:g} to {most:g}")


def _as_video(videos: Tensor, dtype: torch.dtype) -> Tensor:
    if videos.dtype == torch.uint8:
        videos = videos.float().div_(127.5).sub_(1)
    return videos.to(dtype)


def _filled(tokenizer: Tokenizer, chunk: Tensor, first: bool) -> Tensor:
    """Repeat the first frame of a GOP and the last one of a chunk, and pad rows and columns, as `Tokenizer.encode`."""
    layout, (height, width) = tokenizer.layout, chunk.shape[3:]
    rows, columns = layout.picture(*layout.grid(height, width))
    before, after = layout.filled_frames(first), layout.padding(chunk.shape[2], first)
    padded = F.pad(chunk.float(), (0, columns - width, 0, rows - height, before, after), mode="replicate")
    return padded.to(chunk.dtype, memory_format=torch.channels_last_3d)


def _joined(digits: Tensor, levels: tuple[int, ...]) -> Tensor:
    """Combine digits, uint8 `B P t h w`, into tokens, int32 `B t h w n`."""
    grouped = digits.int().unflatten(1, (-1, len(levels)))
    weights = torch.tensor([math.prod(levels[:place]) for place in range(len(levels))], device=digits.device)
    return (grouped * weights[:, None, None, None]).sum(2).permute(0, 2, 3, 4, 1).int()


def _split(tokenizer: Tokenizer, tokens: Tensor) -> Tensor:
    """Split tokens, integers `B t h w n`, into digits, uint8 `B P t h w` on the model's device."""
    tokenizer.check_process()
    levels = tokenizer.id.levels
    if not isinstance(tokens, Tensor):
        raise InputError(f"tokens must be a torch tensor, not {type(tokens).__name__}")
    if tokens.ndim != 5 or not tokens.numel() or not 1 <= tokens.shape[4] <= tokenizer.max_tokens:
        raise InputError(f"tokens must be B t h w n with n from 1 to {tokenizer.max_tokens}, not {tuple(tokens.shape)}")
    _check_latents(tokenizer, tokens.shape[1])
    if tokens.dtype.is_floating_point or tokens.dtype == torch.bool:
        raise InputError(f"tokens must be integers, not {tokens.dtype}")
    rest = tokens.to(tokenizer.placement.device).to(torch.int64).permute(0, 4, 1, 2, 3)
    if int(rest.min()) < 0 or int(rest.max()) >= math.prod(levels):
        raise InputError(f"a token is not below {math.prod(levels)}, the number of codes, or is negative")
    digits = []
    for level in levels:
        digits.append(rest % level)
        rest = rest // level
    return torch.stack(digits, dim=2).flatten(1, 2).to(torch.uint8)
