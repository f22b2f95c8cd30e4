"""What a training step gains where the process keeps the memory that it frees: with and without, in turns.

Each measurement is a process of its own, for what the C library is told lasts. One thread, bf16,
channels_last, batches of 128 random images. A minute or two.

Example: python benchmarks/kept_memory.py
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import nn

from dirprune.models import create_model
from dirprune.optim import GRDA
from dirprune.train.memory import keep_freed_memory
from record import RESULTS, record

NETWORKS = {
    "lenet5": {"name": "lenet5", "in_channels": 1, "image_size": 28},
    "wrn10x1": {"name": "wrn10x1"},
    "vgg16 at width 0.25": {"name": "vgg16", "width": 0.25},
}


def median_step(network: str, steps: int) -> float:
    """Return the median time of a step, in seconds."""
    torch.manual_seed(0)
    settings = NETWORKS[network]
    model = create_model(num_classes=10, **settings).to(memory_format=torch.channels_last)
    optimizer = GRDA(model.parameters(), lr=0.01)
    size = settings.get("image_size", 32)
    images = torch.randn(128, settings.get("in_channels", 3), size, size)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (128,))
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        times.append(time.perf_counter() - start)
    return statistics.median(times[steps // 5 :])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--one", nargs=2, metavar=("NETWORK", "keep|return"), help="one measurement")
    parser.add_argument("--output", type=Path, default=RESULTS / "kept_memory.json")
    options = parser.parse_args()
    if options.one:
        torch.set_num_threads(1)
        network, way = options.one
        if way == "keep" and not keep_freed_memory():
            sys.exit("this system's C library cannot be told to keep freed memory")
        print(median_step(network, options.steps))
        return
    results = {}
    for network in NETWORKS:
        times: dict[str, list[float]] = {"keep": [], "return": []}
        for _ in range(options.rounds):
            for way, measured in times.items():
                command = [sys.executable, __file__, "--steps", str(options.steps), "--one", network, way]
                run = subprocess.run(command, capture_output=True, text=True, check=True)
                measured.append(float(run.stdout))
        seconds = {way: statistics.median(measured) for way, measured in times.items()}
        ratio = seconds["keep"] / seconds["return"]
        results[network] = {"seconds": seconds, "all_seconds": times, "ratio": ratio}
        print(
            f"{network}: {1e3 * seconds['return']:.1f} ms, kept {1e3 * seconds['keep']:.1f} ms: {ratio:.2f}"
        )
    record(options.output, {"networks": results})


if __name__ == "__main__":
    main()
