"""Latents as a latent flow draws them, on which a decoder can train (One-DVA, section 3.5, "Decoder Fine-tuning")."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vtok_codec.layout import GopLayout
from vtok_codec.models.config import FLOW
from vtok_codec.models.generator import kinds
from vtok_codec.models.latent_flow import LatentFlow
from vtok_codec.models.paths import path_of
from vtok_codec.training.processes import Processes

_STEPS = 4
"""The steps in which a latent frame is redrawn."""
_TIMES = (0.3, 0.8)
"""The earliest and the latest time from which a latent frame is redrawn. From later ones it would be another video."""


class Redrawing(nn.Module):
    """Replaces the latents of videos by what a latent flow makes of them.

    Latent frames are mixed with noise of a random time and drawn from there, each after those that were drawn before;
    a random number of those of the first frame stay. So they have the faults of what is generated, while the source
    remains what the decoder should show.
    """

    def __init__(self, flow: LatentFlow, layout: GopLayout, starts_gop: bool) -> None:
        """Redraw with a latent flow.

        Args:
            flow: The latent flow, which is frozen.
            layout: The layout of the codec.
            starts_gop: Whether all videos start a GOP.
        """
        super().__init__()
        self.flow = flow.requires_grad_(False).eval()
        self._phases, self._begin = layout.phases, 0 if starts_gop else layout.phases

    @property
    def tokens(self) -> int:
        """The tokens per position that are redrawn."""
        return self.flow.config.tokens

    def train(self, mode: bool = True) -> Redrawing:
        """Set the training mode. The latent flow always stays in evaluation mode."""
        super().train(mode)
        self.flow.eval()
        return self

    @torch.no_grad()
    def forward(self, codes: Tensor, generator: torch.Generator, processes: Processes) -> Tensor:
        """Redraw videos.

        Args:
            codes: Unrounded codes, `B (N·d) t h w`.
            generator: The source of all random choices in this step.
            processes: The processes that train together.

        Returns:
            Codes of the same shape, of which the first `tokens` tokens are redrawn.
        """
        flow, frames = self.flow, codes.shape[2]
        channels = flow.config.channels
        clean = flow.standardized(codes[:, :channels].float().transpose(1, 2))
        begin = int(torch.randint(min(self._phases, frames - 1) + 1, (), generator=generator))
        time = _TIMES[0] + (_TIMES[1] - _TIMES[0]) * float(torch.rand((), generator=generator))
        mixed = path_of(FLOW).noisy(
            clean, processes.normal(clean, generator), torch.full((len(clean),), time, device=clean.device)
        )
        state, made = flow.start(len(clean), *clean.shape[3:]), []
        for latent, kind in enumerate(kinds(frames, self._phases, self._begin).tolist()):
            made.append(clean[:, latent] if latent < begin else flow.draw(kind, state, mixed[:, latent], _STEPS, time))
            state = flow.read(kind, state, made[-1])
        redrawn = flow.restored(torch.stack(made, 1)).clamp(-1, 1).transpose(1, 2).to(codes.dtype)
        return torch.cat([redrawn, codes[:, channels:]], 1)
