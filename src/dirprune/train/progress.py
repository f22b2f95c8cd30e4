"""How far a run is: position, sums of the epoch that is under way, and the time that it took."""

import time
from typing import Any, Literal

import torch

from dirprune.train.callbacks import Position


class Progress:
    """What a run counts, so that it can go on in the middle of an epoch.

    Args:
        steps_per_epoch: Steps in an epoch.
        epochs: Epochs of the whole run.
        device: Where the sums are kept.

    Attributes:
        position: Where the run is.
        sums: [loss in nats, right answers] of the images that this epoch has trained on, float64 [2].
        seconds: Of training, of waiting for input within it, and of evaluation in this epoch; of training in
            all.

    Example:
        >>> progress = Progress(steps_per_epoch=10, epochs=2, device=torch.device("cpu"))
        >>> progress.position.step = 3
        >>> again = Progress(steps_per_epoch=10, epochs=2, device=torch.device("cpu"))
        >>> again.load_state_dict(progress.state_dict())
        >>> again.position.step
        3
    """

    def __init__(self, steps_per_epoch: int, epochs: int, device: torch.device) -> None:
        self.position = Position(1, 0, 0, steps_per_epoch, epochs)
        exact = torch.float32 if device.type == "mps" else torch.float64  # Apple's GPUs know no float64
        self.sums = torch.zeros(2, dtype=exact, device=device)
        self.seconds = {"train": 0.0, "input": 0.0, "evaluation": 0.0, "total": 0.0}

    def count_time(self, kind: Literal["train", "input", "evaluation"], started: float) -> None:
        """Add the time since ``started``, of `time.perf_counter`, to the clocks."""
        passed = time.perf_counter() - started
        self.seconds[kind] += passed
        if kind == "train":
            self.seconds["total"] += passed

    def next_step(self) -> None:
        """Count a step."""
        self.position.step += 1
        self.position.step_in_epoch += 1

    def next_epoch(self) -> None:
        """Go to the beginning of the next epoch."""
        self.position.epoch += 1
        self.position.step_in_epoch = 0
        self.sums.zero_()
        self.seconds["train"] = self.seconds["input"] = self.seconds["evaluation"] = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return everything as a checkpoint can hold it."""
        position = self.position
        return {
            "position": [position.epoch, position.step_in_epoch, position.step],
            "sums": self.sums.cpu(),
            "seconds": dict(self.seconds),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to where a checkpoint was saved."""
        self.position.epoch, self.position.step_in_epoch, self.position.step = state["position"]
        self.sums.copy_(state["sums"])
        self.seconds.update(state["seconds"])
