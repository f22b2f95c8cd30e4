"""The weights after chosen epochs, kept beside the run for whoever looks at the course of training."""

from collections.abc import Collection
from typing import Any

from dirprune.core.sparsity import SparsityReport
from dirprune.export import save_sparse
from dirprune.train.callbacks import Callback, Run


class SnapshotSaver(Callback):
    """Writes the weights after chosen epochs as sparse files; 0 is before the first.

    Args:
        epochs: Which ones; those that a run does not reach are left out.

    Example:
        >>> SnapshotSaver([0, 1, 10]).epochs
        frozenset({0, 1, 10})
    """

    def __init__(self, epochs: Collection[int]) -> None:
        self.epochs = frozenset(epochs)
        self._run: Run | None = None

    def on_start(self, run: Run) -> None:
        """Keep the initial weights."""
        self._run = run
        if run.position.step == 0:
            self._save(0)

    def on_epoch(self, metrics: dict[str, Any], sparsity: SparsityReport) -> None:  # noqa: ARG002
        """Keep the weights of a chosen epoch; after a kill the same epoch writes the same bits again."""
        self._save(metrics["epoch"])

    def _save(self, epoch: int) -> None:
        if self._run is None or epoch not in self.epochs:
            return
        path = self._run.folder.snapshot_path(epoch)
        path.parent.mkdir(exist_ok=True)
        save_sparse(self._run.plain_state(), path)
