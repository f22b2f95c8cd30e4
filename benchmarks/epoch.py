"""Time of a whole training epoch, gRDA against SGD: two copies of a network take turns, batch by batch.

Made images; LeNet-5 on as many as a tenth of MNIST, VGG16 at a quarter of its width on fewer. Some minutes.

Example: python benchmarks/epoch.py
"""

import argparse
import copy
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import SGD

from dirprune.models import create_model
from dirprune.optim import GRDA
from record import RESULTS, record

SETTINGS = {
    "lenet5": {"channels": 1, "size": 28, "images": 6_000, "width": 1.0},
    "vgg16 at width 0.25": {"channels": 3, "size": 32, "images": 6_400, "width": 0.25},
}
OPTIMISERS = {
    "SGD": lambda params: SGD(params, lr=0.01),  # as torch chooses its way by default
    "SGD, fused": lambda params: SGD(params, lr=0.01, fused=True),
    "gRDA": lambda params: GRDA(params, lr=0.01, c=5e-4, mu=0.6),
}


def measure(setting: dict[str, float], name: str, batch: int, warm_up: int = 5) -> dict[str, object]:
    """Train a copy of the network with each optimiser, and add up what its batches took."""
    torch.manual_seed(0)
    channels, size, count = (int(setting[key]) for key in ("channels", "size", "images"))
    base = create_model(
        name.partition(" ")[0], num_classes=10, in_channels=channels, image_size=size, width=setting["width"]
    )
    models = {key: copy.deepcopy(base) for key in OPTIMISERS}
    optimisers = {key: make(models[key].parameters()) for key, make in OPTIMISERS.items()}
    images, labels = torch.randn(count, channels, size, size), torch.randint(10, (count,))

    def train(key: str, x: Tensor, y: Tensor) -> float:
        start = time.perf_counter()
        optimisers[key].zero_grad()
        nn.functional.cross_entropy(models[key](x), y).backward()
        optimisers[key].step()
        return time.perf_counter() - start

    names, seconds = list(OPTIMISERS), {key: [] for key in OPTIMISERS}
    batches = list(zip(images.split(batch), labels.split(batch), strict=True))
    for turn, (x, y) in enumerate(batches[:warm_up] + batches):
        first = turn % len(names)
        for key in names[first:] + names[:first]:
            taken = train(key, x, y)
            if turn >= warm_up:
                seconds[key].append(taken)
    medians = {key: statistics.median(values) for key, values in seconds.items()}
    return {
        "batches": len(batches),
        "parameters": sum(p.numel() for p in base.parameters()),
        "epoch_seconds": {key: sum(values) for key, values in seconds.items()},
        "median_batch_seconds": medians,
        "gRDA_over_SGD": {
            "epoch": sum(seconds["gRDA"]) / sum(seconds["SGD"]),
            "median_batch": medians["gRDA"] / medians["SGD"],
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=RESULTS / "epoch.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    content = {}
    for name, setting in SETTINGS.items():
        content[name] = {**setting, "batch": arguments.batch, **measure(setting, name, arguments.batch)}
        print(name, content[name]["epoch_seconds"], content[name]["gRDA_over_SGD"], flush=True)
    record(arguments.output, {"networks": content})


if __name__ == "__main__":
    main()
