"""Seconds and memory of the top 10 Hessian eigenpairs at about 1e5, 1e6 and 1e7 weights.

VGG16 at three widths, random images in the shape of CIFAR-10, labels of a random teacher; a process of its
own for each size, so that its peak of memory is its own. Time grows with the number of images. Seconds of the
CPU, which on a shared machine say more than those of the clock.

Example: python benchmarks/hessian_cost.py --images 1000 --output benchmarks/results/hessian_cost.json
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import nn

from dirprune.landscape import EigenSettings, NotConvergedError, Objective, top_eigenpairs
from dirprune.models import create_model
from record import record

WIDTHS = {"1e5": 0.08, "1e6": 0.256, "1e7": 0.81}
MIB = 2**20


def measure(size: str, images: int, batch: int, k: int, epochs: int) -> dict[str, object]:
    """Train a little, so that the Hessian is not that of random weights, then time its eigenpairs."""
    torch.manual_seed(0)
    model = create_model("vgg16", num_classes=10, width=WIDTHS[size])
    inputs = torch.randn(images, 3, 32, 32)
    labels = inputs.mean(dim=(2, 3)).matmul(torch.randn(3, 10)).argmax(dim=1)
    data = list(zip(inputs.split(batch), labels.split(batch), strict=True))
    loss = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(epochs):
        for x, y in data:
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step()
    objective = Objective(model, loss, data)
    before = peak()
    started, started_cpu = time.perf_counter(), time.process_time()
    row: dict[str, object] = {
        "size": size,
        "weights": objective.numel,
        "images": images,
        "batch": batch,
        "k": k,
    }
    try:
        pairs = top_eigenpairs(objective, model.state_dict(), EigenSettings(k=k))
    except NotConvergedError as error:
        return {**row, "cpu_seconds": time.process_time() - started_cpu, "failed": str(error)}
    seconds, cpu = time.perf_counter() - started, time.process_time() - started_cpu
    return {
        **row,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "products": pairs.products,
        "cpu_seconds_per_product": cpu / pairs.products,
        "peak_mib": peak(),
        "peak_mib_before": before,
        "values": pairs.values,
        "worst_relative_residual": max(r / v for r, v in zip(pairs.residuals, pairs.values, strict=True)),
        "next_value": pairs.next_value,
    }


def peak() -> float:
    """Return the greatest memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MIB


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=WIDTHS, default=list(WIDTHS))
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--one", choices=WIDTHS, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    if given.one:
        print(json.dumps(measure(given.one, given.images, given.batch, given.k, given.epochs)))
        return 0
    rows = []
    for size in given.sizes:
        command = [sys.executable, __file__, *sys.argv[1:], "--one", size]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print({key: value for key, value in rows[-1].items() if key != "values"})
    if given.output:
        record(given.output, {"rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
