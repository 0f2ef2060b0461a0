"""How much of its codebook a quantizer uses."""

from __future__ import annotations

import torch
from torch import Tensor

from vtok_codec.training.processes import Processes


class CodebookUse:
    """Counts codebook entries over the steps between two lines of the log."""

    def __init__(self, codebook_size: int) -> None:
        self._counts = torch.zeros(codebook_size, dtype=torch.int64)

    def add(self, indices: Tensor) -> None:
        # Counted where they lie, without waiting for them.
        self._counts = self._counts.to(indices.device)
        entries = indices.flatten()
        self._counts.index_add_(0, entries, torch.ones_like(entries))

    def take(self, processes: Processes | None = None) -> dict[str, float]:
        """The part of the codebook that occurred in all processes, and the perplexity (the number of entries that would
        do, used equally often); counting starts afresh."""
        counts, self._counts = self._counts, torch.zeros_like(self._counts)
        counts = (processes or Processes()).sum(counts.cpu())
        share = counts[counts > 0].double() / counts.sum().clamp_min(1)
        return {
            "codebook_used": float((counts > 0).double().mean()),
            "codebook_perplexity": float(torch.exp(-(share * share.log()).sum())),
        }
