"""`dirprune bench WHAT`: what pays on this machine, measured here and now."""

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from rich.table import Table

from dirprune.bench import StepTable, measure_step, parameter_shapes
from dirprune.bench.step import BASE, MOMENTUM
from dirprune.cli.arguments import parse
from dirprune.core.atomic import atomic_write
from dirprune.errors import UsageError, unknown
from dirprune.train.environment import describe_environment

_LARGEST = 1_000_000  # elements of a tensor, where only their sum is given


@dataclass(frozen=True, kw_only=True)
class StepOptions:
    """Time one step of gRDA beside torch's optimisers, in turns, on a network's parameters or on N."""

    model: str = "resnet50"
    """A network by name."""
    parameters: int | None = None
    """Instead of a network: this many parameters, in tensors of up to a million."""
    repetitions: int = 30
    """Rounds; the table shows the median."""
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = "float32"
    """Of the parameters."""
    device: str = "cpu"
    """Where the parameters are."""
    threads: int | None = None
    """Threads of the CPU; default: torch's choice."""
    json: Path | None = None
    """Also write the table and the environment to this file."""


def bench(arguments: list[str]) -> int:
    """Run the command; returns the exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage(), end="")
        return 0 if arguments else 2
    what, *rest = arguments
    if what not in BENCHMARKS:
        raise UsageError(unknown("benchmark", what, BENCHMARKS))
    return BENCHMARKS[what](rest)


def bench_step(arguments: list[str]) -> int:
    """Time one step of gRDA beside torch's optimisers."""
    options = parse(StepOptions, arguments, prog="dirprune bench step")
    if options.parameters is not None and options.parameters < 1:
        raise UsageError(f"--parameters must be >= 1, got {options.parameters}")
    if options.threads is not None:
        if options.threads < 1:
            raise UsageError(f"--threads must be >= 1, got {options.threads}")
        torch.set_num_threads(options.threads)
    console = Console()
    shapes = parameter_shapes(options.model) if options.parameters is None else _split(options.parameters)
    with console.status("stepping"):
        table = measure_step(
            shapes,
            repetitions=options.repetitions,
            device=_device(options.device),
            dtype=getattr(torch, options.dtype),
        )
    _print(console, table)
    if options.json is not None:
        environment = describe_environment(
            shlex.join(["dirprune", "bench", "step", *arguments]), options.device
        )
        content = {"environment": environment, **table.as_json()}
        with atomic_write(options.json) as file:
            file.write(json.dumps(content, indent=1).encode() + b"\n")
    return 0


BENCHMARKS: dict[str, Callable[[list[str]], int]] = {"step": bench_step}


def _usage() -> str:
    lines = "".join(f"  {name:10} {function.__doc__}\n" for name, function in BENCHMARKS.items())
    return f"usage: dirprune bench WHAT [OPTIONS]\n\n{lines}\n  dirprune bench WHAT --help   its options\n"


def _device(name: str) -> torch.device:
    """Return a device that is there, or say what is wrong with its name."""
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {name} cannot be used: {str(error).splitlines()[0]}") from error


def _split(parameters: int) -> list[tuple[int, ...]]:
    """Lay a number of parameters out in tensors."""
    whole, rest = divmod(parameters, _LARGEST)
    sizes = [_LARGEST] * whole + [rest] * (rest > 0)
    return [(size,) for size in sizes]


def _print(console: Console, table: StepTable) -> None:
    """Print the table, with the two ratios that matter."""
    shown = Table(
        title=f"one step on {table.device}: "
        f"{table.parameters:,} parameters of {table.dtype} in {table.tensors} tensors"
    )
    for heading in ("optimiser", "median, ms", "quartiles, ms", f"x {BASE}", f"x {MOMENTUM}"):
        shown.add_column(heading, justify="left" if heading == "optimiser" else "right")
    for name, timing in table.times.items():
        shown.add_row(
            name,
            f"{1e3 * timing.median:.3f}",
            f"{1e3 * timing.lower:.3f} - {1e3 * timing.upper:.3f}",
            f"{table.ratio(name, BASE):.2f}",
            f"{table.ratio(name, MOMENTUM):.2f}",
        )
    console.print(shown)
    if table.kernel != "fused":
        console.print(f"note: gRDA goes without a fused kernel: {table.kernel}", markup=False)
