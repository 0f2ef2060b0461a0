"""The warm start: sets the linear paths of an untrained model to the best linear codec.

OneVAE starts from a pretrained continuous VAE. Without one, the Karhunen–Loève transform (KLT, also known as PCA) of
pixel blocks is the best linear encoder, and a least-squares fit from the quantized codes to the pixels is the best
linear decoder. Computing both takes seconds and replaces many minutes of training from a random start.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vtok_codec.models.causal import FrameConv, unshuffle
from vtok_codec.models.codebook import LFQ
from vtok_codec.models.fsq import FSQ
from vtok_codec.models.onevae import OneVAE
from vtok_codec.models.quantizer import Quantizer
from vtok_codec.training.data.crops import CropSampler
from vtok_codec.training.recipe import CropShape

_GAINS = (0.35, 0.5, 0.7, 0.9)
"""Standard deviations of the latents before tanh to try. The warm start takes the one with the smallest error."""

_ROWS = 1 << 13
"""The number of blocks that are fitted at once, to save memory."""
_RIDGE = 1e-10
"""What is added to the diagonal of a least-squares system, relative to its mean."""
_LEAST_DEVIATION = 1e-5
"""The least standard deviation that a component is divided by."""
_LEAST_MSE = 1e-12
"""The least error that has a PSNR of its own."""


@dataclass(frozen=True)
class WarmStart:
    """The quality that a warm start reached with all tokens, on the blocks that it was computed from."""

    gain: float
    """The standard deviation of the latents before tanh that was chosen."""
    mse: float
    """Mean squared error of pixels in [−1, 1]."""

    @property
    def psnr_db(self) -> float:
        """The PSNR in dB."""
        return 10 * math.log10(4 / max(self.mse, _LEAST_MSE))


@torch.no_grad()
def warm_start(model: OneVAE, sampler: CropSampler, batches: int = 24, kept: Collection[str] = ()) -> WarmStart | None:
    """Set the linear paths of a model to the KLT of blocks from the sampler's first batches.

    The last layers of the networks beside the linear paths must be zero, so that the paths alone make the output.

    Args:
        model: The model, which is changed in place.
        sampler: The training data.
        batches: The number of batches to compute the KLT from.
        kept: Names of tensors that must not change. A linear path whose weights are among them is left alone.

    Returns:
        The quality of the linear path of the usual grid, or None if that path was left alone.
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
        # Only this path codes the first frame of a GOP, so the usual path needs only the frames after it.
        videos = [video[:, :, stride[0] :] for video in videos]
    if not fits_usual:
        return None
    return _fit_paths(encoder.linear, decoder.linear, model, torch.cat([_blocks(video, stride) for video in videos]))


def _fit_paths(encoder: FrameConv, decoder: FrameConv, model: OneVAE, blocks: Tensor) -> WarmStart:
    """Set an encoder's and a decoder's linear path to the KLT of `blocks`, with the best of the gains."""
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
    """Turn video `B 3 T H W` into one row of pixels per latent position, in the channel order of the linear paths."""
    return unshuffle(video, stride).permute(0, 2, 3, 4, 1).flatten(0, 3)


def _balanced_klt(blocks: Tensor, digits: int, tokens: int) -> tuple[Tensor, Tensor]:
    """Return the leading components of the blocks, `(pixels, tokens·digits)`, and their standard deviations.

    The components of each token are rotated among themselves until all have the same variance. FSQ gives every digit
    about the same number of levels, so no digit should carry more information than the others.
    """
    covariance = blocks.T @ blocks / len(blocks)
    variances, vectors = torch.linalg.eigh(covariance)
    count = tokens * digits
    leading = vectors.flip(1)[:, :count]
    variances = variances.flip(0)[:count]
    for token in range(tokens):
        part = slice(token * digits, (token + 1) * digits)
        leading[:, part] = leading[:, part] @ _equalizing_rotation(variances[part])
    return leading, (blocks @ leading).std(0).clamp(min=_LEAST_DEVIATION)


def _equalizing_rotation(variances: Tensor) -> Tensor:
    """Return the rotation R that makes the diagonal of Rᵀ·diag(variances)·R constant (Bendel and Mickey, 1978)."""
    size = len(variances)
    matrix, rotation = torch.diag(variances.double()), torch.eye(size, dtype=torch.float64)
    mean = float(matrix.diagonal().mean())
    for _ in range(size - 1):
        diagonal = matrix.diagonal()
        low, high = int(diagonal.argmin()), int(diagonal.argmax())
        a, b, c = float(diagonal[low]), float(diagonal[high]), float(matrix[low, high])
        if b - a < 1e-9 * mean:
            break
        # A Givens rotation by the angle with tangent t makes diagonal entry `low` equal to the mean.
        t = (c + math.sqrt(max(0.0, c * c - (a - mean) * (b - mean)))) / (b - mean)
        cos = 1 / math.sqrt(1 + t * t)
        givens = torch.eye(size, dtype=torch.float64)
        givens[low, low] = givens[high, high] = cos
        givens[low, high], givens[high, low] = t * cos, -t * cos
        matrix, rotation = givens.T @ matrix @ givens, rotation @ givens
    return rotation.float()


class _Fit(NamedTuple):
    """The weights and biases of both linear paths, and their error."""

    encoder: tuple[Tensor, Tensor]
    """The weight `(out, in)` and the bias of the encoder's path."""
    decoder: tuple[Tensor, Tensor]
    """The weight `(out, in)` and the bias of the decoder's path."""
    mse: float
    """Mean squared error of pixels in [−1, 1]."""


def _fit(quantizer: Quantizer, blocks: Tensor, mean: Tensor, weights: Tensor) -> _Fit:
    """Fit the decoder to the quantized codes by least squares, for encoder weights `(pixels, channels)`."""
    # A codebook that is learned holds nothing useful yet, so its latents stay unrounded.
    rounds = isinstance(quantizer, FSQ | LFQ)
    channels = weights.shape[1]
    gram = torch.zeros(channels + 1, channels + 1, dtype=torch.float64)
    product = torch.zeros(channels + 1, blocks.shape[1], dtype=torch.float64)
    energy = 0.0
    for part in blocks.split(_ROWS):
        positions = ((part - mean) @ weights).T[None, :, :, None, None]
        codes = quantizer.quantize(positions).codes if rounds else quantizer.continuous(positions)
        design, targets = F.pad(codes[0, :, :, 0, 0].T, (0, 1), value=1.0).double(), part.double()
        gram += design.T @ design
        product += design.T @ targets
        energy += float(targets.square().sum())
    # Blocks that are all alike have fewer dimensions than codes, so the system may be singular.
    gram += _RIDGE * gram.diagonal().mean() * torch.eye(channels + 1, dtype=torch.float64)
    solution = torch.linalg.solve(gram, product)
    # The error of a least-squares fit, without another pass over the blocks. Rounding may make it negative.
    mse = max(0.0, energy - float((solution * product).sum())) / blocks.numel()
    fitted = solution.float()
    return _Fit((weights.T, -(mean @ weights)), (fitted[:-1].T, fitted[-1]), mse)
