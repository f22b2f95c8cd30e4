"""Augmentation and normalisation of whole batches at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dirprune.errors import UsageError


@dataclass(frozen=True)
class Augmentation:
    """Random shift and flip of raw images, then normalisation.

        y = (flip(crop(x)) / 255 - mean) / std

    The image is shifted inside a border of zeros, put around it before normalisation, as by torchvision's
    `RandomCrop(size, padding=crop_padding)`; offsets are uniform on 0..2*crop_padding, and a flip has
    probability 1/2.

    Args:
        crop_padding: width of the border in pixels; 0 leaves images in place.
        flip: whether half of the images are mirrored left to right.
        mean: one value, or one per channel, of images scaled to 0..1.
        std: likewise, positive.

    Raises:
        UsageError: a value outside its range.

    Example:
        >>> images = torch.full((2, 3, 32, 32), 255, dtype=torch.uint8)
        >>> augmentation = Augmentation(crop_padding=4, flip=True, mean=(0.5,), std=(0.25,))
        >>> batch = augmentation.training_batch(images, torch.Generator().manual_seed(0))
        >>> batch.shape, batch.unique()
        (torch.Size([2, 3, 32, 32]), tensor([-2.,  2.]))
    """

    crop_padding: int = 0
    flip: bool = False
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if self.crop_padding < 0:
            raise UsageError(f"crop_padding should be 0 or more pixels; it is {self.crop_padding}")
        if not self.mean or len(self.mean) != len(self.std):
            raise UsageError(
                f"mean and std should be of one length, at least 1; they are {self.mean} and {self.std}"
            )
        if not all(map(math.isfinite, (*self.mean, *self.std))) or min(self.std) <= 0:
            raise UsageError(
                f"mean and std should be finite, std positive; they are {self.mean} and {self.std}"
            )

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw the random choices for a batch.

        Args:
            count: number of images.
            generator: the only source of chance, on the CPU.

        Returns:
            int64 [count, 3] on the CPU: row offset, column offset (pixels, 0..2*crop_padding), flip (0 or 1).

        Example:
            >>> Augmentation(crop_padding=4).draw(5, torch.Generator().manual_seed(0)).shape
            torch.Size([5, 3])
        """
        offsets = torch.randint(2 * self.crop_padding + 1, (count, 2), generator=generator)
        flips = torch.randint(2, (count, 1), generator=generator) * self.flip
        return torch.cat([offsets, flips], dim=1)

    def apply(self, images: Tensor, choices: Tensor) -> Tensor:
        """Shift, flip and normalise images by choices already drawn.

        Args:
            images: uint8 [b, channels, height, width], on any device.
            choices: int64 [b, 3] from `draw`.

        Returns:
            float32 [b, channels, height, width] on the images' device.

        Example:
            >>> images = torch.arange(4, dtype=torch.uint8).reshape(1, 1, 1, 4) * 85
            >>> Augmentation(flip=True).apply(images, torch.tensor([[0, 0, 1]])).flatten()
            tensor([1.0000, 0.6667, 0.3333, 0.0000])
        """
        if self.crop_padding or self.flip:
            images = self._shift_and_flip(images, choices.to(images.device))
        return self.evaluation_batch(images)

    def training_batch(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Augment and normalise a batch: `apply` with fresh choices.

        Args:
            images: uint8 [b, channels, height, width], on any device.
            generator: the only source of chance, on the CPU.

        Returns:
            float32 [b, channels, height, width] on the images' device.

        Example:
            >>> images = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
            >>> Augmentation(crop_padding=1).training_batch(images, torch.Generator()).dtype
            torch.float32
        """
        return self.apply(images, self.draw(len(images), generator))

    def evaluation_batch(self, images: Tensor) -> Tensor:
        """Normalise a batch and change nothing else.

        Args:
            images: uint8 [b, channels, height, width], on any device.

        Returns:
            float32 [b, channels, height, width] on the images' device.

        Raises:
            UsageError: images of another type, or of a number of channels that mean and std do not have.

        Example:
            >>> images = torch.zeros(1, 1, 1, 2, dtype=torch.uint8)
            >>> Augmentation(mean=(0.5,), std=(0.5,)).evaluation_batch(images)
            tensor([[[[-1., -1.]]]])
        """
        if images.dtype != torch.uint8:
            raise UsageError(f"images should be uint8; they are {images.dtype}")
        if len(self.mean) not in (1, images.shape[1]):
            raise UsageError(f"images have {images.shape[1]} channels; mean and std have {len(self.mean)}")
        scale = [1 / (255 * std) for std in self.std]
        shift = [-mean / std for mean, std in zip(self.mean, self.std, strict=True)]
        scale_and_shift = torch.tensor([scale, shift], device=images.device)[:, :, None, None]
        return images.float().mul_(scale_and_shift[0]).add_(scale_and_shift[1])

    def _shift_and_flip(self, images: Tensor, choices: Tensor) -> Tensor:
        """Gather the chosen window of every image out of its border, uint8 [b, channels, height, width]."""
        batch, channels, height, width = images.shape
        padded = functional.pad(images, (self.crop_padding,) * 4)
        top, left, flip = choices[:, :, None].unbind(1)
        along = torch.arange(width, device=images.device)
        columns = left + torch.where(flip == 1, width - 1 - along, along)
        rows = top + torch.arange(height, device=images.device)
        window = rows[:, :, None] * padded.shape[3] + columns[:, None, :]
        index = window.reshape(batch, 1, height * width).expand(-1, channels, -1)
        return padded.flatten(2).gather(2, index).view_as(images)
