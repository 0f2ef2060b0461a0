"""How a model does on held-out clips while it trains: quick figures, not those of `vtok eval`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vtok_codec.codec.encoder import EncodeSettings
from vtok_codec.media.reader import read_pixels
from vtok_codec.models.onevae import OneVAE
from vtok_codec.tokens.packing import pack
from vtok_codec.tokens.radix import Digits
from vtok_codec.training.prior import DigitPrior

_FRAMES = 17
_SIDE = 256


def validation_clips(folder: Path, limit: int) -> list[Tensor]:
    """The first 17 frames of every so many clips of a folder, centre-cropped to 256, `3 T H W` in [−1, 1]."""
    paths = sorted(path for path in folder.iterdir() if path.is_file())
    chosen = paths[:: max(1, len(paths) // limit)][:limit]
    return [_load(path) for path in chosen]


def _load(path: Path) -> Tensor:
    frames = torch.from_numpy(read_pixels(path, _FRAMES)).permute(3, 0, 1, 2).float() / 127.5 - 1
    height, width = (min(_SIDE, size // 8 * 8) for size in frames.shape[2:])
    top, left = (frames.shape[2] - height) // 2, (frames.shape[3] - width) // 2
    return frames[:, :, top : top + height, left : left + width]


@torch.inference_mode()
def validate(
    model: OneVAE, clips: Sequence[Tensor], counts: Sequence[int], prior: DigitPrior | None = None
) -> dict[str, float]:
    """Means over clips for each number of tokens: PSNR (dB), the size of the digits as a file packs them, their order-0
    entropy, and their cost by a prior, if there is one (each in bits a pixel)."""
    psnr: dict[int, list[float]] = {count: [] for count in counts}
    bits: dict[tuple[str, int], list[float]] = {}
    digits_a_token = len(model.config.fsq_levels)
    for clip in clips:
        video = clip[None].to(model.device)
        stride = model.config.stride[0]
        padded = whole_latents(video, stride)
        digits, _ = model.encode_digits(padded, None)
        planes = digits[0].cpu().numpy()
        pixels = padded[0, 0, stride - 1 :].numel()
        entropies = [_entropy_bits(plane) * plane.size for plane in planes]
        prior_bits = prior(model.fsq.codes(digits))[0].sum(dim=(1, 2, 3)).tolist() if prior else []
        for count in counts:
            output, _ = model.decode_digits(digits[:, : count * digits_a_token], None)
            shown = ((output.float().clamp(-1, 1) + 1) * 127.5).round()
            source = ((padded + 1) * 127.5).round()
            error = (shown - source)[:, :, stride - 1 :].square().mean()
            psnr[count].append(float(10 * torch.log10(255**2 / error)))
            kept = count * digits_a_token
            sizes = {"packed": 8 * _packed_bytes(planes[:kept], model), "order0": sum(entropies[:kept])}
            if prior_bits:
                sizes["prior"] = sum(prior_bits[:kept])
            for name, size in sizes.items():
                bits.setdefault((name, count), []).append(size / pixels)
    figures = {f"psnr_{count}": float(np.mean(psnr[count])) for count in counts}
    return figures | {f"{name}_bpp_{count}": float(np.mean(sizes)) for (name, count), sizes in bits.items()}


def whole_latents(video: Tensor, stride: int) -> Tensor:
    """`B C T H W` with its first frame repeated in front, as at the start of a GOP, and cut to whole latent frames."""
    padded = torch.cat([video[:, :, :1].expand(-1, -1, stride - 1, -1, -1), video], dim=2)
    return padded[:, :, : padded.shape[2] // stride * stride]


def _packed_bytes(planes: Digits, model: OneVAE) -> int:
    """In chunks as long as a file's."""
    levels = model.config.fsq_levels
    chunk = EncodeSettings.chunk_latents
    return sum(len(pack(planes[:, start : start + chunk], levels)) for start in range(0, planes.shape[1], chunk))


def _entropy_bits(plane: np.ndarray) -> float:
    share = np.bincount(plane.ravel()) / plane.size
    share = share[share > 0]
    return float(-(share * np.log2(share)).sum())
