"""What is measured on a model: loss and accuracy, and where it stopped being finite."""

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dirprune.core.sharding import local, whole
from dirprune.train.ranks import Ranks

TOP = 5
_ONE_PROCESS = Ranks(count=1, rank=0)


@dataclass(frozen=True)
class Measured:
    """Mean cross-entropy in nats, accuracy in [0, 1], and top-5 accuracy (None with ten classes or fewer)."""

    loss: float
    accuracy: float
    top5: float | None


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterator[tuple[Tensor, Tensor]],
    *,
    ranks: Ranks = _ONE_PROCESS,
    autocast: Any = nullcontext,
) -> Measured:
    """Measure a model in evaluation mode.

    Args:
        model: Takes images, returns logits [b, classes].
        batches: Images and int64 labels [b] of this process's part, at least one batch; as many batches in
            every process, some of which may be empty.
        ranks: The processes whose parts are added up.
        autocast: Makes the context of mixed precision.

    Returns:
        Loss and accuracies over all parts.
    """
    model.eval()
    sums = [0.0] * 4  # loss, correct, among the first five, images
    classes = 0
    while True:
        with ranks.together():
            batch = next(batches, None)
        if batch is None:
            break
        inputs, labels = batch
        with autocast():
            # A sharded model is gathered in the forward pass, so that every process has to take part.
            logits = model(inputs if len(labels) else inputs.new_zeros(1, *inputs.shape[1:]))
        logits, classes = logits[: len(labels)].float(), logits.shape[1]
        first = logits.topk(min(TOP, classes), dim=1).indices == labels[:, None]
        sums[0] += functional.cross_entropy(logits, labels, reduction="sum").item()
        sums[1] += (logits.argmax(dim=1) == labels).sum().item()
        sums[2] += first.sum().item()
        sums[3] += len(labels)
    loss, correct, among_first, images = ranks.total_of(sums)
    top5 = among_first / images if classes > 2 * TOP else None
    return Measured(loss / images, correct / images, top5)


def all_finite(tensors: Iterable[Tensor], ranks: Ranks) -> bool:
    """Whether every element of some tensors is finite in all processes. Collective: call it on every rank."""
    return not ranks.any(not all(torch.isfinite(local(tensor)).all() for tensor in tensors))


def first_non_finite(model: nn.Module) -> str:
    """Say which parameter, in the model's order, is the first with a NaN or an infinity.

    Where none is, the one with the greatest magnitude is named, for it is on its way. Collective
    where the model is sharded: call it on every rank.
    """
    largest = {}
    found = None
    for name, parameter in model.named_parameters():
        values = whole(parameter.detach())
        if found is None and not torch.isfinite(values).all():
            found = name
        largest[name] = values.abs().max().item() if values.numel() else 0.0
    if found is not None:
        return f"first non-finite parameter: {found}"
    name = max(largest, key=lambda name: largest[name])
    return f"all parameters are finite, the greatest magnitude is {largest[name]:.2g} in {name}"
