"""gRDA's accumulators at chosen epochs of a run, kept for what looks at how they move."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from dirprune.core.atomic import atomic_write
from dirprune.core.sparsity import SparsityReport
from dirprune.errors import RunFolderError
from dirprune.runs import RunFolder
from dirprune.train.callbacks import Callback, Run


@dataclass(frozen=True, eq=False)
class Accumulators:
    """The accumulators of all thresholded parameters after an epoch.

    Attributes:
        accumulator: float32 [n], the parameters one after the other.
        threshold: In force, in units of the weights.
        step: Steps taken.
        numel: Trainable parameters in all, at least n.
    """

    accumulator: Tensor
    threshold: float
    step: int
    numel: int

    @property
    def sparsity(self) -> float:
        """Fraction of zeros among all trainable parameters."""
        return int((self.accumulator.abs() <= self.threshold).sum()) / self.numel


class KeepAccumulators(Callback):
    """Writes ``accumulators/epoch-00003.safetensors`` into the run's folder after each of some epochs.

    Args:
        epochs: After which.
    """

    def __init__(self, epochs: Sequence[int]) -> None:
        self._epochs = frozenset(epochs)

    def on_start(self, run: Run) -> None:
        """Keep the run at hand."""
        self._run = run

    def on_epoch(self, metrics: dict[str, Any], sparsity: SparsityReport) -> None:
        """Write the accumulators."""
        if metrics["epoch"] not in self._epochs:
            return
        states = [state for state in self._run.optimizer.state.values() if state.get("threshold", 0) > 0]
        flat = [state["accumulator"].detach().float().flatten().cpu() for state in states]
        content = {
            "accumulator": torch.cat(flat) if flat else torch.zeros(0),
            "threshold": torch.tensor(metrics["threshold"], dtype=torch.float64),
            "counts": torch.tensor([metrics["step"], sparsity.numel]),
        }
        folder = self._run.folder.path / "accumulators"
        folder.mkdir(exist_ok=True)
        with atomic_write(folder / _name(metrics["epoch"])) as file:
            file.write(save(content))


def read_accumulators(run: RunFolder, epoch: int) -> Accumulators:
    """Read what :class:`KeepAccumulators` wrote.

    Raises:
        RunFolderError: The file is not there, or it is damaged.
    """
    path = run.path / "accumulators" / _name(epoch)
    try:
        content = load(path.read_bytes())
        step, numel = content["counts"].tolist()
        return Accumulators(content["accumulator"], content["threshold"].item(), step, numel)
    except (FileNotFoundError, SafetensorError, KeyError, ValueError) as error:
        raise RunFolderError(f"{path} cannot be read ({error}): delete {run.path} to make it anew") from error


def _name(epoch: int) -> str:
    return f"epoch-{epoch:05d}.safetensors"
