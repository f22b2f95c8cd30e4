"""What a run writes down: its epochs, its result, and why it diverged."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from dirprune.core.sparsity import SparsityReport
from dirprune.export import SparseFileInfo
from dirprune.train.callbacks import Position
from dirprune.train.config import TrainConfig
from dirprune.train.measures import Measured
from dirprune.train.progress import Progress

_MEASURED = ("train_loss", "train_accuracy", "test_loss", "test_accuracy", "test_top5")
_OF_THE_BEST = ("epoch", "test_accuracy", "test_top5", "sparsity")


def epoch_record(
    progress: Progress,
    images: int,
    test: Measured,
    sparsity: SparsityReport,
    optimizer: torch.optim.Optimizer,
) -> dict[str, Any]:
    """Return what an epoch has come to; it does not depend on the clock.

    Args:
        progress: At the end of the epoch.
        images: Training images.
        test: Measured after it.
        sparsity: Counted after it.
        optimizer: Tells the learning rate and the threshold.
    """
    train_loss, correct = progress.sums.tolist()
    return {
        "epoch": progress.position.epoch,
        "step": progress.position.step,
        "lr": optimizer.param_groups[0]["lr"],
        "train_loss": train_loss / images,
        "train_accuracy": correct / images,
        "test_loss": test.loss,
        "test_accuracy": test.accuracy,
        **({} if test.top5 is None else {"test_top5": test.top5}),
        "sparsity": sparsity.sparsity,
        "threshold": threshold_in_force(optimizer),
    }


def timing_record(progress: Progress) -> dict[str, Any]:
    """Return what the clock says of an epoch."""
    return {
        "epoch": progress.position.epoch,
        "train_seconds": progress.seconds["train"],
        "input_seconds": progress.seconds["input"],
        "evaluation_seconds": progress.seconds["evaluation"],
    }


def result_record(
    config: TrainConfig,
    steps: int,
    metrics: Sequence[Mapping[str, Any]],
    sparsity: SparsityReport,
    info: SparseFileInfo,
) -> dict[str, Any]:
    """Return how a run ended.

    Args:
        config: What was trained.
        steps: Optimiser steps that it took.
        metrics: The records of its epochs.
        sparsity: Of the finished network.
        info: Of its sparse file.
    """
    last, best = metrics[-1], max(metrics, key=lambda record: record["test_accuracy"])
    return {
        "status": "finished",
        "epochs": config.epochs,
        "measured_on": "validation" if config.validation else "test",
        "steps": steps,
        **{key: last[key] for key in _MEASURED if key in last},
        "best": {key: best[key] for key in _OF_THE_BEST if key in best},
        "sparsity": sparsity.sparsity,
        "parameters": sparsity.numel,
        "zeros": sparsity.zeros,
        "layers": [{"name": x.name, "shape": list(x.shape), "zeros": x.zeros} for x in sparsity.layers],
        "macs": _total(metrics, "macs"),
        "sparse_bytes": info.bytes,
        "dense_bytes": info.dense_bytes,
    }


def threshold_in_force(optimizer: torch.optim.Optimizer) -> float:
    """Return the largest threshold that an optimiser holds, in units of the weights; 0 without one."""
    held = optimizer.state.values()
    return max((float(state["threshold"]) for state in held if "threshold" in state), default=0.0)


def diverged(what: str, config: TrainConfig, position: Position, where: str) -> str:
    """Say in one line what is not finite, where, and what to do."""
    remedy = "lower `lr`, `mu` or `c`" if config.method == "grda" else "lower `lr`"
    return f"{what} is not finite in epoch {position.epoch} after {position.step} steps ({where}); {remedy}"


def _total(metrics: Sequence[Mapping[str, Any]], key: str) -> float | None:
    """Add up the epochs; None where an earlier version did not record them."""
    counts = [record[key] for record in metrics if key in record]
    return float(sum(counts)) if len(counts) == len(metrics) else None
