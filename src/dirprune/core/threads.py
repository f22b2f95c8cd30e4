"""How many cores there are, and how many threads may be asked for."""

import os

from dirprune.errors import UsageError

MOST_THREADS = 4096  # more than machines have; OpenMP ends the process where it cannot start as many


def usable_cores() -> int:
    """Return the cores that this process may use, which in a container are fewer than the machine's.

    Example:
        >>> usable_cores() >= 1
        True
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_threads(*threads: int | None) -> None:
    """Refuse numbers of threads that torch cannot start; None is its own choice.

    Args:
        threads: What was asked for.

    Raises:
        UsageError: One is below 1 or above `MOST_THREADS`.

    Example:
        >>> check_threads(2, None)
        >>> check_threads(10**14)
        Traceback (most recent call last):
        dirprune.errors.UsageError: `threads` must be <= 4096, got 100000000000000
    """
    for number in threads:
        if number is not None and number < 1:
            raise UsageError(f"`threads` must be >= 1, got {number}")
        if number is not None and number > MOST_THREADS:
            raise UsageError(f"`threads` must be <= {MOST_THREADS}, got {number}")
