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
from matplotlib.axes import Axes
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
    "rate": "+ momentum, learning rate 0.05",
    "half-linear": "+ falling learning rate",
    "linear growth": "+ mu = 1",
    "hard": "+ hard threshold",
}
"""What the figure shows of gRDA: each adds one change to the one before."""
TOLD = ("gradual", "gradual ERK", "ST-3")
"""What it shows beside: methods that take a target sparsity."""


def draw(variants: Sequence[dict[str, Any]]) -> Figure:
    """Draw the mean accuracy at the wanted sparsities; of the first and last, the range of the seeds."""
    known = {variant["name"]: variant["accuracy"] for variant in variants}
    figure = Figure((7.4, 4.4), layout="constrained")
    axes = figure.add_subplot()
    logits = [math.log(target / (1 - target)) for target in TARGETS]

    def means(name: str) -> list[float]:
        """A NaN is not drawn: no seed came to that sparsity."""
        found = (known[name][f"{target:g}"]["mean"] for target in TARGETS)
        return [math.nan if mean is None else 100 * mean for mean in found]

    told = [means(name) for name in TOLD if name in known]
    if told:
        low, high = ([choose(at) for at in zip(*told, strict=True)] for choose in (min, max))
        axes.fill_between(logits, low, high, color="#9a9a9a", alpha=0.45, lw=0)
        axes.plot(
            logits, [(a + b) / 2 for a, b in zip(low, high, strict=True)], color="#7a7a7a", ls=":", lw=1.2
        )
    names = [name for name in LADDER if name in known]
    for i, name in enumerate(names):
        shade = 0.4 + 0.6 * i / max(1, len(names) - 1)
        colour = colormaps["Blues"](shade) if i else "#b5541c"
        axes.plot(logits, means(name), color=colour, marker="o", lw=1.6, ms=4.5)
        if name in (names[0], names[-1]):
            rows = [known[name][f"{target:g}"]["seeds"] for target in TARGETS]
            seeds = [[100 * a for a in row if a is not None] or [math.nan] for row in rows]
            axes.fill_between(
                logits,
                *([choose(row) for row in seeds] for choose in (min, max)),
                color=colour,
                alpha=0.13,
                lw=0,
            )
        _label(axes, logits[-1], means(name)[-1], LADDER[name], colour)
    if told:
        _label(
            axes,
            logits[-1],
            (low[-1] + high[-1]) / 2 - 0.12,
            "methods that take a target sparsity",
            "#6a6a6a",
        )
    axes.set_xticks(logits, [f"{100 * target:g}" for target in TARGETS])
    axes.set_xlim(logits[0] - 0.1, logits[-1] + 0.06)
    axes.set_xlabel("sparsity of the pruned weights, % (logit scale)")
    axes.set_ylabel("accuracy on held-back images, %")
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(
        "gRDA, one change after the other (means of three seeds; shaded: their range,\n"
        "and the span of gradual magnitude pruning, also by ERK, and ST-3)",
        fontsize=9,
        loc="left",
    )
    return figure


def _label(axes: Axes, x: float, y: float, text: str, colour: Any) -> None:
    """Write beside the end of a line."""
    axes.annotate(
        text,
        (x, y),
        (10, 0),
        textcoords="offset points",
        va="center",
        color=colour,
        fontsize=9,
        annotation_clip=False,
    )


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
