"""The sign that an accumulator was lost: a new optimiser on weights that are already sparse."""

from collections.abc import Sequence

from torch import Tensor

from dirprune.core.sparsity import count_zeros

# Above this fraction of zeros in the weight matrices a network is taken for one that was made sparse.
_ALREADY_SPARSE = 0.1


def fraction_already_sparse(params: Sequence[Tensor]) -> float | None:
    """Return the fraction of zeros in weight matrices, where it is too great for an initialisation.

    Args:
        params: Parameters before their first step, this rank's parts.

    Returns:
        Zeros / elements, over tensors of two and more dimensions without their rows of zeros only; None
        where that is what an initialisation may give.
    """
    matrices = [p.flatten(1) for p in params if p.ndim >= 2]
    zeros = count_zeros(matrices)
    # A row of zeros only was initialised so: padding of an embedding, a last layer that starts at zero.
    rows_of_zeros = count_zeros((matrix != 0).any(dim=1) for matrix in matrices)
    zero = total = 0
    for matrix, z, r in zip(matrices, zeros, rows_of_zeros, strict=True):
        zero += z - r * matrix.shape[1]
        total += matrix.numel() - r * matrix.shape[1]
    return zero / total if zero > _ALREADY_SPARSE * total else None
