"""What a run does beside training: callbacks keep it out of the loop."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import nn

from dirprune.core.sparsity import SparsityReport
from dirprune.runs import RunFolder
from dirprune.train.config import TrainConfig

_LINES_PER_RUN = 20


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


@dataclass(frozen=True, eq=False)
class Run:
    """What a callback may look at.

    Attributes:
        config: What is trained.
        folder: Where the run is written.
        model: The network, without the wrappers of distributed training.
        optimizer: Its optimiser.
        position: Where the run is now; it moves.
    """

    config: TrainConfig
    folder: RunFolder
    model: nn.Module
    optimizer: torch.optim.Optimizer
    position: Position


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


class ProgressDisplay(Callback):
    """Bar with the time left on a terminal; in a log, up to twenty lines for each run.

    Use as a context manager around all runs of an experiment.

    Args:
        console: Where to show it.
        runs: Number of runs to come.
    """

    def __init__(self, console: Console, runs: int) -> None:
        self._console = console
        self._runs = runs
        self._started = 0
        self._task: TaskID | None = None
        self._name = ""
        self._position: Position | None = None
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> "ProgressDisplay":
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def on_start(self, run: Run) -> None:
        """Show a new bar."""
        self._started += 1
        name, position = run.config.run_name, run.position
        self._name, self._position = name, position
        self._task = self._progress.add_task(
            f"[{self._started}/{self._runs}] {name}",
            total=position.total_steps,
            completed=position.step,
            figures="",
        )
        if position.step:
            self.say(f"{name}: goes on at epoch {position.epoch}, step {position.step_in_epoch}")

    def on_step(self, position: Position) -> None:
        """Move the bar."""
        if self._task is not None:
            self._progress.update(self._task, completed=position.step)

    def on_epoch(self, metrics: dict[str, Any], sparsity: SparsityReport) -> None:  # noqa: ARG002
        """Show the figures."""
        figures = (
            f"loss {metrics['train_loss']:.4f}  accuracy {100 * metrics['test_accuracy']:.2f} %  "
            f"sparsity {100 * metrics['sparsity']:.2f} %"
        )
        if self._task is not None:
            self._progress.update(self._task, figures=figures)
        if self._console.is_terminal or self._position is None:
            return
        epoch, epochs = metrics["epoch"], self._position.epochs
        if epoch % math.ceil(epochs / _LINES_PER_RUN) == 0 or epoch == epochs:
            line = f"{self._name}: epoch {epoch}/{epochs}  {figures}"
            self.say(line)

    def on_end(self, result: dict[str, Any]) -> None:
        """Say so if the run failed."""
        if result["status"] == "diverged":
            self.say(f"{self._name}: diverged: {result['message']}")

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        self._console.print(line, soft_wrap=True, highlight=False, markup=False)
