"""Loss and error at many points, kept as they come in."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from dirprune.landscape.files import Progress, Store
from dirprune.landscape.objective import Measured, Objective, Point, State

_SECONDS_BETWEEN_SAVES = 10.0


@dataclass(frozen=True)
class Values:
    """What was measured at many points, in their order; empty where nothing was asked for.

    Losses are means over all samples, errors fractions of wrong samples.
    """

    train_loss: tuple[float, ...]
    train_error: tuple[float, ...]
    test_loss: tuple[float, ...]
    test_error: tuple[float, ...]

    @classmethod
    def of(cls, points: list[Point]) -> "Values":
        """Collect points."""
        train, test = [p.train for p in points], [p.test for p in points if p.test]
        return cls(_losses(train), _errors(train), _losses(test), _errors(test))


def scan(
    objective: Objective,
    weights_at: Callable[[int], Tensor],
    count: int,
    *,
    store: Store,
    name: str,
    progress: Progress,
    state: State | None = None,
) -> list[Point]:
    """Measure the points 0..count-1, from where the store has stopped.

    Args:
        objective: What is measured.
        weights_at: The weights [d] of a point.
        count: Number of points.
        store: Keeps what is done; values under `name`.
        name: Of this scan.
        progress: Told the points that are done.
        state: Where the buffers are from; None for those of the model.
    """
    done: list[list[float | None]] = store.values.setdefault(name, [])
    saved = time.monotonic()
    progress(name, len(done), count)
    for index in range(len(done), count):
        point = objective.measure({**(state or {}), **objective.weights(weights_at(index))})
        test = point.test or Measured(0.0, None)
        done.append([point.train.loss, point.train.error, test.loss if point.test else None, test.error])
        progress(name, len(done), count)
        if time.monotonic() - saved > _SECONDS_BETWEEN_SAVES or index == count - 1:
            store.save()
            saved = time.monotonic()
    return [_point(row) for row in done]


def _point(row: list[float | None]) -> Point:
    train_loss, train_error, test_loss, test_error = row
    assert train_loss is not None
    test = None if test_loss is None else Measured(test_loss, test_error)
    return Point(Measured(train_loss, train_error), test)


def _losses(measured: list[Measured]) -> tuple[float, ...]:
    return tuple(m.loss for m in measured)


def _errors(measured: list[Measured]) -> tuple[float, ...]:
    return tuple(m.error for m in measured if m.error is not None)
