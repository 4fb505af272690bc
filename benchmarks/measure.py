"""Memory and threads of the processes that the benchmarks start."""

import math
import os
import re
import sys
import threading
from pathlib import Path

import numpy as np


class PeakMemory:
    """Highest resident memory of this process since :meth:`restart` (on Linux), or since its start (elsewhere)."""

    def restart(self) -> None:
        """Reset the peak, so that each method of a family is measured separately."""
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            pass

    def gigabytes(self) -> float:
        """The peak in GiB."""
        try:
            lines = Path("/proc/self/status").read_text().splitlines()
            kilobytes = next(line.split()[1] for line in lines if line.startswith("VmHWM"))
            return int(kilobytes) / (1 << 20)
        except (OSError, StopIteration):
            import resource

            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            return peak / (1 << 30 if sys.platform == "darwin" else 1 << 20)


class OwnMemory(threading.Thread):
    """Peak memory of this process in GB, without pages of files; NaN if the system has no such figure.

    The memory is read ten times a second.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self._stop_it = math.nan, threading.Event()

    def run(self) -> None:
        """Read the memory until :meth:`stop` is called."""
        status = Path("/proc/self/status")
        while status.exists() and not self._stop_it.wait(0.1):
            found = re.search(r"^RssAnon:\s+(\d+) kB", status.read_text(), re.MULTILINE)
            if found:
                self.peak = float(np.fmax(self.peak, int(found[1]) / (1 << 20)))

    def stop(self) -> float:
        """Stop reading the memory, and return the peak."""
        self._stop_it.set()
        self.join()
        return self.peak


def limited(threads: int) -> dict[str, str]:
    """Environment that limits BLAS, OpenMP and numba to a number of threads."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    return {**os.environ, **dict.fromkeys(names, str(threads))}
