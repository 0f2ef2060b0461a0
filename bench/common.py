"""Functions that the benchmarks share: a description of the machine, tables, and JSON files of results."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from vtok_codec.api import Codec
from vtok_codec.media.types import Pixels
from vtok_codec.metrics.lpips import LPIPS
from vtok_codec.tokens.coders import CODERS, DigitLayout
from vtok_codec.tokens.radix import Tokens, tokens_to_digits

ROOT = Path(__file__).resolve().parent.parent


def environment() -> dict[str, object]:
    """Describe the commit and the machine. A `+` after the commit means that there were uncommitted changes."""

    def git(*args: str) -> str:
        return subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    dirty = "+" if git("status", "--porcelain", "--untracked-files=no") else ""
    return {
        "commit": git("rev-parse", "--short=12", "HEAD") + dirty,
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def print_table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table with columns as wide as their longest cell. The first column is aligned to the left."""
    cells = [list(heads), *([f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    for row in cells:
        first, *others = (
            cell.ljust(w) if not i else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join([first, *others]))


def write_json(path: Path | None, figures: Mapping[str, object]) -> None:
    """Write the figures and the environment to a JSON file, if a path is given."""
    if path:
        path.write_text(json.dumps(environment() | dict(figures), indent=1) + "\n", encoding="utf-8")


def packed(codec: Codec, tokens: Tokens, coder: str) -> int:
    """Return the bytes that tokens take as one chunk."""
    tokenizer = codec.tokenizer
    levels, phases = tokenizer.id.levels, tokenizer.layout.phases
    layout = DigitLayout(levels, tokens.shape[3], phases, tokenizer.prior, tokens.shape[1:3])
    return len(CODERS[coder].make(layout).pack(tokens_to_digits(tokens, levels)))


def perceived(lpips: LPIPS, a: Pixels, b: Pixels) -> float:
    """Return the LPIPS distance of two pictures."""
    pictures = (torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 127.5 - 1 for picture in (a, b))
    with torch.inference_mode():
        return float(lpips(*pictures))
