"""What a run does beside training: callbacks keep it out of the loop."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dirprune.core.sparsity import SparsityReport
from dirprune.methods import Method
from dirprune.runs import RunFolder
from dirprune.train.config import TrainConfig


@dataclass
class Position:
    """Where a run is.

    Attributes:
        epoch: The epoch that is under way, from 1.
        step_in_epoch: Steps of this epoch that are done.
        step: Steps that are done in all.
        steps_per_epoch: Steps in an epoch.
        epochs: Epochs of the whole run.
    """

    epoch: int
    step_in_epoch: int
    step: int
    steps_per_epoch: int
    epochs: int

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.steps_per_epoch * self.epochs

    @property
    def steps_of_epoch(self) -> range:
        """Numbers of the steps that this epoch has done, from 1 over the whole run."""
        return range(self.step - self.step_in_epoch + 1, self.step + 1)


@dataclass(frozen=True, eq=False)
class Run:
    """What a callback may look at.

    Attributes:
        config: What is trained.
        folder: Where the run is written.
        model: The network, without the wrappers of distributed training.
        optimizer: Its optimiser.
        method: What made the optimiser.
        num_classes: Of the data.
        position: Where the run is now; it moves.
        sums: [loss in nats, right answers], summed over the images that this epoch has trained on so far, in
            training mode; float64 [2] on the run's device (float32 on Apple's), and it moves too.
    """

    config: TrainConfig
    folder: RunFolder
    model: nn.Module
    optimizer: torch.optim.Optimizer
    method: Method[Any]
    num_classes: int
    position: Position
    sums: Tensor

    def plain_state(self) -> dict[str, Tensor]:
        """Return the network's state under its original names, with the weights of evaluation."""
        held, weights = self.model.state_dict(), self.method.weights()
        plain = {
            name: weights.get(name, tensor)
            for name, tensor in held.items()
            if "parametrizations" not in name.split(".")
        }
        return {**plain, **weights}


class Callback:
    """Is told what happens in a run; every method does nothing unless it is overridden."""

    def on_start(self, run: Run) -> None:
        """Training starts, or goes on."""

    def on_step(self, position: Position) -> None:
        """A step is done."""

    def on_epoch(self, metrics: dict[str, Any], sparsity: SparsityReport) -> None:
        """An epoch is done and has been measured; after a kill this epoch may come again."""

    def on_end(self, result: dict[str, Any]) -> None:
        """The run is over, well or not."""

    def close(self) -> None:
        """Training has ended in this process: over, stopped or failed; let go of what is held."""


def figures(metrics: dict[str, Any]) -> str:
    """Write an epoch's figures for a person."""
    return (
        f"loss {metrics['train_loss']:.4f}  accuracy {100 * metrics['test_accuracy']:.2f} %  "
        f"sparsity {100 * metrics['sparsity']:.2f} %"
    )
