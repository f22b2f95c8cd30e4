"""What was tried to make gRDA more accurate, one named change at a time, on held-back training images.

::

    python benchmarks/frontier.py --data-dir DATA --jobs 2               every variant
    python benchmarks/frontier.py --data-dir DATA --only hard firm       some of them

What did not help lives in ``frontier_variants.py`` and nowhere else. Stopped, it goes on from
``benchmarks/results/frontier.runs.jsonl``.
"""

import argparse
import json
import math
import multiprocessing
import statistics
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure

from dirprune.compare.archive import restore_runs, save_runs
from dirprune.data import load_dataset
from dirprune.methods import METHODS
from dirprune.runs import RunFolder
from dirprune.train import Job, TrainConfig
from dirprune.train.jobs import attempt
from frontier_variants import ENTRY, VARIANTS
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
        # A NaN is not drawn: no seed came to that sparsity.
        seeds = [[100 * a for a in row if a is not None] or [math.nan] for row in rows]
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
            color=colormaps["viridis"](0.75 * i / max(1, len(ours) - 1)) if dual else "#8a8a8a",
            marker="o" if dual else "sD^"[i - len(ours)],
            ls="-" if dual else ":",
            lw=1.4,
            ms=5,
            capsize=2,
        )
    axes.set_xticks(range(len(TARGETS)), [f"{100 * target:g} %" for target in TARGETS])
    axes.set_xlabel("zeros among the weights; points of one sparsity are set apart to be readable")
    axes.set_ylabel("accuracy on held-back images, %\nmean and range of three seeds")
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
