"""The most memory that a run has held, and keeping from one step to the next what has been freed."""

import ctypes
import sys
from contextlib import suppress
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")

# malloc.h of glibc; a size is a C int.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_KEPT, _LARGEST, _AHEAD = 2**31 - 1, 2**30, 2**26  # bytes


def keep_freed_memory() -> bool:
    """Let this process keep large blocks that it frees, for the next step wants them again.

    glibc maps each large block anew and unmaps it when freed, so that every step would wait for the system to
    clear the pages of all activations.

    Returns:
        Whether the C library has taken it; only glibc knows how.

    Example:
        >>> keep_freed_memory() in (True, False)
        True
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    sizes = ((_MMAP_THRESHOLD, _LARGEST), (_TRIM_THRESHOLD, _KEPT), (_TOP_PAD, _AHEAD))
    taken: int = sum(mallopt(option, size) for option, size in sizes)  # 1 for each that is taken
    return taken == len(sizes)


def _return_freed_memory() -> None:
    """Give back what is kept, so that it does not count as held."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def reset_peak(device: torch.device) -> None:
    """Forget the peak so far; where a system cannot, a peak may be of an earlier run in this process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    _return_freed_memory()
    with suppress(OSError):
        _CLEAR.write_text("5")  # Linux: forget the greatest resident size


def peak_bytes(device: torch.device) -> int | None:
    """Return the most bytes in use: of the device, or of this process; None where nothing tells (Windows)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    try:
        import resource
    except ModuleNotFoundError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
