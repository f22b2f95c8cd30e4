"""Hugging Face Trainer: gRDA in a line, and a callback that counts zeros and writes the sparse file."""

import os
from pathlib import Path
from typing import Any

from torch import nn

from dirprune.errors import from_extra

with from_extra("transformers", "gRDA in the Trainer"):
    from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
    from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from dirprune.core.names import SPARSE_FILE
from dirprune.core.prunable import Include, prunable_groups
from dirprune.core.sparsity import sparsity_report
from dirprune.integrations.metrics import sparsity_metrics
from dirprune.integrations.weights import write_sparse
from dirprune.optim import GRDA


class PrunableGRDA:
    """Makes a GRDA that keeps embeddings, biases and normalisation dense, for ``optimizer_cls_and_kwargs``.

    The Trainer hands it the model that it is about to train. To threshold every parameter, pass
    :class:`dirprune.GRDA` itself. Either way the learning rate is the one given here, not that of
    ``TrainingArguments``, whose ``lr_scheduler_type`` should be ``"constant"``: it decays linearly if nothing
    is said, and gRDA suits a constant rate. ``weight_decay`` is also the one given here; with GRDA itself it
    is that of ``TrainingArguments``, which the Trainer gives to its groups. A transformer wants Adam's
    direction, ``momentum=0.9, beta2=0.999``, with the rate and weight decay that suit AdamW.

    Raises:
        UsageError: ``include`` selects nothing.

    Example:
        >>> model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 2))
        >>> optimizer = PrunableGRDA()(model, lr=0.1, c=1e-3, mu=0.6)
        >>> [(len(group["params"]), group["c"]) for group in optimizer.param_groups]
        [(1, 0.001), (2, 0.0)]

    References:
        Chao, Wang, Xing, Cheng 2020, "Directional Pruning of Deep Neural Networks", NeurIPS, section 3.
    """

    def __call__(self, model: nn.Module, *, include: Include = "weights", **options: Any) -> GRDA:
        """Make the optimiser.

        Args:
            model: What is trained.
            include: What becomes sparse, as in :func:`dirprune.prunable_groups`.
            options: Options of :class:`dirprune.GRDA`.
        """
        return GRDA(prunable_groups(model, include), **options)


class SparsityCallback(TrainerCallback):  # type: ignore[misc] # without types where it is not installed
    r"""Logs the sparsity after every epoch, and writes the sparse file when training ends.

    .. math:: \text{sparsity} = \frac{\#\{j : w_j = 0\}}{\#\{j\}}

    over all trainable parameters, logged as ``sparsity`` to wherever the Trainer logs. At the end the table
    of all tensors is printed. The Trainer's checkpoints hold the optimiser's state, so that
    ``trainer.train(resume_from_checkpoint=True)`` goes on exactly, unless ``save_only_model=True``.

    Args:
        trainer: The Trainer that it is added to; what it logs goes through it.
        path: Where to write the sparse file; None: ``model.sparse.safetensors`` in the ``output_dir``.
        per_layer: Log ``sparsity/<name>`` of every parameter too.
        in_checkpoints: Write a sparse file into every checkpoint too.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> sizes = {"vocab_size": 8, "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1}
        >>> model = BertForSequenceClassification(BertConfig(**sizes, intermediate_size=4))
        >>> trainer = Trainer(model, optimizer_cls_and_kwargs=(GRDA, {"lr": 0.1, "c": 1e-3, "mu": 0.6}))
        >>> trainer.add_callback(SparsityCallback(trainer))

    References:
        Chao et al. 2020, section 4: zeros / all trainable parameters, biases and normalisation included.
    """

    def __init__(
        self,
        trainer: Trainer,
        path: str | os.PathLike[str] | None = None,
        *,
        per_layer: bool = False,
        in_checkpoints: bool = False,
    ) -> None:
        self.trainer = trainer
        self.path = path
        self.per_layer = per_layer
        self.in_checkpoints = in_checkpoints

    def on_epoch_end(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,  # noqa: ARG002
        control: TrainerControl,
        *,
        model: nn.Module,
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Log the sparsity."""
        due = control.should_log
        self.trainer.log(sparsity_metrics(model, per_layer=self.per_layer))
        control.should_log = due  # logging takes it down, and the loss of this epoch is still to be logged

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        *,
        model: nn.Module,
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Write a sparse file into the checkpoint if that is wanted."""
        if self.in_checkpoints:
            folder = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
            write_sparse(model, folder / SPARSE_FILE, first_process=state.is_world_process_zero)

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        *,
        model: nn.Module,
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Print the table and write the sparse file."""
        report = sparsity_report(model)
        if state.is_world_process_zero:
            print(report)
        path = self.path or Path(args.output_dir) / SPARSE_FILE
        write_sparse(model, path, first_process=state.is_world_process_zero)
