"""The loss on the plane through three networks."""

from dataclasses import asdict, dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dirprune.errors import UsageError
from dirprune.landscape.files import Json, Progress, Result, Store, no_progress
from dirprune.landscape.objective import Objective
from dirprune.landscape.scan import Values, scan

Coordinates = tuple[float, float]

_COLLINEAR = 1e-6  # relative distance of the third point from the line through the others


@dataclass(frozen=True, eq=False)
class Frame:
    r"""An orthonormal basis of the plane through three points, by Gram-Schmidt.

    .. math:: u = \frac{b - a}{|b - a|}, \qquad
        v = \frac{(c - a) - \langle c - a, u \rangle u}{|(c - a) - \langle c - a, u \rangle u|}

    Attributes:
        origin: a [d].
        u: First unit vector [d].
        v: Second unit vector [d].
    """

    origin: Tensor
    u: Tensor
    v: Tensor

    @classmethod
    def through(cls, a: Tensor, b: Tensor, c: Tensor) -> "Frame":
        """Lay the plane; `a` is the origin, `b` lies on the first axis.

        Raises:
            UsageError: The points lie on a line.

        Example:
            >>> frame = Frame.through(torch.zeros(3), torch.tensor([2.0, 0, 0]), torch.tensor([1.0, 3, 0]))
            >>> frame.coordinates(torch.tensor([1.0, 3, 0]))
            (1.0, 3.0)
        """
        along, across = (b - a).double(), (c - a).double()
        u = along / along.norm()
        v = across - torch.dot(across, u) * u
        if not v.norm() > _COLLINEAR * max(along.norm(), across.norm()):
            raise UsageError("the three points lie on a line: there is no plane through them")
        return cls(a, u.to(a.dtype), (v / v.norm()).to(a.dtype))

    def point(self, x: float, y: float) -> Tensor:
        """Return the weights [d] at given coordinates."""
        return self.origin + x * self.u + y * self.v

    def coordinates(self, weights: Tensor) -> Coordinates:
        """Return where weights [d] lie, or their projection."""
        offset = (weights - self.origin).double()
        return (
            torch.dot(offset, self.u.double()).item(),
            torch.dot(offset, self.v.double()).item(),
        )

    def distance(self, weights: Tensor) -> float:
        """Return how far weights [d] lie from the plane."""
        return float((weights - self.point(*self.coordinates(weights))).double().norm().item())


@dataclass(frozen=True, kw_only=True)
class PlaneSettings:
    """The grid on the plane.

    Raises:
        UsageError: A value is out of range.
    """

    size: int = 29
    """Points in each direction."""
    margin: float = 0.25
    """Width of the border around the three points, as a fraction of their greater extent."""

    def __post_init__(self) -> None:
        if self.size < 2 or not self.margin >= 0:
            raise UsageError(
                f"`size` must be 2 or more, `margin` >= 0; they are {self.size} and {self.margin}"
            )


@dataclass(frozen=True, eq=False)
class Plane(Result):
    """Loss and error on a grid, in units of the weights' Euclidean distance.

    Attributes:
        x: Coordinates along the direction from the first network to the bend.
        y: Coordinates across.
        grid: What was measured, y by y: element ``j * len(x) + i`` belongs to ``(x[i], y[j])``.
        points: Coordinates of the first network, the bend, and the last network.
        at_points: What was measured at these three.
        path: Coordinates of the curve, projected onto the plane; empty if none was given.
        outside: Greatest distance of the curve from the plane, which one with several bends leaves; None if
            none was given, and in files that do not have it.
    """

    kind: ClassVar[str] = "plane"
    x: tuple[float, ...]
    y: tuple[float, ...]
    grid: Values
    points: tuple[Coordinates, ...]
    at_points: Values
    path: tuple[Coordinates, ...]
    outside: float | None = None


def plane_request(
    objective: Objective, points: tuple[Tensor, Tensor, Tensor], settings: PlaneSettings, path: Tensor | None
) -> Json:
    """Return all that a plane depends on."""
    first, bend, last = (objective.weights(point) for point in points)
    drawn = 0 if path is None else len(path)
    return {**asdict(settings), "path": drawn, **objective.identity(first=first, bend=bend, last=last)}


def measure_plane(
    objective: Objective,
    points: tuple[Tensor, Tensor, Tensor],
    settings: PlaneSettings | None = None,
    *,
    path: Tensor | None = None,
    store: Store | None = None,
    progress: Progress = no_progress,
) -> Plane:
    """Measure loss and error on a grid on the plane through three points.

    Args:
        objective: The network and its data.
        points: Weights [d] of the first network, of the bend, and of the last network.
        settings: The grid.
        path: Weights [n, d] of a curve to be drawn, projected onto the plane.
        store: Keeps what is done.
        progress: Told the points that are done.

    Returns:
        The grid, and the three points as they are.

    Raises:
        UsageError: The points lie on a line.

    Example:
        >>> from torch import nn
        >>> data = [(torch.eye(2), torch.zeros(2, 1))]
        >>> objective = Objective(nn.Linear(2, 1, bias=False), nn.MSELoss(), data, errors=None)
        >>> corners = (torch.tensor([0.0, 0.0]), torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0]))
        >>> measure_plane(objective, corners, PlaneSettings(size=2, margin=0)).grid.train_loss
        (0.0, 0.5, 2.0, 2.5)

    References:
        Garipov et al. 2018, section 3.1; Chao et al. 2020, section 4.2.
    """
    settings = settings or PlaneSettings()
    request = plane_request(objective, points, settings, path)
    store = store or Store(None, request, "plane")
    frame = Frame.through(*points)
    corners = [frame.coordinates(point) for point in points]
    spans = [(min(values), max(values)) for values in zip(*corners, strict=True)]
    border = settings.margin * max(high - low for low, high in spans)
    x, y = (
        tuple(torch.linspace(low - border, high + border, settings.size, dtype=torch.float64).tolist())
        for low, high in spans
    )

    def on_grid(index: int) -> Tensor:
        return frame.point(x[index % len(x)], y[index // len(x)])

    at_points = scan(objective, points.__getitem__, 3, store=store, name="three points", progress=progress)
    cells = len(x) * len(y)
    grid = scan(objective, on_grid, cells, store=store, name="points of the plane", progress=progress)
    drawn = () if path is None else tuple(frame.coordinates(point) for point in path)
    outside = None if path is None else max(frame.distance(point) for point in path)
    return Plane(request, x, y, Values.of(grid), tuple(corners), Values.of(at_points), drawn, outside)
