"""Time networks in every program that is installed, side by side.

Each table (a network, a batch size, a number of threads) is written when it is complete, and one that the
output has already is not measured again: an interrupted command goes on, and commands for some of the
networks add up to one file.

Example: python benchmarks/inference.py vgg16 wrn16x4 resnet50 --sparsity 0.9 0.95
"""

import argparse
import json
import shlex
import sys
from contextlib import nullcontext
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from dirprune.cli.bench_inference import show_timings
from dirprune.core.atomic import write_json
from dirprune.export.inference_bench import Timing, measure_inference, verdicts
from dirprune.train import describe_environment
from networks import network
from real_time import undisturbed

PROGRAMS = ("onnxruntime", "openvino")


class Results:
    """The tables of a file, in which each is written as soon as it is there."""

    def __init__(self, path: Path, priority: str) -> None:
        self.path, self.priority = path, priority
        self.results: list[dict[str, Any]] = json.loads(path.read_text())["results"] if path.is_file() else []

    def network(self, name: str, weights: str, shape: tuple[int, ...]) -> dict[str, Any]:
        """The result of a network, to which tables are added."""
        for result in self.results:
            if (result["network"], result["weights"]) == (name, weights):
                return result
        self.results.append({"network": name, "weights": weights, "input_shape": list(shape), "tables": []})
        return self.results[-1]

    def add(self, result: dict[str, Any], rows: list[Timing], rounds: int) -> None:
        """Add a table and write the file."""
        command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
        table = {
            "batch": rows[0].batch,
            "threads": rows[0].threads,
            "rounds": rounds,
            "verdict": verdicts(rows),
            "timings": [asdict(row) for row in rows],
            "priority": self.priority,
            "programs": {program: metadata.version(program) for program in PROGRAMS},
            "environment": describe_environment(command),
        }
        result["tables"].append(table)
        result["tables"].sort(key=lambda table: (table["batch"], table["threads"]))
        write_json(self.path, {"results": self.results}, indent=1)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time networks in every program that is installed.")
    parser.add_argument("networks", nargs="+", help="folders of runs, or names")
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.9, 0.95])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--programs", nargs="+")
    parser.add_argument("--real-time", action="store_true", help="a core for each thread while it is timed")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/inference.json"))
    options = parser.parse_args()
    results = Results(options.output, "real time" if options.real_time else "ordinary")
    console = Console()
    for name in options.networks:
        for sparsity in [0.0] if Path(name).is_dir() else options.sparsity:
            model, shape, weights = network(name, sparsity)
            result = results.network(Path(name).name, weights, shape)
            there = {(table["batch"], table["threads"]) for table in result["tables"]}
            wanted = [(batch, threads) for batch in options.batches for threads in options.threads]
            for batch, threads in wanted:
                if (batch, threads) in there:
                    continue
                console.print(f"{name}, {weights}", markup=False)
                rows = measure_inference(
                    model,
                    shape,
                    batches=[batch],
                    threads=[threads],
                    rounds=options.rounds,
                    contenders=options.programs,
                    during=undisturbed if options.real_time else nullcontext,
                )
                show_timings(console, rows)
                torch.compiler.reset()
                results.add(result, rows, options.rounds)


if __name__ == "__main__":
    main()
