"""`dirprune compare RECIPE`: pruning methods on equal terms."""

import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from dirprune.cli.arguments import at_least_one, in_a_folder, parse
from dirprune.cli.compute import choose
from dirprune.cli.terminal import Terminal
from dirprune.cli.train import recipe_list
from dirprune.compare import Comparison, Protocol
from dirprune.core.prunable import prunable_parameters
from dirprune.data import load_dataset
from dirprune.data.catalogue import find_spec
from dirprune.errors import FailedRunsError, UsageError
from dirprune.methods import METHODS
from dirprune.recipes import get_recipe
from dirprune.report import print_comparison, read_comparison, wording, write_report, write_results
from dirprune.train import Execution, TrainConfig, describe_environment, estimate, fitting, shape_of
from dirprune.train.build import build_model, model_arguments
from dirprune.train.ranks import processes
from dirprune.tune.trials import TrialRunner


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Compare pruning methods on equal terms; what is done is not done again.

    Every method is tuned with the same number of trial runs, on training images that are held back, never on
    the test set. Then what was chosen is trained with some seeds on all training
    images. Methods that take no target have to find the sparsity within their trials, and are shown at the
    sparsity that they came to.
    """

    config: TrainConfig
    methods: tuple[str, ...] = ()
    """Which methods; default: all that can prune the network."""
    sparsities: tuple[float, ...] = (0.8, 0.9, 0.95, 0.98)
    """Wanted sparsities of the weights."""
    seeds: int = field(default=3)
    """Seeds of the runs that are reported."""
    trials: int = 12
    """Trials for each method, for all wanted sparsities together."""
    trial_seeds: int = 1
    """Seeds of each trial, which is judged by their mean."""
    reference: str | None = None
    """The method that the others are paired with, seed by seed; default: grda, or the first that is named."""
    threads: int | None = None
    """Threads on the CPU for each run; None for all cores."""
    jobs: int | None = None
    """Runs at once, each in a process of its own."""
    data_dir: str | None = None
    """Folder with the data set as parquet, or a hub name (owner/name) to download; default: from the hub."""
    out: Path = Path("runs")
    """Where the folder of the comparison is made."""
    archive: Path | None = None
    """A small file that keeps finished runs: where it is, they are not trained again, on any machine."""
    dry_run: bool = False
    """State the protocol and how long it will take, and end."""

    def __post_init__(self) -> None:
        if processes() > 1:
            raise UsageError("compare trains each run in one process: --jobs, not torchrun, uses several")
        at_least_one(threads=self.threads, jobs=self.jobs)
        in_a_folder(archive=self.archive)


def compare(arguments: list[str]) -> int:
    """Run the command; returns the exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: dirprune compare RECIPE [OPTIONS]\n\n{recipe_list()}", end="")
        print("\n  dirprune compare RECIPE --help   its options")
        return 0 if arguments else 2
    name, *rest = arguments
    recipe = get_recipe(name)
    # Some methods prune weights of linear and convolutional layers only, so all do.
    config = replace(recipe.config, prune="weights", validation=0.1)
    if config.penalty != "l1":  # grda is compared as published; with the hard threshold it is grda-l0
        published = METHODS["grda"].settings
        c = config.c if config.beta2 else published.c  # with Adam's direction it is of another size
        config = replace(config, penalty=published.penalty, mu=published.mu, c=c)
    default = CompareOptions(config=config, threads=recipe.threads)
    options = parse(CompareOptions, rest, prog=f"dirprune compare {name}", default=default)
    protocol = Protocol(
        config=options.config,
        methods=_methods(options.config, options.methods),
        prunable=prunable_part(options.config),
        parameters=sum(parameter.numel() for parameter in _dense(options.config).parameters()),
        sparsities=options.sparsities,
        seeds=options.seeds,
        trials=options.trials,
        trial_seeds=options.trial_seeds,
        reference=options.reference,
    )
    console = Terminal()

    def folder_of(chosen: TrainConfig) -> Path:
        return options.out / f"compare-{chosen.experiment_name(config)}"

    with console.status("timing a step"):
        experiment, notes = choose(
            replace(recipe, config=options.config, threads=options.threads),
            folder_of,
            rest,
            keep=not options.dry_run,
        )
    protocol = replace(protocol, config=experiment.config)
    for note in notes:
        console.print(note, soft_wrap=True, highlight=False, markup=False)
    for sentence in [*protocol.words(), _expectation(protocol, options)]:
        console.print(sentence, highlight=False, markup=False)
    if options.dry_run:
        return 0
    command = shlex.join(["dirprune", "compare", *arguments])
    with console.status(f"reading {options.config.dataset}"):
        dataset = load_dataset(options.config.dataset, options.data_dir)
    folder = folder_of(protocol.config)
    runner = TrialRunner(
        dataset=dataset,
        folder=folder,
        console=console,
        data_dir=options.data_dir,
        threads=options.threads,
        at_once=options.jobs,
        command=command,
    )
    comparison = Comparison(protocol, runner, options.archive)
    if comparison.replaces_another():
        console.print(
            f"note: {folder / 'comparison.json'} and its pages, of another request, will be replaced; "
            "the runs stay, from which the same command makes them again",
            soft_wrap=True,
            highlight=False,
        )
    choices = comparison.run()
    results = read_comparison(folder)
    if results is None or not any(choice.runs for choice in choices):
        raise FailedRunsError(f"every trial diverged in {folder}: lower --lr")
    print_comparison(results, console)
    written = write_results(folder, results, describe_environment(command))
    for what, path in (("results", written), ("report", write_report(folder))):
        console.print(f"{what}: {path}", soft_wrap=True, highlight=False, markup=False)
    return 0


def prunable_part(config: TrainConfig) -> float:
    """Return the part of all parameters of a recipe's network that methods prune."""
    model = _dense(config)
    pruned = sum(weight.numel() for weight in prunable_parameters(model, "weights").values())
    return pruned / sum(parameter.numel() for parameter in model.parameters())


def _dense(config: TrainConfig) -> nn.Module:
    spec = find_spec(config.dataset)
    return build_model(config.with_method("sgd"), shape_of(config, spec), spec.num_classes)


def _methods(config: TrainConfig, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """Return the methods that were asked for, or all that can prune a recipe's network.

    Raises:
        UsageError: One that was asked for cannot.
    """
    model, spec = _dense(config), find_spec(config.dataset)
    refusals = {
        name: reason
        for name, entry in METHODS.items()
        if (reason := entry.method.refusal(model, config.prune))
    }
    try:
        small = replace(config, sparsity=0.5).with_method("small-dense")
        model_arguments(small, shape_of(config, spec), spec.num_classes)
    except UsageError as error:
        refusals["small-dense"] = f"needs narrower networks of this kind: {error}"
    for name in wanted:
        if name in refusals:
            raise UsageError(f"{name} {refusals[name]}; or leave it out of --methods")
    able = [name for name in METHODS if name not in refusals]
    return wanted or tuple(name for name in able if METHODS[name].facts.adaptive or not config.beta2)


def _expectation(protocol: Protocol, options: CompareOptions) -> str:
    """Say how many runs there are and how long they take, from a few steps of the dense network."""
    config = protocol.config
    spec = find_spec(config.dataset)
    dense = config.with_method("sgd")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    images, shape = spec.counts[0], shape_of(config, spec)
    found = estimate(dense, Execution(), images=images, num_classes=spec.num_classes, shape=shape)
    trials, runs = protocol.runs
    at_once = options.jobs or fitting(options.threads)
    run = found.step * found.steps_per_epoch * found.epochs
    return (
        f"{trials} runs to try and {runs} to report, {at_once} at once, each at least "
        f"{wording.duration(run)} (steps of the dense network, measured now on random images): "
        f"{wording.duration((trials + runs) * run / at_once)} or more in all."
    )
