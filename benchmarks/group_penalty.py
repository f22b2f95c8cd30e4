r"""What slim gains on finished runs, such as SGD, gRDA, and gRDA with the group penalty: before and after.

Each network is timed before and after in one run, in which the programs take turns. The runs of
``benchmarks/results/group_penalty.json`` are made by

::

    dirprune train lenet5-fashion_mnist --data-dir DATA --precision bf16 --channels-last --epochs 10
    dirprune train lenet5-fashion_mnist --data-dir DATA --precision bf16 --channels-last --epochs 10 \
        --penalty group
    dirprune train lenet5-fashion_mnist --data-dir DATA --precision bf16 --channels-last \
        --schedule half-linear --schedule-epochs 30 --penalty group --c 2e-3 4e-3

Example: python benchmarks/group_penalty.py runs/lenet5-fashion_mnist-epochs10-precisionbf16-channels-lastTrue
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dirprune.cli.networks import load_network, one_run
from dirprune.export import slim
from dirprune.export.inference_bench import as_json, measure_inference
from dirprune.report.summary import variant_labels
from dirprune.runs import RunFolder, find_runs
from record import RESULTS, record

PAIRS = {"torch": "slim, torch", "onnxruntime": "slim, onnxruntime"}
SPARSE = "sparse (ours)"  # of the network before: what single zeros are good for


def measure(run: RunFolder, batches: Sequence[int], threads: Sequence[int], rounds: int) -> dict[str, Any]:
    """Return the record of one run: what it reached, its size before and after, and its times."""
    model, shape = load_network(one_run(run.path))
    config, result = run.config(), run.result() or {}
    smaller = slim(model, shape)
    timings = measure_inference(
        model,
        shape,
        batches=batches,
        threads=threads,
        rounds=rounds,
        contenders=[*PAIRS, *PAIRS.values(), SPARSE],
    )
    sizes = {
        when: {
            key: value for key, value in asdict(size).items() if key != "milliseconds"
        }  # alone, not in turns
        for when, size in (("before", smaller.before), ("after", smaller.after))
    }
    return {
        "experiment": run.path.resolve().parent.name,
        "run": run.path.name,
        "label": variant_labels([config])[0],
        "config": config,
        "measured_on": "validation" if config["validation"] else "test",
        "accuracy": result["test_accuracy"],
        "sparsity": result["sparsity"],
        **sizes,
        "layers": smaller.layers,
        "largest_output_difference": smaller.difference,
        **as_json(timings),
    }


def show(console: Console, networks: Sequence[dict[str, Any]]) -> None:
    """Print what a reader wants first: sizes, and milliseconds before and after."""
    table = Table("run", "accuracy %", "zeros %", "channels", "parameters", "MACs", "batch, threads", "ms")
    for network in networks:
        before, after = network["before"], network["after"]
        counts = [
            f"{before[key]:,} -> {after[key]:,}" for key in ("channels", "parameters", "multiplications")
        ]
        times = {
            (row["batch"], row["threads"], row["name"]): row["milliseconds"] for row in network["timings"]
        }
        lines = {
            f"{batch}, {threads}": "; ".join(
                f"{name} {_ms(times, batch, threads, name)} -> {_ms(times, batch, threads, slimmed)}"
                for name, slimmed in PAIRS.items()
            )
            + f"; {SPARSE} {_ms(times, batch, threads, SPARSE)}"
            for batch, threads in dict.fromkeys((batch, threads) for batch, threads, _ in times)
        }
        table.add_row(
            f"{network['experiment']}\n{network['label']}",
            f"{100 * network['accuracy']:.2f}",
            f"{100 * network['sparsity']:.2f}",
            *counts,
            "\n".join(lines),
            "\n".join(lines.values()),
        )
    console.print(table)


def _ms(times: dict[tuple[int, int, str], float | None], batch: int, threads: int, name: str) -> str:
    taken = times[batch, threads, name]
    return "-" if taken is None else f"{taken:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+", help="folders of finished runs, or of several")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--output", type=Path, default=RESULTS / "group_penalty.json")
    options = parser.parse_args()
    runs = [run for folder in options.folders for run in find_runs(folder)]
    networks = [measure(run, options.batches, options.threads, options.rounds) for run in runs]
    show(Console(width=200), networks)
    record(options.output, {"networks": networks})


if __name__ == "__main__":
    main()
