"""The sign that an accumulator was lost: a new optimiser on weights that are already sparse."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dirprune.core.sparsity import count_zeros

# Above this fraction of zeros in the weight matrices a network is taken for one that was made sparse.
_ALREADY_SPARSE = 0.1


def fraction_already_sparse(params: Sequence[Tensor]) -> float | None:
    """Return the fraction of zeros in weight matrices, where it is too great for an initialisation.

    Args:
        params: Parameters before their first step, this rank's parts.

    Returns:
        Zeros / elements, over tensors of two and more dimensions without the rows of zeros that do not count;
        None where that is what an initialisation may give.
    """
    matrices = [p.detach() for p in params if p.ndim >= 2 and p.numel()]
    zeros = count_zeros(matrices)
    rows_of_zeros = count_zeros(_greatest_of_rows(matrix) for matrix in matrices)
    zero = total = 0
    for matrix, z, r in zip(matrices, zeros, rows_of_zeros, strict=True):
        # One row of zeros, or nothing else, is an initialisation: the padding of an embedding, a last layer
        # that starts at zero. Several beside others are what a threshold leaves.
        initialised = 0 if 1 < r < len(matrix) else r * (matrix.numel() // len(matrix))
        if matrix.numel() - z <= len(matrix) and _one_for_each_row(matrix):
            initialised = matrix.numel()  # an identity, as torch.nn.init.eye_ and dirac_ make it
        zero += z - min(z, initialised)
        total += matrix.numel() - initialised
    return zero / total if zero > _ALREADY_SPARSE * total else None


def _one_for_each_row(matrix: Tensor) -> bool:
    """Whether each row has one value, and all are alike."""
    counts = torch.count_nonzero(matrix, dim=tuple(range(1, matrix.ndim)))
    values = matrix[matrix != 0]
    return bool((counts <= 1).all()) and bool((values == values[:1]).all())


def _greatest_of_rows(matrix: Tensor) -> Tensor:
    """Return the greatest magnitude of each row, without a copy of the matrix in whatever layout."""
    greatest: Tensor = torch.linalg.vector_norm(matrix, math.inf, dim=tuple(range(1, matrix.ndim)))
    return greatest
