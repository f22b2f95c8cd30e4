"""Peak memory of a training step of VGG16, one fresh process for each optimiser: about a minute.

Reports the bytes of parameters, gradients and state, and the peak of the process's resident memory less what
it had before there was a model. SGD without momentum has no state: what it takes, every optimiser does.
glibc is told to give every large tensor pages of its own, for else the peak depends on where it finds room.

Example: python benchmarks/step_memory.py
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn
from torch.optim import SGD

from dirprune.models import create_model
from dirprune.optim import GRDA
from record import RESULTS, record

OPTIMISERS = {
    "SGD": lambda params: SGD(params, lr=1e-3, fused=True),
    "SGD with momentum": lambda params: SGD(params, lr=1e-3, momentum=0.9, fused=True),
    "gRDA": lambda params: GRDA(params, lr=1e-3),
    "gRDA, bfloat16 accumulator": lambda params: GRDA(params, lr=1e-3, accumulator_dtype=torch.bfloat16),
    "gRDA, foreach": lambda params: GRDA(params, lr=1e-3, foreach=True),
}


def peak() -> int:
    """Return the greatest resident memory so far, in bytes; Linux counts it in KiB, macOS in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure(name: str, network: str, batch: int) -> dict[str, int]:
    """Take three training steps in this process."""
    torch.set_num_threads(1)
    OPTIMISERS[name]([nn.Parameter(torch.ones(1))])  # loads what an optimiser loads
    small = nn.Parameter(torch.ones(8))
    small.grad = torch.ones(8)
    OPTIMISERS[name]([small]).step()
    before = peak()
    model = create_model(network, num_classes=10)
    optimizer = OPTIMISERS[name](model.parameters())
    images, labels = torch.randn(batch, 3, 32, 32), torch.zeros(batch, dtype=torch.long)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    state = [value for held in optimizer.state.values() for value in held.values() if torch.is_tensor(value)]
    return {
        "parameters": sum(p.nbytes for p in model.parameters()),
        "gradients": sum(p.grad.nbytes for p in model.parameters()),
        "state": sum(value.nbytes for value in state),
        "peak": peak() - before,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="vgg16")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--output", type=Path, default=RESULTS / "step_memory.json")
    parser.add_argument("--only", choices=OPTIMISERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(measure(arguments.only, arguments.network, arguments.batch)))
        return
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    content = {}
    for name in OPTIMISERS:
        options = ["--network", arguments.network, "--batch", str(arguments.batch), "--only", name]
        ended = subprocess.run(
            [sys.executable, __file__, *options], capture_output=True, text=True, check=True, env=environment
        )
        content[name] = json.loads(ended.stdout)
        mebibytes = "  ".join(f"{key} {value / 2**20:.1f}" for key, value in content[name].items())
        print(f"{name:28} MiB: {mebibytes}", flush=True)
    record(arguments.output, {"network": arguments.network, "batch": arguments.batch, "bytes": content})


if __name__ == "__main__":
    main()
