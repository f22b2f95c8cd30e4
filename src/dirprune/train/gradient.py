"""The gradient of one batch, however many parts and processes share it."""

from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional

from dirprune.data.batches import seeded
from dirprune.train.config import TrainConfig
from dirprune.train.execution import Execution
from dirprune.train.ranks import Ranks, without_exchange
from dirprune.train.running_statistics import RunningStatistics


class BatchGradient:
    r"""Leaves in every parameter's ``grad`` the gradient of the mean loss over a whole batch.

    .. math:: \nabla \frac{1}{B} \sum_{i=1}^{B} \ell_i
        = \frac{1}{R} \sum_{r=1}^{R} \sum_p \frac{R \, b_{rp}}{B} \nabla \bar\ell_{rp}

    with R processes, the parts p of each, b images in a part and their mean loss: DDP and FSDP2 average over
    the processes, so that each part counts by its share of the batch, and an empty one by nothing.

    Args:
        config: What is trained.
        model: As wrapped for several processes.
        accelerator: Mixed precision.
        ranks: The processes.
        execution: Number of parts.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: nn.Module,
        accelerator: Accelerator,
        ranks: Ranks,
        execution: Execution,
    ) -> None:
        self._seed = config.seed
        self._channels_last = config.channels_last
        self._model = model
        self._accelerator = accelerator
        self._ranks = ranks
        self._execution = execution

    def __call__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        of: int,
        step: int,
        dtype: torch.dtype,
        penalty: Callable[[], Tensor | None],
    ) -> Tensor:
        """Add the gradient of a batch to what is there.

        Args:
            images: This process's part, float32 [b, channels, height, width].
            labels: int64 [b].
            of: Images of the batch in all processes together.
            step: Of the run; dropout of several processes is seeded by it.
            dtype: Of the result.
            penalty: What the method adds to the loss, once for the whole batch; it is not in the result.

        Returns:
            [sum of the losses, number of right answers] over all processes.
        """
        ranks = self._ranks
        if ranks.count > 1:  # dropout that differs between processes, and that a resume repeats
            where = (self._seed, step, ranks.rank)
            torch.manual_seed(seeded("dropout", *where).initial_seed())
        parts = self._execution.micro_batches(of, ranks.count)
        sums = torch.zeros(2, dtype=dtype, device=labels.device)
        statistics = None
        if parts * ranks.count > 1:
            statistics = RunningStatistics(self._model, ranks, dtype)
            statistics.begin()
        for part in range(parts):
            mine = slice(len(labels) * part // parts, len(labels) * (part + 1) // parts)
            count = mine.stop - mine.start
            last = part == parts - 1
            with without_exchange(self._model, last=last):
                loss, correct = self._loss(images[mine], labels[mine])
                objective = loss * (count * ranks.count / of)
                added = penalty() if last else None
                self._accelerator.backward(objective if added is None else objective + added)
            if statistics is not None:
                statistics.add(count)
            sums += torch.stack([loss.detach().to(dtype) * count, correct.to(dtype)])
        if statistics is not None:
            statistics.finish(of)
        return ranks.total(sums)

    def _loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean loss of some images and how many are right; zeros of no images."""
        if not len(labels):
            # A process without images takes part in the exchange all the same, with no trace in BatchNorm.
            self._model.eval()
            logits = self._forward(images.new_zeros(1, *images.shape[1:]))
            self._model.train()
            return 0 * logits.float().sum(), torch.zeros((), device=logits.device)
        logits = self._forward(images)
        loss = functional.cross_entropy(logits.float(), labels)
        return loss, (logits.detach().argmax(dim=1) == labels).sum()

    def _forward(self, images: Tensor) -> Tensor:
        if self._channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with self._accelerator.autocast():
            logits: Tensor = self._model(images)
        return logits
