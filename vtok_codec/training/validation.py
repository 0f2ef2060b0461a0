"""How a model does on held-out clips while it trains: quick figures, not those of `vtok eval`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vtok_codec.codec.encoder import EncodeSettings
from vtok_codec.errors import TrainingError
from vtok_codec.evaluation.energy import gradient_energy
from vtok_codec.evaluation.lpips import LPIPS
from vtok_codec.media.reader import read_pixels
from vtok_codec.models.denoiser import Denoiser
from vtok_codec.models.fsq import FSQ
from vtok_codec.models.onevae import OneVAE
from vtok_codec.models.sampling import sample
from vtok_codec.tokens.coders import CODERS, fitting_coder, make_coder
from vtok_codec.tokens.radix import Digits
from vtok_codec.training.library import VIDEO_SUFFIXES
from vtok_codec.training.prior import DigitPrior

_FRAMES = 17
_SIDE = 256
_GRID = 16
"""A multiple of every preset's stride."""


def validation_clips(folder: Path, limit: int) -> list[Tensor]:
    """The first 17 frames of every so many clips of a folder, centre-cropped to 256, `3 T H W` in [−1, 1].

    Raises:
        TrainingError: there is none.
    """
    if not folder.is_dir():
        raise TrainingError(f"{folder} is no folder; name one of held-out clips")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES)
    if not paths:
        raise TrainingError(f"no video in {folder}; name a folder of held-out clips")
    chosen = paths[:: max(1, len(paths) // limit)][:limit]
    return [_load(path) for path in chosen]


def _load(path: Path) -> Tensor:
    frames = torch.from_numpy(read_pixels(path, _FRAMES)).permute(3, 0, 1, 2).float() / 127.5 - 1
    height, width = (min(_SIDE, size // _GRID * _GRID) for size in frames.shape[2:])
    top, left = (frames.shape[2] - height) // 2, (frames.shape[3] - width) // 2
    return frames[:, :, top : top + height, left : left + width]


@torch.inference_mode()
def validate(
    model: OneVAE,
    clips: Sequence[Tensor],
    counts: Sequence[int],
    prior: DigitPrior | None = None,
    lpips: LPIPS | None = None,
) -> dict[str, float]:
    """Means over clips for each number of tokens: PSNR (dB), the same for the first frame and for the later ones, for
    the continuous path, LPIPS where its network is given, and the sizes of the tokens in bits a pixel: see `_sizes`."""
    figures: dict[str, list[float]] = {}
    for clip in clips:
        stride = model.config.stride[0]
        padded = whole_latents(clip[None].to(model.device), stride)
        source = _levels(padded)[:, :, stride - 1 :]
        latents, _ = model.encoder(padded, None)
        codes, indices, _ = model.quantizer.quantize(latents)
        for count in counts:
            shown = _levels(decode_codes(model, codes, count))[:, :, stride - 1 :]
            figures.setdefault(f"psnr_{count}", []).append(_psnr_db(shown, source))
            figures.setdefault(f"psnr_first_{count}", []).append(_psnr_db(shown[:, :, :1], source[:, :, :1]))
            if source.shape[2] > 1:
                figures.setdefault(f"psnr_later_{count}", []).append(_psnr_db(shown[:, :, 1:], source[:, :, 1:]))
            if lpips:
                figures.setdefault(f"lpips_{count}", []).append(_lpips(lpips, shown, source))
            smooth = _levels(decode_codes(model, model.quantizer.continuous(latents), count))[:, :, stride - 1 :]
            figures.setdefault(f"psnr_continuous_{count}", []).append(_psnr_db(smooth, source))
            for name, bits in _sizes(model, codes, indices, count, prior).items():
                figures.setdefault(f"{name}_bpp_{count}", []).append(bits / source[0, 0].numel())
    return {name: float(np.mean(values)) for name, values in figures.items()}


@torch.inference_mode()
def validate_denoiser(model: Denoiser, codec: OneVAE, clips: Sequence[Tensor], lpips: LPIPS | None) -> dict[str, float]:
    """Means over clips for 1 and 2 tokens, of what `denoised` makes: PSNR (dB), LPIPS, and the energy of gradients as a
    part of the source's, which blur lowers."""
    figures: dict[str, list[float]] = {}
    for number, clip in enumerate(clips):
        source, made = denoised(model, codec, clip, number, sorted({1, min(2, codec.config.max_tokens)}))
        for name, video in made.items():
            for measure, value in _looks(source, video, codec.config.stride[0] - 1, lpips).items():
                figures.setdefault(f"{measure}_{name}", []).append(value)
    return {name: float(np.mean(values)) for name, values in figures.items()}


def denoised(
    model: Denoiser, codec: OneVAE, clip: Tensor, seed: int, token_counts: Sequence[int]
) -> tuple[Tensor, dict[str, Tensor]]:
    """A clip `3 T H W` as whole latent frames `1 3 T H W`, and what is made of its first tokens: `K_base` by the
    codec's own decoder, `K_S_steps` by the model in one step and in two."""
    source = whole_latents(clip[None].to(model.device), codec.config.stride[0])
    codes = codec.quantizer.quantize(codec.encoder(source, None)[0]).codes
    noise = torch.randn(source.shape, generator=torch.Generator().manual_seed(seed)).to(model.device)
    made = {}
    for count in token_counts:
        counts = torch.full((1,), count, device=model.device)
        made[f"{count}_base"] = decode_codes(codec, codes, count)
        for steps in (1, 2):
            video, _ = sample(model, codes, noise, None, counts, steps)
            made[f"{count}_{steps}_steps"] = video.float()
    return source, made


def _looks(source: Tensor, shown: Tensor, skipped: int, lpips: LPIPS | None) -> dict[str, float]:
    source, shown = (_levels(video)[:, :, skipped:] for video in (source, shown))
    looks = {"psnr": _psnr_db(shown, source)}
    # A flat clip has none that could be kept.
    if (energy := gradient_energy(source)) > 0:
        looks["energy"] = gradient_energy(shown) / energy
    if lpips:
        looks["lpips"] = _lpips(lpips, shown, source)
    return looks


def _lpips(lpips: LPIPS, shown: Tensor, source: Tensor) -> float:
    """Mean over every fourth frame, as many as show what a clip is like, of videos `1 3 T H W` in levels of 0…255."""
    pair = [(video[0, :, ::4].transpose(0, 1) / 127.5 - 1).contiguous() for video in (source, shown)]
    return float(lpips(*pair).mean())


def decode_codes(model: OneVAE, codes: Tensor, count: int) -> Tensor:
    """The video `B 3 T H W` in [−1, 1] of the first `count` tokens."""
    counts = torch.full((len(codes),), count, device=codes.device)
    video: Tensor = model.decoder(codes.to(model.dtype), None, counts)[0].float()
    return video


def _levels(video: Tensor) -> Tensor:
    return ((video.clamp(-1, 1) + 1) * 127.5).round()


def _psnr_db(shown: Tensor, source: Tensor) -> float:
    return float(10 * torch.log10(255**2 / (shown - source).square().mean()))


def _sizes(model: OneVAE, codes: Tensor, indices: Tensor, count: int, prior: DigitPrior | None) -> dict[str, float]:
    """Bits of the first `count` tokens: `raw` at log₂ of the codebook's size each; and where they have digits,
    `packed` as a file has them, their `order0` entropy, and their cost by a `prior`, if there is one."""
    quantizer = model.quantizer
    sizes = {"raw": math.log2(quantizer.codebook_size) * indices[:, :count].numel()}
    if not isinstance(quantizer, FSQ):
        return sizes
    kept = count * quantizer.channels
    digits = (codes * quantizer.zero_digit).round() + quantizer.zero_digit
    planes = digits[0, :kept].to(torch.uint8).cpu().numpy()
    sizes["packed"] = 8.0 * _packed_bytes(planes, model)
    sizes["order0"] = sum(_entropy_bits(plane) * plane.size for plane in planes)
    if prior:
        sizes["prior"] = float(prior(codes)[0, :kept].sum())
    return sizes


def whole_latents(video: Tensor, stride: int) -> Tensor:
    """`B C T H W` with its first frame repeated in front, as at the start of a GOP, and cut to whole latent frames."""
    padded = torch.cat([video[:, :, :1].expand(-1, -1, stride - 1, -1, -1), video], dim=2)
    return padded[:, :, : padded.shape[2] // stride * stride]


def _packed_bytes(planes: Digits, model: OneVAE) -> int:
    """In chunks as long as a file's, of one GOP."""
    levels, chunk = model.config.fsq_levels, EncodeSettings.chunk_latents
    coder = make_coder(
        fitting_coder(CODERS[EncodeSettings.coder], levels, planes.size), levels, len(planes) // len(levels)
    )
    extra = math.prod(model.config.first_grid) - 1
    starts = [0, *range(chunk + extra, planes.shape[1], chunk)]
    ends = [*starts[1:], planes.shape[1]]
    return sum(len(coder.pack(planes[:, start:end])) for start, end in zip(starts, ends, strict=True))


def _entropy_bits(plane: np.ndarray) -> float:
    share = np.bincount(plane.ravel()) / plane.size
    share = share[share > 0]
    return float(-(share * np.log2(share)).sum())
