"""BatchNorm's running statistics where several parts or processes share a batch."""

import torch
from torch import Tensor, nn

from dirprune.train.ranks import Ranks


class RunningStatistics:
    r"""Has a step change the buffers of a network once, by the mean over its parts.

    .. math:: r' = \frac{1}{B} \sum_p b_p \, r_p

    with what part p of b images makes of r alone. So they are the same in all processes, and the same whether
    processes or an accumulation divide a batch; torch has them from process 0's parts, or from part after
    part. Of whole numbers, such as the count of batches, the greatest that a part makes is taken.

    Args:
        model: Whose buffers.
        ranks: The processes.
        dtype: To add up in.

    Example:
        >>> norm = nn.BatchNorm1d(1, momentum=0.5)
        >>> statistics = RunningStatistics(norm, Ranks(1, 0), torch.float64)
        >>> statistics.begin()
        >>> for part in torch.tensor([[[0.0], [0.0]], [[4.0], [4.0]]]):
        ...     _ = norm(part)
        ...     statistics.add(len(part))
        >>> statistics.finish(4)
        >>> norm.running_mean.item(), norm.num_batches_tracked.item()  # from 0, half way to the mean 2
        (1.0, 1)
    """

    def __init__(self, model: nn.Module, ranks: Ranks, dtype: torch.dtype) -> None:
        buffers = list(model.buffers())
        self._means = [buffer for buffer in buffers if buffer.is_floating_point()]
        self._counts = [buffer for buffer in buffers if not buffer.is_floating_point()]
        self._ranks = ranks
        self._dtype = dtype

    @torch.no_grad()
    def begin(self) -> None:
        """Note what every part begins with."""
        self._before = [buffer.clone() for buffer in (*self._means, *self._counts)]
        self._sum = torch.zeros_like(_joined(self._means, self._dtype))
        self._greatest = _joined(self._counts, torch.int64)

    @torch.no_grad()
    def add(self, images: int) -> None:
        """Add what a part of so many images has made of them; the next part begins as this one did."""
        self._sum += images * _joined(self._means, self._dtype)
        self._greatest = torch.maximum(self._greatest, _joined(self._counts, torch.int64))
        for buffer, before in zip((*self._means, *self._counts), self._before, strict=True):
            buffer.copy_(before)

    @torch.no_grad()
    def finish(self, images: int) -> None:
        """Write what all parts of all processes, of so many images together, have made of them."""
        if self._means:
            _write(self._ranks.total(self._sum) / images, self._means)
        if self._counts:
            _write(self._ranks.greatest(self._greatest), self._counts)


def _joined(buffers: list[Tensor], dtype: torch.dtype) -> Tensor:
    """Return buffers as one vector: one exchange between the processes serves them all."""
    return torch.cat([buffer.flatten().to(dtype) for buffer in buffers]) if buffers else torch.zeros(0)


def _write(vector: Tensor, buffers: list[Tensor]) -> None:
    """Write a vector back into its buffers."""
    for buffer, part in zip(buffers, vector.split_with_sizes([b.numel() for b in buffers]), strict=True):
        buffer.copy_(part.view_as(buffer))
