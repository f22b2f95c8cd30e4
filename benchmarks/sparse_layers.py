"""Where the time of the sparse runtime goes, layer by layer, on one thread and on two.

Example: python benchmarks/sparse_layers.py vgg16 resnet50 --sparsity 0.95
"""

import argparse
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dirprune.export.fusion import fuse
from dirprune.export.lowering import ConvOp, Op, lower
from dirprune.export.planning import Plan
from dirprune.export.tracing import read_graph
from networks import network
from real_time import undisturbed
from record import RESULTS, record

THREADS = (1, 2)
CALLS = 12  # in a row, so that workers are awake; the first two are not counted


def describe(op: Op) -> dict[str, Any]:
    kind: dict[str, Any] = {"operation": type(op).__name__.removesuffix("Op").lower()}
    if isinstance(op, ConvOp):
        out = op.out
        kind |= {"output": [out.channels, out.height, out.width], "nonzeros": len(op.weight)}
        kind["multiplications"] = len(op.weight) * out.height * out.width
    return kind


def measure(name: str, sparsity: float, rounds: int, *, real_time: bool) -> dict[str, Any]:
    model, shape, weights = network(name, sparsity)
    graph = read_graph(model, shape)
    program = lower(fuse(graph), graph.input, shape, graph.output)
    plan = Plan(program, 1)
    x, result = torch.randn(1, *shape), torch.empty(1, *graph.shapes()[graph.output])
    of_layer = {threads: [] for threads in THREADS}
    of_call = {threads: [] for threads in THREADS}
    for _ in range(rounds):
        for threads in THREADS:
            time.sleep(0.02)
            with undisturbed() if real_time else nullcontext():
                for call in range(CALLS):
                    seconds = np.zeros(len(program))
                    start = time.perf_counter()
                    plan.run(x, result, threads, seconds)
                    if call >= 2:
                        of_call[threads].append(time.perf_counter() - start)
                        of_layer[threads].append(seconds)
    layers = [describe(op) for op in program]
    for threads in THREADS:
        for layer, seconds in zip(layers, np.median(of_layer[threads], axis=0), strict=True):
            layer[f"microseconds, {threads}"] = round(1e6 * float(seconds), 2)
    calls = {str(threads): 1e3 * float(np.median(of_call[threads])) for threads in THREADS}
    return {"network": name, "weights": weights, "milliseconds_by_threads": calls, "layers": layers}


def main() -> None:
    parser = argparse.ArgumentParser(description="Time of the sparse runtime, layer by layer.")
    parser.add_argument("networks", nargs="+", help="folders of runs, or names")
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.95])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--real-time", action="store_true", help="a core for each thread while it is timed")
    parser.add_argument("--output", type=Path, default=RESULTS / "sparse_layers.json")
    options = parser.parse_args()
    results = []
    for name in options.networks:
        for sparsity in options.sparsity:
            results.append(measure(name, sparsity, options.rounds, real_time=options.real_time))
            calls = results[-1]["milliseconds_by_threads"]
            print(f"{name}, {sparsity:.0%}: {calls['1']:.2f} ms on one thread, {calls['2']:.2f} ms on two")
            for layer in results[-1]["layers"]:
                one, two = layer["microseconds, 1"], layer["microseconds, 2"]
                work = f"{layer.get('multiplications', 0):>11,} multiplications"
                print(f"  {layer['operation']:8} {one:8.1f} {two:8.1f} us  {one / two:5.2f} x  {work}")
    record(options.output, {"results": results, "priority": "real time" if options.real_time else "ordinary"})


if __name__ == "__main__":
    main()
