"""What a run trains on, and what it is measured on."""

import torch

from dirprune.data import ImageDataset, Split
from dirprune.errors import DataError


def splits(dataset: ImageDataset, validation: float) -> tuple[Split, Split]:
    """Return what to train on and what to measure on.

    Args:
        dataset: Both of its splits.
        validation: Fraction of the training images that is held back and measured on; 0: the test set is.

    Raises:
        DataError: Nothing is left to train or to measure on.

    Example:
        >>> from dirprune.data import load_dataset
        >>> [len(split) for split in splits(load_dataset("digits"), 0.2)]
        [1150, 287]
    """
    if validation == 0:
        return dataset.train, dataset.test
    images = len(dataset.train)
    held_back = round(images * validation)
    if not 0 < held_back < images:
        raise DataError(
            f"--validation {validation} of {images} images leaves nothing to train or to measure on"
        )
    order = torch.randperm(images, generator=torch.Generator().manual_seed(0))  # one split for all runs
    train, held = dataset.train, (order[held_back:], order[:held_back])
    return Split(train.images[held[0]], train.labels[held[0]]), Split(
        train.images[held[1]], train.labels[held[1]]
    )
