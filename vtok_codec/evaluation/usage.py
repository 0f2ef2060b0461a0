"""Measures the cost of a piece of work: wall-clock time and peak resident memory."""

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
"""KiB per MiB."""
_CLEAR_REFS = Path("/proc/self/clear_refs")
"""The file by which Linux resets memory statistics of this process."""
_RESET_PEAK = "5"
"""What to write to `_CLEAR_REFS` to reset the peak of the resident memory."""
_POLL_S = 0.005
"""Seconds between two readings of a running program's memory."""


@dataclass
class Cost:
    """The cost of a piece of work. The values are set when the work is done."""

    seconds: float = 0.0
    """Seconds of wall-clock time."""
    peak_mib: float | None = None
    """Peak resident memory in MiB of the process that did the work; None where the system does not report it."""


@contextmanager
def measured() -> Iterator[Cost]:
    """Measure the work that this process does within the context.

    The memory is that of the whole process, including torch and the weights of models.
    """
    known = _reset_peak()
    cost = Cost()
    started = time.perf_counter()
    yield cost
    cost.seconds = time.perf_counter() - started
    cost.peak_mib = _peak_mib() if known else None


def run_measured(command: Sequence[str]) -> Cost:
    """Run a program to its end, and measure its cost.

    Args:
        command: The program and its arguments.

    Raises:
        OutputError: The program failed. The message has the last line that it wrote to stderr.
    """
    with tempfile.TemporaryFile() as errors:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors)
        peak_mib = None
        try:
            while process.returncode is None:
                # The peak is read while the program runs, since what `wait4` reports includes the peak of this one.
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
    """Return the last line that a program wrote to stderr, or the code that it ended with if it wrote nothing.

    Args:
        errors: A file that holds what the program wrote to stderr.
        code: The exit code of the program.
    """
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"it ended with {code}"


def _reset_peak() -> bool:
    """Reset the peak memory of this process. Returns whether the system can do so."""
    try:
        _CLEAR_REFS.write_text(_RESET_PEAK, encoding="ascii")
    except OSError:
        return False
    return True


def _peak_mib(process: str = "self") -> float | None:
    """Return the peak resident memory of a process in MiB, or None where the system does not report it."""
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / _MIB_KIB
    return None
