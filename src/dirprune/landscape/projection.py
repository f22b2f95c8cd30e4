"""How much of the way from SGD to gRDA leads into the sharp directions."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dirprune.errors import UsageError
from dirprune.landscape.files import Json, Progress, Result, Store, no_progress
from dirprune.landscape.hessian import EigenSettings, top_eigenpairs
from dirprune.landscape.objective import Objective, State


@dataclass(frozen=True)
class Projection:
    """The projection at one epoch.

    Attributes:
        epoch: Of both checkpoints.
        fraction: |U^T (w_gRDA - w_SGD)| / |w_gRDA - w_SGD|; None where both are equal.
        distance: |w_gRDA - w_SGD|.
        sparsity: Zeros of w_gRDA / d.
        loss_sgd: Training loss at w_SGD.
        loss_grda: Training loss at w_gRDA.
        values: The eigenvalues at w_SGD whose eigenvectors are U, descending.
        residuals: |H u - lambda u| of each.
        next_value: The eigenvalue after them, estimated from below.
        products: Hessian-vector products that it took.
        sgd: Hash of w_SGD.
        grda: Hash of w_gRDA.
        loss_hessian: Training loss that the Hessian is of: at w_SGD, with the BatchNorm statistics of the
            checkpoint, where loss_sgd has re-estimated ones; None in files that do not have it.
    """

    epoch: int
    fraction: float | None
    distance: float
    sparsity: float
    loss_sgd: float
    loss_grda: float
    values: tuple[float, ...]
    residuals: tuple[float, ...]
    next_value: float
    products: int
    sgd: str
    grda: str
    loss_hessian: float | None = None


@dataclass(frozen=True, eq=False)
class ProjectionSeries(Result):
    """Projections at a series of epochs.

    Attributes:
        steps: One for each epoch.
        by_chance: Root mean square of the fraction for a random direction, sqrt(k / d).
    """

    kind: ClassVar[str] = "project"
    steps: tuple[Projection, ...]
    by_chance: float


def subspace_fraction(difference: Tensor, directions: Tensor) -> float | None:
    r"""Fraction of a vector that lies in a subspace.

    .. math:: |U^{\mathsf T} \Delta| \,/\, |\Delta|

    Args:
        difference: Delta [d].
        directions: Orthonormal rows U^T [k, d].

    Returns:
        Between 0 and 1; None for the zero vector.

    Example:
        >>> subspace_fraction(torch.tensor([3.0, 4.0]), torch.tensor([[1.0, 0.0]]))
        0.6
    """
    delta = difference.double()
    length = float(delta.norm().item())
    if length == 0:
        return None
    inside = math.hypot(*(torch.dot(direction.double(), delta).item() for direction in directions))
    return float(inside / length)


def projection_request(
    objective: Objective,
    epochs: tuple[int, ...],
    load: Callable[[int], tuple[State, State]],
    settings: EigenSettings,
) -> Json:
    """Return all that the projections depend on: of each network, its hash."""
    networks = [[objective.digest(state) for state in load(epoch)] for epoch in epochs]
    return {**asdict(settings), "epochs": list(epochs), "networks": networks, **objective.identity()}


def project(
    objective: Objective,
    epochs: tuple[int, ...],
    load: Callable[[int], tuple[State, State]],
    settings: EigenSettings | None = None,
    *,
    store: Store | None = None,
    progress: Progress = no_progress,
) -> ProjectionSeries:
    r"""Project w_gRDA - w_SGD on the top Hessian eigenvectors at w_SGD, over a series of epochs.

    Both runs must have started from the same weights and seen the same batches in the same order. Where the
    fraction is small, the difference lies in directions in which the loss is flat.

    Args:
        objective: The network and the whole training data, without augmentation.
        epochs: Of the paired checkpoints.
        load: State dicts of SGD and gRDA at an epoch.
        settings: Of the eigenpairs.
        store: Keeps every epoch that is done, and the Hessian products of the one that is not.
        progress: Told the Hessian products and the checkpoints that are done.

    Returns:
        The series.

    Raises:
        NotConvergedError: Fewer than k eigenpairs converged at some epoch.
        UsageError: No epoch is given.

    References:
        Chao et al. 2020, section 4.3.
    """
    settings = settings or EigenSettings()
    if not epochs:
        raise UsageError("no epoch has a snapshot of both runs: train both with `snapshots` from the start")
    request = projection_request(objective, epochs, load, settings)
    store = store or Store(None, request, "project")
    done: dict[str, dict[str, Any]] = store.values.setdefault("steps", {})
    for index, epoch in enumerate(epochs):
        progress("checkpoints", index, len(epochs))
        if str(epoch) not in done:
            done[str(epoch)] = asdict(_project_one(objective, epoch, load(epoch), settings, store, progress))
            store.save()
            store.clear_beside()
    progress("checkpoints", len(epochs), len(epochs))
    steps = tuple(_step(done[str(epoch)]) for epoch in epochs)
    return ProjectionSeries(request, steps, math.sqrt(settings.k / objective.numel))


def _project_one(
    objective: Objective,
    epoch: int,
    pair: tuple[State, State],
    settings: EigenSettings,
    store: Store,
    progress: Progress,
) -> Projection:
    sgd, grda = (objective.vector(state) for state in pair)
    found = top_eigenpairs(objective, pair[0], settings, store=store, progress=progress)
    difference = grda - sgd
    return Projection(
        epoch=epoch,
        fraction=subspace_fraction(difference, found.vectors.to(difference.device)),
        distance=difference.double().norm().item(),
        sparsity=(grda == 0).double().mean().item(),
        loss_sgd=objective.measure(pair[0]).train.loss,
        loss_grda=objective.measure(pair[1]).train.loss,
        values=found.values,
        residuals=found.residuals,
        next_value=found.next_value,
        products=found.products,
        sgd=objective.digest(pair[0]),
        grda=objective.digest(pair[1]),
        loss_hessian=found.loss,
    )


def _step(held: dict[str, Any]) -> Projection:
    lists = {name: tuple(held[name]) for name in ("values", "residuals")}
    return Projection(**{**held, **lists})
