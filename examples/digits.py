"""The data of the examples: 8x8 digits that come with scikit-learn."""

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from dirprune.data import load_dataset


def batches(batch_size: int = 32) -> DataLoader:
    """Return shuffled training batches: images float32 [b, 1, 8, 8] in [-1, 1], labels int64 [b]."""
    train = load_dataset("digits").train
    return DataLoader(TensorDataset(scaled(train.images), train.labels), batch_size, shuffle=True)


def test_set() -> tuple[Tensor, Tensor]:
    """Return all test images, float32 [360, 1, 8, 8], and their labels."""
    test = load_dataset("digits").test
    return scaled(test.images), test.labels


def scaled(images: Tensor) -> Tensor:
    """Bring bytes into [-1, 1]."""
    return images.float() / 127.5 - 1


@torch.no_grad()
def accuracy(model: torch.nn.Module) -> float:
    """Measure the fraction of test images that a network recognises."""
    images, labels = test_set()
    model.eval()
    return float((model(images).argmax(1) == labels).float().mean())
