"""A curve of low loss between two networks: is one in the valley of the other?"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dirprune.errors import DivergenceError, UsageError
from dirprune.landscape.curves import CurveName, point_on_curve, straight_bends
from dirprune.landscape.files import Json, Progress, Result, Store, no_progress
from dirprune.landscape.identity import seed_of
from dirprune.landscape.objective import Data, Objective, State
from dirprune.landscape.scan import Values, scan

_SETTLED = 0.1  # relative change between the last two fifths of training that counts as none
_FINAL_RATE = 0.01


@dataclass(frozen=True)
class Barrier:
    """How far a path rises above its ends.

    Attributes:
        height: Greatest value minus the greater of both ends; 0 if no point is above that end.
        above_first: Greatest value minus that of the first end.
        above_last: Greatest value minus that of the last end.
        at: t of the greatest value.
    """

    height: float
    above_first: float
    above_last: float
    at: float


@dataclass(frozen=True, eq=False)
class Connection(Result):
    """A trained curve from the first to the last network, and the straight line between them.

    Attributes:
        t: Where both were measured, from 0 (first) to 1 (last).
        curve: What was measured on the curve.
        line: What was measured on the straight line.
        epoch_losses: Mean training loss over the curve in each epoch of the bend's training.
        converged: Whether that loss had settled: it changed by less than 10 % from the last fifth but one to
            the last fifth of the epochs.
        bends: The trained control points [n, d].
        barriers: Of "curve" and "line", for each list of values, the fields of :class:`Barrier`; None in
            files that do not have it.
    """

    kind: ClassVar[str] = "connect"
    t: tuple[float, ...]
    curve: Values
    line: Values
    epoch_losses: tuple[float, ...]
    converged: bool
    bends: Tensor
    barriers: dict[str, dict[str, dict[str, float]]] | None = None


def barrier(t: tuple[float, ...], values: tuple[float, ...]) -> Barrier:
    """Measure how far values along a path rise above both ends; a value that is not a number is the greatest.

    Example:
        >>> barrier((0.0, 0.5, 1.0), (1.0, 5.0, 2.0))
        Barrier(height=3.0, above_first=4.0, above_last=3.0, at=0.5)
    """
    top = max(range(len(values)), key=lambda index: math.inf if math.isnan(values[index]) else values[index])
    above_first, above_last = values[top] - values[0], values[top] - values[-1]
    return Barrier(min(above_first, above_last), above_first, above_last, t[top])


@dataclass(frozen=True, kw_only=True)
class CurveSettings:
    """How a curve is trained and measured.

    Raises:
        UsageError: A value is out of range.
    """

    curve: CurveName = "bezier"
    """Bezier curve, or chain of straight pieces."""
    bends: int = 1
    """Number of trained points between the ends."""
    epochs: int = 30
    """Passes over the training data to train the bends."""
    lr: float = 0.02
    """Learning rate at the start; it falls to a hundredth along half a cosine."""
    momentum: float = 0.9
    """Momentum of SGD."""
    points: int = 61
    """Equally spaced points at which curve and straight line are measured."""
    seed: int = 0
    """Seed of the positions on the curve and of dropout."""

    def __post_init__(self) -> None:
        for name, value, least in (
            ("bends", self.bends, 1),
            ("epochs", self.epochs, 1),
            ("points", self.points, 2),
        ):
            if value < least:
                raise UsageError(f"`{name}` must be {least} or more; it is {value}")
        if not (self.lr > 0 and 0 <= self.momentum < 1):
            raise UsageError(
                f"`lr` must be > 0 and `momentum` in [0, 1); they are {self.lr} and {self.momentum}"
            )

    def rate(self, epoch: int) -> float:
        """Return the learning rate of an epoch, counted from 1."""
        falling = (1 + math.cos(math.pi * (epoch - 1) / self.epochs)) / 2
        return self.lr * (_FINAL_RATE + (1 - _FINAL_RATE) * falling)


def connection_request(
    objective: Objective, first: State, last: State, settings: CurveSettings, trained_on: Json | None = None
) -> Json:
    """Return all that a connection depends on."""
    named = "measured data" if trained_on is None else trained_on
    return {**asdict(settings), "trained_on": named, **objective.identity(first=first, last=last)}


def connect(
    objective: Objective,
    first: State,
    last: State,
    settings: CurveSettings | None = None,
    *,
    batches: Callable[[int], Data] | None = None,
    trained_on: Json | None = None,
    store: Store | None = None,
    progress: Progress = no_progress,
) -> Connection:
    r"""Train the bends of a curve between two networks and measure the loss along it.

    .. math:: \min_b \; \mathbb E_{t \sim U(0,1)} \; L(\phi_b(t)), \qquad
        \phi_b(t) = (1-t)^2 w_a + 2t(1-t) \, b + t^2 w_b

    (one bend of a Bezier curve, the default). The ends stay as they are; bends start on the straight line.
    SGD with momentum draws one t for each batch; its rate falls to a hundredth along half a cosine. Training
    mode while the bends are trained, evaluation mode and re-estimated BatchNorm statistics when measuring.
    The bends have as many parameters as the network and fit what they are trained on: where that is a small
    part of what the networks were trained on, the curve is low on this part alone.

    Args:
        objective: The network and its data.
        first: State dict at t = 0.
        last: State dict at t = 1.
        settings: How the curve is trained and measured.
        batches: Training batches of an epoch, counted from 1: shuffled and augmented as the networks were
            trained. None for the objective's training data in their own order.
        trained_on: What to record of ``batches``: number of samples, augmentation and the like, for JSON.
        store: Keeps what is done after every epoch.
        progress: Told the epochs, then the points.

    Returns:
        The connection; its ends are the two networks, to the bit.

    Raises:
        UsageError: A value is out of range, a state dict does not fit, untrained parameters differ, or only
            one of ``batches`` and ``trained_on`` is given.
        DataError: An epoch has no sample, or a batch is not of the form that the objective takes.
        DivergenceError: The loss is not finite.

    Example:
        >>> from torch import nn
        >>> net, data = nn.Linear(1, 1, bias=False), [(torch.ones(1, 1), torch.zeros(1, 1))]
        >>> objective = Objective(net, nn.MSELoss(), data, errors=None)
        >>> ends = [{"weight": torch.tensor([[w]])} for w in (-1.0, 1.0)]
        >>> result = connect(objective, *ends, CurveSettings(epochs=2, points=3))
        >>> result.line.train_loss
        (1.0, 0.0, 1.0)

    References:
        Garipov et al. 2018, section 3; Chao et al. 2020, section 4.2.
    """
    settings = settings or CurveSettings()
    if (batches is None) != (trained_on is None):
        raise UsageError("batches and trained_on belong together: what the bends are trained on is recorded")
    request = connection_request(objective, first, last, settings, trained_on)
    store = store or Store(None, request, "connect")
    ends = objective.vector(first), objective.vector(last)
    trained = _train_bends(objective, first, ends, settings, batches, store, progress)
    t = tuple(index / (settings.points - 1) for index in range(settings.points))

    def on_curve(index: int) -> Tensor:
        return point_on_curve(settings.curve, ends, trained, t[index])

    def on_line(index: int) -> Tensor:
        return point_on_curve("chain", ends, trained[:0], t[index])

    def measured(name: str, weights_at: Callable[[int], Tensor]) -> Values:
        points = scan(objective, weights_at, len(t), store=store, name=name, progress=progress, state=first)
        return Values.of(points)

    along = measured("points of the curve", on_curve)
    straight = measured("points of the line", on_line)
    losses = tuple(store.values["epoch_losses"])
    barriers = {
        way: {name: asdict(barrier(t, found)) for name, found in asdict(values).items() if found}
        for way, values in (("curve", along), ("line", straight))
    }
    return Connection(request, t, along, straight, losses, settled(losses), trained, barriers)


def settled(losses: tuple[float, ...]) -> bool:
    """Whether the mean of the last fifth is within 10 % of that of the fifth before.

    Example:
        >>> settled((9.0, 5.0, 1.1, 1.0, 1.0)), settled((5.0, 4.0, 3.0, 2.0, 1.0))
        (True, False)
    """
    part = max(1, len(losses) // 5)
    if len(losses) < 2 * part:
        return False
    late, before = sum(losses[-part:]) / part, sum(losses[-2 * part : -part]) / part
    return abs(late - before) <= _SETTLED * max(late, before)


def _train_bends(
    objective: Objective,
    state: State,
    ends: tuple[Tensor, Tensor],
    settings: CurveSettings,
    batches: Callable[[int], Data] | None,
    store: Store,
    progress: Progress,
) -> Tensor:
    """Return the trained bends [n, d]."""
    held = store.tensors
    bends = held["bends"].to(ends[0]) if held else straight_bends(ends, settings.bends)
    bends.requires_grad_(True)
    optimizer = torch.optim.SGD([bends], lr=settings.lr, momentum=settings.momentum)
    optimizer.state[bends]["momentum_buffer"] = (
        held["velocity"].to(ends[0]) if held else torch.zeros_like(bends)
    )
    losses: list[float] = store.values.setdefault("epoch_losses", [])
    for epoch in range(len(losses) + 1, settings.epochs + 1):
        progress("epochs of the bend", epoch - 1, settings.epochs)
        optimizer.param_groups[0]["lr"] = settings.rate(epoch)
        data = objective.on_device(batches(epoch), "curve's") if batches else objective.batches("train")
        with torch.random.fork_rng(devices=objective.cuda):
            torch.manual_seed(seed_of("bend", settings.seed, epoch))
            batches_of_epoch = objective.to_train_on(data)
            losses.append(_epoch(objective, state, ends, settings.curve, bends, optimizer, batches_of_epoch))
        if not math.isfinite(losses[-1]):
            raise DivergenceError(f"the loss on the curve is not finite in epoch {epoch}: lower `lr`")
        velocity = optimizer.state[bends]["momentum_buffer"]
        store.tensors = {"bends": bends.detach(), "velocity": velocity}
        store.save()
    progress("epochs of the bend", settings.epochs, settings.epochs)
    return bends.detach()


def _epoch(
    objective: Objective,
    state: State,
    ends: tuple[Tensor, Tensor],
    curve: CurveName,
    bends: Tensor,
    optimizer: torch.optim.Optimizer,
    data: Data,
) -> float:
    """Take one step for each batch; return the mean loss."""
    total = samples = 0.0
    for inputs, targets in data:
        t = torch.rand((), dtype=torch.float64).item()
        weights = objective.weights(point_on_curve(curve, ends, bends, t))
        loss = objective.training_loss({**state, **weights}, inputs, targets)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total += loss.item() * len(targets)
        samples += len(targets)
    return total / samples
