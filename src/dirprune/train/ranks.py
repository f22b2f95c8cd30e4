"""What the processes of one training run say to each other."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any, ContextManager, TypeVar  # noqa: UP035 - as a type only

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from dirprune.errors import LostPeerError, PeerError, RunInUseError

T = TypeVar("T")

_KNOWN = "all processes of the run know of it"
_LEAST_SHARD = 2**16  # elements; a layer smaller than this is gathered together with its neighbours


@cache
def _control() -> Any:
    """A group on the host: what it says does not wait for the devices."""
    return dist.new_group(backend="gloo")


class Ranks:
    """The processes of a run, of which number 0 alone reads and writes the run's folder.

    With one process every method does the obvious thing at no cost.

    Args:
        count: Number of processes.
        rank: Number of this one.

    Example:
        >>> ranks = Ranks(count=1, rank=0)
        >>> ranks.on_main(lambda: "read once"), ranks.any(False)
        ('read once', False)
    """

    def __init__(self, count: int, rank: int) -> None:
        self.count = count
        self.rank = rank

    @property
    def main(self) -> bool:
        """Whether this is the process that reads and writes."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process. Collective: call it on every rank."""
        if self.count == 1:
            return flag
        flags = torch.tensor([int(flag)])
        dist.all_reduce(flags, dist.ReduceOp.MAX, group=_control())
        return bool(flags.item())

    def total(self, tensor: Tensor) -> Tensor:
        """Return the sum of a tensor over the processes."""
        if self.count > 1:
            dist.all_reduce(tensor)
        return tensor

    def greatest(self, tensor: Tensor) -> Tensor:
        """Return the greatest of each element over the processes."""
        if self.count > 1:
            dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tensor

    def total_of(self, numbers: list[float]) -> list[float]:
        """Return the sums of some numbers over the processes, in double precision."""
        if self.count == 1:
            return numbers
        sums = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(sums, group=_control())
        totals: list[float] = sums.tolist()
        return totals

    @contextmanager
    def together(self) -> Iterator[None]:
        """Run a block without collective calls; an error in one process is raised in all.

        Raises:
            PeerError: It failed in another process.
            RunInUseError: So in another process, for the run is in use to all of them.
            Exception: What it raised in this one.
        """
        if self.count == 1:
            yield
            return
        error: Exception | None = None
        try:
            yield
        except Exception as caught:
            error = caught
        if self.any(error is not None):
            said: list[tuple[bool, str] | None] = [None] * self.count
            in_use = isinstance(error, RunInUseError)
            mine = None if error is None else (in_use, str(error) or type(error).__name__)
            dist.all_gather_object(said, mine, group=_control())
            if error is not None:
                error.add_note(_KNOWN)
                raise error
            rank, (in_use, line) = next((rank, each) for rank, each in enumerate(said) if each is not None)
            raise RunInUseError(line) if in_use else PeerError(f"process {rank} failed: {line}")

    def on_main(self, action: Callable[[], T]) -> T:
        """Run an action in process 0 and return its result in all of them.

        Raises:
            PeerError: It failed, and this is another process.
            Exception: What it raised in process 0.
        """
        results: list[Any] = [None]
        with self.together():
            if self.main:
                results = [action()]
        if self.count > 1:
            dist.broadcast_object_list(results, src=0, group=_control())
        result: T = results[0]
        return result


def first_process() -> bool:
    """Whether this is the only process, or number 0 of those that torchrun started; known at once."""
    return processes() == 1 or os.environ.get("RANK", "0") == "0"


def processes() -> int:
    """Return how many processes torchrun started; known at once."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def known_to_all(error: Exception) -> bool:
    """Whether all processes have met a failure together, so that none of them waits for another."""
    return processes() == 1 or isinstance(error, PeerError) or _KNOWN in getattr(error, "__notes__", ())


def lost_peer(error: Exception) -> LostPeerError | None:
    """Return what to say where a collective failed because another process has ended; None of other errors.

    Torch has no type for it: gloo raises a RuntimeError, NCCL a DistBackendError, which is one too.
    """
    said = str(error)
    lost = isinstance(error, dist.DistNetworkError | dist.DistBackendError) or any(
        words in said for words in ("Connection closed by peer", "Connection reset by peer", "Broken pipe")
    )
    if processes() == 1 or not (lost and isinstance(error, RuntimeError)):
        return None
    return LostPeerError(
        "another process of the run has ended, see what it said; the same command goes on from the last "
        "checkpoint"
    )


def leave() -> None:
    """Say goodbye to the other processes, if there are any."""
    if dist.is_initialized():
        _control.cache_clear()
        dist.destroy_process_group()


def shard(model: nn.Module) -> None:
    """Divide a model among the processes (FSDP2): block by block, so that one is whole at a time."""
    for block in _blocks(model):
        if sum(parameter.numel() for parameter in block.parameters()) >= _LEAST_SHARD:
            fully_shard(block)
    fully_shard(model)


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The parts that containers string together: residual blocks, or layers."""
    for child in module.children():
        if isinstance(child, nn.Sequential | nn.ModuleList):
            yield from _blocks(child)
        else:
            yield child


def without_exchange(model: nn.Module, last: bool) -> ContextManager[None]:
    """Return a context in which gradients are only added up, unless this is the last part of a batch."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last)
    elif isinstance(model, DistributedDataParallel) and not last:
        context: ContextManager[None] = model.no_sync()
        return context
    return nullcontext()
