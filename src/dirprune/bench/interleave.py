"""Times that can be compared: taken in turns, so that whatever disturbs the machine disturbs all alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch


@dataclass(frozen=True)
class Timing:
    """Seconds that an action took, over many repetitions."""

    median: float
    lower: float  # first quartile
    upper: float  # third quartile
    repetitions: int

    @classmethod
    def of(cls, seconds: list[float]) -> "Timing":
        """Summarise two or more times."""
        lower, median, upper = statistics.quantiles(seconds, n=4, method="inclusive")
        return cls(median, lower, upper, len(seconds))


def waiting_for(device: torch.device) -> Callable[[], Any]:
    """Return what waits until a device has done all that it was asked for; on a CPU that is nothing."""
    return (lambda: None) if device.type == "cpu" else partial(torch.accelerator.synchronize, device)


def interleave(
    actions: Mapping[str, Callable[[], Any]],
    repetitions: int = 30,
    *,
    warm_up: int = 3,
    synchronise: Callable[[], Any] = lambda: None,
) -> dict[str, Timing]:
    """Time actions in turns: each once, then each once again, every round beginning with another one.

    Args:
        actions: By name; each is called ``warm_up + repetitions`` times.
        repetitions: Rounds that count, 2 or more.
        warm_up: Rounds before them that do not.
        synchronise: Waits for the device; called before every look at the clock.

    Returns:
        The timing of each action.

    Example:
        >>> times = interleave({"sum": lambda: sum(range(1000)), "nothing": lambda: None}, repetitions=5)
        >>> times["sum"].median > times["nothing"].median
        True
    """
    names = list(actions)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(warm_up + repetitions):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            synchronise()
            start = time.perf_counter()
            actions[name]()
            synchronise()
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return {name: Timing.of(values) for name, values in seconds.items()}
