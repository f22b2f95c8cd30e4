"""Directional pruning as it is defined, from the eigenvectors of the Hessian; gRDA does it without them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dirprune.core.masks import kth_smallest
from dirprune.errors import UsageError, unknown


@dataclass(frozen=True, eq=False)
class DirectionalPruning:
    """Pruned weights and how they came about.

    Attributes:
        weights: The pruned weights [d].
        scores: Direction scores s [d].
        strength: lambda.
        sparsity: Zeros / d.
    """

    weights: Tensor
    scores: Tensor
    strength: float
    sparsity: float


def direction_scores(weights: Tensor, sharp: Tensor) -> Tensor:
    r"""How far each weight may move towards zero within the flat subspace.

    .. math:: s_j = \mathrm{sign}(w_j) \, (P_0 \, \mathrm{sign}(w))_j, \qquad P_0 = I - U U^{\mathsf T}

    Their mean is |P0 sign(w)|^2 / d, between 0 and 1. Without sharp directions all are 1, which is
    magnitude pruning by soft threshold.

    Args:
        weights: w, floating point [d].
        sharp: Orthonormal eigenvectors U of the sharp directions, one per row [k, d]; k may be 0.

    Returns:
        s [d], float64. 0 where the weight is 0.

    Raises:
        UsageError: Shapes do not fit, or the rows are not orthonormal.

    Example:
        >>> direction_scores(torch.tensor([3.0, -1.0]), torch.tensor([[1.0, 0.0]]))
        tensor([0., 1.], dtype=torch.float64)

    References:
        Chao et al. 2020, Definition 1.1.
    """
    if weights.ndim != 1 or sharp.ndim != 2 or sharp.shape[1] != len(weights):
        raise UsageError(
            f"expected weights [d] and eigenvectors [k, d]; "
            f"got {tuple(weights.shape)} and {tuple(sharp.shape)}"
        )
    identity = torch.eye(len(sharp), dtype=sharp.dtype, device=sharp.device)
    if not torch.allclose(sharp @ sharp.T, identity, atol=1e-3):
        raise UsageError("the eigenvectors must be orthonormal rows: U U^T is not the identity")
    signs = torch.sign(weights.double())
    flat = signs.clone()
    for direction in sharp:  # one at a time: all of them in float64 may not fit
        direction = direction.double()
        flat -= direction * torch.dot(direction, signs)
    return signs * flat


def vanishing_strengths(weights: Tensor, scores: Tensor) -> Tensor:
    r"""The lambda at which each weight becomes zero.

    .. math:: \lambda_j = |w_j| / s_j \text{ where } s_j > 0, \quad 0 \text{ where } w_j = 0, \quad \infty \text{ else}

    Args:
        weights: w [d].
        scores: s [d].

    Returns:
        float64 [d].

    Example:
        >>> vanishing_strengths(torch.tensor([2.0, 0.0, 1.0]), torch.tensor([0.5, 0.0, -1.0]))
        tensor([4., 0., inf], dtype=torch.float64)
    """  # noqa: E501 - a formula is one line
    size, s = weights.double().abs(), scores.double()
    never = torch.full_like(size, torch.inf)
    return torch.where(size == 0, 0.0, torch.where(s > 0, size / s, never))


def directional_solution(weights: Tensor, scores: Tensor, strength: float) -> Tensor:
    r"""The directional pruning of given weights.

    .. math:: v_j = \mathrm{sign}(w_j) \max(|w_j| - \lambda s_j, 0)
        \;\text{ solves }\; \min_v \tfrac12 |w - v|^2 + \lambda \sum_j s_j |v_j|

    A weight with s_j < 0 grows, which keeps the total move in the flat subspace.

    Args:
        weights: w [d].
        scores: s [d].
        strength: lambda >= 0.

    Returns:
        v [d], of the dtype of the weights.

    Raises:
        UsageError: lambda is negative or not finite.

    Example:
        >>> directional_solution(torch.tensor([3.0, -1.0]), torch.tensor([0.5, 1.0]), 1.0)
        tensor([2.5000, 0.0000])

    References:
        Chao et al. 2020, Definition 1.1.
    """
    if not 0 <= strength < math.inf:
        raise UsageError(f"lambda must be a finite number >= 0; it is {strength}")
    w = weights.double()
    gone = vanishing_strengths(weights, scores) <= strength  # exact where |w| - lambda s rounds past zero
    return torch.where(gone, 0.0, w - torch.sign(w) * strength * scores.double()).to(weights.dtype)


def strength_for(sparsity: float, strengths: Tensor) -> float:
    """Return the least lambda at which a fraction of the weights is zero.

    Args:
        sparsity: Fraction, in [0, 1].
        strengths: From :func:`vanishing_strengths` [d].

    Returns:
        lambda; the sparsity that it leads to is the least one that is not below the target.

    Raises:
        UsageError: The target is no fraction, or more than the weights that any lambda removes.

    Example:
        >>> strength_for(0.5, torch.tensor([4.0, 0.5, torch.inf, 1.0]))
        1.0
    """
    if not 0 <= sparsity <= 1:
        raise UsageError(f"sparsity must be in [0, 1]; it is {sparsity}")
    numel = len(strengths)
    count = math.ceil(sparsity * numel - max(1e-9, 1e-12 * numel))  # what rounding may have added to a count
    if count == 0:
        return 0.0
    found = kth_smallest(strengths, count).item()
    if found == torch.inf:
        reachable = torch.isfinite(strengths).double().mean().item()
        raise UsageError(
            f"no lambda reaches sparsity {sparsity:g}: weights with a score <= 0 stay, "
            f"the most is {reachable:.4f}"
        )
    return float(found)


def directional_prune(
    state: Mapping[str, Tensor],
    sharp: Tensor,
    sparsity: float | None = None,
    *,
    strength: float | None = None,
    names: tuple[str, ...] | None = None,
) -> tuple[dict[str, Tensor], DirectionalPruning]:
    """Prune a trained network in one shot, in the directions in which its loss is flat.

    Args:
        state: Its state dict; it is not changed.
        sharp: Orthonormal eigenvectors of the Hessian's greatest eigenvalues, rows [k, d].
        sparsity: Target, a fraction of the d weights; or
        strength: lambda. Exactly one of both.
        names: The tensors that make up the d weights, in their order; None for all of the state. Where there
            are buffers, frozen parameters or shared ones, those that the Hessian is of must be named.

    Returns:
        A state dict with pruned weights, under every name of a shared one, and how they came about.

    Raises:
        UsageError: Shapes do not fit, a name is unknown, the target cannot be reached, or not one of both is
            given.

    Example:
        >>> state = {"weight": torch.tensor([[3.0, -1.0, 0.5]])}
        >>> pruned, result = directional_prune(state, torch.tensor([[1.0, 0.0, 0.0]]), sparsity=1 / 3)
        >>> pruned["weight"], result.strength
        (tensor([[ 3.0000, -0.5000,  0.0000]]), 0.5)

    References:
        Chao et al. 2020, Definition 1.1.
    """
    if (sparsity is None) == (strength is None):
        raise UsageError("give either a sparsity or a strength (lambda)")
    chosen = tuple(state) if names is None else names
    for name in chosen:
        if name not in state:
            raise UsageError(unknown("tensor", name, state))
    count = sum(state[name].numel() for name in chosen)
    if names is None and sharp.shape[-1:] != (count,):
        raise UsageError(
            f"the state has {count} numbers, the eigenvectors are {tuple(sharp.shape)}: name the tensors "
            "that they are of (names=...), without buffers, frozen parameters and second names of shared ones"
        )
    weights = torch.cat([state[name].detach().reshape(-1) for name in chosen])
    scores = direction_scores(weights, sharp)
    if strength is None:
        assert sparsity is not None
        strength = strength_for(sparsity, vanishing_strengths(weights, scores))
    pruned = directional_solution(weights, scores, strength)
    parts = pruned.split_with_sizes([state[name].numel() for name in chosen])
    new = {
        name: part.view_as(state[name]).to(state[name].dtype)
        for name, part in zip(chosen, parts, strict=True)
    }
    places = {_place(state[name]): tensor for name, tensor in new.items()}
    shared = {name: places[_place(old)] for name, old in state.items() if _place(old) in places}
    result = DirectionalPruning(pruned, scores, strength, (pruned == 0).double().mean().item())
    return {**state, **shared, **new}, result


def _place(tensor: Tensor) -> tuple[object, ...]:
    """What two names of one shared tensor have in common."""
    return tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()
