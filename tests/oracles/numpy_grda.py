"""gRDA in float64 NumPy, written from the equations: no torch, and nothing of the package under test."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Trajectory:
    """What a run went through: weights and accumulators after each step, and the threshold of each."""

    weights: Array  # (steps, ...)
    accumulators: Array  # (steps, ...)
    thresholds: Array  # (steps,)


def thresholds(rates: Sequence[float], c: float, mu: float) -> Array:
    """Threshold after each step, by the closed form of every stretch of steps with one rate.

    Over a stretch at rate g from step a to step n the increments telescope to c g^(mu + 1/2) (n^mu - a^mu).
    """
    held = np.asarray(rates, dtype=np.float64)
    result = np.empty(len(held))
    reached = 0.0
    bounds = [0, *(np.flatnonzero(np.diff(held)) + 1), len(held)]
    for first, after in pairwise(bounds):
        n = np.arange(first + 1, after + 1, dtype=np.float64)
        result[first:after] = reached + c * held[first] ** (mu + 0.5) * (n**mu - float(first) ** mu)
        reached = float(result[after - 1])
    return result


def soft_threshold(v: Array, tau: float) -> Array:
    """sign(v) max(|v| - tau, 0)."""
    return np.sign(v) * np.maximum(np.abs(v) - tau, 0.0)


def hard_threshold(v: Array, tau: float) -> Array:
    """v where |v| > tau, else 0."""
    return np.where(np.abs(v) > tau, v, 0.0)


def group_soft_threshold(v: Array, tau: float) -> Array:
    """v_g max(1 - tau sqrt(|g|) / |v_g|, 0) for each row g; elementwise for fewer than two dimensions."""
    if v.ndim < 2:
        return soft_threshold(v, tau)
    result = np.zeros_like(v)
    for row, out in zip(v, result, strict=True):
        norm, radius = np.sqrt(np.sum(row**2)), tau * np.sqrt(row.size)
        if norm > radius:
            out[...] = row * (1 - radius / norm)
    return result


def rescaled_soft_threshold(v: Array, tau: float) -> Array:
    """Soft, times 1.01 / (rho + 0.01) for each row, rho the part of its l1 norm above tau."""
    result = soft_threshold(v, tau)
    if v.ndim < 2:
        return result
    for row, out in zip(v, result, strict=True):
        size = np.abs(row)
        out *= 1.01 / (np.sum(size[size > tau]) / np.sum(size) + 0.01)
    return result


def mean(values: Sequence[Array] | Array, beta: float) -> Array:
    """Mean with weights beta^age, the last value being of age 0."""
    ages = np.arange(len(values))[::-1]
    return np.average(np.asarray(values), axis=0, weights=np.power(beta, ages))


def grda(
    start: Array,
    gradient: Callable[[int, Array], Array],
    rates: Sequence[float],
    c: float,
    mu: float,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    maximize: bool = False,
    prox: Callable[[Array, float], Array] = soft_threshold,
    beta2: float = 0.0,
    eps: float = 1e-8,
) -> Trajectory:
    """Run gRDA; ``gradient(n, w)`` is the gradient of step n, taken at the sparse weight.

    With beta2 the direction is Adam's, from its definition: weighted means of all gradients so far, and of
    their squares, with weights beta^age that sum to one; weight decay then is decoupled.
    """
    taus = thresholds(rates, c, mu)
    w = v = np.asarray(start, dtype=np.float64)
    m = np.zeros_like(v)
    seen: list[Array] = []
    weights, accumulators = [], []
    for n, (rate, tau) in enumerate(zip(rates, taus, strict=True)):
        sign = -1.0 if maximize else 1.0
        if beta2:
            seen.append(sign * gradient(n, w))
            v = v - rate * (
                mean(seen, momentum) / (np.sqrt(mean(np.square(seen), beta2)) + eps) + weight_decay * w
            )
        else:
            d = sign * gradient(n, w) + weight_decay * w
            m = momentum * m + d
            v = v - rate * (d + momentum * m if nesterov else m)
        w = prox(v, tau)
        weights.append(w)
        accumulators.append(v)
    return Trajectory(np.array(weights), np.array(accumulators), taus)
