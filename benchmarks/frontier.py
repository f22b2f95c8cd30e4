"""What was tried to make gRDA more accurate, one named change at a time, on held-back training images.

::

    python benchmarks/frontier.py --data-dir DATA --jobs 2               every variant
    python benchmarks/frontier.py --data-dir DATA --only hard firm       some of them

What did not help lives here and nowhere else: a variant is GRDA with other options, another threshold rule,
or a few lines after each step. Stopped, it goes on from ``benchmarks/results/frontier.runs.jsonl``.
"""

import argparse
import json
import math
import multiprocessing
import statistics
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch import Tensor
from torch.optim import Optimizer

from dirprune.compare.archive import restore_runs, save_runs
from dirprune.core.masks import kth_smallest
from dirprune.core.prunable import prunable_groups
from dirprune.core.schedules import Cubic
from dirprune.core.threshold import RULES, HardThreshold, SoftThreshold
from dirprune.data import load_dataset
from dirprune.methods import METHODS, Entry, Facts, Method
from dirprune.optim import GRDA
from dirprune.runs import RunFolder
from dirprune.train import Job, TrainConfig
from dirprune.train.jobs import attempt
from record import RESULTS, own_command, public_command, record

RESULT = RESULTS / "frontier.json"
FIGURE = Path(__file__).parents[1] / "docs" / "assets" / "frontier.png"
PROTOCOL = (
    "LeNet-300-100 on Fashion-MNIST, 10 epochs, a tenth of the training images held back; the test images "
    "are never looked at. Every variant has ten runs: four with seed 0, whose strengths are steered to 95, "
    "95, 90 and 98 % by what came before, and three each with seeds 1 and 2 at the strengths that then are "
    "predicted. Accuracy at a sparsity is interpolated between the runs of a seed, on the scale of the "
    "logit. Methods that are told their sparsity, for comparison, have three runs a seed."
)
TARGETS = (0.9, 0.95, 0.98)
FIRST_SEED = (0.95, 0.95, 0.9, 0.98)
SEEDS = (0, 1, 2)
_SLOPE = 2.0  # of the logit of the sparsity over the logarithm of c, before two runs tell
_NEAR = 0.35  # how far beyond its runs, in logits, a seed's accuracy is still told

BASE = TrainConfig(
    recipe="frontier",
    dataset="fashion_mnist",
    model="lenet-300-100",
    lr=0.05,
    momentum=0.9,
    batch_size=128,
    epochs=10,
    schedule="half-linear",
    mean=(0.2860,),
    std=(0.3530,),
    precision="bf16",
    prune="weights",
    validation=0.1,
)


class Rule:
    """A threshold rule by its formula alone."""

    elementwise: ClassVar[bool] = True

    def __call__(self, v: Tensor, tau: Any) -> Tensor:
        """Return the weight."""
        raise NotImplementedError

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
    by_deviation: bool = False
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
        if variant.by_deviation:
            weights = list(self.prunable.values())
            deviations = [float(w.detach().std()) for w in weights]
            sizes = [w.numel() for w in weights]
            mean = sum(d * n for d, n in zip(deviations, sizes, strict=True)) / sum(sizes)
            each = [{"params": [w], "c": c * d / mean} for w, d in zip(weights, deviations, strict=True)]
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


@torch.no_grad()
def decay_accumulators(run: Frontier, step: int) -> None:  # noqa: ARG001
    """Shrink v, of zeros too, by lr times 5e-4."""
    rate = run.optimizer.param_groups[0]["lr"] / (1 - run.plan.momentum)
    for state in run.states:
        state["accumulator"].mul_(1 - 5e-4 * rate)


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


L1 = {"penalty": "l1", "mu": 0.6}
SOFT = "the paper's"
LINEAR = "time is measured by the sum of rates; the growth at mu = 1 is the edge of the theorem's range"
HARD = (
    "a surviving weight is SGD's own; what leaves SGD is what became zero, which the l0 count weighs by the "
    "same score: a direction is given up where it costs less than the threshold"
)
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
        "heavy-ball SGD drifts as plain SGD at rate / (1 - beta), so the same limit in that time",
        0.05,
        L1,
        {"lr": 0.01, "schedule": "constant"},
    ),
    "rate": Variant(
        "momentum .9 at rate .05", "the same; the noise is greater", 0.01, L1, {"schedule": "constant"}
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
    "hard, mu .6": Variant("hard, mu 1 -> .6", "the paper's growth", 0.01, {"mu": 0.6}),
    "nesterov": Variant("hard, Nesterov", "as momentum", 1.2e-3, {}, {"nesterov": True}),
    "no momentum": Variant(
        "hard, no momentum at rate .5", "as published", 4e-5, {}, {"momentum": 0.0, "lr": 0.5}
    ),
    "rate .02": Variant("hard, rate .02", HARD, 4e-3, {}, {"lr": 0.02}),
    "rate .1": Variant("hard, rate .1", HARD, 6e-4, {}, {"lr": 0.1}),
    "constant": Variant("hard, constant rate", HARD, 8e-4, {}, {"schedule": "constant"}),
    "cosine": Variant("hard, cosine schedule", HARD, 1.5e-3, {}, {"schedule": "cosine"}),
    "stop growing": Variant("hard, threshold kept from 40 % on", HARD, 1.5e-3, after=stop_growing),
    "decay of w": Variant(
        "hard, weight decay 5e-4", "flat directions are bent towards zero", 1.2e-3, {}, {"weight_decay": 5e-4}
    ),
    "decay of v": Variant(
        "hard, decay 5e-4 of the accumulator", "zeros forget", 1.2e-3, after=decay_accumulators
    ),
    "by deviation": Variant(
        "hard, tau times the layer's initial deviation",
        "scores are compared across layers in units of the start",
        1.2e-3,
        by_deviation=True,
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
    "gradual": Variant("gradual magnitude, global", "none", None, method="gradual"),
    "gradual ERK": Variant("gradual magnitude, ERK", "none", None, method="gradual-erk"),
    "ST-3": Variant("ST-3", "dual averaging too, towards a target", None, method="st3"),
}
ENTRY = Entry(Frontier, FrontierSettings())


def configuration(name: str, *, seed: int, c: float = 0.0, target: float = 0.0) -> TrainConfig:
    """Return the run of a variant."""
    variant = VARIANTS[name]
    config = replace(BASE, **variant.config, seed=seed, method=variant.method)
    if variant.method != "frontier":
        return replace(config, sparsity=target)
    # GRDA wants a c above 0 for what it thresholds by other means too.
    return replace(config, settings=(f"variant={name}", f"c={c or 1e-12:g}", f"target={target:g}"))


def logit(sparsity: float) -> float:
    """Return log(s / (1 - s)), kept finite."""
    held = min(0.9995, max(0.005, sparsity))
    return math.log(held / (1 - held))


def aim(points: Sequence[tuple[float, float]], target: float, start: float) -> float:
    """Return the c that runs of known (c, sparsity) predict for a sparsity."""
    if not points:
        return start
    (near, reached), *others = sorted(points, key=lambda point: abs(logit(point[1]) - logit(target)))
    slope = _SLOPE
    for c, sparsity in others:
        if c != near:  # the nearest two tell how steep it is
            slope = (logit(sparsity) - logit(reached)) / math.log(c / near)
            slope = min(6.0, max(0.7, slope))
            break
    step = (logit(target) - logit(reached)) / slope
    return float(f"{near * math.exp(min(2.0, max(-2.0, step))):.4g}")


def at(points: Sequence[tuple[float, float]], target: float) -> float | None:
    """Return the accuracy at a sparsity, between runs of (sparsity, accuracy); None far from all of them."""
    known = sorted((logit(s), accuracy) for s, accuracy in points)
    x = logit(target)
    if not known or x < known[0][0] - _NEAR or x > known[-1][0] + _NEAR:
        return None
    if len(known) == 1:
        return known[0][1]
    after = next((i for i in range(1, len(known)) if known[i][0] >= x), len(known) - 1)
    (x0, y0), (x1, y1) = known[after - 1], known[after]
    return y0 if x1 == x0 else y0 + (y1 - y0) * (x - x0) / (x1 - x0)


def train_variant(name: str, folder: Path, data_dir: str | None) -> list[dict[str, Any]]:
    """Train the runs of a variant that are not over; returns what became of all."""
    METHODS.setdefault("frontier", ENTRY)
    dataset = load_dataset(BASE.dataset, data_dir)
    runs: list[dict[str, Any]] = []

    def train(**settings: Any) -> None:
        config = configuration(name, **settings)
        path = folder / f"{name.replace(' ', '_')}-{len(runs)}"
        job = Job(config=config, folder=path, threads=1, command=public_command(own_command()))
        outcome = attempt(job, dataset)
        if outcome.error is not None:
            raise outcome.error
        result = RunFolder(path).result() or {}
        found = {key: result.get(key) for key in ("status", "sparsity", "test_accuracy", "seconds")}
        runs.append({**settings, **found})
        print(f"{name}: {settings} {found}", flush=True)

    start = VARIANTS[name].start
    for seed in SEEDS:
        for target in FIRST_SEED if start is not None and seed == SEEDS[0] else TARGETS:
            if start is None:
                train(seed=seed, target=target)
            else:
                points = [(r["c"], r["sparsity"]) for r in runs if r["sparsity"] is not None]
                train(seed=seed, c=aim(points, target, start))
    return runs


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the accuracy of each seed at each sparsity, and their means."""
    rows = {}
    for target in TARGETS:
        each = []
        for seed in SEEDS:
            points = [
                (r["sparsity"], r["test_accuracy"])
                for r in runs
                if r["seed"] == seed and r["sparsity"] is not None
            ]
            each.append(at(points, target))
        known = [accuracy for accuracy in each if accuracy is not None]
        rows[f"{target:g}"] = {"seeds": each, "mean": statistics.mean(known) if known else None}
    return rows


LADDER = {
    "published": "as published",
    "rate": "momentum, rate .05",
    "half-linear": "half-linear schedule",
    "linear growth": "mu = 1",
    "hard": "hard threshold",
    "gradual": "gradual magnitude",
    "gradual ERK": "gradual magnitude, ERK",
    "ST-3": "ST-3",
}
"""What the figure shows: each of the first adds one change to the one before."""


def draw(variants: Sequence[dict[str, Any]]) -> Figure:
    """Draw accuracy at the wanted sparsities, mean and range of the seeds."""
    known = {variant["name"]: variant["accuracy"] for variant in variants}
    figure = Figure((7.0, 4.6), layout="constrained")
    axes = figure.add_subplot()
    names = [name for name in LADDER if name in known]
    ours = [name for name in names if VARIANTS[name].start is not None]
    for i, name in enumerate(names):
        rows = [known[name][f"{target:g}"]["seeds"] for target in TARGETS]
        seeds = [[100 * accuracy for accuracy in row if accuracy is not None] for row in rows]
        means = [statistics.mean(each) for each in seeds]
        below = [mean - min(each) for mean, each in zip(means, seeds, strict=True)]
        above = [max(each) - mean for mean, each in zip(means, seeds, strict=True)]
        dual = name in ours
        place = i - (len(names) - 1) / 2
        axes.errorbar(
            [x + 0.045 * place for x in range(len(TARGETS))],
            means,
            [below, above],
            label=LADDER[name] if not dual or not i else f"+ {LADDER[name]}",
            color=colormaps["viridis"](0.9 * i / max(1, len(ours) - 1)) if dual else "#8a8a8a",
            marker="o" if dual else "sD^"[i - len(ours)],
            ls="-" if dual else ":",
            lw=1.4,
            ms=5,
            capsize=2,
        )
    axes.set_xticks(range(len(TARGETS)), [f"{100 * target:g} %" for target in TARGETS])
    axes.set_xlabel("zeros among the weights")
    axes.set_ylabel("accuracy on held-back images, %")
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right center", frameon=False, fontsize=9)
    axes.set_title("gRDA, one change after the other", fontsize=10, loc="left")
    return figure


def main() -> int:
    """Train the variants and write what they reached."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", choices=VARIANTS, nargs="+", default=list(VARIANTS))
    parser.add_argument("--data-dir", help="folder with the data sets as parquet; default: from the hub")
    parser.add_argument("--jobs", type=int, default=2, help="variants at once, one core each")
    parser.add_argument("--out", type=Path, default=Path("runs/frontier"))
    options = parser.parse_args()
    archive = RESULTS / "frontier.runs.jsonl"
    if archive.is_file():
        restore_runs(archive, options.out)
    found: dict[str, list[dict[str, Any]]] = {}
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(options.jobs, mp_context=context) as pool:
            waiting = {
                pool.submit(train_variant, name, options.out, options.data_dir): name for name in options.only
            }
            for future in as_completed(waiting):
                found[waiting[future]] = future.result()
                save_runs(options.out, archive)
    finally:
        save_runs(options.out, archive)
    held = json.loads(RESULT.read_text(encoding="utf-8"))["variants"] if RESULT.is_file() else []
    found = {**{each["name"]: each["runs"] for each in held}, **found}
    variants = [
        {
            "name": name,
            "change": variant.change,
            "reading": variant.reading,
            "runs": found[name],
            "accuracy": summary(found[name]),
        }
        for name, variant in VARIANTS.items()
        if name in found
    ]
    record(RESULT, {"protocol": PROTOCOL, "variants": variants})
    draw(variants).savefig(FIGURE, dpi=150, metadata={"Software": None})
    return 0


if __name__ == "__main__":
    sys.exit(main())
