"""Time of one step for each parameter, from ten thousand parameters up to what the memory holds.

And a million parameters in 10,000 tensors, 100 tensors and one. Some minutes; the largest sizes take
most of the memory.

Example: python benchmarks/step_scaling.py --largest 1e8
"""

import argparse
import os
from pathlib import Path

import torch

from dirprune.bench import StepTable, measure_step
from record import RESULTS, record

NAMES = ("SGD, fused", "SGD, foreach", "SGD with momentum, fused", "gRDA")
SHARED_ABOVE = 2e8  # parameters: above, all step the same weights and gradients, for the memory's sake
BYTES_PER_PARAMETER = 4 * 4  # weight, gradient, accumulator, momentum: what the above then need together
LARGEST_TENSOR = 25_000_000
SIZES = (1e4, 3e4, 1e5, 3e5, 1e6, 3e6, 1e7, 3e7, 1e8, 3e8, 1e9)


def shapes_of(parameters: int) -> list[tuple[int, ...]]:
    """Lay parameters out in tensors of the size of a large layer."""
    whole, rest = divmod(parameters, LARGEST_TENSOR)
    return [(LARGEST_TENSOR,)] * whole + ([(rest,)] if rest else [])


def described(table: StepTable) -> dict[str, object]:
    """Return the table with the time for each parameter."""
    nanoseconds = {name: 1e9 * timing.median / table.parameters for name, timing in table.times.items()}
    print(
        f"{table.parameters:13,} in {table.tensors:6,} tensors:",
        "  ".join(f"{name} {value:.3f}" for name, value in nanoseconds.items()),
        "ns a parameter",
        flush=True,
    )
    return {**table.as_json(), "nanoseconds_per_parameter": nanoseconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--largest", type=float, default=1e9)
    parser.add_argument("--repetitions", type=int, default=30)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=RESULTS / "step_scaling.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    sizes = [int(size) for size in SIZES if size <= arguments.largest]
    fitting = [size for size in sizes if BYTES_PER_PARAMETER * size < 0.9 * available]
    by_size = []
    for size in fitting:
        rounds = arguments.repetitions * (10 if size <= 1e6 else 1)
        by_size.append(
            described(
                measure_step(shapes_of(size), names=NAMES, repetitions=rounds, shared=size > SHARED_ABOVE)
            )
        )
    by_tensors = [
        described(measure_step(shapes, names=NAMES, repetitions=arguments.repetitions))
        for shapes in ([(100,)] * 10_000, [(100, 100)] * 100, [(1000, 1000)])
    ]
    large = [e["nanoseconds_per_parameter"] for e in by_size if e["parameters"] >= 1e6]
    for name in NAMES if large else ():
        spread = max(e[name] for e in large) / min(e[name] for e in large)
        print(f"{name}: greatest / least time a parameter from a million parameters up: {spread:.2f}")
    left_out = [size for size in sizes if size not in fitting]
    record(arguments.output, {"sizes": by_size, "too_large_for_memory": left_out, "tensors": by_tensors})


if __name__ == "__main__":
    main()
