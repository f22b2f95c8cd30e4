"""What a run reads: training batches and evaluation batches, alike for data in memory and streamed data."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from dirprune.data import (
    Augmentation,
    Batches,
    EncodedDataset,
    EncodedSplit,
    Framing,
    ImageDataset,
    Split,
    StreamedBatches,
)
from dirprune.errors import DataError, UsageError
from dirprune.train.config import TrainConfig
from dirprune.train.execution import Execution

SomeSplit = TypeVar("SomeSplit", Split, EncodedSplit)

_IN_MEMORY_EVALUATION = 1000  # images at once


@dataclass(frozen=True, eq=False)
class Inputs:
    """The batches of a run.

    Args:
        training: Batches to train on.
        evaluated: What is measured on after every epoch.
        evaluation_size: Images at once in evaluation, over all processes.
        shape: (channels, height, width) of what the network sees.
        num_classes: Number of classes.
        digest: Fingerprint of the data.
    """

    training: Batches | StreamedBatches
    evaluated: Split | EncodedSplit
    evaluation_size: int
    shape: tuple[int, int, int]
    num_classes: int
    digest: str

    @property
    def images(self) -> int:
        """Number of training images."""
        return len(self.training.split)

    def pass_over(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all training batches once, in the order of the first epoch."""
        return ((images, labels) for _, images, labels in self.training.epoch(1))

    def evaluation(self, rank: int, processes: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield this process's parts of the evaluation batches."""
        if isinstance(self.training, StreamedBatches):
            assert isinstance(self.evaluated, EncodedSplit)
            return self.training.evaluation(self.evaluated, self.evaluation_size, rank, processes)
        assert isinstance(self.evaluated, Split)
        augmentation = self.training.augmentation
        return Batches.evaluation(self.evaluated, augmentation, self.evaluation_size, rank, processes)


def make_inputs(
    config: TrainConfig, dataset: ImageDataset | EncodedDataset, device: torch.device, execution: Execution
) -> Inputs:
    """Make the batches that a configuration asks for.

    Args:
        config: What to train.
        dataset: Its data.
        device: Where batches are handed over.
        execution: How the machine is used.

    Returns:
        Training and evaluation batches.

    Raises:
        UsageError: A setting does not suit the data.
        DataError: There is nothing to train or to measure on, or a label outside the classes.
    """
    check_data(dataset, config.dataset)
    channels, height, _ = dataset.image_shape
    if len(config.mean) not in (1, channels):
        raise UsageError(
            f"`mean` must have 1 value, or one for each of the {channels} channels of {config.dataset}, "
            f"got {len(config.mean)}"
        )
    augmentation = Augmentation(config.crop_padding, config.flip, config.mean, config.std)
    if isinstance(dataset, ImageDataset):
        train, test = in_memory(config, dataset)
        batches = Batches(train.to(device), config.batch_size, config.seed, augmentation)
        return Inputs(
            batches,
            test.to(device),
            _IN_MEMORY_EVALUATION,
            train.image_shape,
            dataset.num_classes,
            dataset.digest,
        )
    if config.crop_padding:
        raise UsageError(
            f"`crop_padding` does not apply to {config.dataset}: its images are cropped and resized"
        )
    size = config.image_size or height
    encoded, held = splits(dataset.train, dataset.test, config.validation)
    streamed = StreamedBatches(
        encoded,
        config.batch_size,
        config.seed,
        Framing(size, config.flip),
        augmentation,
        device,
        execution.decoders(),
    )
    at_once = -(-config.batch_size // execution.accumulation)
    return Inputs(streamed, held, at_once, (channels, size, size), dataset.num_classes, dataset.digest)


def check_data(dataset: ImageDataset | EncodedDataset, name: str) -> None:
    """Raise DataError for a split without images or a label outside the classes, before an epoch is lost."""
    for what, split in (("training", dataset.train), ("test", dataset.test)):
        if not len(split):
            raise DataError(f"the {what} images of {name} are none: give it some")
        low, high = int(split.labels.min()), int(split.labels.max())
        if low < 0 or high >= dataset.num_classes:
            raise DataError(
                f"the {what} labels of {name} should be 0 to {dataset.num_classes - 1}, as it has "
                f"{dataset.num_classes} classes; they are {low} to {high}"
            )


def in_memory(config: TrainConfig, dataset: ImageDataset) -> tuple[Split, Split]:
    """Return what to train on and what to measure on, in the size that a configuration asks for.

    Raises:
        DataError: Images cannot be brought to that size, or nothing is left to train or to measure on.
    """
    train, test = splits(dataset.train, dataset.test, config.validation)
    size = config.image_size
    return (train, test) if size is None else (train.smaller(size), test.smaller(size))


def held_back_of(images: int, validation: float) -> int:
    """Return how many of the training images are held back.

    Raises:
        DataError: Nothing is left to train or to measure on.
    """
    held_back = round(images * validation)
    if validation and not 0 < held_back < images:
        raise DataError(
            f"`validation` {validation} of {images} images leaves nothing to train or to measure on"
        )
    return held_back


def splits(train: SomeSplit, test: SomeSplit, validation: float) -> tuple[SomeSplit, SomeSplit]:
    """Return what to train on and what to measure on.

    Args:
        train: The training images.
        test: The test images.
        validation: Fraction of the training images that is held back and measured on; 0: the test set is.

    Raises:
        DataError: Nothing is left to train or to measure on.

    Example:
        >>> from dirprune.data import load_dataset
        >>> digits = load_dataset("digits")
        >>> [len(split) for split in splits(digits.train, digits.test, 0.2)]
        [1150, 287]
    """
    if validation == 0:
        return train, test
    held_back = held_back_of(len(train), validation)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))  # one split for all runs
    return train.subset(order[held_back:]), train.subset(order[:held_back])
