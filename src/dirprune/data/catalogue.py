"""The data sets known by name, and the form in which every one of them is handed on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from dirprune.errors import DataError, unknown

_AT_ONCE = 5_000  # images that are float32 at once


@dataclass(frozen=True)
class DatasetSpec:
    """What has to be known about a data set before it is read.

    Args:
        name: the name by which users ask for it.
        hub_name: `owner/name` on the Hugging Face hub; None for a set that comes inside a package.
        image_column: column of encoded images.
        label_column: column of integer labels.
        num_classes: labels lie in 0..num_classes-1.
        image_shape: (channels, height, width) of every image; of streamed ones, what they are brought to.
        counts: number of training and of test images, for estimates before anything is read.
        streamed: whether images are too large and too many for memory, and are decoded batch by batch.

    Example:
        >>> DATASETS["cifar100"].label_column
        'fine_label'
    """

    name: str
    hub_name: str | None
    image_column: str
    label_column: str
    num_classes: int
    image_shape: tuple[int, int, int]
    counts: tuple[int, int]
    streamed: bool = False


DATASETS: dict[str, DatasetSpec] = {
    spec.name: spec
    for spec in (
        DatasetSpec("digits", None, "image", "label", 10, (1, 8, 8), (1_437, 360)),
        DatasetSpec(
            "fashion_mnist",
            "zalando-datasets/fashion_mnist",
            "image",
            "label",
            10,
            (1, 28, 28),
            (60_000, 10_000),
        ),
        DatasetSpec("cifar10", "uoft-cs/cifar10", "img", "label", 10, (3, 32, 32), (50_000, 10_000)),
        DatasetSpec("cifar100", "uoft-cs/cifar100", "img", "fine_label", 100, (3, 32, 32), (50_000, 10_000)),
        DatasetSpec(
            "imagenet",
            "ILSVRC/imagenet-1k",
            "image",
            "label",
            1000,
            (3, 224, 224),
            (1_281_167, 50_000),
            streamed=True,
        ),
    )
}


def find_spec(name: str) -> DatasetSpec:
    """Look a data set up by name.

    Args:
        name: a key of `DATASETS`.

    Returns:
        Its specification.

    Raises:
        DataError: no data set has that name.

    Example:
        >>> find_spec("cifar10").image_shape
        (3, 32, 32)
    """
    if name in DATASETS:
        return DATASETS[name]
    raise DataError(unknown("data set", name, sorted(DATASETS)))


@dataclass(frozen=True, eq=False)
class Split:
    """Images and labels, decoded and in memory.

    Args:
        images: uint8 [n, channels, height, width], as stored: neither scaled nor normalised.
        labels: int64 [n].

    Example:
        >>> split = Split(torch.zeros(5, 1, 8, 8, dtype=torch.uint8), torch.arange(5))
        >>> len(split)
        5
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return self.labels.shape[0]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of every image."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    def subset(self, rows: Tensor) -> Split:
        """Return the images at the given positions, int64 [m], in that order."""
        return Split(self.images[rows], self.labels[rows])

    def smaller(self, size: int) -> Split:
        """Return the images as means over square blocks of pixels.

        Args:
            size: height and width that they are to have; divides those that they have.

        Returns:
            The same split with images uint8 [n, channels, size, size]; means are rounded to even.

        Raises:
            DataError: the size does not divide.

        Example:
            >>> split = Split(torch.tensor([[[[0, 2], [4, 7]]]], dtype=torch.uint8), torch.zeros(1))
            >>> split.smaller(1).images.item()
            3
        """
        height, width = self.images.shape[2:]
        if height == width == size:
            return self
        if height != width or size < 1 or height % size:
            raise DataError(f"images of {height} x {width} pixels cannot be averaged down to {size} x {size}")
        parts = self.images.split(_AT_ONCE)
        means = [avg_pool2d(part.float(), height // size).round_().to(torch.uint8) for part in parts]
        return Split(torch.cat(means), self.labels)

    def to(self, device: torch.device | str) -> Split:
        """Copy both tensors to a device, so that batches are made there.

        Args:
            device: where to.

        Returns:
            The same split on that device.

        Example:
            >>> split = Split(torch.zeros(5, 1, 8, 8, dtype=torch.uint8), torch.arange(5))
            >>> split.to("meta").images.device
            device(type='meta')
        """
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """A training split and a test split of one data set.

    Args:
        train: what networks are fitted to.
        test: what accuracy is reported on.
        num_classes: labels lie in 0..num_classes-1.
        class_names: one name per class; empty where the source has none.

    Example:
        >>> split = Split(torch.zeros(5, 1, 8, 8, dtype=torch.uint8), torch.arange(5))
        >>> ImageDataset(split, split, num_classes=5, class_names=()).image_shape
        (1, 8, 8)
    """

    train: Split
    test: Split
    num_classes: int
    class_names: tuple[str, ...]

    @cached_property
    def digest(self) -> str:
        """Fingerprint of all images and labels: 16 hexadecimal digits."""
        total = hashlib.blake2b(digest_size=8)
        for split in (self.train, self.test):
            total.update(repr(tuple(split.images.shape)).encode())
            total.update(split.images.cpu().numpy().tobytes())
            total.update(split.labels.cpu().numpy().tobytes())
        return total.hexdigest()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of every image."""
        return self.train.image_shape
