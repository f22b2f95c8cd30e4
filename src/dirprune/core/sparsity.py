"""Counting zeros."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


@dataclass(frozen=True)
class LayerSparsity:
    """Zeros of one parameter tensor: its name, shape, and number of zero elements."""

    name: str
    shape: tuple[int, ...]
    zeros: int

    @property
    def numel(self) -> int:
        """Number of elements."""
        return torch.Size(self.shape).numel()

    @property
    def sparsity(self) -> float:
        """Fraction of zeros, in [0, 1]; 0 for a tensor without elements."""
        return self.zeros / self.numel if self.numel else 0.0


@dataclass(frozen=True)
class SparsityReport:
    """Zeros of a model, tensor by tensor and in total; ``str()`` gives a table."""

    layers: tuple[LayerSparsity, ...]

    @property
    def numel(self) -> int:
        """Number of trainable elements."""
        return sum(layer.numel for layer in self.layers)

    @property
    def zeros(self) -> int:
        """Number of zero elements."""
        return sum(layer.zeros for layer in self.layers)

    @property
    def sparsity(self) -> float:
        """Zeros divided by all trainable elements, in [0, 1]."""
        return self.zeros / self.numel if self.numel else 0.0

    def __str__(self) -> str:
        rows = [(layer.name, "x".join(map(str, layer.shape)), layer) for layer in self.layers]
        name_width = max([len("total"), *(len(name) for name, _, _ in rows)])
        shape_width = max([len("shape"), *(len(shape) for _, shape, _ in rows)])
        head = f"{'':{name_width}}  {'shape':>{shape_width}}  {'elements':>12}  {'zeros':>12}  sparsity"
        body = [
            f"{name:{name_width}}  {shape:>{shape_width}}  {layer.numel:>12,}  {layer.zeros:>12,}  "
            f"{100 * layer.sparsity:>6.2f} %"
            for name, shape, layer in rows
        ]
        total = (
            f"{'total':{name_width}}  {'':>{shape_width}}  {self.numel:>12,}  {self.zeros:>12,}  "
            f"{100 * self.sparsity:>6.2f} %"
        )
        return "\n".join([head, *body, total])


def count_zeros(tensors: Iterable[Tensor]) -> list[int]:
    """Count the zero elements of each tensor (of the whole tensor where it is sharded over ranks)."""
    counts: list[Tensor] = []
    for tensor in tensors:
        found = tensor.detach()
        if isinstance(found, DTensor):
            zeros: Any = (found == 0).sum()
            counts.append(zeros.full_tensor())
        else:  # a comparison would make a tensor of that size, and its sum another
            counts.append(found.numel() - torch.count_nonzero(found))
    by_device: dict[torch.device, list[int]] = {}
    for index, count in enumerate(counts):
        by_device.setdefault(count.device, []).append(index)
    result = [0] * len(counts)
    for indices in by_device.values():  # one transfer per device, not one per tensor
        for index, value in zip(indices, torch.stack([counts[i] for i in indices]).tolist(), strict=True):
            result[index] = value
    return result


def sparsity_report(model: nn.Module) -> SparsityReport:
    r"""Zeros of every trainable parameter of a model.

    .. math:: \text{sparsity} = \frac{\#\{j : w_j = 0\}}{\#\{j\}}

    Args:
        model: Any module. Parameters with ``requires_grad=False`` and buffers are not counted; a shared
            parameter is counted once; sharded parameters (DTensor) are counted over all ranks, so that
            every rank has to call this.

    Returns:
        A :class:`SparsityReport`; ``report.sparsity`` is the number that the paper quotes.

    Example:
        >>> layer = nn.Linear(3, 1)
        >>> _ = nn.init.zeros_(layer.bias)
        >>> sparsity_report(layer).sparsity
        0.25

    References:
        Chao et al. 2020, section 4: zeros / all trainable parameters, biases and BatchNorm included.
    """
    return sparsity_of({name: p for name, p in model.named_parameters() if p.requires_grad})


def sparsity_of(tensors: Mapping[str, Tensor]) -> SparsityReport:
    """Zeros of named tensors.

    Example:
        >>> sparsity_of({"mask": torch.tensor([0.0, 1.0])}).sparsity
        0.5
    """
    zeros = count_zeros(tensors.values())
    return SparsityReport(
        tuple(
            LayerSparsity(name, tuple(tensor.shape), n)
            for (name, tensor), n in zip(tensors.items(), zeros, strict=True)
        )
    )
