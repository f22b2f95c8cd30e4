"""How a run is computed, which its result does not depend on but for BatchNorm."""

import os
from dataclasses import dataclass
from typing import Literal

from dirprune.core.threads import usable_cores
from dirprune.errors import UsageError

Parallel = Literal["ddp", "fsdp2"]


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a run uses the machine; it may be resumed with other values, but see ``accumulation``.

    Raises:
        UsageError: A value is outside its range.

    Example:
        >>> Execution(accumulation=4).micro_batches(images=256, processes=8)
        4
    """

    parallel: Parallel = "ddp"
    """With several processes (torchrun): each holds the whole model (ddp), or a part of it (fsdp2)."""
    accumulation: int = 1
    """Take each batch in this many parts, one after the other: less memory, same gradient. BatchNorm sees
    the parts, as it sees each process's part."""
    workers: int | None = None
    """Processes that decode images of streamed data sets, for each run; None: the cores, shared by the
    training processes of this machine; 0: the training process itself."""

    def __post_init__(self) -> None:
        if self.parallel not in ("ddp", "fsdp2"):
            raise UsageError(f"`parallel` must be ddp or fsdp2, got {self.parallel}")
        if self.accumulation < 1:
            raise UsageError(f"`accumulation` must be >= 1, got {self.accumulation}")
        if self.workers is not None and self.workers < 0:
            raise UsageError(f"`workers` must be >= 0, got {self.workers}")

    def micro_batches(self, images: int, processes: int) -> int:
        """Return in how many parts each process takes a batch: the same number for all of them."""
        return min(self.accumulation, -(-images // processes))

    def least_at_once(self, images: int, batch_size: int, processes: int) -> int:
        """Return how few images a process may take at once in an epoch, 1 or more.

        Example:
            >>> Execution().least_at_once(images=9, batch_size=4, processes=1)  # 4, 4, 1
            1
        """
        batches = {min(batch_size, images), images % batch_size or min(batch_size, images)}
        return min(
            max(1, own // self.micro_batches(batch, processes))
            for batch in batches
            for own in (batch // processes, -(-batch // processes))
            if own
        )

    def decoders(self) -> int:
        """Return the number of worker processes for this one."""
        if self.workers is not None:
            return self.workers
        return max(1, usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
