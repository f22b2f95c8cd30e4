"""How sparse a run will end, from how the accumulators of its beginning move."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from dirprune.core.threshold import threshold_increment
from dirprune.errors import UsageError
from dirprune.train import Accumulators, TrainConfig
from dirprune.tune.odds import from_log_odds, log_odds

# Of the interval at least, in log odds to either side: at 90 % zeros about 2 points, l0 5 up and 9 down.
_WIDTHS = {"l1": 0.25, "l0": 0.75, "rescaled": 0.6}
PENALTIES = tuple(_WIDTHS)


@dataclass(frozen=True)
class Prediction:
    """The sparsity at the end of a run, a fraction, and the interval in which it is expected."""

    sparsity: float
    lower: float
    upper: float


def predict_sparsity(
    accumulators: Sequence[Accumulators], config: TrainConfig, steps_per_epoch: int
) -> Prediction:
    r"""Predict the final sparsity of a run from accumulators of its beginning.

    In the valley, gRDA is directional pruning with a growing threshold: every weight moves linearly in it,

    .. math:: |v_j| - \tau = |w_j| - s_j \tau

    and is zero once the right-hand side is. The slope of :math:`|v_j|` over the threshold is measured for
    each weight between two accumulators; from one doubling of time to the next it falls, by the line
    :math:`\sigma' = a \sigma + b` that is fitted to the run's own nonzero weights (which also takes out part
    of the noise). So each of them is followed to the end, and counts as zero once its :math:`|v_j|` is
    within the threshold, which is known in advance.

    The interval is, in log odds, as wide as the error that the same rule makes within the accumulators: from
    the earlier ones to the last. It is never narrower than 0.25 to either side, with the hard threshold
    (penalty l0, whose weights move as SGD's, not linearly in the threshold) 0.75, rescaled 0.6.

    Args:
        accumulators: Of one run, in geometric progression, the last three being at a quarter, half and all of
            what was trained; two or more earlier ones let the interval follow the rule's own error.
        config: Of the whole run, with its epochs and schedule; its penalty is one of :data:`PENALTIES`.
        steps_per_epoch: Of the whole run.

    Returns:
        The sparsity at the end, among all trainable parameters.

    Raises:
        UsageError: There are fewer than three accumulators.

    References:
        Chao et al. 2020, "Directional Pruning of Deep Neural Networks", Definition 1.1 and Theorem 3.1.
    """
    if len(accumulators) < 3:
        raise UsageError(f"a prediction needs three accumulators of a run, got {len(accumulators)}")
    last = accumulators[-1]
    thresholds = thresholds_after(config, steps_per_epoch)
    sparsity = _follow(accumulators[-3:], thresholds, config.epochs * steps_per_epoch)
    width, margin = _WIDTHS[config.penalty], 0.5 / last.numel  # half a weight
    if len(accumulators) >= 5:
        hindcast = _follow(accumulators[-5:-2], thresholds, last.step)
        width = max(width, abs(log_odds(hindcast, margin) - log_odds(last.sparsity, margin)))
    odds = log_odds(sparsity, margin)
    return Prediction(sparsity, from_log_odds(odds - width), from_log_odds(odds + width))


def thresholds_after(config: TrainConfig, steps_per_epoch: int) -> Tensor:
    """Return the threshold after every step of a run: float64 [steps + 1], the first is 0.

    Args:
        config: Of the run.
        steps_per_epoch: Of the run.

    Example:
        >>> config = TrainConfig(recipe="", dataset="digits", model="lenet5", lr=1.0, c=0.5, mu=0.5, epochs=2)
        >>> thresholds_after(config, 2).tolist()[::4]
        [0.0, 1.0]
    """
    steps = torch.arange(config.epochs * steps_per_epoch, dtype=torch.float64)
    epochs = [
        threshold_increment(taken, config.learning_rate(epoch), config.c, config.mu)
        for epoch, taken in enumerate(torch.split(steps, steps_per_epoch), start=1)
    ]
    return torch.cat([torch.zeros(1, dtype=torch.float64), *epochs]).cumsum(0)


def _follow(accumulators: Sequence[Accumulators], thresholds: Tensor, end: int) -> float:
    """Follow every weight from three accumulators to a step; return the fraction of zeros there."""
    _, middle, last = accumulators
    alive = last.accumulator.abs() > last.threshold
    slopes = []
    for before, after in pairwise(accumulators):
        moved = after.accumulator.abs().double() - before.accumulator.abs().double()
        slopes.append(moved / (after.threshold - before.threshold))
    # Fitted to what is followed: with the weights that died on the way, LeNet-5 came out 3 points too sparse.
    a, b = _line(*(slope[alive] for slope in slopes))
    slope, height = slopes[1][alive], last.accumulator.abs().double()[alive]
    step, threshold = last.step, last.threshold
    while step < end:
        step = min(round(step * last.step / middle.step), end)
        # The run may have taken other steps an epoch (validation): what it has is kept, the rest is added.
        grown = last.threshold + float(thresholds[step] - thresholds[min(last.step, end)])
        slope = a * slope + b
        height = height + slope * (grown - threshold)
        threshold = grown
        over = height > threshold
        slope, height = slope[over], height[over]
    unthresholded = last.numel - last.accumulator.numel()
    return 1 - (len(height) + unthresholded) / last.numel


def _line(x: Tensor, y: Tensor) -> tuple[float, float]:
    """Fit y = a x + b by least squares; the identity where there is nothing to fit."""
    if len(x) < 3 or float(x.var()) == 0:
        return 1.0, 0.0
    a = float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())
    return a, float(y.mean()) - a * float(x.mean())
