"""Batches of large images, decoded by worker processes, in an order that a resume repeats exactly."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dirprune.data.augment import Augmentation
from dirprune.data.batches import checked_start, epoch_permutation, order_digest, part, seeded
from dirprune.data.encoded import DEFAULT_SIZE, MAX_PIXELS, EncodedSplit
from dirprune.errors import DataError, UsageError, from_extra

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Framing:
    """How images of any size are brought to one, by torchvision's transforms (v2).

    Training: RandomResizedCrop(size), RandomHorizontalFlip. Test: Resize(size * 256 / 224), CenterCrop(size).

    Args:
        size: height and width in pixels.
        flip: whether half of the training images are mirrored left to right.

    Raises:
        UsageError: size below 1.

    Example:
        >>> from PIL import Image
        >>> framing = Framing(size=8)
        >>> framing.evaluation(Image.new("RGB", (20, 10))).shape
        torch.Size([3, 8, 8])
    """

    size: int = DEFAULT_SIZE
    flip: bool = True

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UsageError(f"the size of images should be 1 or more pixels; it is {self.size}")

    @cached_property
    def _transforms(self) -> tuple[Any, Any]:
        with from_extra("train", "cropping images"):
            from torchvision.transforms import v2

        crop = v2.RandomResizedCrop(self.size, antialias=True)
        flip = [v2.RandomHorizontalFlip()] if self.flip else []
        resize = v2.Resize(round(self.size * 256 / 224), antialias=True)
        return (
            v2.Compose([crop, *flip, v2.PILToTensor()]),
            v2.Compose([resize, v2.CenterCrop(self.size), v2.PILToTensor()]),
        )

    def training(self, image: Any, generator: torch.Generator) -> Tensor:
        """Crop, resize and flip at random.

        Args:
            image: PIL.Image.Image in RGB.
            generator: the only source of chance, on the CPU.

        Returns:
            uint8 [3, size, size].
        """
        # The transforms know torch's global generator only: lend it this one's state, then give it back.
        before = torch.default_generator.get_state()
        torch.default_generator.set_state(generator.get_state())
        try:
            framed: Tensor = self._transforms[0](image)
        finally:
            torch.default_generator.set_state(before)
        return framed

    def evaluation(self, image: Any) -> Tensor:
        """Resize and take the centre.

        Args:
            image: PIL.Image.Image in RGB.

        Returns:
            uint8 [3, size, size].

        Raises:
            DataError: resized, the image would have more than `MAX_PIXELS` pixels, so narrow is it.
        """
        resize = self._transforms[1].transforms[0]
        if resize.size[0] ** 2 * max(image.size) > MAX_PIXELS * min(image.size):
            raise DataError(
                "the image is too narrow to be resized; it is {} x {}; remove it".format(*image.size)
            )
        framed: Tensor = self._transforms[1](image)
        return framed


@dataclass(frozen=True, eq=False)
class StreamedBatches:
    """The training batches of a split of encoded images; the counterpart of `Batches`.

    Order and augmentation are a function of (seed, epoch, image): neither the number of workers nor of ranks
    changes a pixel, and a resume in mid-epoch decodes nothing that was skipped.

    Args:
        split: encoded images and labels.
        batch_size: images per batch, over all ranks together.
        seed: of the run.
        framing: how images are cropped.
        augmentation: its normalisation is used, on the device.
        device: where batches are handed over.
        workers: processes that decode; 0 decodes in this one.

    Raises:
        UsageError: a number out of range.

    Example:
        >>> split = EncodedSplit(source=None, labels=torch.arange(5), rows=torch.arange(5))
        >>> len(StreamedBatches(split, 2, 0, Framing(), Augmentation(), torch.device("cpu")))
        3
    """

    split: EncodedSplit
    batch_size: int
    seed: int
    framing: Framing
    augmentation: Augmentation
    device: torch.device
    workers: int = 0

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UsageError(f"batch_size should be 1 or more; it is {self.batch_size}")
        if self.workers < 0:
            raise UsageError(f"workers should be 0 or more; it is {self.workers}")

    def __len__(self) -> int:
        """Steps per epoch."""
        return math.ceil(len(self.split) / self.batch_size)

    def epoch(
        self, epoch: int, start_step: int = 0, rank: int = 0, world_size: int = 1
    ) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield the batches of one epoch, or this rank's parts of them, as `Batches.epoch` does.

        Args:
            epoch: which one.
            start_step: the first step to yield.
            rank: of this process, 0..world_size-1.
            world_size: number of processes.

        Yields:
            step within the epoch, images float32 [b, 3, size, size], labels int64 [b].

        Raises:
            UsageError: start_step or rank out of range; at the first batch.
            DataError: an image cannot be decoded; names it.
        """
        start = checked_start(start_step, len(self))
        order = epoch_permutation(len(self.split), self.seed, epoch)
        batches = (
            order[step * self.batch_size : (step + 1) * self.batch_size] for step in range(start, len(self))
        )
        parts = (batch[part(len(batch), rank, world_size)].tolist() for batch in batches)
        decoder = _Decoder(self.split, self.framing, (self.seed, epoch))
        for step, (images, labels) in enumerate(self._load(decoder, parts), start):
            yield step, images, labels

    def evaluation(
        self, split: EncodedSplit, batch_size: int, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch]:
        """Yield another split once, in its own order, resized, centred and normalised.

        Args:
            split: encoded images and labels.
            batch_size: images per batch, over all ranks together.
            rank: of this process, 0..world_size-1; each takes its part of every batch.
            world_size: number of processes.

        Yields:
            images float32 [b, 3, size, size], labels int64 [b].

        Raises:
            UsageError: rank or batch_size out of range; at the first batch.
            DataError: an image cannot be decoded or resized; names it.
        """
        if batch_size < 1:
            raise UsageError(f"batch_size should be 1 or more; it is {batch_size}")
        ranges = (
            range(start, min(start + batch_size, len(split))) for start in range(0, len(split), batch_size)
        )
        parts = (list(whole[part(len(whole), rank, world_size)]) for whole in ranges)
        yield from self._load(_Decoder(split, self.framing, None), parts)

    def data_order_digest(self, epoch: int) -> str:
        """Return a short fingerprint of an epoch's order, for logs."""
        return order_digest(len(self.split), self.seed, epoch)

    def _load(self, decoder: _Decoder, parts: Iterable[list[int]]) -> Iterator[Batch]:
        """Decode parts of batches ahead of their use, and bring them to the device."""
        on_gpu = self.device.type == "cuda"
        loader = DataLoader(
            decoder,
            batch_sampler=parts,
            num_workers=self.workers,
            collate_fn=_as_it_is,
            pin_memory=on_gpu,
            worker_init_fn=_leave_signals_to_the_main_process,
            generator=torch.Generator(),  # else every loader would draw from the global one
        )
        for loaded in loader:
            if isinstance(loaded, str):
                raise DataError(loaded)
            images, labels = (tensor.to(self.device, non_blocking=on_gpu) for tensor in loaded)
            yield self.augmentation.evaluation_batch(images), labels


class _Decoder(torch.utils.data.Dataset[Any]):
    """Decodes lists of images; with (seed, epoch) for training, without for evaluation."""

    def __init__(self, split: EncodedSplit, framing: Framing, moment: tuple[int, int] | None) -> None:
        self._split = split
        self._framing = framing
        self._moment = moment

    def __getitems__(self, indices: list[int]) -> Batch | str:
        """Return images uint8 [b, 3, size, size] and labels, or what is wrong with one of them."""
        size = self._framing.size
        images = torch.empty(len(indices), 3, size, size, dtype=torch.uint8)
        try:
            for place, index in enumerate(indices):
                images[place] = self._framed(index)
        except DataError as error:  # a worker's exception would reach the user with a traceback inside
            return str(error)
        return images, self._split.labels[torch.tensor(indices, dtype=torch.int64)]

    def _framed(self, index: int) -> Tensor:
        image = self._split.image(index)
        if self._moment is not None:
            return self._framing.training(image, seeded("framing", *self._moment, index))
        try:
            return self._framing.evaluation(image)
        except DataError as error:
            raise DataError(f"{self._split.name(index)}: {error}") from error


def _as_it_is(loaded: Any) -> Any:
    """Batches come whole from the decoder."""
    return loaded


def _leave_signals_to_the_main_process(worker: int) -> None:  # noqa: ARG001 - torch's signature
    """A stop request to the whole process group must not end the workers before the step has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
