"""The theorem, checked: does gRDA end where the directional pruning of its SGD twin says?"""

import copy
import itertools
import math
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dirprune.core.directional import direction_scores, directional_solution
from dirprune.core.threshold import tuning_function
from dirprune.errors import DivergenceError, UsageError
from dirprune.landscape.files import Json, Progress, Result, Store, no_progress
from dirprune.landscape.hessian import HessianOperator
from dirprune.landscape.identity import seed_of
from dirprune.landscape.objective import Data, Loss, Objective
from dirprune.optim import GRDA

_NODES = 2000  # of the midpoint rule
MOST_WEIGHTS = 5000  # the whole Hessian in float64 then takes 200 MB


@dataclass(frozen=True, kw_only=True)
class TheoremSettings:
    """Which runs are compared.

    Raises:
        UsageError: A value is out of range.
    """

    rates: tuple[float, ...] = (0.1, 0.03, 0.01)
    """Constant learning rates gamma."""
    times: tuple[float, ...] = (10.0, 30.0, 100.0, 300.0)
    """Times t = n gamma at which both are compared, ascending."""
    c: float = 0.02
    """Scale of the threshold."""
    mu: float = 0.6
    """Exponent of its growth."""
    seed: int = 0
    """Seed of what the network draws in training mode, such as dropout; both twins draw the same."""

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in itertools.pairwise((0.0, *self.times)))
        if not (
            self.times and rising and self.rates and min(self.rates) > 0 and self.c > 0 and 0 < self.mu < 1
        ):
            raise UsageError(f"rates, c > 0, 0 < mu < 1 and ascending times > 0 are needed; got {self}")
        for rate in self.rates:
            steps = [0, *(round(time / rate) for time in self.times)]
            if not all(a < b for a, b in itertools.pairwise(steps)):
                raise UsageError(
                    f"at rate {rate:g} a step takes {rate:g} of time: times {self.times} must differ by more"
                )


@dataclass(frozen=True)
class Agreement:
    """gRDA beside the directional pruning v of its SGD twin, after equal numbers of steps.

    Attributes:
        rate: gamma.
        time: The time that was asked for; t = n gamma is the nearest that whole steps have.
        steps: n.
        strength: lambda = c gamma^(1/2) t^mu, which is gRDA's threshold.
        loss_sgd: Training loss at w_SGD.
        loss_grda: Training loss at w_gRDA.
        sharp: Number of eigenvalues above 1 / t; the others count as zero.
        greatest: The greatest eigenvalue.
        zeros_grda: Fraction of zeros in w_gRDA.
        zeros_directional: Fraction of zeros in v.
        overlap: Zeros of both, divided by zeros of either (Jaccard).
        overlap_plain: The same for the soft threshold of w_SGD, which knows no directions.
        signs: Fraction of the weights that are not zero in both whose signs agree.
        distance: |w_gRDA - v| / |w_gRDA - w_SGD|: 0 where the theorem holds exactly, 1 for w_SGD itself.
        distance_plain: The same for the soft threshold.
        correlation: Between the effective scores (|w_SGD| - sign(w_SGD) w_gRDA) / lambda and s, over the
            weights that gRDA keeps; NaN where either does not vary.
        distance_finite: As `distance`, with :func:`finite_time_scores` in place of s.
        correlation_finite: As `correlation`, likewise.
        mean_score: Mean of s.
        mean_effective: Mean of the effective scores over the same weights as `correlation`.
    """

    rate: float
    time: float
    steps: int
    strength: float
    loss_sgd: float
    loss_grda: float
    sharp: int
    greatest: float
    zeros_grda: float
    zeros_directional: float
    overlap: float
    overlap_plain: float
    signs: float
    distance: float
    distance_plain: float
    correlation: float
    distance_finite: float
    correlation_finite: float
    mean_score: float
    mean_effective: float


@dataclass(frozen=True, eq=False)
class Theorem(Result):
    """Rows for every learning rate, each at growing t."""

    kind: ClassVar[str] = "theorem"
    rows: tuple[Agreement, ...]


def finite_time_scores(weights: Tensor, values: Tensor, vectors: Tensor, *, time: float, mu: float) -> Tensor:
    r"""Direction scores at a finite time: what the flat projection is on its way to its limit.

    .. math:: s_t = \mathrm{sign}(w) \odot \varphi_t(H) \, \mathrm{sign}(w), \qquad
        \varphi_t(h) = \int_0^1 e^{-h t (1 - x^{1/\mu})} \, dx

    Near a minimum gRDA minus SGD, d, obeys d' = -H d - tau'(t) sign(w) as long as no sign changes: the
    gradient takes back, at rate h, what the growing threshold has moved. Divided by lambda = tau(t), with tau
    in proportion to t^mu, its solution is the formula; phi is 1 where h = 0 and falls to 0 as h t grows.
    The derivation is ours, not the paper's: it says how far the limit has been reached.

    Args:
        weights: w [d].
        values: Eigenvalues of H [d]; negative ones count as zero.
        vectors: Eigenvectors, one per column [d, d].
        time: t.
        mu: Exponent of the threshold's growth.

    Returns:
        s_t [d].

    Example:
        >>> w, h = torch.tensor([3.0, 1.0]), torch.tensor([0.0, 1e9])
        >>> finite_time_scores(w, h, torch.eye(2), time=1.0, mu=0.6)
        tensor([1., 0.], dtype=torch.float64)
    """
    x = (torch.arange(_NODES, dtype=torch.float64, device=values.device) + 0.5) / _NODES
    exponent = -values.double().clamp(min=0)[:, None] * time * (1 - x ** (1 / mu))
    response = exponent.exp().mean(dim=1)
    signs = weights.double().sign()
    return signs * (vectors.double() @ (response * (vectors.double().T @ signs)))


def agreement(
    sgd: Tensor, grda: Tensor, hessian: Tensor, *, rate: float, time: float, settings: TheoremSettings
) -> dict[str, float]:
    r"""Hold gRDA's weights against the directional pruning of SGD's.

    An eigenvalue h counts as zero where h t < 1: along such a direction the gradient has not had the time to
    undo what the threshold does.

    Args:
        sgd: w_SGD [d].
        grda: w_gRDA [d].
        hessian: Hessian of the training loss at w_SGD [d, d].
        rate: gamma.
        time: t = n gamma.
        settings: Of the threshold.

    Returns:
        The fields of :class:`Agreement` from `strength` on, without the losses.

    Example:
        >>> w = torch.tensor([2.0, -1.0], dtype=torch.float64)
        >>> pruned = torch.tensor([1.0, 0.0], dtype=torch.float64)
        >>> flat = torch.zeros(2, 2, dtype=torch.float64)
        >>> found = agreement(w, pruned, flat, rate=1.0, time=1.0, settings=TheoremSettings(c=1.0))
        >>> found["overlap"], found["distance"]
        (1.0, 0.0)

    References:
        Chao et al. 2020, section 3.
    """
    strength = tuning_function(time / rate, rate, settings.c, settings.mu)
    values, vectors = torch.linalg.eigh(hessian)
    sharp = values > 1 / time
    scores = direction_scores(sgd, vectors[:, sharp].T.contiguous())
    directional = directional_solution(sgd, scores, strength)
    plain = directional_solution(sgd, torch.ones_like(scores), strength)
    finite = finite_time_scores(sgd, values, vectors, time=time, mu=settings.mu)
    in_time = directional_solution(sgd, finite, strength)
    moved = (grda - sgd).norm()
    alive = (directional != 0) & (grda != 0)
    effective = (sgd.abs() - sgd.sign() * grda) / strength
    kept = grda != 0
    return {
        "strength": strength,
        "sharp": int(sharp.sum()),
        "greatest": values[-1].item(),
        "zeros_grda": (grda == 0).double().mean().item(),
        "zeros_directional": (directional == 0).double().mean().item(),
        "overlap": _jaccard(grda == 0, directional == 0),
        "overlap_plain": _jaccard(grda == 0, plain == 0),
        "signs": (directional.sign() == grda.sign())[alive].double().mean().item(),
        "distance": ((grda - directional).norm() / moved).item(),
        "distance_plain": ((grda - plain).norm() / moved).item(),
        "correlation": _correlation(effective[kept], scores[kept]),
        "distance_finite": ((grda - in_time).norm() / moved).item(),
        "correlation_finite": _correlation(effective[kept], finite[kept]),
        "mean_score": scores.mean().item(),
        "mean_effective": effective[kept].mean().item(),
    }


def theorem_request(objective: Objective, model: nn.Module, settings: TheoremSettings) -> Json:
    """Return all that the check depends on."""
    return {**asdict(settings), "flat_below": "1 / t", **objective.identity(start=model.state_dict())}


def check_theorem(
    model: nn.Module,
    loss: Loss,
    batches: Data,
    settings: TheoremSettings | None = None,
    *,
    store: Store | None = None,
    progress: Progress = no_progress,
) -> Theorem:
    r"""Train gRDA and its SGD twin at small learning rates, and compare them at growing t.

    For small gamma and large t = n gamma, w_gRDA(t) is to approach the directional pruning of w_SGD(t) with
    :math:`\lambda = c \sqrt{\gamma} \, t^{\mu}`. Both start from the same weights and see the same batches
    in the same order; the whole Hessian is taken at w_SGD(t).

    Args:
        model: A network of at most 5000 weights with its initial weights; float64 is best. Not changed.
        loss: Mean loss of a batch.
        batches: The training data, one batch for each step, again and again; one batch for full gradients.
        settings: Learning rates, times, threshold.
        store: Keeps every learning rate that is done; one that was stopped midway starts anew.
        progress: Told the steps.

    Returns:
        A row for each learning rate and time.

    Raises:
        UsageError: The network is too large for its whole Hessian.
        DivergenceError: A loss is not finite.

    References:
        Chao et al. 2020, section 3.
    """
    settings = settings or TheoremSettings()
    objective = Objective(model, loss, batches, errors=None)
    if objective.numel > MOST_WEIGHTS:
        raise UsageError(
            f"the whole Hessian is for {MOST_WEIGHTS} weights or fewer; it has {objective.numel}"
        )
    request = theorem_request(objective, model, settings)
    store = store or Store(None, request, "theorem")
    done: dict[str, list[dict[str, Any]]] = store.values.setdefault("rates", {})
    for rate in settings.rates:
        if str(rate) not in done:
            done[str(rate)] = [asdict(row) for row in _rows(objective, model, rate, settings, progress)]
            store.save()
    rows = (Agreement(**row) for rate in settings.rates for row in done[str(rate)])
    return Theorem(request, tuple(rows))


def _rows(
    objective: Objective, model: nn.Module, rate: float, settings: TheoremSettings, progress: Progress
) -> list[Agreement]:
    """Train the twins at one learning rate."""
    networks = copy.deepcopy(model), copy.deepcopy(model)
    sgd = torch.optim.SGD(networks[0].parameters(), lr=rate)
    grda = GRDA(networks[1].parameters(), lr=rate, c=settings.c, mu=settings.mu)
    stops = {round(time / rate): time for time in settings.times}
    rows = []
    epochs = (objective.to_train_on(objective.batches("train")) for _ in itertools.count())
    batches = itertools.chain.from_iterable(epochs)
    for step, (inputs, targets) in enumerate(batches, start=1):
        for network, optimizer in zip(networks, (sgd, grda), strict=True):
            optimizer.zero_grad()
            with torch.random.fork_rng(devices=objective.cuda):
                torch.manual_seed(seed_of("theorem", settings.seed, step))
                loss = objective.loss(network(inputs), targets)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        if step in stops:
            rows.append(_row(objective, networks, rate, stops[step], step, settings))
        progress(f"steps at rate {rate:g}", step, max(stops))
        if step == max(stops):
            break
    return rows


def _row(
    objective: Objective,
    networks: tuple[nn.Module, nn.Module],
    rate: float,
    time: float,
    step: int,
    settings: TheoremSettings,
) -> Agreement:
    states = [network.state_dict() for network in networks]
    losses = [objective.measure(state).train.loss for state in states]
    if not torch.tensor(losses).isfinite().all():
        raise DivergenceError(f"the loss is not finite at rate {rate:g}, t = {time:g}: take smaller rates")
    hessian = HessianOperator(objective, states[0]).dense()
    sgd, grda = (objective.vector(state) for state in states)
    found = agreement(sgd, grda, hessian, rate=rate, time=step * rate, settings=settings)
    return Agreement(
        rate=rate,
        time=time,
        steps=step,
        loss_sgd=losses[0],
        loss_grda=losses[1],
        **found,  # type: ignore[arg-type]
    )


def _correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's; NaN where either does not vary."""
    if len(a) < 2:
        return math.nan
    return torch.corrcoef(torch.stack([a.double(), b.double()]))[0, 1].item()


def _jaccard(a: Tensor, b: Tensor) -> float:
    """Size of the intersection over that of the union; NaN where both are empty."""
    return ((a & b).sum() / (a | b).sum()).item()
