"""Ctrl-C and SIGTERM, turned into a request that the loop meets at the end of a step."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequested(KeyboardInterrupt):
    """Ctrl-C or SIGTERM came; a checkpoint has been saved."""


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collect Ctrl-C and SIGTERM, so that the step can end; a second Ctrl-C interrupts at once.

    A second SIGTERM does not: batch systems send it to every process of a job, and torchrun and the process
    that started this one hand theirs on.
    """
    received: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        if received and number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        received.append(number)

    handled = (signal.SIGINT, signal.SIGTERM)
    try:
        previous = {number: signal.signal(number, remember) for number in handled}
    except ValueError:  # not in the main thread, where signals do not arrive either
        yield received
        return
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
