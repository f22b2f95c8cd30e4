"""What is measured on a model: loss and accuracy, and where it stopped being finite."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional


@torch.no_grad()
def evaluate(model: nn.Module, batches: Iterator[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """Measure a model in evaluation mode.

    Args:
        model: Takes images, returns logits [b, classes].
        batches: Images and int64 labels [b], at least one batch.

    Returns:
        Mean cross-entropy in nats, and accuracy in [0, 1].
    """
    model.eval()
    loss = correct = images = 0.0
    for inputs, labels in batches:
        logits = model(inputs).float()
        loss += functional.cross_entropy(logits, labels, reduction="sum").item()
        correct += (logits.argmax(dim=1) == labels).sum().item()
        images += len(labels)
    return loss / images, correct / images


def first_non_finite(model: nn.Module) -> str:
    """Say which parameter, in the model's order, is the first with a NaN or an infinity.

    Where none is, the one with the greatest magnitude is named, for it is on its way.
    """
    largest = {}
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            return f"first non-finite parameter: {name}"
        largest[name] = parameter.detach().abs().max().item() if parameter.numel() else 0.0
    name = max(largest, key=lambda name: largest[name])
    return f"all parameters are finite, the greatest magnitude is {largest[name]:.2g} in {name}"
