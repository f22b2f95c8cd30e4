"""The protocol that every pruning method meets the trainer through."""

import math
from abc import ABC
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any, ClassVar, Generic, TypeVar, final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, AdamW, Optimizer

from dirprune.core.dtypes import wide
from dirprune.core.masks import number_kept
from dirprune.core.prunable import Include, is_linear_or_conv_weight, prunable_parameters
from dirprune.core.schedules import Cubic
from dirprune.core.sparsity import SparsityReport, sparsity_of
from dirprune.errors import HyperparameterError, UsageError


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy in float32 or wider, as the trainer's loss."""
    return functional.cross_entropy(logits.to(wide(logits.dtype)), labels)


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """What the trainer tells a method before training.

    Args:
        total_steps: Optimiser steps of the whole run.
        steps_per_epoch: Steps of an epoch.
        examples: Size N of the training set (penalties of a whole network are divided by it).
        lr: Base learning rate of the run; methods whose optimiser wants another say so in their settings.
        momentum: Of the methods that are SGD at heart.
        weight_decay: l2 penalty; decoupled with ``beta2``.
        nesterov: Nesterov's form of the momentum; not with ``beta2``.
        beta2: Decay of Adam's mean of squared gradients. Where it is not 0, the methods that are SGD at heart
            are AdamW, with ``betas=(momentum, beta2)``.
        include: Which parameters may become sparse, as in :func:`dirprune.prunable_groups`.
        sparsity: Wanted fraction of zeros among those parameters, in [0, 1); None for methods without target.
        seed: Of the method's own random choices.
        batches: Returns a new pass over training batches (inputs, labels), on the model's device, in an
            order that depends on nothing but the seed.
        loss: Loss of (outputs, labels), for methods that look at gradients before training.
    """

    total_steps: int
    steps_per_epoch: int
    examples: int
    lr: float
    batches: Callable[[], Iterator[tuple[Tensor, Tensor]]]
    momentum: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False
    beta2: float = 0.0
    include: Include = "all"
    sparsity: float | None = None
    seed: int = 0
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy

    def __post_init__(self) -> None:
        require(self, total_steps=(1, None), steps_per_epoch=(1, None), examples=(1, None))
        if self.sparsity is not None and not 0 <= self.sparsity < 1:
            raise UsageError(f"the target sparsity must be in [0, 1), got {self.sparsity}")
        if self.beta2 and self.nesterov:
            raise HyperparameterError(
                "nesterov=True does not go with beta2: leave nesterov as it is by default"
            )

    def steps(self, fraction: float) -> int:
        """Return the number of steps that are a fraction of the run."""
        return round(fraction * self.total_steps)


@dataclass(frozen=True)
class Search:
    r"""Range in which a setting is worth searching: from ``low`` to ``high``, on a log scale or not.

    Momentum beta lengthens every step 1 / (1 - beta) times. What a setting x does without momentum, it then
    does with

    .. math:: x \, (1 - \beta)^p

    where p, ``momentum_power``, is 1 for a learning rate, and negative for what acts beside the gradient.
    A greater learning rate may want another x, as its power q = ``lr_power``; ranges hold at rate 0.1. With
    Adam's direction steps are as long as the rate, and x goes as its power p. A run of s times as many steps
    wants x s^r, where r, ``steps_power``, is -mu for the scale of a threshold that grows as the power mu of
    the steps.
    """

    setting: str
    low: float
    high: float
    log: bool = True
    momentum_power: float = 0.0
    lr_power: float = 0.0
    steps_power: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a table about methods has to say of one.

    Attributes:
        title: Name as it is printed.
        paper: Authors, year, title, arXiv number.
        needs_target: The final sparsity has to be given in advance.
        needs_pretrained: Prunes a network that was trained first (within the same budget).
        needs_hessian: Needs products with the Hessian of the training loss.
        monotone: A weight that was pruned never comes back.
        momentum: Its optimiser has the momentum of the run; if not, it is Adam, with its own.
        adaptive: Can take Adam's direction instead of SGD's (or has it anyway).
        weights_only: Prunes weights of linear and convolutional layers only.
        strength: The setting that rules the sparsity (greater is sparser) where there is no target.
        search: Settings worth tuning, the strength among them.
    """

    title: str
    paper: str
    needs_target: bool = False
    needs_pretrained: bool = False
    needs_hessian: bool = False
    monotone: bool = False
    momentum: bool = True
    adaptive: bool = True
    weights_only: bool = False
    strength: str | None = None
    search: tuple[Search, ...] = ()


@dataclass(frozen=True)
class Work:
    """Multiplications of one step, in passes over the layers.

    A dense step is three passes: forward, gradient of the inputs, gradient of the weights. The cost of a
    layer of F multiplications and density d is F (dense + d sparse): what a machine could save that skips
    every product with a pruned weight. Sparse hardware is a bet; seconds are measured beside it.
    """

    dense: float
    sparse: float


DENSE_WORK = Work(dense=3, sparse=0)
SPARSE_WORK = Work(dense=0, sparse=3)
DENSE_GRADIENT_WORK = Work(dense=1, sparse=2)


@dataclass(frozen=True)
class NoSettings:
    """Settings of a method that has none."""


Settings = TypeVar("Settings")


class Method(ABC, Generic[Settings]):
    """A way to train a network that ends sparse; a new object for every run.

    The trainer calls, in this order: :meth:`width` before it builds the network; :meth:`start` on the network
    in training mode on its device; for step n = 1, 2, ...: forward and loss, plus :meth:`penalty` (n) where
    that is not None, backward, the optimiser's step, :meth:`after_step` (n) with the gradients still in
    place; :meth:`finish` at the end. The learning rate of each group is its ``initial_lr`` times the
    schedule's factor. To resume: ``start`` on the fresh network, then load the states of the network, the
    optimiser and the method.

    Args:
        settings: Of the method's own settings class.
    """

    facts: ClassVar[Facts]

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def width(self, build: Callable[[float], nn.Module], plan: TrainingPlan) -> float:  # noqa: ARG002
        """Return the factor on the network's widths that the run is to have; ``build`` makes one by width."""
        return 1.0

    @classmethod
    def refusal(cls, model: nn.Module, include: Include) -> str | None:
        """Say why the method cannot prune a network with its initial weights; None if it can."""
        if cls.facts.weights_only and (name := _other_than_weights(model, include)):
            only = "prunes weights of linear and convolutional layers only"
            return f"{only}, not {name}: include 'weights' instead"
        return None

    @final
    def start(self, model: nn.Module, plan: TrainingPlan) -> Optimizer:
        """Prepare a network and return the optimiser that trains it.

        Args:
            model: In training mode, on its device. Parametrisations may be put on it, which change the names
                in its ``state_dict`` until :meth:`finish`.
            plan: The run.

        Returns:
            The optimiser; each group has its base learning rate in ``initial_lr``.

        Raises:
            UsageError: A target is missing or given in vain, or the method cannot prune these parameters, or
                all of them are frozen.
        """
        title = self.facts.title
        if plan.beta2 and not self.facts.adaptive:
            raise UsageError(f"{title} has no form with Adam's direction: leave beta2 at 0")
        if self.facts.needs_target and plan.sparsity is None:
            raise UsageError(f"{title} needs the final sparsity in advance: give a target in [0, 1)")
        if not self.facts.needs_target and plan.sparsity is not None:
            raise UsageError(
                f"{title} takes no target sparsity"
                + (f": it follows from {self.facts.strength}" if self.facts.strength else "")
            )
        if reason := self.refusal(model, plan.include):
            raise UsageError(f"{title} {reason}")
        self.model, self.plan = model, plan
        self.prunable = {n: p for n, p in prunable_parameters(model, plan.include).items() if p.requires_grad}
        if not self.prunable:
            raise UsageError("no parameter that may become sparse is trained: all have requires_grad=False")
        self._names = [name for name, p in model.named_parameters() if p.requires_grad]
        # Not the run's seed itself: the same stream would repeat the draws that made the initial weights.
        own_seed = np.random.SeedSequence((plan.seed, 1)).generate_state(1)[0]
        self.generator = torch.Generator("cpu").manual_seed(int(own_seed))
        self._prepare()
        self.optimizer = self._make_optimizer()
        for group in self.optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        return self.optimizer

    def _prepare(self) -> None:
        """Do what comes before the optimiser is made."""

    def _make_optimizer(self) -> Optimizer:
        """Return the optimiser."""
        return self._descent([{"params": self._trainable()}])

    def penalty(self, step: int) -> Tensor | None:  # noqa: ARG002
        """Return what is added to the loss of step ``step``, from 1; None for nothing."""
        return None

    def after_step(self, step: int) -> None:
        """Do what follows the optimiser's step number ``step``, from 1; gradients are only read."""

    def finish(self) -> None:
        """Leave a plain network: original names, pruned weights exactly zero. Training is over."""

    def weights(self) -> dict[str, Tensor]:
        """Return all trainable weights under their original names, as they are in evaluation."""
        return {name: self.model.get_parameter(name) for name in self._names}

    def sparsity(self) -> SparsityReport:
        """Zeros of the network as it is in evaluation."""
        return sparsity_of(self.weights())

    def work(self, step: int) -> Work:  # noqa: ARG002
        """Return what step ``step`` costs."""
        return DENSE_WORK

    def state_dict(self) -> dict[str, Any]:
        """Return what a resume needs beside the states of network and optimiser; tensors in plain dicts."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned, after :meth:`start`."""
        self.generator.set_state(state["generator"].cpu())

    def _trainable(self) -> list[nn.Parameter]:
        """Return everything that is trained, what the method added too."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def _dense(self) -> list[nn.Parameter]:
        """Return what is trained and never pruned."""
        prunable = set(self.prunable.values())
        return [parameter for parameter in self._trainable() if parameter not in prunable]

    def _drawn(self, parameter: Tensor) -> Tensor:
        """Draw from U(0, 1) in the shape of a parameter: on the host, so that all devices have the same."""
        return torch.rand(parameter.shape, generator=self.generator, device="cpu").to(parameter.device)

    def _kept(self, sparsity: float) -> int:
        """Return how many prunable weights are kept at a sparsity."""
        return number_kept(sum(parameter.numel() for parameter in self.prunable.values()), sparsity)

    @property
    def _target(self) -> float:
        """The wanted sparsity; start has seen to it that there is one."""
        return self.plan.sparsity or 0.0

    def _ramp(self, begin: float, end: float) -> Cubic:
        """Return the schedule from no sparsity to the wanted one between two fractions of the run."""
        return Cubic(self.plan.steps(begin), max(1, self.plan.steps(end)), self._target)

    def _descent(self, groups: list[dict[str, Any]]) -> Optimizer:
        """Return SGD with the momentum and weight decay of the run, or AdamW."""
        plan = self.plan
        if plan.beta2:
            betas = (plan.momentum, plan.beta2)
            return AdamW(groups, lr=plan.lr, betas=betas, weight_decay=plan.weight_decay)
        return SGD(
            groups, lr=plan.lr, momentum=plan.momentum, weight_decay=plan.weight_decay, nesterov=plan.nesterov
        )


def require(settings: Any, **ranges: tuple[float, float | None]) -> None:
    """Raise HyperparameterError for the first setting that is no finite number in its closed range.

    One whose field is an int must be a whole number.
    """
    types = {field.name: field.type for field in fields(settings)}
    for name, (low, high) in ranges.items():
        value, whole = getattr(settings, name), types[name] is int
        kind, noun = (Integral, "whole") if whole else (Real, "finite")
        number = type(value) is not bool and isinstance(value, kind) and math.isfinite(value)
        if not (number and low <= value and (high is None or value <= high)):
            reach = f">= {low:g}" if high is None else f"in [{low:g}, {high:g}]"
            raise HyperparameterError(f"{name} must be a {noun} number {reach}, got {value!r}")


def _other_than_weights(model: nn.Module, include: Include) -> str | None:
    """Return the first prunable parameter that is no weight of a linear or convolutional layer."""
    weights = {
        parameter
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if is_linear_or_conv_weight(name, module)
    }
    prunable = prunable_parameters(model, include)
    return next((name for name, parameter in prunable.items() if parameter not in weights), None)
