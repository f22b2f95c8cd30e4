"""The variants that `frontier.py` trains: GRDA with other options, another rule, or a few lines a step."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.optim import Optimizer

from dirprune.core.masks import kth_smallest
from dirprune.core.prunable import prunable_groups
from dirprune.core.schedules import Cubic
from dirprune.core.threshold import RULES, HardThreshold, SoftThreshold
from dirprune.methods import Entry, Facts, Method
from dirprune.optim import GRDA


class Rule(ABC):
    """A threshold rule by its formula alone."""

    elementwise: ClassVar[bool] = True

    @abstractmethod
    def __call__(self, v: Tensor, tau: Any) -> Tensor:
        """Return the weight."""

    def write(self, v: Tensor, tau: Any, weight: Tensor) -> None:
        """Write it."""
        weight.copy_(self(v, tau))

    def foreach_write(self, vs: list[Tensor], taus: list[Any], weights: list[Tensor]) -> None:
        """Write many."""
        for v, tau, weight in zip(vs, taus, weights, strict=True):
            self.write(v, tau, weight)


class Firm(Rule):
    """Zero within tau, the identity beyond 3 tau, linear between (the proximal map of MCP)."""

    def __call__(self, v: Tensor, tau: Any) -> Tensor:
        """Return the weight."""
        return torch.where(v.abs() > 3 * tau, v, 1.5 * SoftThreshold()(v, tau))


class Scad(Rule):
    """Soft up to 2 tau, the identity beyond 3.7 tau, linear between (Fan and Li 2001, equation 2.8)."""

    def __call__(self, v: Tensor, tau: Any) -> Tensor:
        """Return the weight."""
        between = (2.7 * v - v.sign() * 3.7 * tau) / 1.7
        soft = SoftThreshold()(v, tau)
        return torch.where(v.abs() <= 2 * tau, soft, torch.where(v.abs() <= 3.7 * tau, between, v))


class Garrote(Rule):
    """v - tau^2 / v beyond tau (Gao 1998): the bias falls off as 1 / v."""

    def __call__(self, v: Tensor, tau: Any) -> Tensor:
        """Return the weight."""
        return torch.where(v.abs() > tau, v - tau**2 / v, torch.zeros_like(v))


class HalfPower(Rule):
    """The proximal map of |w|^(1/2) (Xu et al. 2012), scaled to be zero within tau."""

    def __call__(self, v: Tensor, tau: Any) -> Tensor:
        """Return the weight."""
        if not tau:
            return v.clone()
        weight = (4 / 54 ** (1 / 3) * tau) ** 1.5  # 54^(1/3) / 4 * weight^(2/3) is where it jumps
        angle = torch.arccos((weight / 8 * (v.abs() / 3).clamp(min=1e-12) ** -1.5).clamp(max=1))
        return torch.where(
            v.abs() > tau, 2 / 3 * v * (1 + torch.cos(2 / 3 * (math.pi - angle))), torch.zeros_like(v)
        )


class Variants(GRDA):
    """GRDA with the rules of this page too."""

    threshold_rules: ClassVar = {
        **RULES,
        "firm": Firm(),
        "scad": Scad(),
        "garrote": Garrote(),
        "half": HalfPower(),
    }


@dataclass(frozen=True)
class Variant:
    """One change."""

    change: str
    reading: str
    """What becomes of the theorem's reading, that gRDA leaves SGD in flat directions only."""
    start: float | None = 1e-4
    """c of the first run; None for a method that is told its sparsity."""
    options: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    by_layer: Callable[[list[Tensor]], list[float]] | None = None
    """What c is multiplied by in each layer, at first, but for the mean over all weights."""
    after: Callable[["Frontier", int], None] | None = None
    method: str = "frontier"


@dataclass(frozen=True, kw_only=True)
class FrontierSettings:
    """Settings of :class:`Frontier`."""

    variant: str = "hard"
    c: float = 1e-4
    target: float = 0.0


class Frontier(Method[FrontierSettings]):
    """GRDA with one change."""

    facts = Facts(title="frontier", paper="this package")
    averages: list[Tensor]

    def _prepare(self) -> None:
        self.averages = []

    def _make_optimizer(self) -> Optimizer:
        plan, c = self.plan, self.settings.c
        variant = VARIANTS[self.settings.variant]
        groups = prunable_groups(self.model, plan.include)
        if variant.by_layer is not None:
            weights = list(self.prunable.values())
            shares = relative(variant.by_layer(weights), weights)
            each = [{"params": [w], "c": c * share} for w, share in zip(weights, shares, strict=True)]
            groups = [*each, groups[1]]
        return Variants(
            groups,
            lr=plan.lr,
            c=c,
            momentum=plan.momentum,
            nesterov=plan.nesterov,
            beta2=plan.beta2,
            weight_decay=plan.weight_decay,
            **{"mu": 1.0, "penalty": "l0", **variant.options},
        )

    def after_step(self, step: int) -> None:
        """Do what the variant does."""
        after = VARIANTS[self.settings.variant].after
        if after is not None:
            after(self, step)

    def state_dict(self) -> dict[str, Any]:
        """Keep the averages too."""
        return {**super().state_dict(), "averages": self.averages}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore them."""
        super().load_state_dict(state)
        self.averages = state["averages"]

    @property
    def states(self) -> list[dict[str, Any]]:
        """The optimiser's state of each prunable weight."""
        return [self.optimizer.state[w] for w in self.prunable.values()]


def relative(scales: list[float], weights: list[Tensor]) -> list[float]:
    """Return the layers' scales over their mean, each layer counted by its size."""
    sizes = [w.numel() for w in weights]
    mean = sum(scale * n for scale, n in zip(scales, sizes, strict=True)) / sum(sizes)
    return [scale / mean for scale in scales]


def deviations(weights: list[Tensor]) -> list[float]:
    """Return the standard deviation of each layer."""
    return [float(w.detach().std()) for w in weights]


@torch.no_grad()
def follow_second_moment(run: Frontier, step: int) -> None:  # noqa: ARG001
    """Let c be in proportion to the root of a running second moment of each layer's gradient."""
    weights = list(run.prunable.values())
    squares = [w.grad.square().mean() for w in weights if w.grad is not None]
    held = run.averages or squares
    run.averages = [torch.lerp(mean, square, 1e-3) for mean, square in zip(held, squares, strict=True)]
    shares = relative([float(mean.sqrt()) for mean in run.averages], weights)
    for group, share in zip(run.optimizer.param_groups, [*shares, 0.0], strict=True):
        group["c"] = run.settings.c * share


@torch.no_grad()
def decay_accumulators(run: Frontier, step: int) -> None:  # noqa: ARG001
    """Shrink v, of zeros too, by lr times 5e-4."""
    rate = run.optimizer.param_groups[0]["lr"] / (1 - run.plan.momentum)
    for state in run.states:
        state["accumulator"].mul_(1 - 5e-4 * rate)


@torch.no_grad()
def decay_decoupled(run: Frontier, step: int) -> None:  # noqa: ARG001
    """Take lr times 5e-4 of w from v, past the momentum."""
    rate = run.optimizer.param_groups[0]["lr"] / (1 - run.plan.momentum)
    for weight, state in zip(run.prunable.values(), run.states, strict=True):
        state["accumulator"].sub_(weight, alpha=5e-4 * rate)


def harden(run: Frontier, step: int) -> None:
    """Let what survives be its accumulator from three fifths of the run on."""
    if step == run.plan.steps(0.6):
        for group in run.optimizer.param_groups:
            group["penalty"] = "l0"


def stop_growing(run: Frontier, step: int) -> None:
    """Keep the threshold from two fifths of the run on."""
    if step == run.plan.steps(0.4):
        for group in run.optimizer.param_groups:
            group["c"] = 0.0


@torch.no_grad()
def average(run: Frontier, step: int) -> None:
    """Average accumulators and dense parameters over the last quarter; at the end they are the network."""
    first = run.plan.steps(0.75)
    dense = run._dense()
    held = [*(state["accumulator"] for state in run.states), *dense]
    if step == first:
        run.averages = [tensor.clone() for tensor in held]
    if step > first:
        for mean, tensor in zip(run.averages, held, strict=True):
            mean.lerp_(tensor, 1 / (step - first + 1))
    if step == run.plan.total_steps:
        means = iter(run.averages)
        for weight, state in zip(run.prunable.values(), run.states, strict=True):
            HardThreshold().write(next(means), state["threshold"].item(), weight)
        for parameter in dense:
            parameter.copy_(next(means))


@torch.no_grad()
def land(run: Frontier, step: int) -> None:
    """Set the threshold to what gives the wanted sparsity, which grows on Zhu and Gupta's cubic."""
    wanted = Cubic(0, run.plan.steps(0.5), run.settings.target)(step)
    magnitudes = torch.cat([state["accumulator"].abs().flatten() for state in run.states])
    pruned = magnitudes.numel() - run._kept(wanted)
    tau = kth_smallest(magnitudes, pruned) if pruned else torch.zeros(())
    for state in run.states:
        state["threshold"].fill_(tau.item())


@torch.no_grad()
def land_on_pattern(run: Frontier, step: int) -> None:
    """Keep the greatest of every M inputs of an output: fewer on the cubic, in the end one of M."""
    wanted = Cubic(0, run.plan.steps(0.5), run.settings.target)(step)
    size = round(1 / (1 - run.settings.target))
    kept = max(1, round(size * (1 - wanted)))
    if kept == size:
        return
    for weight, state in zip(run.prunable.values(), run.states, strict=True):
        v = state["accumulator"].flatten(1)
        blocks = pad(v, (0, -v.shape[1] % size)).unflatten(1, (-1, size))
        tau = blocks.abs().topk(kept + 1).values[..., -1:]
        weight.copy_(HardThreshold()(blocks, tau).flatten(1)[:, : v.shape[1]].view_as(weight))


L1 = {"penalty": "l1", "mu": 0.6}
FLOAT32 = {"precision": "no"}
SOFT = "the paper's"
LINEAR = "time is measured by the sum of rates; the growth at mu = 1 is the edge of the theorem's range"
HARD = (
    "no theorem: a surviving weight is its accumulator and takes SGD's steps; whether what became zero lies "
    "in flat directions is measured below"
)
RESCALED = "no theorem: the gradient is taken at weights that are scaled up, output by output"
VARIANTS = {
    "published": Variant(
        "soft threshold, mu .6, no momentum, constant rate .1",
        SOFT,
        4e-3,
        L1,
        {"momentum": 0.0, "lr": 0.1, "schedule": "constant"},
    ),
    "momentum": Variant(
        "momentum .9 at rate .01: steps as long as published",
        "no theorem; heavy-ball SGD drifts as plain SGD at rate / (1 - beta), so the same is to be expected",
        0.05,
        L1,
        {"lr": 0.01, "schedule": "constant"},
    ),
    "rate": Variant(
        "momentum .9 at rate .05", "as at rate .01, with greater noise", 0.01, L1, {"schedule": "constant"}
    ),
    "half-linear": Variant(
        "and the half-linear schedule", "the threshold keeps its value as the rate falls", 0.01, L1
    ),
    "linear growth": Variant("and mu 1", LINEAR, 1e-3, {"penalty": "l1"}),
    "hard": Variant("and the hard threshold", HARD, 1.2e-3),
    "firm": Variant("hard -> firm, a = 3", "between soft and hard", 1.2e-3, {"penalty": "firm"}),
    "scad": Variant("hard -> SCAD, a = 3.7", "between soft and hard", 1.2e-3, {"penalty": "scad"}),
    "garrote": Variant(
        "hard -> nonnegative garrote", "between soft and hard", 1.2e-3, {"penalty": "garrote"}
    ),
    "half power": Variant("hard -> l 1/2", "between soft and hard", 1.2e-3, {"penalty": "half"}),
    "rescaled": Variant(
        "hard -> soft, each unit's l1 norm given back",
        RESCALED,
        1.2e-3,
        {"penalty": "rescaled"},
    ),
    "rescaled, Nesterov": Variant(
        "the same with Nesterov's momentum", RESCALED, 1.2e-3, {"penalty": "rescaled"}, {"nesterov": True}
    ),
    "harden": Variant(
        "soft, hard from 60 % on",
        "the paper's until the rate has begun to fall",
        1.2e-3,
        {"penalty": "l1"},
        after=harden,
    ),
    "hard, mu .6": Variant("hard, mu 1 -> .6", "the paper's growth", 0.01, {"mu": 0.6}),
    "nesterov": Variant("hard, Nesterov", HARD, 1.2e-3, {}, {"nesterov": True}),
    "no momentum": Variant("hard, no momentum at rate .5", HARD, 4e-5, {}, {"momentum": 0.0, "lr": 0.5}),
    "rate .02": Variant("hard, rate .02", HARD, 4e-3, {}, {"lr": 0.02}),
    "rate .1": Variant("hard, rate .1", HARD, 6e-4, {}, {"lr": 0.1}),
    "constant": Variant("hard, constant rate", HARD, 8e-4, {}, {"schedule": "constant"}),
    "cosine": Variant("hard, cosine schedule", HARD, 1.5e-3, {}, {"schedule": "cosine"}),
    "one cycle": Variant(
        "hard, warm-up and cosine (one cycle)",
        HARD,
        2e-3,
        {},
        {"schedule": "OneCycleLR", "schedule_args": ("max_lr=1.0", "total_steps=11")},
    ),
    "biases": Variant("hard, biases thresholded too", HARD, 1.2e-3, {}, {"prune": "all"}),
    "stop growing": Variant("hard, threshold kept from 40 % on", HARD, 1.5e-3, after=stop_growing),
    "decay of w": Variant(
        "hard, weight decay 5e-4", "flat directions are bent towards zero", 1.2e-3, {}, {"weight_decay": 5e-4}
    ),
    "decoupled decay": Variant(
        "hard, decoupled weight decay 5e-4",
        "flat directions are bent towards zero",
        1.2e-3,
        after=decay_decoupled,
    ),
    "decay of v": Variant(
        "hard, decay 5e-4 of the accumulator", "a zero forgets where it was", 1.2e-3, after=decay_accumulators
    ),
    "by deviation": Variant(
        "hard, tau times the layer's initial deviation",
        "scores are compared across layers in units of the start",
        1.2e-3,
        by_layer=deviations,
    ),
    "float32": Variant("hard, float32", HARD, 1.2e-3, config=FLOAT32),
    "by gradient": Variant(
        "hard, float32, tau growing with the running second moment of the layer's gradient",
        "scores are compared across layers in units of the noise",
        1.2e-3,
        config=FLOAT32,
        by_layer=lambda weights: [1.0 for _ in weights],
        after=follow_second_moment,
    ),
    "averaging": Variant(
        "hard, mean of the accumulators over the last quarter",
        "nearer to the drift, which is what the theorem speaks of",
        1.2e-3,
        after=average,
    ),
    "adaptive": Variant(
        "hard, Adam's direction at rate .001",
        "scores are of the Hessian as Adam scales it: flat is what is flat to Adam",
        0.5,
        {},
        {"lr": 1e-3, "beta2": 0.999},
    ),
    "told": Variant(
        "hard, threshold set by a wanted sparsity", "the strength is chosen while training", None, after=land
    ),
    "pattern": Variant(
        "hard, float32, one of every 10, 20 or 50 inputs of an output (1:M)",
        "none: a weight is zero for what its neighbours are, however flat its direction",
        None,
        config=FLOAT32,
        after=land_on_pattern,
    ),
    "gradual": Variant("gradual magnitude, global", "none", None, method="gradual"),
    "gradual ERK": Variant("gradual magnitude, ERK", "none", None, method="gradual-erk"),
    "ST-3": Variant("ST-3", "dual averaging too, towards a target", None, method="st3"),
}
ENTRY = Entry(Frontier, FrontierSettings())
