"""`dirprune train RECIPE`: data in, sparse network out."""

import shlex
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from dirprune.cli.arguments import parse
from dirprune.data import load_dataset
from dirprune.errors import DivergenceError
from dirprune.recipes import RECIPES, get_recipe
from dirprune.report import print_table, summarise, write_report
from dirprune.train import Diagnosis, Duration, Experiment, ProgressDisplay, run_experiment
from dirprune.train.snapshots import SnapshotSaver


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Train every run of a recipe and show how they compare; what is done is not done again."""

    experiment: Experiment
    data_dir: str | None = None
    """Folder with the data set as parquet, or a hub name (owner/name) to download; default: from the hub."""
    out: Path = Path("runs")
    """Where the experiment's folder is made."""
    checkpoint_every: str = "1ep"
    """How often to save: epochs ("1ep") or iterations ("200it")."""
    snapshots: tuple[int, ...] = ()
    """Epochs after which the weights are kept, for `dirprune landscape`; 0: before the first."""


def train(arguments: list[str]) -> int:
    """Run the command; returns the exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage(), end="")
        return 0 if arguments else 2
    name, *rest = arguments
    recipe = get_recipe(name)
    options = parse(
        TrainOptions, rest, prog=f"dirprune train {name}", default=TrainOptions(experiment=recipe)
    )
    checkpoint_every = Duration.parse(options.checkpoint_every)
    experiment, config = options.experiment, options.experiment.config
    if experiment.threads is not None:
        torch.set_num_threads(experiment.threads)
    folder = options.out / config.experiment_name(recipe.config)

    console = Console()
    if config.stops_early:
        console.print(
            f"note: trains the first {config.epochs} of {config.schedule_epochs} epochs that the rate's "
            "schedule is laid out for; --schedule-epochs changes that"
        )
    with console.status(f"reading {config.dataset}"):
        dataset = load_dataset(config.dataset, options.data_dir)
    with ProgressDisplay(console, len(experiment.runs())) as progress:
        runs = run_experiment(
            experiment,
            dataset,
            folder,
            callbacks=[progress, Diagnosis(progress.say), SnapshotSaver(options.snapshots)],
            checkpoint_every=checkpoint_every,
            command=shlex.join(["dirprune", "train", *arguments]),
        )
    show(console, folder)
    diverged = [run.path.name for run in runs if (run.result() or {}).get("status") == "diverged"]
    if diverged:
        raise DivergenceError(f"{len(diverged)} of {len(runs)} runs diverged: {', '.join(diverged)}")
    return 0


def show(console: Console, folder: Path) -> None:
    """Print the table of a folder of runs and write its report."""
    print_table(summarise(folder), console)
    console.print(f"report: {write_report(folder)}", soft_wrap=True, highlight=False, markup=False)


def _usage() -> str:
    recipes = "".join(
        f"  {name:24} {(function.__doc__ or '').splitlines()[0]}\n" for name, function in RECIPES.items()
    )
    return (
        f"usage: dirprune train RECIPE [OPTIONS]\n\n{recipes}\n  dirprune train RECIPE --help   its options\n"
    )
