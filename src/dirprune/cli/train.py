"""`dirprune train RECIPE`: data in, sparse network out."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from dirprune.cli.arguments import at_least_one, parse
from dirprune.cli.compute import choose
from dirprune.cli.dry_run import count_data, print_estimates
from dirprune.cli.terminal import Terminal
from dirprune.data import load_dataset
from dirprune.errors import DivergenceError, UsageError
from dirprune.methods import METHODS
from dirprune.recipes import RECIPES, get_recipe
from dirprune.report import print_table, summarise, write_report
from dirprune.runs import RunFolder
from dirprune.train import (
    Duration,
    Execution,
    Experiment,
    Job,
    ProgressDisplay,
    TrainConfig,
    check_tracker,
    first_process,
    leave,
    raise_failures,
    run_jobs,
)


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
    jobs: int | None = None
    """Runs at once, each in a process of its own; default: one for each CUDA device, or as many as --threads
    lets the cores hold."""
    ray: str | None = None
    """Let a ray cluster train the runs: its address, "auto" to find it, or "local" to start one here. All its
    machines must see the folder --out."""
    execution: Execution = field(default_factory=Execution)
    dry_run: bool = False
    """Print parameters, memory, steps and time from a few steps on random images; write nothing."""
    snapshots: tuple[int, ...] = ()
    """Epochs after which the weights are kept, for `dirprune landscape`; 0: before the first. Not with
    --parallel fsdp2."""
    tracker: tuple[str, ...] = ()
    """Also show the runs in these trackers: tensorboard (files in each run's folder), wandb, mlflow ..."""

    def __post_init__(self) -> None:
        if min(self.snapshots, default=0) < 0:
            raise UsageError(f"--snapshots must be >= 0, got {min(self.snapshots)}")
        epochs = self.experiment.config.epochs
        if max(self.snapshots, default=0) > epochs:
            raise UsageError(
                f"--snapshots must be within --epochs, which is {epochs}: got {max(self.snapshots)}"
            )


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
    _check_read(rest, options.experiment.methods)
    checkpoint_every = Duration.parse(options.checkpoint_every)
    at_least_one(jobs=options.jobs)
    config = options.experiment.config
    execution = options.execution

    def folder_of(config: TrainConfig) -> Path:
        return options.out / config.experiment_name(recipe.config)

    if options.dry_run:
        counts = count_data(config.dataset, options.data_dir)
        experiment, notes = choose(options.experiment, folder_of, rest, execution=execution, keep=False)
        if first_process():
            print("".join(f"{note}\n" for note in notes), end="")
        print_estimates(experiment, execution, counts, options.jobs)
        return 0
    for name in options.tracker:
        check_tracker(name)
    console = Terminal(quiet=not first_process())
    if config.stops_early:
        console.print(
            f"note: trains the first {config.epochs} of {config.schedule_epochs} epochs that the rate's "
            "schedule is laid out for; --schedule-epochs changes that"
        )
    with console.status(f"reading {config.dataset}"):
        dataset = load_dataset(config.dataset, options.data_dir)
    with console.status("timing a step"):
        experiment, notes = choose(options.experiment, folder_of, rest, execution=execution)
    for note in notes:
        console.print(note, soft_wrap=True, highlight=False, markup=False)
    folder = folder_of(experiment.config)
    jobs = experiment.jobs(
        folder,
        data_dir=options.data_dir,
        checkpoint_every=checkpoint_every,
        command=shlex.join(["dirprune", "train", *arguments]),
        execution=execution,
        snapshots=options.snapshots,
        trackers=options.tracker,
    )
    with ProgressDisplay(console, len(jobs)) as display:
        outcomes = run_jobs(jobs, dataset, display, at_once=options.jobs, ray=options.ray)
    leave()
    if not first_process():  # the folder is the first one's
        return int(any(outcome.error for outcome in outcomes))
    if any((job.folder / "config.json").is_file() for job in jobs):
        show(console, folder)
    finished = {outcome.name for outcome in outcomes if outcome.status == "finished"}
    for job in jobs:
        if job.name in finished and (missing := _missing_snapshots(job)):
            console.print(
                f"note: {job.name} has no snapshot of epoch {', '.join(map(str, missing))}, for it was past "
                "it; another --out trains it anew",
                soft_wrap=True,
                highlight=False,
            )
        if job.name in finished and (untold := set(job.trackers) - RunFolder(job.folder).trackers().keys()):
            console.print(
                f"note: {job.name} was over before {', '.join(sorted(untold))} was asked for; "
                "another --out trains it anew",
                soft_wrap=True,
                highlight=False,
            )
    raise_failures(outcomes)
    diverged = [outcome.name for outcome in outcomes if outcome.status == "diverged"]
    if diverged:
        raise DivergenceError(f"{len(diverged)} of {len(outcomes)} runs diverged: {', '.join(diverged)}")
    return 0


def _missing_snapshots(job: Job) -> list[int]:
    """Return the epochs of a finished run whose weights were asked for too late."""
    return sorted(set(job.snapshots) - RunFolder(job.folder).snapshots().keys())


def show(console: Console, folder: Path) -> None:
    """Print the table of a folder of runs and write its report."""
    print_table(summarise(folder), console)
    console.print(f"report: {write_report(folder)}", soft_wrap=True, highlight=False, markup=False)


def _check_read(arguments: Sequence[str], methods: Sequence[str]) -> None:
    """Refuse options that none of the methods reads; a recipe may say more than they need."""
    asked = {word.partition("=")[0] for word in arguments}
    grda, momentum = "grda" in methods, any(METHODS[name].facts.momentum for name in methods)
    reads = {"c": grda, "mu": grda, "penalty": grda, "momentum": momentum, "nesterov": momentum}
    for option, read in reads.items():
        if f"--{option}" in asked and not read:
            raise UsageError(f"--{option} belongs to none of {', '.join(methods)}")


def recipe_list() -> str:
    """Return a line for each recipe, and one for those that follow from them."""
    titles = {name: (function.__doc__ or "").splitlines()[0] for name, function in RECIPES.items()}
    titles["...-recommended"] = "Any of them with momentum, a rate that falls late, a threshold of less bias."
    return "".join(f"  {name:24} {title}\n" for name, title in titles.items())


def _usage() -> str:
    return (
        f"usage: dirprune train RECIPE [OPTIONS]\n\n{recipe_list()}\n"
        "  dirprune train RECIPE --help   its options\n"
    )
