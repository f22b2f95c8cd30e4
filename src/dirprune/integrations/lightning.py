"""PyTorch Lightning: a callback that watches zeros appear and writes the sparse file."""

import os
from pathlib import Path
from typing import Any

from dirprune.errors import from_extra

try:
    from lightning.pytorch import Callback
except ModuleNotFoundError:
    with from_extra("lightning", "the callback for Lightning", "lightning or pytorch-lightning"):
        from pytorch_lightning import Callback

from dirprune.core.names import SPARSE_FILE
from dirprune.core.sparsity import sparsity_report
from dirprune.integrations.metrics import sparsity_metrics
from dirprune.integrations.weights import write_sparse


class SparsityCallback(Callback):  # type: ignore[misc] # without types where Lightning is not installed
    r"""Logs the sparsity after every epoch, and writes the sparse file when training ends.

    .. math:: \text{sparsity} = \frac{\#\{j : w_j = 0\}}{\#\{j\}}

    over all trainable parameters, logged as ``sparsity``: progress bars, loggers and
    ``ModelCheckpoint(monitor="sparsity")`` see it. At the end the table of all tensors is printed.

    Return :class:`dirprune.GRDA` from ``configure_optimizers``. Lightning's checkpoints hold the optimiser's
    state, so that ``trainer.fit(..., ckpt_path=...)`` goes on exactly; checkpoints made with
    ``save_weights_only=True`` do not, and cannot be resumed from.

    Works with the trainers of both ``lightning`` and ``pytorch_lightning``, on one device, DDP or FSDP2.

    Args:
        path: Where to write the sparse file; None: ``model.sparse.safetensors`` beside Lightning's logs.
        module: Name of the submodule that is counted and written, such as ``"model"``; empty: all of the
            LightningModule. :func:`dirprune.load_sparse` wants the same module again.
        per_layer: Log ``sparsity/<name>`` of every parameter too.
        at_checkpoints: Write the sparse file whenever Lightning saves a checkpoint, too.

    Example:
        >>> SparsityCallback("small.safetensors", module="model").path
        PosixPath('small.safetensors')

    References:
        Chao et al. 2020, section 4: zeros / all trainable parameters, biases and BatchNorm included.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        module: str = "",
        per_layer: bool = False,
        at_checkpoints: bool = False,
    ) -> None:
        self.path = None if path is None else Path(path)
        self.module = module
        self.per_layer = per_layer
        self.at_checkpoints = at_checkpoints

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        """Log the sparsity."""
        metrics = sparsity_metrics(pl_module.get_submodule(self.module), per_layer=self.per_layer)
        pl_module.log_dict(metrics, sync_dist=True)  # all processes count the same; it spares a warning

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:  # noqa: ARG002
        """Write the sparse file if that is wanted."""
        if self.at_checkpoints:
            self._write(trainer, pl_module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Print the table and write the sparse file."""
        report = sparsity_report(pl_module.get_submodule(self.module))
        if trainer.is_global_zero:
            print(report)
        self._write(trainer, pl_module)

    def _write(self, trainer: Any, pl_module: Any) -> None:
        path = self.path or Path(trainer.log_dir or trainer.default_root_dir) / SPARSE_FILE
        module = pl_module.get_submodule(self.module)
        write_sparse(module, path, first_process=trainer.is_global_zero)
