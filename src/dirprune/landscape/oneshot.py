"""Directional pruning of a trained network in one shot, beside magnitude pruning at the same sparsity."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dirprune.core.directional import (
    direction_scores,
    directional_solution,
    strength_for,
    vanishing_strengths,
)
from dirprune.errors import UsageError
from dirprune.landscape.files import Json, Progress, Result, Store, no_progress
from dirprune.landscape.hessian import Eigenpairs, EigenSettings
from dirprune.landscape.objective import Objective, State
from dirprune.landscape.scan import Values, scan

_TENTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True, kw_only=True)
class OneShotSettings:
    """What is pruned.

    Raises:
        UsageError: A sparsity is no fraction, or a strength no number of 0 or more.
    """

    sparsities: tuple[float, ...] = ()
    """Target sparsities, fractions of all weights; default: 0.1 to 0.9, unless strengths are given."""
    strengths: tuple[float, ...] = ()
    """Values of lambda."""

    def __post_init__(self) -> None:
        if not self.sparsities and not self.strengths:
            object.__setattr__(self, "sparsities", _TENTHS)
        if not all(0 <= sparsity <= 1 for sparsity in self.sparsities):
            raise UsageError(f"`sparsities` must be fractions in [0, 1]; they are {self.sparsities}")
        if not all(0 <= strength < math.inf for strength in self.strengths):
            raise UsageError(f"`strengths` must be finite and >= 0; they are {self.strengths}")


@dataclass(frozen=True)
class Twin:
    """gRDA's own network beside the pruned ones: its sparsity, and what was measured, one value each."""

    sparsity: float
    measured: Values


@dataclass(frozen=True, eq=False)
class OneShot(Result):
    """A trained network pruned at several sparsities, without any retraining.

    Attributes:
        dense: What was measured before, one value each.
        targets: Sparsities asked for; NaN where it was a lambda.
        sparsities: Sparsities of the directional pruning.
        strengths: lambda of each.
        directional: Directional pruning.
        soft: Soft threshold at the same sparsity: directional pruning with P0 = I.
        magnitude: Magnitude pruning at the same sparsity: the survivors keep their value.
        mean_score: Mean of the direction scores, |P0 sign(w)|^2 / d.
        negative_scores: Fraction of the weights with s < 0, which grow.
        twin: The gRDA twin of the network; None if none was given.
        eigenvalues: Of the sharp directions, descending; None in files that do not have it.
        residuals: |H u - lambda u| of each; None likewise.
    """

    kind: ClassVar[str] = "directional"
    dense: Values
    targets: tuple[float, ...]
    sparsities: tuple[float, ...]
    strengths: tuple[float, ...]
    directional: Values
    soft: Values
    magnitude: Values
    mean_score: float
    negative_scores: float
    twin: Twin | None = None
    eigenvalues: tuple[float, ...] | None = None
    residuals: tuple[float, ...] | None = None


def oneshot_request(
    objective: Objective,
    state: State,
    settings: OneShotSettings,
    eigen: EigenSettings,
    twin: State | None = None,
) -> Json:
    """Return all that the pruning depends on."""
    beside = {} if twin is None else {"twin": objective.digest(twin)}
    return {**asdict(settings), **asdict(eigen), **objective.identity(network=state), **beside}


def prune_in_one_shot(
    objective: Objective,
    state: State,
    pairs: Eigenpairs,
    settings: OneShotSettings | None = None,
    *,
    twin: State | None = None,
    store: Store | None = None,
    progress: Progress = no_progress,
) -> OneShot:
    """Prune a trained network directionally and by magnitude, and measure before and after.

    Args:
        objective: The network and its data.
        state: Its trained weights.
        pairs: Top eigenpairs of its Hessian at these weights.
        settings: Target sparsities and strengths.
        twin: gRDA's network from the same start, to be measured beside the others.
        store: Keeps what is done.
        progress: Told the networks that are measured.

    Returns:
        Loss and error for each sparsity and way of pruning.

    Raises:
        UsageError: The eigenpairs are of other weights, data, or another loss, or a target cannot be
            reached.

    References:
        Chao et al. 2020, Definition 1.1, which the paper itself leaves uncomputed.
    """
    settings = settings or OneShotSettings()
    _check_origin(pairs, objective, state)
    held = {key: pairs.request[key] for key in asdict(EigenSettings())}
    request = oneshot_request(objective, state, settings, EigenSettings(**held), twin)
    store = store or Store(None, request, "directional")
    weights = objective.vector(state)
    scores = direction_scores(weights, pairs.vectors.to(weights))
    directional = vanishing_strengths(weights, scores)
    plain = vanishing_strengths(weights, torch.ones_like(scores))
    found = (strength_for(target, directional) for target in settings.sparsities)
    strengths = (*found, *settings.strengths)
    pruned = tuple((directional <= strength).double().mean().item() for strength in strengths)
    cuts = tuple(strength_for(sparsity, plain) for sparsity in pruned)

    def measured(name: str, weights_at: Callable[[int], Tensor], count: int = len(strengths)) -> Values:
        points = scan(objective, weights_at, count, store=store, name=name, progress=progress, state=state)
        return Values.of(points)

    return OneShot(
        request=request,
        dense=measured("dense", lambda _: weights, 1),
        targets=(*settings.sparsities, *(math.nan for _ in settings.strengths)),
        sparsities=pruned,
        strengths=strengths,
        directional=measured("directional", lambda i: directional_solution(weights, scores, strengths[i])),
        soft=measured("soft", lambda i: directional_solution(weights, torch.ones_like(scores), cuts[i])),
        magnitude=measured("magnitude", lambda i: torch.where(plain <= cuts[i], 0.0, weights)),
        mean_score=scores.mean().item(),
        negative_scores=(scores < 0).double().mean().item(),
        twin=None if twin is None else _beside(objective, twin),
        eigenvalues=pairs.values,
        residuals=pairs.residuals,
    )


def _beside(objective: Objective, twin: State) -> Twin:
    """Measure gRDA's network, with its own buffers."""
    sparsity = (objective.vector(twin) == 0).double().mean().item()
    return Twin(sparsity, Values.of([objective.measure(twin)]))


def _check_origin(pairs: Eigenpairs, objective: Objective, state: State) -> None:
    """Refuse eigenpairs of another Hessian."""
    wanted, made = objective.identity(network=state), pairs.request
    named = {"network": "weights", "module": "network", "loss": "loss"}
    held = [(what, made.get(key), wanted[key]) for key, what in named.items()]
    train = (made["data"]["train"], wanted["data"]["train"])
    for what, theirs, ours in [*held, ("training data", *train)]:
        if theirs != ours:
            raise UsageError(
                f"the eigenpairs were computed at other {what}: {theirs}, not {ours}: compute them anew"
            )
