"""Time networks in every program that is installed, side by side.

Example: python benchmarks/inference.py vgg16 wrn16x4 resnet50 --sparsity 0.9 0.95
"""

import argparse
import json
import shlex
import sys
from pathlib import Path

import torch
from rich.console import Console

from dirprune.cli.bench_inference import show_timings
from dirprune.core.atomic import atomic_write
from dirprune.export.inference_bench import as_json, measure_inference
from dirprune.train import describe_environment
from networks import network


def main() -> None:
    parser = argparse.ArgumentParser(description="Time networks in every program that is installed.")
    parser.add_argument("networks", nargs="+", help="folders of runs, or names")
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.9, 0.95])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--programs", nargs="+")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/inference.json"))
    options = parser.parse_args()
    console, results = Console(), []
    for name in options.networks:
        for sparsity in [0.0] if Path(name).is_dir() else options.sparsity:
            model, shape, weights = network(name, sparsity)
            console.print(f"{name}, {weights}", markup=False)
            rows = measure_inference(
                model,
                shape,
                batches=options.batches,
                threads=options.threads,
                rounds=options.rounds,
                contenders=options.programs,
            )
            show_timings(console, rows)
            torch.compiler.reset()
            results.append({"network": name, "weights": weights, "input_shape": shape, **as_json(rows)})
    command = shlex.join(["python", *sys.argv])
    report = {"results": results, "command": command, "environment": describe_environment(command)}
    with atomic_write(options.output) as file:
        file.write(json.dumps(report, indent=2).encode() + b"\n")


if __name__ == "__main__":
    main()
