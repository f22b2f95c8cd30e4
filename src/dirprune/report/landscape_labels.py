"""Where the values of contour lines are written: clear of the points, their names, and one another."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Box = tuple[float, float, float, float]  # left, below, right, above, in points

_GAP = 2.0  # points between a value and what is near it
_HALF_HEIGHT = 3.5  # points, of a value
_STEP = 2.0  # points between the places that are tried along a line


def free_place(courses: Sequence[Any], radius: float, taken: Sequence[Box], frame: Box) -> Box | None:
    """Return the straightest place on a contour line where a value covers nothing.

    Args:
        courses: The pieces of the line [n, 2], in points.
        radius: Half the length of the value; it may lie in any direction.
        taken: Boxes that it must not come near.
        frame: The box that it must stay in.

    Returns:
        The box around it; None if there is no such place.

    Example:
        >>> line = [np.array([[0.0, 5.0], [100.0, 5.0]])]
        >>> free_place(line, 5.0, [(0.0, 0.0, 60.0, 10.0)], (0.0, 0.0, 100.0, 10.0))
        (62.0, 0.0, 72.0, 10.0)
    """
    best, place = 0.0, None
    for course in courses:
        along = np.concatenate([[0.0], np.hypot(*np.diff(course, axis=0).T).cumsum()])
        middles = np.arange(radius, along[-1] - radius, _STEP)
        if not len(middles):
            continue
        start, middle, end = (_at(course, along, middles + shift) for shift in (-radius, 0.0, radius))
        straight = np.hypot(*(end - start).T) / (2 * radius)
        fits = np.minimum(middle - frame[:2], np.asarray(frame[2:]) - middle).min(axis=1) >= _HALF_HEIGHT
        for box in taken:
            beyond = np.maximum(np.maximum(np.asarray(box[:2]) - middle, middle - box[2:]), 0.0)
            fits &= np.hypot(*beyond.T) >= radius + _GAP
        straight = np.where(fits, straight, 0.0)
        index = int(straight.argmax())
        if straight[index] > best:
            best, (x, y) = float(straight[index]), middle[index].tolist()
            place = (x - radius, y - radius, x + radius, y + radius)
    return place


def _at(course: Array, along: Array, positions: Array) -> Array:
    """Return the points of a course at given lengths along it."""
    return np.stack([np.interp(positions, along, course[:, axis]) for axis in (0, 1)], axis=1)
