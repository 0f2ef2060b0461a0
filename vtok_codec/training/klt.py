"""The warm start: the best linear codec there is, as the linear paths of an untrained model.

OneVAE starts from a pretrained continuous VAE. Without one, the Karhunen–Loève transform (PCA) of pixel blocks is the
best linear encoder, and least squares from the quantized codes the best linear decoder. A model that starts there
stands within seconds where a random start stands after many minutes.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from vtok_codec.models.causal import FrameConv, unshuffle
from vtok_codec.models.codebook import LFQ
from vtok_codec.models.fsq import FSQ
from vtok_codec.models.onevae import OneVAE
from vtok_codec.models.quantizer import Quantizer
from vtok_codec.training.crops import CropSampler, CropShape

_GAINS = (0.35, 0.5, 0.7, 0.9)
"""Standard deviations of the latents before tanh, of which the best is taken."""


@dataclass(frozen=True)
class WarmStart:
    """What the warm start reached on its own sample, with all tokens."""

    gain: float
    mse: float
    """Mean squared error of pixels in [−1, 1]."""

    @property
    def psnr_db(self) -> float:
        return 10 * math.log10(4 / self.mse)


@torch.no_grad()
def warm_start(model: OneVAE, sampler: CropSampler, batches: int = 24, kept: Collection[str] = ()) -> WarmStart | None:
    """Set the linear paths of `model` from blocks of the sampler's first batches. The last layers beside them must be
    zero.

    A path whose weights are among the names `kept` stays. What is given is of the usual grid's, None if that one stays.
    """
    stride = model.config.stride
    encoder, decoder = model.encoder, model.decoder
    fits_first = encoder.first is not None and "encoder.first.linear.weight" not in kept
    fits_usual = "encoder.linear.weight" not in kept
    if not (fits_first or fits_usual):
        return None
    shape = CropShape(batch=32, frames=stride[0] * 2, size=64)
    videos = [sampler.batch(n, shape) for n in range(batches)]
    if encoder.first is not None and decoder.first is not None:
        if fits_first:
            stills = [video[:, :, :1].expand(-1, -1, stride[0], -1, -1) for video in videos]
            blocks = torch.cat([_blocks(still, encoder.first.stride) for still in stills])
            _fit_paths(encoder.first.linear, decoder.first.linear, model, blocks)
        # What comes first in a GOP has that way to itself.
        videos = [video[:, :, stride[0] :] for video in videos]
    if not fits_usual:
        return None
    return _fit_paths(encoder.linear, decoder.linear, model, torch.cat([_blocks(video, stride) for video in videos]))


def _fit_paths(encoder: FrameConv, decoder: FrameConv, model: OneVAE, blocks: Tensor) -> WarmStart:
    """Set two linear paths to the KLT of `blocks`, with the best of the gains."""
    mean = blocks.mean(0)
    components, scale = _balanced_klt(blocks - mean, model.config.token_channels, model.config.max_tokens)
    fits = [_fit(model.quantizer, blocks, mean, components / scale * gain) for gain in _GAINS]
    gain, best = min(zip(_GAINS, fits, strict=True), key=lambda pair: pair[1].mse)
    for path, (weight, bias) in ((encoder, best.encoder), (decoder, best.decoder)):
        assert path.bias is not None
        path.weight.copy_(weight[:, :, None, None])
        path.bias.copy_(bias)
    return WarmStart(gain, best.mse)


def _blocks(video: Tensor, stride: tuple[int, int, int]) -> Tensor:
    """`B 3 T H W` → one row a latent position, in the order of the linear paths' channels."""
    return unshuffle(video, stride).permute(0, 2, 3, 4, 1).flatten(0, 3)


def _balanced_klt(blocks: Tensor, digits: int, tokens: int) -> tuple[Tensor, Tensor]:
    """The leading components `(pixels, tokens·digits)` and their standard deviations.

    The components of each token are rotated among themselves until they share their variance: FSQ gives every digit
    about the same number of levels, so that none should carry more than the others.
    """
    covariance = blocks.T @ blocks / len(blocks)
    variances, vectors = torch.linalg.eigh(covariance)
    count = tokens * digits
    leading = vectors.flip(1)[:, :count]
    variances = variances.flip(0)[:count]
    for token in range(tokens):
        part = slice(token * digits, (token + 1) * digits)
        leading[:, part] = leading[:, part] @ _equalizing_rotation(variances[part])
    return leading, (blocks @ leading).std(0)


def _equalizing_rotation(variances: Tensor) -> Tensor:
    """The rotation R that makes every diagonal entry of Rᵀ·diag(variances)·R the mean (Bendel and Mickey, 1978)."""
    size = len(variances)
    matrix, rotation = torch.diag(variances.double()), torch.eye(size, dtype=torch.float64)
    mean = float(matrix.diagonal().mean())
    for _ in range(size - 1):
        diagonal = matrix.diagonal()
        low, high = int(diagonal.argmin()), int(diagonal.argmax())
        a, b, c = float(diagonal[low]), float(diagonal[high]), float(matrix[low, high])
        if b - a < 1e-9 * mean:
            break
        # One Givens rotation by the angle of tangent t brings entry `low` to the mean.
        t = (c + math.sqrt(max(0.0, c * c - (a - mean) * (b - mean)))) / (b - mean)
        cos = 1 / math.sqrt(1 + t * t)
        givens = torch.eye(size, dtype=torch.float64)
        givens[low, low] = givens[high, high] = cos
        givens[low, high], givens[high, low] = t * cos, -t * cos
        matrix, rotation = givens.T @ matrix @ givens, rotation @ givens
    return rotation.float()


class _Fit(NamedTuple):
    """Weights `(out, in)` and biases of both linear paths, and the error that they leave."""

    encoder: tuple[Tensor, Tensor]
    decoder: tuple[Tensor, Tensor]
    mse: float


def _fit(quantizer: Quantizer, blocks: Tensor, mean: Tensor, weights: Tensor) -> _Fit:
    """Encoder weights `(pixels, channels)` with the least-squares decoder of their quantized codes."""
    latents = (blocks - mean) @ weights
    positions = latents.T[None, :, :, None, None]
    # A codebook that learns has nothing to round to yet.
    rounds = isinstance(quantizer, FSQ | LFQ)
    codes = quantizer.quantize(positions).codes if rounds else quantizer.continuous(positions)
    codes = codes[0, :, :, 0, 0].T
    design = torch.cat([codes, torch.ones(len(codes), 1)], dim=1).double()
    gram = design.T @ design / len(design)
    solution = torch.linalg.solve(gram, design.T @ blocks.double() / len(design)).float()
    error = torch.cat([codes, torch.ones(len(codes), 1)], dim=1) @ solution - blocks
    return _Fit((weights.T, -(mean @ weights)), (solution[:-1].T, solution[-1]), float((error**2).mean()))
