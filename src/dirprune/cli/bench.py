"""`dirprune bench WHAT`: what pays on this machine, measured here and now."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.table import Table

from dirprune.bench import StepTable, TrainingTable, measure_step, measure_training, parameter_shapes
from dirprune.bench.step import BASE, MOMENTUM
from dirprune.bench.training import WAYS
from dirprune.cli.arguments import at_least_one, in_a_folder, parse
from dirprune.cli.bench_inference import bench_inference
from dirprune.cli.train import recipe_list
from dirprune.core.atomic import write_json
from dirprune.data.catalogue import find_spec
from dirprune.errors import UsageError, first_line, unknown
from dirprune.models import create_model
from dirprune.recipes import get_recipe
from dirprune.train import Experiment, describe_environment, shape_of

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

    def __post_init__(self) -> None:
        in_a_folder(json=self.json)


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Time a recipe's training step in float32, bf16, channels_last and compiled, in turns."""

    model: str
    """The network."""
    width: float
    """Factor on its widths."""
    dataset: str
    """The data, of which no more than shape and classes are needed."""
    image_size: int | None
    """Height and width that images are brought to; None: as they are."""
    batch_size: int
    """Images of a step."""
    ways: tuple[str, ...] = tuple(WAYS)
    """Which ways to compute it."""
    repetitions: int = 10
    """Rounds; the table shows the median."""
    device: str = "cpu"
    """Where it is trained."""
    threads: int | None = None
    """Threads of the CPU; default: the recipe's choice."""
    json: Path | None = None
    """Also write the table and the environment to this file."""

    def __post_init__(self) -> None:
        in_a_folder(json=self.json)
        at_least_one(image_size=self.image_size, batch_size=self.batch_size)

    @classmethod
    def of(cls, recipe: Experiment) -> "TrainingOptions":
        """Return what a recipe says of a step's computation."""
        told = ("model", "width", "dataset", "image_size", "batch_size")
        return cls(**{name: getattr(recipe.config, name) for name in told}, threads=recipe.threads)


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
    at_least_one(parameters=options.parameters)
    _set_threads(options.threads)
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
    _write(options.json, ["step", *arguments], options.device, table.as_json())
    return 0


def bench_train(arguments: list[str]) -> int:
    """Time a recipe's training step in bf16, channels_last and compiled."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: dirprune bench train RECIPE [OPTIONS]\n\n{recipe_list()}", end="")
        return 0 if arguments else 2
    name, *rest = arguments
    recipe = get_recipe(name)
    default = TrainingOptions.of(recipe)
    options = parse(TrainingOptions, rest, prog=f"dirprune bench train {name}", default=default)
    _set_threads(options.threads)
    spec = find_spec(options.dataset)
    config = replace(recipe.config, model=options.model, width=options.width, image_size=options.image_size)
    shape = shape_of(config, spec)
    console = Console()
    with console.status("training"):
        table = measure_training(
            lambda: create_model(
                config.model,
                num_classes=spec.num_classes,
                in_channels=shape[0],
                image_size=shape[1],
                width=config.width,
            ),
            shape,
            spec.num_classes,
            batch_size=options.batch_size,
            names=options.ways,
            repetitions=options.repetitions,
            device=_device(options.device),
        )
    _print_training(console, name, table)
    _write(options.json, ["train", *arguments], options.device, table.as_json())
    return 0


BENCHMARKS: dict[str, Callable[[list[str]], int]] = {
    "step": bench_step,
    "train": bench_train,
    "inference": bench_inference,
}


def _write(path: Path | None, arguments: list[str], device: str, content: dict[str, Any]) -> None:
    """Write a table beside the environment it was measured in, if a file is wanted."""
    if path is None:
        return
    environment = describe_environment(shlex.join(["dirprune", "bench", *arguments]), device)
    write_json(path, {"environment": environment, **content})


def _set_threads(threads: int | None) -> None:
    at_least_one(threads=threads)
    if threads is not None:
        torch.set_num_threads(threads)


def _usage() -> str:
    lines = "".join(f"  {name:10} {function.__doc__}\n" for name, function in BENCHMARKS.items())
    return f"usage: dirprune bench WHAT [OPTIONS]\n\n{lines}\n  dirprune bench WHAT --help   its options\n"


def _device(name: str) -> torch.device:
    """Return a device that is there, or say what is wrong with its name."""
    if name.startswith("meta"):
        raise UsageError(f"--device {name} cannot be used: nothing is computed there")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {name} cannot be used: {first_line(error)}") from error


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


def _print_training(console: Console, recipe: str, table: TrainingTable) -> None:
    """Print the table, and what pays."""
    shown = Table(
        title=f"training step of {recipe}: batch {table.batch_size}, {table.device}, {table.threads} threads"
    )
    for heading in ("way", "median, ms", "images/s", "x float32", "compilation, s", "verdict"):
        shown.add_column(heading, justify="left" if heading in ("way", "verdict") else "right")
    for name, timing in table.times.items():
        compilation = table.compilation.get(name)
        shown.add_row(
            name,
            f"{1e3 * timing.median:.1f}",
            f"{table.batch_size / timing.median:.0f}",
            f"{table.ratio(name):.2f}",
            "" if compilation is None else f"{compilation:.0f}",
            "pays" if table.pays(name) else "" if table.ratio(name) == 1 else "does not pay",
        )
    console.print(shown)
    options = {"channels_last": "--channels-last", "bf16": "--precision bf16"}
    best = min((name for name in table.times if not WAYS[name].compiled), key=table.ratio)
    flags = " ".join(options[part] for part in best.split(", ") if part in options)
    console.print(
        f"fastest for this recipe: dirprune train {recipe} {flags}"
        if table.pays(best)
        else "dirprune train is fastest without any of these options"
    )
    fastest = min(table.times, key=table.ratio)
    if WAYS[fastest].compiled and table.ratio(fastest) < table.ratio(best):
        console.print(
            f"{fastest} is faster still, for a loop of your own: model = torch.compile(model); "
            "dirprune train does not compile"
        )
