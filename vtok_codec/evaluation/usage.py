"""What a piece of work costs: seconds, and the peak of resident memory."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from vtok_codec.errors import OutputError

_MIB_KIB = 1024
_CLEAR_REFS = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
_POLL_S = 0.005


@dataclass
class Cost:
    """Filled when the work is done."""

    seconds: float = 0.0
    """Of wall-clock time."""
    peak_mib: float | None = None
    """Peak resident memory of the process that did the work; None where the system does not tell."""


@contextmanager
def measured() -> Iterator[Cost]:
    """Measures work of this process: its memory counts all that the process holds, torch and the weights among it."""
    known = _reset_peak()
    cost = Cost()
    started = time.perf_counter()
    yield cost
    cost.seconds = time.perf_counter() - started
    cost.peak_mib = _peak_mib() if known else None


def run_measured(command: Sequence[str]) -> Cost:
    """Run a program to its end.

    Raises:
        OutputError: it failed; with the last line that it wrote on stderr.
    """
    with tempfile.TemporaryFile() as errors:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors)
        peak_mib = None
        try:
            while process.returncode is None:
                # Looked at while it runs: the peak that `wait4` tells holds that of the process that forked.
                peak_mib = _peak_mib(str(process.pid)) or peak_mib
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_POLL_S)
        finally:
            process.kill()
            process.wait()
        seconds = time.perf_counter() - started
        if process.returncode:
            raise OutputError(f"{Path(command[0]).name} failed: {last_words(errors, process.returncode)}")
    return Cost(seconds, peak_mib)


def last_words(errors: IO[bytes], code: int) -> str:
    """The last line that a program wrote on stderr, kept in a file, or the code that it ended with."""
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"it ended with {code}"


def _reset_peak() -> bool:
    try:
        _CLEAR_REFS.write_text(_RESET_PEAK, encoding="ascii")
    except OSError:
        return False
    return True


def _peak_mib(process: str = "self") -> float | None:
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / _MIB_KIB
    return None
