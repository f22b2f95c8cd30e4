"""The paper's rule: the greatest c whose accuracy over the first epochs is comparable with SGD's."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dirprune.errors import DivergenceError, UsageError
from dirprune.train import TrainConfig
from dirprune.tune.comparable import Comparison, non_inferiority
from dirprune.tune.trials import TrialRunner

STEPS = 13
_FIRST, _STEPS_PER_DECADE = 1e-4, 4


@dataclass(frozen=True)
class Candidate:
    """A value of c that was tried: mean accuracy over seeds, and how it compares with SGD.

    Without ``accuracy`` and ``comparison`` a seed diverged.
    """

    c: float
    mu: float
    accuracy: float | None
    comparison: Comparison | None

    @property
    def comparable(self) -> bool:
        """Whether it is shown to lose less than the margin."""
        return self.comparison is not None and self.comparison.verdict == "comparable"

    def to_json(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return asdict(self)


def grid() -> list[float]:
    """Return the values of c that are considered: four to a decade, from 1e-4 to 0.1.

    Example:
        >>> grid()[:5]
        [0.0001, 0.000178, 0.000316, 0.000562, 0.001]
    """
    return [float(f"{_FIRST * 10 ** (k / _STEPS_PER_DECADE):.3g}") for k in range(STEPS)]


def greatest_comparable_c(
    config: TrainConfig,
    seeds: int,
    margin: float,
    runner: TrialRunner,
    tried: Callable[[Candidate], None] = lambda _: None,
) -> float | None:
    """Find the greatest c of the grid that is comparable with SGD, by bisection.

    For every c tried, and for SGD, ``seeds`` short runs of the configuration are trained from the same
    initial weights with the same order of the data. Accuracy is measured on the held-back part of the
    training set, never on the test set. Comparable means non-inferior: the one-sided lower 95 % bound of the
    paired difference to SGD lies above minus the margin; see
    :func:`~dirprune.tune.comparable.non_inferiority`. A c that is not shown to be comparable, or diverges,
    sends the search down: with few held-back images the answer is therefore on the small side. It is
    assumed that every smaller c is comparable too.

    Args:
        config: Of the short runs: few epochs, the schedule of the whole training, ``validation`` above 0.
        seeds: Number of seeds.
        margin: The loss of accuracy that does not matter, a fraction.
        runner: Where they are trained.
        tried: Told about each c.

    Returns:
        The greatest c, or None where not even 1e-4 is shown to be comparable.

    Raises:
        UsageError: Nothing is held back.
        DivergenceError: SGD itself diverged.

    References:
        Chao et al. 2020, "Directional Pruning of Deep Neural Networks", section 3.
    """
    if not config.validation > 0:
        raise UsageError(f"`validation` must be > 0 for tuning, got {config.validation}")
    reference = _correct(config.with_method("sgd"), seeds, runner)
    if reference is None:
        raise DivergenceError(f"SGD diverged in a short run in {runner.folder}; lower `lr`")
    values = grid()
    low, high = -1, len(values)
    while high - low > 1:
        middle = (low + high) // 2
        candidate = _try(replace(config, c=values[middle]), seeds, margin, runner, reference)
        tried(candidate)
        low, high = (middle, high) if candidate.comparable else (low, middle)
    return values[low] if low >= 0 else None


def _try(config: TrainConfig, seeds: int, margin: float, runner: TrialRunner, reference: Tensor) -> Candidate:
    correct = _correct(config.with_method("grda"), seeds, runner)
    if correct is None:
        return Candidate(config.c, config.mu, None, None)
    accuracy = float(correct.double().mean())
    return Candidate(config.c, config.mu, accuracy, non_inferiority(correct, reference, margin=margin))


def _correct(config: TrainConfig, seeds: int, runner: TrialRunner) -> Tensor | None:
    """Train each seed; return which held-back images are right, bool [S, n], None if a seed diverged."""
    configs = [replace(config, seed=config.seed + seed) for seed in range(seeds)]
    runs = runner.train(configs)
    if any((run.result() or {})["status"] == "diverged" for run in runs):
        return None
    return torch.stack([runner.correct(each, run) for each, run in zip(configs, runs, strict=True)])
