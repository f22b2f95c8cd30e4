"""Time of one step beside torch's optimisers, on the parameters of four networks: about two minutes.

Example: python benchmarks/step.py
"""

import argparse
from pathlib import Path

import torch

from dirprune.bench import measure_step, parameter_shapes
from record import RESULTS, record

NETWORKS = ("lenet5", "vgg16", "wrn28x10", "resnet50")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--repetitions", type=int, default=40)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=RESULTS / "step.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tables = {}
    for network in arguments.networks:
        shapes = parameter_shapes(network)
        small = sum(map(len, shapes)) < 100 and network.startswith("lenet")
        table = measure_step(shapes, repetitions=arguments.repetitions * (10 if small else 1))
        tables[network] = table.as_json()
        print(f"{network}: {table.parameters:,} parameters, kernel: {table.kernel}")
        for name, timing in table.times.items():
            ratios = "  ".join(
                f"{ratio:6.2f} x {base}" for base, ratio in tables[network]["ratios"][name].items()
            )
            print(f"  {name:28} {1e3 * timing.median:9.3f} ms  {ratios}")
    record(arguments.output, {"networks": tables})


if __name__ == "__main__":
    main()
