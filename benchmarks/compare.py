"""All methods beside each other: LeNet-300-100 and LeNet-5 on Fashion-MNIST, a Wide ResNet 10-1 on CIFAR-10.

::

    python benchmarks/compare.py --data-dir DATA                   every part, the shortest first
    python benchmarks/compare.py --data-dir DATA --only lenet5     one of them
    python benchmarks/compare.py --estimate                        how long it will take, and the protocol

Sparsities 90, 95 and 98 %, three seeds, equal epochs; the protocol is that of ``dirprune compare``. It may be
stopped at any moment and goes on from there. Each part ends with ``benchmarks/results/compare-NAME.json``,
and with its table in ``benchmarks/results/compare.md``.

Epochs and trials are what two cores finish in some hours a part, which is short: the numbers say how methods
compare on this budget, not what they reach at their best. The schedule of the rate is half-linear (constant
for half of the epochs, then falling to a hundredth), no momentum, no weight decay, as in the gRDA paper; the
base rate is searched for every method.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dirprune.cli import main as dirprune

RESULTS = Path(__file__).parent / "results"
SPARSITIES = ("0.9", "0.95", "0.98")


@dataclass(frozen=True)
class Part:
    """One comparison: a recipe, what is changed in it, and the budget."""

    recipe: str
    epochs: int
    trials: int
    changes: tuple[str, ...] = ()
    seeds: int = 3


PARTS = {
    "lenet-300-100": Part("lenet5-fashion_mnist", 10, 8, ("--model", "lenet-300-100")),
    "lenet5": Part("lenet5-fashion_mnist", 3, 3),
    "wrn10x1": Part("wrn10x1-cifar10", 3, 3),
}


def arguments(part: Part, options: argparse.Namespace) -> list[str]:
    """Return the command of a part."""
    epochs = str(part.epochs)
    words = ["compare", part.recipe, *part.changes, "--epochs", epochs, "--schedule", "half-linear"]
    words += ["--schedule-epochs", epochs, "--trials", str(part.trials), "--seeds", str(part.seeds)]
    words += ["--sparsities", *SPARSITIES, "--threads", "1", "--jobs", str(options.jobs)]
    words += ["--out", str(options.out)]
    if options.data_dir is not None:
        words += ["--data-dir", options.data_dir]
    return words + (["--dry-run"] if options.estimate else [])


def collect(name: str, part: Part, out: Path) -> None:
    """Keep the results of a part beside the script, and write the tables of all parts anew."""
    wanted = f"compare-{part.recipe}"
    found = [
        path
        for path in out.glob(f"{wanted}*/comparison-results.json")
        if ("lenet-300-100" in path.parent.name) == (name == "lenet-300-100")
    ]
    newest = max(found, key=lambda path: path.stat().st_mtime)
    (RESULTS / f"compare-{name}.json").write_text(newest.read_text(encoding="utf-8"), encoding="utf-8")
    tables = [markdown(each) for each in PARTS if (RESULTS / f"compare-{each}.json").is_file()]
    (RESULTS / "compare.md").write_text("\n".join(tables), encoding="utf-8")


def markdown(name: str) -> str:
    """Write a part's results as a table; a row that loses is there as well as one that wins."""
    results = json.loads((RESULTS / f"compare-{name}.json").read_text(encoding="utf-8"))
    part = PARTS[name]
    lines = [
        f"### {name}, {part.recipe.rpartition('-')[2]}: {part.epochs} epochs, {part.trials} trials each\n",
        "| wanted | method | accuracy % | sparsity % | to gRDA, points (95 %) | s | GMAC | target | seeds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *(_row(row) for row in results["rows"]), ""])


def _row(row: dict[str, Any]) -> str:
    target = "dense" if row["target"] is None else f"{100 * row['target']:g}"
    wanted, finished = row["seeds"]
    if row["accuracy"] is None:
        return f"| {target} | {row['title']} | diverged | | | | | | {finished}/{wanted} |"
    gap = row["difference"]
    difference = (
        f"{100 * gap['mean']:+.2f} ({100 * gap['low']:+.2f} to {100 * gap['high']:+.2f})" if gap else ""
    )
    cells = (
        target,
        row["title"],
        _spread(row["accuracy"]),
        _spread(row["sparsity"]),
        difference,
        f"{row['seconds']:.0f}",
        "" if row["macs"] is None else f"{row['macs'] / 1e9:.3g}",
        "needed" if row["needs_target"] else "no",
        f"{finished}/{wanted}",
    )
    return f"| {' | '.join(cells)} |"


def _spread(value: dict[str, float | None]) -> str:
    mean, std = value["mean"], value["std"]
    assert mean is not None
    return f"{100 * mean:.2f}" + ("" if std is None else f" ± {100 * std:.2f}")


def main() -> int:
    """Run the parts; returns the exit code of the first that fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS))
    parser.add_argument("--data-dir", help="folder with the data sets as parquet; default: from the hub")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, one core each")
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--estimate", action="store_true", help="say how long it will take, and end")
    options = parser.parse_args()
    for name in options.only:
        print(f"--- {name}", flush=True)
        code = dirprune(arguments(PARTS[name], options))
        if code:
            return code
        if not options.estimate:
            collect(name, PARTS[name], options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
