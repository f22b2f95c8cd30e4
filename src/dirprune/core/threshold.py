"""The threshold of gRDA over time, and the rules that take the accumulator to the weight."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, TypeVar

import torch
from torch import Tensor

Scalar = TypeVar("Scalar", float, Tensor)


def tuning_function(step: Scalar, lr: float, c: float, mu: float) -> Scalar:
    r"""Threshold of gRDA after ``step`` steps at a constant learning rate.

    .. math:: g(n, \gamma) = c \, \gamma^{1/2} (n \gamma)^{\mu} = c \, \gamma^{\mu + 1/2} \, n^{\mu}

    Args:
        step: Number of steps taken, n >= 0; a float, or a float64 tensor of any shape.
        lr: Learning rate gamma.
        c: Scale of the threshold.
        mu: Exponent of its growth.

    Returns:
        The threshold tau_n, in units of the weights, of the type and shape of ``step``.

    Example:
        >>> tuning_function(4.0, lr=1.0, c=0.5, mu=0.5)
        1.0

    References:
        Chao et al. 2020, "Directional Pruning of Deep Neural Networks", section 3.
    """
    threshold: Scalar = c * lr ** (mu + 0.5) * step**mu
    return threshold


def threshold_increment(step: Scalar, lr: Scalar | float, c: float, mu: float) -> Scalar:
    r"""What step ``step + 1``, taken at learning rate ``lr``, adds to the threshold.

    .. math:: \tau_{n+1} - \tau_n = c \, \gamma_n^{\mu + 1/2} \, \bigl((n+1)^{\mu} - n^{\mu}\bigr)

    Summed at a constant rate this is :func:`tuning_function`; when the rate changes, what has
    accumulated keeps its value.

    Args:
        step: Number of steps already taken, n >= 0; a float, or a float64 tensor of any shape.
        lr: Learning rate gamma_n in force at this step; a float or a 0-dim tensor. Below 0 it counts as 0,
            for schedules that end at 0 miss it by a rounding error.
        c: Scale of the threshold.
        mu: Exponent of its growth.

    Returns:
        The increment, in units of the weights. Float64 throughout: n^mu loses its differences in
        float32 after some thousand steps.

    Example:
        >>> threshold_increment(0.0, lr=1.0, c=0.5, mu=0.6)
        0.5

    References:
        Chao et al. 2020, section 3.
    """
    rate: Scalar | float = lr.double().clamp(min=0) if isinstance(lr, Tensor) else max(lr, 0.0)
    increment: Scalar = c * rate ** (mu + 0.5) * ((step + 1) ** mu - step**mu)
    return increment


class ThresholdRule(Protocol):
    """How a weight follows from its accumulator: the replaceable last stage of :class:`dirprune.GRDA`.

    A threshold is a float or a 0-dim tensor.

    Attributes:
        elementwise: Whether each weight follows from its own accumulator alone. If not, from those of its
            row, which is what stands at one index of the first dimension: no row may then be cut.
    """

    elementwise: ClassVar[bool]

    def __call__(self, accumulator: Tensor, threshold: Any) -> Tensor:
        """Return the weight, of the shape and dtype of ``accumulator``; autograd can pass through."""

    def write(self, accumulator: Tensor, threshold: Any, weight: Tensor) -> None:
        """Write the same weight into ``weight``, which may have a narrower dtype."""

    def foreach_write(self, accumulators: list[Tensor], thresholds: list[Any], weights: list[Tensor]) -> None:
        """Write many weights of one device and dtype with horizontally fused operations."""


@dataclass(frozen=True)
class SoftThreshold:
    r"""Soft threshold, the proximal map of the l1 norm.

    .. math:: S(v, \tau)_j = \mathrm{sign}(v_j) \max(|v_j| - \tau, 0) = v_j - \min(\max(v_j, -\tau), \tau)

    The right-hand form is used: it rounds once, turns what lies within the threshold into +0, is the
    identity for tau = 0, and hands NaN on.

    Example:
        >>> SoftThreshold()(torch.tensor([-3.0, -0.5, 0.5, 3.0]), 1.0)
        tensor([-2.,  0.,  0.,  2.])

    References:
        Chao et al. 2020, section 3.
    """

    elementwise: ClassVar[bool] = True

    def __call__(self, accumulator: Tensor, threshold: Any) -> Tensor:
        """Return S(accumulator, threshold), of the shape and dtype of ``accumulator``."""
        if isinstance(threshold, Tensor):  # a wider one would widen a 0-dim accumulator
            threshold = threshold.to(accumulator.dtype)
        return accumulator - accumulator.clamp(-threshold, threshold)

    def write(self, accumulator: Tensor, threshold: Any, weight: Tensor) -> None:
        """Write S(accumulator, threshold) into ``weight``; without temporaries where the dtypes agree."""
        if _is_zero(threshold):
            weight.copy_(accumulator)
        elif weight.dtype == accumulator.dtype:
            torch.clamp(accumulator, -threshold, threshold, out=weight)
            torch.sub(accumulator, weight, out=weight)
        else:
            weight.copy_(self(accumulator, threshold))

    def foreach_write(self, accumulators: list[Tensor], thresholds: list[Any], weights: list[Tensor]) -> None:
        """Write S(accumulator, threshold) for many tensors of one device and dtype."""
        if all(map(_is_zero, thresholds)):
            torch._foreach_copy_(weights, accumulators)
            return
        clamped = torch._foreach_clamp_max(accumulators, thresholds)
        torch._foreach_clamp_min_(clamped, [-threshold for threshold in thresholds])
        torch._foreach_copy_(weights, torch._foreach_sub(accumulators, clamped))


class _OneByOne(ABC):
    """Writes many weights one by one: torch has neither hard thresholds nor norms of rows over lists."""

    @abstractmethod
    def write(self, accumulator: Tensor, threshold: Any, weight: Tensor) -> None:
        """Write one weight."""

    def foreach_write(self, accumulators: list[Tensor], thresholds: list[Any], weights: list[Tensor]) -> None:
        """Write many weights."""
        for accumulator, threshold, weight in zip(accumulators, thresholds, weights, strict=True):
            self.write(accumulator, threshold, weight)


@dataclass(frozen=True)
class HardThreshold(_OneByOne):
    r"""Hard threshold, the proximal map of the l0 count.

    .. math::
        H(v, \tau)_j = v_j \text{ if } |v_j| > \tau \text{ else } 0, \qquad
        H(v, \tau) \in \operatorname*{arg\,min}_w \tfrac12 \|w - v\|_2^2 + \tfrac{\tau^2}{2} \|w\|_0

    A weight is zero for the same accumulators as by :class:`SoftThreshold`, but none that survives is pulled
    towards zero, where the soft threshold takes tau from each: it is its accumulator, and takes SGD's steps.
    The rest of the method stays: the gradient is taken at the sparse weight, and a zero comes back when its
    accumulator outgrows tau, now in one jump. Iterative hard thresholding, in contrast, starts each step at
    the weight, and forgets what a zero had.

    What lies on or within the threshold turns into +0; tau = 0 is the identity, and NaN is handed on.

    Example:
        >>> HardThreshold()(torch.tensor([-3.0, -0.5, 0.5, 3.0]), 1.0)
        tensor([-3.,  0.,  0.,  3.])

    References:
        Donoho and Johnstone 1994, "Ideal spatial adaptation by wavelet shrinkage", Biometrika 81: the hard
        threshold beside the soft one. Blumensath and Davies 2008, "Iterative thresholding for sparse
        approximations", Journal of Fourier Analysis and Applications 14: the l0 count's, iterated.
    """

    elementwise: ClassVar[bool] = True

    def __call__(self, accumulator: Tensor, threshold: Any) -> Tensor:
        """Return H(accumulator, threshold), of the shape and dtype of ``accumulator``."""
        if isinstance(threshold, Tensor):
            return accumulator.masked_fill(accumulator.abs() <= threshold, 0)
        return torch.hardshrink(accumulator, threshold)

    def write(self, accumulator: Tensor, threshold: Any, weight: Tensor) -> None:
        """Write H(accumulator, threshold) into ``weight``; without temporaries where the dtypes agree."""
        if _is_zero(threshold):
            weight.copy_(accumulator)
        elif weight.dtype == accumulator.dtype and not isinstance(threshold, Tensor):
            torch.hardshrink(accumulator, threshold, out=weight)
        else:
            weight.copy_(self(accumulator, threshold))


@dataclass(frozen=True)
class GroupSoftThreshold(_OneByOne):
    r"""Soft threshold of whole output channels, the proximal map of the group lasso.

    .. math::
        w_g = v_g \max\Bigl(1 - \frac{\tau \sqrt{|g|}}{\|v_g\|_2}, 0\Bigr)
            = \operatorname*{arg\,min}_w \tfrac12 \|w - v_g\|_2^2 + \tau \sqrt{|g|} \, \|w\|_2

    A group g is what stands at one index of the first dimension: the weights of an output channel of a linear
    or convolutional layer (of a transposed convolution, or of Conv1D of transformers: of an input), |g| of
    them. A channel whose accumulator has a root mean square within tau is zero as a whole; in any other no
    weight is.

    The factor sqrt(|g|) is Yuan and Lin's. With it tau means the same as elementwise, whatever the size of a
    channel: it is what the root mean square of a channel is compared with and loses, and where all weights
    of a channel have one magnitude, both rules give the same.

    Tensors of fewer than two dimensions (biases, the scales of normalisation) have groups of one element, so
    that :class:`SoftThreshold` is what remains of the rule. A channel of zero weights is constant whatever
    its bias is, and :func:`dirprune.export.slim` folds constants into the layers that read them.

    Example:
        >>> channels = torch.tensor([[3.0, 4.0], [0.3, 0.4]])  # of norm 5 and 0.5, from which 1 is taken
        >>> GroupSoftThreshold()(channels, 2**-0.5)
        tensor([[2.4000, 3.2000],
                [0.0000, 0.0000]])

    References:
        Yuan and Lin 2006, "Model selection and estimation in regression with grouped variables", Journal of
        the Royal Statistical Society B 68, section 2, where the norm of group j is weighted by sqrt(p_j).
    """

    elementwise: ClassVar[bool] = False

    def __call__(self, accumulator: Tensor, threshold: Any) -> Tensor:
        """Return the weight, of the shape and dtype of ``accumulator``; a row that is not finite stays so."""
        if accumulator.ndim < 2:
            return _ELEMENTWISE(accumulator, threshold)
        return torch.addcmul(accumulator, accumulator, self._taken(accumulator, threshold), value=-1)

    def write(self, accumulator: Tensor, threshold: Any, weight: Tensor) -> None:
        """Write the same weight into ``weight``; without large temporaries where the dtypes agree."""
        if accumulator.ndim < 2:
            _ELEMENTWISE.write(accumulator, threshold, weight)
        elif _is_zero(threshold):
            weight.copy_(accumulator)
        elif weight.dtype == accumulator.dtype:
            share = self._taken(accumulator, threshold)
            torch.addcmul(accumulator, accumulator, share, value=-1, out=weight)
        else:
            weight.copy_(self(accumulator, threshold))

    @staticmethod
    def _taken(accumulator: Tensor, threshold: Any) -> Tensor:
        """Share of each row that the threshold takes: min(tau sqrt(|g|) / norm, 1), [rows, 1, ...].

        All of a row gives x - x = +0, and nothing of it x, where x max(1 - share, 0) would give -0 too.
        """
        norms = torch.linalg.vector_norm(accumulator, dim=tuple(range(1, accumulator.ndim)), keepdim=True)
        radius = threshold * math.sqrt(math.prod(accumulator.shape[1:]))
        shares: Tensor = radius / norms.clamp(min=torch.finfo(norms.dtype).tiny)  # at tau = 0: no 0 / 0
        return shares.clamp(max=1)


@dataclass(frozen=True)
class RescaledSoftThreshold(_OneByOne):
    r"""Soft threshold, and each output channel given back the l1 norm that its zeros took.

    .. math::
        w_j = a_o S(v, \tau)_j, \qquad a_o = \frac{1 + \epsilon}{\rho_o + \epsilon}, \qquad
        \rho_o = \frac{\sum_{j \in o} |v_j| \, [\, |v_j| > \tau \,]}{\sum_{j \in o} |v_j|}

    with o what stands at one index of the first dimension (of a transposed convolution, or of Conv1D of
    transformers, that is an input), and epsilon = 0.01, so that a channel that has lost nearly all is not
    scaled up without bound. A weight is zero for the same accumulators as by
    :class:`SoftThreshold`; the factor makes up for part of the bias of those that survive. Tensors of fewer
    than two dimensions are not scaled. No penalty has this proximal map.

    Example:
        >>> RescaledSoftThreshold()(torch.tensor([[3.0, 1.0], [3.0, 0.0]]), 1.0)
        tensor([[2.6579, 0.0000],
                [2.0000, 0.0000]])

    References:
        Vanderschueren and De Vleeschouwer 2023, "Are straight-through gradients and soft-thresholding all you
        need for sparse training?", section 3: the factor, for a threshold that is set by a wanted sparsity.
    """

    elementwise: ClassVar[bool] = False

    def __call__(self, accumulator: Tensor, threshold: Any) -> Tensor:
        """Return the weight, of the shape and dtype of ``accumulator``; a row that is not finite stays so."""
        soft = _ELEMENTWISE(accumulator, threshold)
        return soft if accumulator.ndim < 2 else soft * self._factor(accumulator, threshold)

    def write(self, accumulator: Tensor, threshold: Any, weight: Tensor) -> None:
        """Write the same weight into ``weight``."""
        if _is_zero(threshold):
            weight.copy_(accumulator)
        else:
            weight.copy_(self(accumulator, threshold))

    @staticmethod
    def _factor(accumulator: Tensor, threshold: Any) -> Tensor:
        """Return a_o of each row, [rows, 1, ...]."""
        magnitude, within_row = accumulator.abs(), tuple(range(1, accumulator.ndim))
        whole = magnitude.sum(within_row, keepdim=True).clamp(min=torch.finfo(magnitude.dtype).tiny)
        left = magnitude.masked_fill(magnitude <= threshold, 0).sum(within_row, keepdim=True) / whole
        return (1 + DAMPING) / (left + DAMPING)


DAMPING = 0.01
"""The epsilon of :class:`RescaledSoftThreshold`."""
_ELEMENTWISE = SoftThreshold()

Penalty = Literal["l1", "l0", "group", "rescaled"]
RULES: dict[str, ThresholdRule] = {
    "l1": _ELEMENTWISE,
    "l0": HardThreshold(),
    "group": GroupSoftThreshold(),
    "rescaled": RescaledSoftThreshold(),
}
"""Rules by name: :data:`Penalty`; but for the last, of the penalty whose proximal map they are."""


def _is_zero(threshold: Any) -> bool:
    """Whether nothing is thresholded; copying then keeps the sign of a zero. A tensor is not waited for."""
    return not isinstance(threshold, Tensor) and threshold == 0
