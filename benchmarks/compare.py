"""All methods beside each other: LeNets on Fashion-MNIST, a Wide ResNet 10-1 on CIFAR-10, and a transformer.

::

    python benchmarks/compare.py --data-dir DATA                   every part, the shortest first
    python benchmarks/compare.py --data-dir DATA --only lenet5     one of them
    python benchmarks/compare.py --estimate                        how long it will take, and the protocol

Sparsities 90, 95 and 98 %, three to five seeds, equal epochs; the protocol is that of ``dirprune compare``.
It may be stopped at any moment and goes on from there, on another machine too: what is finished lies in
``benchmarks/results/compare-NAME.runs.jsonl``. Each part ends with ``benchmarks/results/compare-NAME.json``
and its tables in ``benchmarks/README.md``.

Epochs and trials are what two cores finish in an hour or two a part, which is short: the numbers say how
methods compare on this budget, not what they reach at their best. The images of CIFAR-10 are averaged down to
16 pixels, for four epochs at that size cost no more than one at full size. The schedule of the rate is
half-linear (constant for half of the epochs, then falling to a hundredth), as in the gRDA paper, without
weight decay; rate and momentum are searched for every method. The methods that were strongest on
LeNet-300-100 are compared again, each time with other seeds: as all were, and twice with a search that
begins, for every method, at a rate of 0.05 with Nesterov's momentum, not at 0.1 without; the second time
beside gRDA that gives output channels their norm back. Those parts, and the first on every network, were
made when each method drew its own rates, the same at every comparison, and a method without a target kept
settings of its own for each sparsity: their archives hold what was drawn, and this script would draw
otherwise now. Since then all methods try the same rates, drawn from the part's seed, and keep the settings of
95 %: so in the last part on LeNet-300-100, and in those of LeNet-5 (from 0.02, for it diverges from 0.05) and
of the Wide ResNet that begin at a rate with momentum, beside what was best there before. The transformer has
AdamW, with its weight decay: gRDA's adaptive form, with the soft and the hard threshold, beside gradual
pruning; its second part has the rescaled form and five seeds.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dirprune.cli import main as dirprune
from page import write_page
from record import RESULTS, public_environment, write

SPARSITIES = ("0.9", "0.95", "0.98")


@dataclass(frozen=True)
class Part:
    """One comparison: a recipe, what is changed in it, and the budget."""

    recipe: str
    epochs: int
    trials: int
    changes: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()  # none: all
    seeds: int = 3
    reference: str | None = None


STRONGEST = ("sgd", "magnitude", "gradual", "gradual-erk", "acdc", "st3", "grda", "grda-l0")
RESCALED = ("sgd", "gradual", "gradual-erk", "st3", "grda", "grda-l0", "grda-rescaled")
CONFIRMED = ("sgd", "gradual", "gradual-erk", "st3", "adabreg", "grda-l0", "grda-rescaled")
CONVOLUTIONS = ("sgd", "gradual-erk", "st3", "grda", "grda-l0", "grda-rescaled")
RESIDUAL = ("sgd", "st3", "grda", "grda-l0", "grda-rescaled")
NESTEROV = ("--momentum", "0.9", "--nesterov")
MOMENTUM = ("--lr", "0.05", *NESTEROV)

PIXELS = ("--image-size", "16", "--crop-padding", "2", "--channels-last")


def lenet(*changes: str, precision: str = "bf16", **fields: Any) -> Part:
    """Return a comparison on LeNet-300-100."""
    words = ("--model", "lenet-300-100", "--precision", precision, *changes)
    return Part("lenet5-fashion_mnist", 10, 9, words, **fields)


PARTS = {
    "lenet-300-100": lenet(),
    "lenet-300-100-strongest": lenet("--seed", "10", methods=STRONGEST, seeds=5),
    "lenet-300-100-momentum": lenet(
        "--seed", "20", *MOMENTUM, methods=STRONGEST, seeds=5, reference="grda-l0"
    ),
    "lenet-300-100-rescaled": lenet(
        "--seed", "30", *MOMENTUM, methods=RESCALED, seeds=5, reference="grda-l0"
    ),
    "lenet-300-100-common": lenet(
        "--seed",
        "40",
        *MOMENTUM,
        precision="no",
        methods=CONFIRMED,
        seeds=5,
        reference="grda-l0",
    ),
    "lenet5": Part("lenet5-fashion_mnist", 5, 6, ("--precision", "bf16", "--channels-last")),
    "lenet5-momentum": Part(
        "lenet5-fashion_mnist",
        5,
        6,
        ("--precision", "no", "--channels-last", "--seed", "30", "--lr", "0.02", *NESTEROV),
        methods=CONVOLUTIONS,
        seeds=5,
        reference="grda-l0",
    ),
    "wrn10x1": Part("wrn10x1-cifar10", 4, 6, (*PIXELS, "--precision", "bf16")),
    "wrn10x1-momentum": Part(
        "wrn10x1-cifar10",
        4,
        6,
        (*PIXELS, "--precision", "no", "--seed", "10", *MOMENTUM),
        methods=RESIDUAL,
        seeds=5,
        reference="grda-rescaled",
    ),
    "vit": Part(
        "vit2x64p7-fashion_mnist",
        8,
        6,
        methods=("sgd", "gradual", "grda", "grda-l0"),
    ),
    "vit-rescaled": Part(
        "vit2x64p7-fashion_mnist",
        8,
        6,
        ("--seed", "10"),
        methods=("sgd", "gradual", "grda", "grda-rescaled"),
        seeds=5,
        reference="grda-rescaled",
    ),
}


def arguments(name: str, options: argparse.Namespace) -> list[str]:
    """Return the command of a part."""
    part = PARTS[name]
    archive = RESULTS / f"compare-{name}.runs.jsonl"
    epochs = str(part.epochs)
    words = ["compare", part.recipe, *part.changes, "--epochs", epochs, "--schedule", "half-linear"]
    words += ["--schedule-epochs", epochs, "--trials", str(part.trials), "--seeds", str(part.seeds)]
    words += ["--sparsities", *SPARSITIES, "--threads", "1", "--jobs", str(options.jobs)]
    words += ["--out", str(options.out / name), "--archive", str(archive)]
    if part.methods:
        words += ["--methods", *part.methods]
    if part.reference:
        words += ["--reference", part.reference]
    if options.data_dir is not None:
        words += ["--data-dir", options.data_dir]
    return words + (["--dry-run"] if options.estimate else [])


def collect(name: str, out: Path) -> None:
    """Keep the results of a part beside the script, and write the page anew."""
    found = (out / name).glob("compare-*/comparison-results.json")
    newest = max(found, key=lambda path: path.stat().st_mtime)
    content = json.loads(newest.read_text(encoding="utf-8"))
    content["environment"] = public_environment(content["environment"])
    write(RESULTS / f"compare-{name}.json", content)
    write_page()


def main() -> int:
    """Run the parts; returns the exit code of the first that fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS))
    parser.add_argument("--data-dir", help="folder with the data sets as parquet; default: from the hub")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, one core each")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"))
    parser.add_argument("--estimate", action="store_true", help="say how long it will take, and end")
    options = parser.parse_args()
    for name in options.only:
        print(f"--- {name}", flush=True)
        code = dirprune(arguments(name, options))
        if code:
            return code
        if not options.estimate:
            collect(name, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
