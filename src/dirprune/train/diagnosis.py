"""Warnings while training: what goes wrong with sparse training, and what to do about it."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from dirprune.core.sparsity import SparsityReport
from dirprune.core.wording import counted
from dirprune.train.callbacks import Callback, Run
from dirprune.train.config import TrainConfig

OUTGROWN = 0.999
"""Sparsity from which the threshold has outgrown the weights."""
COLLAPSE = 0.5
"""Fraction of the best accuracy so far below which an epoch counts as a collapse."""
INPUT = 0.1
"""Fraction of an epoch's training time above which waiting for images counts as slow input."""
STILL = 3
"""Epochs without a trace of learning after which it is said."""
_LEARNT = 2  # times the accuracy of chance that a network must have had before it can collapse
_CHANCE = 1.1, 0.99  # times accuracy and loss of chance: no more than the one, no less than the other
_THINNED = 0.05  # zeros that may keep a network from learning; a dense one has fewer, in its biases
_TELLING = 10.0  # seconds that an epoch must take for its clock to say something
_MAY_BE_EMPTY = (".bias",)  # a bias at zero is no dead layer
_SUITABLE = ("constant", "drop", "half-linear")  # of our schedules, by what the paper has


class Diagnosis(Callback):
    """Warns once of each thing that is amiss, says it aloud, and keeps it in the run's folder.

    It looks for a learning-rate schedule or thresholded normalisation that do not suit gRDA, batches that
    BatchNorm sees in other parts after a resume, layers whose weights are all zero, layers whose outputs are
    zero on every evaluated image (of the first process, where there are several), a network that has not
    begun to learn while it became sparse, a threshold that has outgrown the weights (sparsity above 99.9 %,
    or accuracy fallen below half of its best), and input that the training waits for.

    Args:
        say: Where a warning goes beside ``warnings.jsonl``; by default nowhere.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from dirprune.data import load_dataset
        >>> from dirprune.runs import RunFolder
        >>> from dirprune.train import Trainer
        >>> config = TrainConfig(recipe="mine", dataset="digits", model="lenet-300-100", epochs=1, c=1.0)
        >>> with tempfile.TemporaryDirectory() as path:
        ...     folder = RunFolder(Path(path))
        ...     _ = Trainer(config, load_dataset("digits"), folder, callbacks=[Diagnosis()]).run()
        ...     sorted({warning["kind"] for warning in folder.warnings()})
        ['dead layer', 'dead outputs', 'outgrown']
    """

    def __init__(self, say: Callable[[str], None] = lambda _: None) -> None:
        self._say = say

    def on_start(self, run: Run) -> None:
        """Look at the settings, and begin to watch the layers' outputs."""
        self._run = run
        self._known = {(warning["kind"], warning["where"]) for warning in run.folder.warnings()}
        accuracies = [record["test_accuracy"] for record in run.folder.metrics()]
        self._best = max(accuracies, default=0.0)
        self._thresholds = any(group.get("c", 0) > 0 for group in run.optimizer.param_groups)
        self._remedy = "lower `lr`" if run.config.sparsity is None else "lower `sparsity` or `lr`"
        if self._thresholds:
            self._remedy = "lower `c` or `mu`"
        self._learnt = _LEARNT / run.num_classes
        self._begun = False
        self._silent: set[str] = set()
        self._watch(run.model)
        self._look_at_the_parts()
        if not self._thresholds:
            return
        if complaint := unsuitable_schedule(run.config):
            self._warn("schedule", "", complaint)
        norms = [name for name, module in run.model.named_modules() if _is_affine_norm(module)]
        if norms and run.config.prune == "all":
            self._warn(
                "normalisation",
                "",
                f"the scales and shifts of {len(norms)} normalisation layers are thresholded too (the "
                "paper's setting), and a scale at zero removes its channel; `prune` weights keeps them dense",
            )

    def on_epoch(self, metrics: dict[str, Any], sparsity: SparsityReport) -> None:
        """Look at the network and at how it does."""
        dead = [layer.name for layer in sparsity.layers if layer.numel == layer.zeros > 0]
        for name in dead:
            if not name.endswith(_MAY_BE_EMPTY):
                self._warn(
                    "dead layer",
                    name,
                    f"every element of {name} is zero: what enters that layer is lost; {self._remedy}",
                )
        for name in sorted(self._silent):
            self._warn(
                "dead outputs",
                name,
                f"all outputs of {name} are zero on every evaluated image: nothing gets past it; "
                f"{self._remedy}" + (", or `lr`" if self._thresholds else ""),
            )
        self._silent.clear()
        accuracy = metrics["test_accuracy"]
        if self._thresholds and sparsity.sparsity > OUTGROWN:
            self._warn(
                "outgrown",
                "",
                f"sparsity is {100 * sparsity.sparsity:.3f} %: the threshold has outgrown the weights; "
                "lower `mu`, or `c`, or train for fewer epochs",
            )
        if accuracy < COLLAPSE * self._best and self._best >= self._learnt:
            self._warn(
                "collapse",
                "",
                f"accuracy fell to {100 * accuracy:.2f} % from {100 * self._best:.2f} %; {self._remedy}",
            )
        self._best = max(self._best, accuracy)
        self._look_at_the_beginning(sparsity.sparsity)
        self._look_at_the_clock()

    def _look_at_the_parts(self) -> None:
        """Compare how the batches are divided with how they were before a resume."""
        norms = [module for module in self._run.model.modules() if isinstance(module, _NormBase)]
        begun = self._run.folder.environment()
        starts = [begun, *begun.get("resumed", [])]
        if not norms or len(starts) == 1:
            return
        before, now = (each.get("processes", 1) * each.get("accumulation", 1) for each in starts[-2:])
        if now != before:
            self._warn(
                "parts",
                "",
                f"BatchNorm now sees a batch in {counted(now, 'part')}, before the resume in {before}: the "
                "result will be of neither; resume with the same processes and `accumulation`, or train anew",
            )

    def _look_at_the_beginning(self, sparsity: float) -> None:
        if self._begun:
            return
        records, classes = self._run.folder.metrics(), self._run.num_classes
        self._begun = not all(_at_chance(record, classes) for record in records)
        if len(records) >= STILL and not self._begun and sparsity > _THINNED:
            under = "under this threshold" if self._thresholds else "at this sparsity"
            self._warn(
                "not learning",
                "",
                f"after {len(records)} epochs the training accuracy is that of chance "
                f"({100 * records[-1]['train_accuracy']:.2f} %) and {100 * sparsity:.1f} % are zeros: the "
                f"network has not begun to learn {under}; {self._remedy}",
            )

    def _look_at_the_clock(self) -> None:
        for timing in self._run.folder.timing()[-1:]:
            training, waiting = timing["train_seconds"], timing["input_seconds"]
            if training >= _TELLING and waiting > INPUT * training:
                self._warn(
                    "slow input",
                    "",
                    f"{100 * waiting / training:.0f} % of the training time was spent waiting for images; "
                    "give more `workers`, or keep the images on a faster disk",
                )

    def close(self) -> None:
        """Let go of the run, which the next one may need the memory of."""
        if hasattr(self, "_run"):
            del self._run

    def _warn(self, kind: str, where: str, message: str) -> None:
        """Record a warning and say it, unless it has been said."""
        if (kind, where) in self._known:
            return
        self._known.add((kind, where))
        epoch = self._run.position.epoch
        self._run.folder.append_warning({"epoch": epoch, "kind": kind, "where": where, "message": message})
        self._say(f"{self._run.folder.path.name}: warning in epoch {epoch}: {message}")

    def _watch(self, model: nn.Module) -> None:
        """Note each layer whose outputs are all zero in evaluation."""
        awake: set[str] = set()

        def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
            def look(module: nn.Module, _: Any, output: Any) -> None:
                if module.training:
                    awake.clear()
                elif name not in awake and isinstance(output, Tensor):
                    if bool((output != 0).any()):
                        awake.add(name)
                        self._silent.discard(name)
                    else:
                        self._silent.add(name)

            return look

        for name, module in model.named_modules():
            inside = {child for child, _ in module.named_children()} - {"parametrizations"}
            if not inside and "parametrizations" not in name.split("."):
                module.register_forward_hook(watch(name))


def unsuitable_schedule(config: TrainConfig) -> str | None:
    """Say why a learning-rate schedule does not suit gRDA; None if nothing is known against it.

    The threshold grows with the rate in force, so a rate that falls early or in several steps, or rises
    again, leaves weights under a threshold that its steps cannot overcome; a constant rate, or one fall in
    the second half, suits.

    Args:
        config: Of the run.

    Returns:
        One line that says what to do, or None.

    Example:
        >>> config = TrainConfig(recipe="", dataset="digits", model="lenet5", epochs=10, schedule="cosine")
        >>> unsuitable_schedule(config).split(";")[0]
        'schedule cosine lowers the rate in epoch 1 of 10'

    References:
        Chao et al. 2020, section 4: a constant rate, or one drop late.
    """
    if config.schedule in _SUITABLE:
        return None
    epochs = config.schedule_epochs or config.epochs
    rates = [config.lr, *(config.learning_rate(epoch) for epoch in range(1, epochs + 1))]
    # Under a constant rate the threshold grows to the end: what momentum and the hard threshold gain is lost.
    published = config.penalty == "l1" and config.momentum == 0
    suits = "`schedule` constant, half-linear or drop" if published else "`schedule` half-linear"
    remedy = f"keep it for the first half at least: {suits}"
    for epoch in range(2, epochs + 1):
        if rates[epoch] > rates[epoch - 1]:
            return f"schedule {config.schedule} raises the rate in epoch {epoch} of {epochs}; {remedy}"
    falls = [epoch for epoch in range(1, epochs + 1) if rates[epoch] < rates[epoch - 1]]
    if falls and falls[0] <= max(1, epochs / 2):
        return f"schedule {config.schedule} lowers the rate in epoch {falls[0]} of {epochs}; {remedy}"
    # A step is a fall by half, or one that ends a time of equal rates; a smooth fall has one such beginning.
    steps = [e for e in falls if rates[e] <= rates[e - 1] / 2 or rates[e - 1] == rates[e - 2]]
    if len(steps) > 1:
        return (
            f"schedule {config.schedule} lowers the rate in steps, in epochs {steps[0]} and {steps[1]} "
            f"of {epochs}; one late drop suits gRDA: {suits}"
        )
    return None


def _at_chance(record: Mapping[str, Any], classes: int) -> bool:
    """Whether an epoch's training shows nothing learnt, neither by its accuracy nor by its loss."""
    accuracy, loss = _CHANCE
    guessed: bool = record["train_accuracy"] <= accuracy / classes
    return guessed and record["train_loss"] >= loss * math.log(classes)


def _is_affine_norm(module: nn.Module) -> bool:
    if isinstance(module, (_NormBase, nn.GroupNorm)):
        return module.affine
    if isinstance(module, nn.LayerNorm):
        return module.elementwise_affine
    return isinstance(module, nn.RMSNorm) and isinstance(module.weight, torch.nn.Parameter)
