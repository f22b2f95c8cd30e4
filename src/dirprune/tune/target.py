"""The c that ends at a sparsity asked for, from short runs."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from dirprune.errors import UsageError
from dirprune.train import TrainConfig, read_accumulators
from dirprune.tune.crossing import PENALTIES, Prediction, predict_sparsity
from dirprune.tune.odds import log_odds
from dirprune.tune.trials import TrialRunner

_SLOPE = 1.8  # log odds of the sparsity over log c: where the search begins, before it has measured its own
_LARGEST_FACTOR = 4.0
_TOLERANCE = 0.005  # finer than the prediction is
_MOST_TRIALS = 6
_MARGIN = 1e-6  # of sparsities to none and all
_EARLIEST = 4  # epochs of a short run at least: its accumulators are at a quarter, half and all of it


@dataclass(frozen=True)
class Trial:
    """A short run: the sparsity that the whole run is predicted to end at; None where it diverged."""

    c: float
    mu: float
    train_loss: float | None
    prediction: Prediction | None

    def to_json(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return asdict(self)


def epochs_to_keep(epochs: int) -> tuple[int, ...]:
    """Return the epochs of a short run at which the accumulators are kept: in doublings up to its end.

    Raises:
        UsageError: The run is too short.

    Example:
        >>> epochs_to_keep(50), epochs_to_keep(7)
        ((3, 6, 12, 25, 50), (2, 4, 7))
    """
    if epochs < _EARLIEST:
        raise UsageError(
            f"a sparsity is predicted from {_EARLIEST} `trial_epochs` of `epochs` at least, got {epochs}"
        )
    halvings = 4 if epochs >= 16 else 2
    return tuple(math.floor(epochs / 2**k + (0.5 if halvings == 2 else 0)) for k in range(halvings, -1, -1))


def c_for_sparsity(
    config: TrainConfig,
    mus: Sequence[float],
    target: float,
    trial_epochs: int,
    runner: TrialRunner,
    tried: Callable[[Trial], None] = lambda _: None,
) -> list[Trial]:
    """Find, for each mu, the c whose whole run is predicted to end at a sparsity.

    Each c is tried by the first epochs of the very run that would be trained; see
    :func:`~dirprune.tune.crossing.predict_sparsity`. The next c follows from those tried by interpolation of
    the log odds of the sparsity over log c. Only sparsity and training loss are looked at.

    Args:
        config: Of the whole run; its c is tried first.
        mus: Exponents to consider.
        target: The sparsity, in (0, 1).
        trial_epochs: Length of a short run.
        runner: Where they are trained.
        tried: Told about each trial.

    Returns:
        The trial closest to the target for each mu, which may not reach it: see :func:`reaches`. The lowest
        training loss, at equal sparsity the better choice, comes first.

    Raises:
        UsageError: The target is out of range, the penalty is not in :data:`PENALTIES`, or no trial came to
            its end.
    """
    if config.penalty not in PENALTIES:
        raise UsageError(
            f"`target` predicts the zeros of `penalty` {', '.join(PENALTIES)}, not those of "
            f"`penalty` {config.penalty}: leave one of them out"
        )
    if not 0 < target < 1:
        raise UsageError(f"`target` must be in (0, 1), got {target}")
    epochs = epochs_to_keep(trial_epochs)
    trials: dict[float, list[Trial]] = {mu: [] for mu in mus}
    start = config.c or 1e-3
    open_ = dict.fromkeys(mus, start)
    for _ in range(_MOST_TRIALS):
        configs = [replace(config, c=c, mu=mu, method="grda") for mu, c in open_.items()]
        for trial in predicted_ends(configs, epochs, runner):
            tried(trial)
            trials[trial.mu].append(trial)
        open_ = {mu: c for mu in open_ if (c := next_c(trials[mu], target)) is not None}
        if not open_:
            break
    best = [closest for done in trials.values() if (closest := _closest(done, target)) is not None]
    if not best:
        raise UsageError("every short run diverged: lower `lr` or `mu`")
    return sorted(best, key=lambda trial: trial.train_loss or 0.0)


def reaches(trial: Trial, target: float) -> bool:
    """Whether a run may be expected to end at a sparsity: its interval holds it, or the search stops there.

    Example:
        >>> reaches(Trial(0.01, 0.6, 0.1, Prediction(0.89, 0.87, 0.91)), 0.9)
        True
        >>> reaches(Trial(4.0, 0.6, 0.1, Prediction(0.6, 0.54, 0.66)), 0.9)
        False
    """
    predicted = trial.prediction
    return predicted is not None and (
        predicted.lower <= target <= predicted.upper or _is_close(predicted, target)
    )


def next_c(trials: Sequence[Trial], target: float) -> float | None:
    """Return the c to try next, or None where one is close enough.

    Example:
        >>> next_c([Trial(0.01, 0.6, 0.1, Prediction(0.9, 0.88, 0.92))], 0.9) is None
        True
        >>> next_c([Trial(0.01, 0.6, 0.1, Prediction(0.5, 0.4, 0.6))], 0.9)
        0.0339
    """
    if trials[-1].prediction is None:
        c = trials[-1].c  # half of it, unless more is known to be good
        good = max((trial.c for trial in trials if trial.prediction and trial.c < c), default=c / 4)
        return _rounded(math.sqrt(good * c))
    points = sorted(
        (math.log(t.c), log_odds(t.prediction.sparsity, _MARGIN) - log_odds(target, _MARGIN))
        for t in trials
        if t.prediction
    )
    closest = _closest(trials, target)
    assert closest is not None
    assert closest.prediction is not None
    if _is_close(closest.prediction, target):
        return None
    below = [point for point in points if point[1] < 0]
    above = [point for point in points if point[1] >= 0]
    if below and above:
        (x0, y0), (x1, y1) = below[-1], above[0]
        log_c = x0 - y0 * (x1 - x0) / (y1 - y0)
    else:
        x, y = above[0] if above else below[-1]
        reach = math.log(_LARGEST_FACTOR)
        log_c = x + min(max(-y / _SLOPE, -reach), reach)
    ceiling = min((math.log(trial.c) for trial in trials if trial.prediction is None), default=math.inf)
    if log_c >= ceiling:
        log_c = (max(x for x, _ in points if x < ceiling) + ceiling) / 2
    c = _rounded(math.exp(log_c))
    return None if any(trial.c == c for trial in trials) else c


def predicted_ends(
    configs: Sequence[TrainConfig], epochs: tuple[int, ...], runner: TrialRunner
) -> list[Trial]:
    """Train the first epochs of runs, and predict how each ends.

    Args:
        configs: Of the whole runs.
        epochs: From :func:`epochs_to_keep`; the last is where the short runs end.
        runner: Where they are trained.
    """
    short = [
        replace(config, epochs=epochs[-1], schedule_epochs=config.schedule_epochs or config.epochs)
        for config in configs
    ]
    trials = []
    for config, run in zip(configs, runner.train(short, epochs), strict=True):
        result = run.result() or {}
        if result["status"] == "diverged":
            trials.append(Trial(config.c, config.mu, None, None))
            continue
        accumulators = [read_accumulators(run, epoch) for epoch in epochs]
        prediction = predict_sparsity(accumulators, config, accumulators[-1].step // epochs[-1])
        trials.append(Trial(config.c, config.mu, result["train_loss"], prediction))
    return trials


def _is_close(prediction: Prediction, target: float) -> bool:
    return abs(prediction.sparsity - target) <= _TOLERANCE


def _closest(trials: Sequence[Trial], target: float) -> Trial | None:
    predicted = [(abs(t.prediction.sparsity - target), t) for t in trials if t.prediction]
    return min(predicted, key=lambda pair: pair[0])[1] if predicted else None


def _rounded(c: float) -> float:
    """Three digits: what a folder's name and a person can hold."""
    return float(f"{c:.3g}")
