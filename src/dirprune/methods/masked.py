"""What the methods with masks share: a method decides on a score, and when how many weights are kept."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from dirprune.core.masks import DISTRIBUTIONS, Distribution, Masks, all_kept, keep_largest
from dirprune.errors import HyperparameterError, UsageError, unknown
from dirprune.methods.base import SPARSE_WORK, Method, Settings, Work, require


class Masked(Method[Settings]):
    """A method whose pruned weights are held at zero by masks, and their momentum with them.

    Gradients stay dense: a pruned weight is zero in the forward pass, moved by the optimiser, and set to zero
    again.
    """

    masks: Masks

    def _prepare(self) -> None:
        self.masks = all_kept(self.prunable)

    def magnitudes(self) -> dict[str, Tensor]:
        """Return |w| of every prunable weight."""
        return {name: parameter.detach().abs() for name, parameter in self.prunable.items()}

    def apply(self) -> None:
        """Hold pruned weights and their momentum at zero."""
        self.masks.zero_(self.prunable)
        for key in ("momentum_buffer", "exp_avg"):  # SGD's, AdamW's
            momenta = {n: self.optimizer.state[p].get(key) for n, p in self.prunable.items()}
            self.masks.zero_({name: buffer for name, buffer in momenta.items() if buffer is not None})

    def after_step(self, step: int) -> None:  # noqa: ARG002
        """Hold pruned weights at zero."""
        self.apply()

    def work(self, step: int) -> Work:  # noqa: ARG002
        """Return that all three passes leave out what is pruned; in dense phases nothing is."""
        return SPARSE_WORK

    def state_dict(self) -> dict[str, Any]:
        """Return the masks too."""
        return {**super().state_dict(), "masks": {name: mask.clone() for name, mask in self.masks.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the masks too."""
        super().load_state_dict(state)
        found = {name: tuple(mask.shape) for name, mask in state["masks"].items()}
        if found != {name: tuple(mask.shape) for name, mask in self.masks.items()}:
            raise UsageError(
                "the saved masks belong to other parameters: resume with the same network and plan"
            )
        self.masks = Masks({name: mask.to(self.masks[name].device) for name, mask in state["masks"].items()})


def check_distribution(name: str) -> None:
    """Raise HyperparameterError for a way to share weights out among layers that there is not."""
    if name not in DISTRIBUTIONS:
        raise HyperparameterError(unknown("distribution", name, DISTRIBUTIONS))


@dataclass(frozen=True, kw_only=True)
class OneShotSettings:
    """When a network is pruned that is pruned once."""

    prune_at: float = 0.5
    """Fraction of training that is dense, before the cut; the rest is fine-tuning. Ours: an equal split of
    the budget that all methods have."""

    def __post_init__(self) -> None:
        require(self, prune_at=(0, 1))


SomeOneShot = TypeVar("SomeOneShot", bound=OneShotSettings)


class OneShot(Masked[SomeOneShot]):
    """Trains the dense network, prunes it once, and fine-tunes what is left."""

    @property
    def cut(self) -> int:
        """The step after which it is pruned."""
        return max(1, self.plan.steps(self.settings.prune_at))

    @abstractmethod
    def prune(self) -> Masks:
        """Return what is kept, and change its weights if need be: the one decision of such a method."""

    def after_step(self, step: int) -> None:
        """Prune if it is time."""
        if step == self.cut:
            self.masks = self.prune()
        self.apply()


@dataclass(frozen=True, kw_only=True)
class GradualSettings:
    """When and where weights are pruned step by step."""

    distribution: Distribution = "global"
    """How the kept weights are shared out among layers."""
    begin: float = 0.1
    """Fraction of training before the first pruning."""
    end: float = 0.75
    """Fraction of training after the last."""
    every: int = 100
    """Steps between two prunings."""

    def __post_init__(self) -> None:
        require(self, begin=(0, 1), end=(self.begin, 1), every=(1, None))
        check_distribution(self.distribution)


class Gradual(Masked[GradualSettings]):
    """Prunes those of the smallest score, more and more of them along the cubic schedule, for good."""

    @abstractmethod
    def score(self) -> dict[str, Tensor]:
        """Return how much each weight is worth keeping: the one decision of such a method."""

    def after_step(self, step: int) -> None:
        """Prune if it is time."""
        settings = self.settings
        ramp = self._ramp(settings.begin, settings.end)
        due = ramp.begin <= step < ramp.end and (step - ramp.begin) % settings.every == 0
        if due or step == ramp.end:
            self.masks = self._select(self.score(), self._kept(ramp(step)), settings.distribution)
        self.apply()

    def _select(self, scores: dict[str, Tensor], keep: int, distribution: Distribution) -> Masks:
        """Keep the greatest scores among the weights that are left."""
        left = {name: score.masked_fill(~self.masks[name], -float("inf")) for name, score in scores.items()}
        return keep_largest(left, keep, distribution)
