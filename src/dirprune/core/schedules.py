"""Schedules of pruning: frozen values that turn a step into a number."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Cubic:
    r"""Sparsity that grows fast at first and slowly at the end.

    .. math:: s_t = s_f + (s_i - s_f) \Bigl(1 - \frac{t - t_0}{t_1 - t_0}\Bigr)^3, \qquad t_0 \le t \le t_1

    and s_i before, s_f after.

    Args:
        begin: Step t_0 of the first pruning.
        end: Step t_1 of the last, >= t_0.
        final: Sparsity s_f, in [0, 1].
        initial: Sparsity s_i.

    Example:
        >>> schedule = Cubic(begin=0, end=10, final=0.8)
        >>> [round(schedule(step), 3) for step in (0, 5, 10, 11)]
        [0.0, 0.7, 0.8, 0.8]

    References:
        Zhu and Gupta 2017, "To prune, or not to prune", arXiv 1710.01878, equation 1.
    """

    begin: int
    end: int
    final: float
    initial: float = 0.0

    def __call__(self, step: int) -> float:
        """Return the sparsity after ``step`` steps."""
        if step >= self.end:
            return self.final
        if step <= self.begin:
            return self.initial
        left = 1 - (step - self.begin) / (self.end - self.begin)
        return self.final + (self.initial - self.final) * left**3


@dataclass(frozen=True)
class CosineDecay:
    r"""Half a period of the cosine, from ``initial`` to 0 at step ``end``; 0 afterwards.

    .. math:: f_t = \frac{\alpha}{2} \Bigl(1 + \cos \frac{t \pi}{T_{end}}\Bigr)

    Args:
        initial: alpha.
        end: T_end, in steps.

    Example:
        >>> [round(CosineDecay(initial=0.3, end=100)(step), 3) for step in (0, 50, 100)]
        [0.3, 0.15, 0.0]

    References:
        Evci et al. 2020, "Rigging the lottery", section 3, "Update schedule".
    """

    initial: float
    end: int

    def __call__(self, step: int) -> float:
        """Return the value after ``step`` steps."""
        if step >= self.end:
            return 0.0
        return self.initial / 2 * (1 + math.cos(math.pi * step / self.end))
