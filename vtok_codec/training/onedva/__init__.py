"""Training of One-DVA: 1D tokens beside the first token of a codec."""
