"""Batches whose order and augmentation depend on (seed, epoch, step) alone, so that a resume is exact."""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dirprune.data.augment import Augmentation
from dirprune.data.catalogue import Split
from dirprune.errors import UsageError


def epoch_permutation(n: int, seed: int, epoch: int) -> Tensor:
    """Return the order in which an epoch visits the images.

    Args:
        n: number of images.
        seed: of the run.
        epoch: which one.

    Returns:
        int64 [n], a permutation of 0..n-1: a pure function of the three.

    Example:
        >>> sorted(epoch_permutation(5, seed=0, epoch=1).tolist())
        [0, 1, 2, 3, 4]
    """
    return torch.randperm(n, generator=seeded("order", seed, epoch))


@dataclass(frozen=True, eq=False)
class Batches:
    """The training batches of a split, epoch by epoch; an incomplete last batch is kept.

    Args:
        split: images and labels; batches are made on their device.
        batch_size: images per batch, over all ranks together.
        seed: of the run.
        augmentation: applied afresh to every batch.

    Raises:
        UsageError: batch_size below 1.

    Example:
        >>> split = Split(torch.zeros(5, 1, 8, 8, dtype=torch.uint8), torch.arange(5))
        >>> batches = Batches(split, batch_size=2, seed=0, augmentation=Augmentation(crop_padding=1))
        >>> [(step, len(labels)) for step, images, labels in batches.epoch(1)]
        [(0, 2), (1, 2), (2, 1)]
    """

    split: Split
    batch_size: int
    seed: int
    augmentation: Augmentation

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UsageError(f"batch_size should be 1 or more; it is {self.batch_size}")

    def __len__(self) -> int:
        """Steps per epoch."""
        return math.ceil(len(self.split) / self.batch_size)

    def epoch(
        self, epoch: int, start_step: int = 0, rank: int = 0, world_size: int = 1
    ) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield the batches of one epoch.

        With several ranks each takes its part of the same global batch, as equal as can be: put together in
        rank order they are the batch of a single process, bit for bit. A part is empty where the batch has
        fewer images than there are ranks.

        Args:
            epoch: which one.
            start_step: the first step to yield; a resume in mid-epoch passes the number of steps done.
            rank: of this process, 0..world_size-1.
            world_size: number of processes.

        Yields:
            step within the epoch, images float32 [b, channels, height, width], labels int64 [b].

        Raises:
            UsageError: start_step or rank out of range; at the first batch.

        Example:
            >>> split = Split(torch.zeros(5, 1, 8, 8, dtype=torch.uint8), torch.arange(5))
            >>> batches = Batches(split, batch_size=2, seed=0, augmentation=Augmentation())
            >>> [step for step, _, _ in batches.epoch(1, start_step=1)]
            [1, 2]
        """
        order = epoch_permutation(len(self.split), self.seed, epoch)
        for step in range(checked_start(start_step, len(self)), len(self)):
            batch = order[step * self.batch_size : (step + 1) * self.batch_size]
            own = part(len(batch), rank, world_size)
            # Every rank draws for the whole batch, so the choices do not depend on how many ranks there are.
            choices = self.augmentation.draw(len(batch), seeded("augmentation", self.seed, epoch, step))
            rows = batch[own].to(self.split.labels.device)
            images = self.split.images.index_select(0, rows)
            yield (
                step,
                self.augmentation.apply(images, choices[own]),
                self.split.labels.index_select(0, rows),
            )

    def data_order_digest(self, epoch: int) -> str:
        """Return a short fingerprint of an epoch's order, for logs.

        Args:
            epoch: which one.

        Returns:
            CRC-32 of the permutation as little-endian int64, eight hexadecimal digits.

        Example:
            >>> split = Split(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.arange(2))
            >>> len(Batches(split, 2, seed=0, augmentation=Augmentation()).data_order_digest(1))
            8
        """
        return order_digest(len(self.split), self.seed, epoch)

    @staticmethod
    def evaluation(
        split: Split, augmentation: Augmentation, batch_size: int = 1000, rank: int = 0, world_size: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield a split once, in its own order, normalised and not augmented.

        Args:
            split: images and labels.
            augmentation: of which the normalisation is used.
            batch_size: images per batch, over all ranks together.
            rank: of this process, 0..world_size-1; each takes its part of every batch.
            world_size: number of processes.

        Yields:
            images float32 [b, channels, height, width], labels int64 [b].

        Raises:
            UsageError: rank or batch_size out of range; at the first batch.

        Example:
            >>> split = Split(torch.zeros(5, 1, 8, 8, dtype=torch.uint8), torch.arange(5))
            >>> [labels.tolist() for _, labels in Batches.evaluation(split, Augmentation(), batch_size=3)]
            [[0, 1, 2], [3, 4]]
        """
        if batch_size < 1:
            raise UsageError(f"batch_size should be 1 or more; it is {batch_size}")
        for start in range(0, len(split), batch_size):
            images, labels = (
                split.images[start : start + batch_size],
                split.labels[start : start + batch_size],
            )
            own = part(len(labels), rank, world_size)
            yield augmentation.evaluation_batch(images[own]), labels[own]


def order_digest(n: int, seed: int, epoch: int) -> str:
    """Return the CRC-32 of an epoch's permutation as little-endian int64, eight hexadecimal digits."""
    order = epoch_permutation(n, seed, epoch).numpy()
    return f"{zlib.crc32(order.astype('<i8').tobytes()):08x}"


def checked_start(start_step: int, steps: int) -> int:
    """Return the first step of an epoch to yield, or raise UsageError."""
    if not 0 <= start_step <= steps:
        raise UsageError(f"start_step should be 0..{steps}, the steps of an epoch; it is {start_step}")
    return start_step


def part(total: int, rank: int, world_size: int) -> slice:
    """Return a rank's share of a batch; shares differ by one image at most."""
    if not 0 <= rank < world_size:
        raise UsageError(f"rank should be 0..{world_size - 1} for {world_size} processes; it is {rank}")
    return slice(total * rank // world_size, total * (rank + 1) // world_size)


def seeded(purpose: str, *where: int) -> torch.Generator:
    """Seed a generator by a hash: sums such as seed + epoch would give different runs the same batches."""
    digest = hashlib.sha256(repr((purpose, *where)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))
