"""Measures how much of its codebook a quantizer uses."""

from __future__ import annotations

import torch
from torch import Tensor

from vtok_codec.training.processes import Processes


class CodebookUse:
    """Counts how often each codebook entry is used in the steps between two entries of the log."""

    def __init__(self, codebook_size: int) -> None:
        self._counts = torch.zeros(codebook_size, dtype=torch.int64)

    def add(self, indices: Tensor) -> None:
        """Count codebook entries, given as int64 indices of any shape."""
        # Counting on the device of the indices does not wait for the GPU.
        self._counts = self._counts.to(indices.device)
        entries = indices.flatten()
        self._counts.index_add_(0, entries, torch.ones_like(entries))

    def take(self, processes: Processes | None = None) -> dict[str, float]:
        """Return the use of the codebook since the last call, and start counting afresh.

        Args:
            processes: The processes whose counts are added up.

        Returns:
            `codebook_used`, the fraction of entries that occurred, and `codebook_perplexity`, the number of equally
            frequent entries that would have the same entropy.
        """
        counts, self._counts = self._counts, torch.zeros_like(self._counts)
        counts = (processes or Processes()).total(counts.cpu())
        share = counts[counts > 0].double() / counts.sum().clamp_min(1)
        return {
            "codebook_used": float((counts > 0).double().mean()),
            "codebook_perplexity": float(torch.exp(-(share * share.log()).sum())),
        }
