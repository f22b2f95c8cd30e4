"""`dirprune tune RECIPE`: c from short runs."""

import shlex
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from dirprune.cli.arguments import at_least_one, parse
from dirprune.cli.compute import choose
from dirprune.cli.terminal import Terminal
from dirprune.cli.train import recipe_list
from dirprune.core.atomic import write_json
from dirprune.data import load_dataset
from dirprune.errors import UsageError
from dirprune.recipes import get_recipe
from dirprune.train import Experiment, TrainConfig, describe_environment, first_process, leave
from dirprune.train.config import short
from dirprune.tune import Candidate, Trial, c_for_sparsity, greatest_comparable_c, reaches
from dirprune.tune.trials import TrialRunner

_VALIDATION = 0.2
_EPOCHS = 3


@dataclass(frozen=True, kw_only=True)
class TuneOptions:
    """Choose c from short runs; what is done is not done again.

    Without --target-sparsity, by the paper's rule: for each mu the greatest c whose accuracy over the first
    epochs is comparable with SGD's. Measured on held-back training images, never on the test set; comparable
    means that the one-sided lower 95 % bound of the paired difference is above minus the margin.

    With --target-sparsity, the c whose whole training is predicted to end at that sparsity, if any is. Each c
    that is tried costs a run of --trial-epochs, by default a quarter of the training; up to 6 are tried for
    each mu, 1.5 trainings before the one that counts. For 90 % with the hard threshold digits took all 6, and
    ended 2.09 to 2.32 points denser than predicted.
    """

    config: TrainConfig
    mu: tuple[float, ...]
    """gRDA: exponent of the threshold's growth; c is chosen for each of several."""
    target_sparsity: float | None = None
    """Sparsity at the end of the whole training, in (0, 1)."""
    trial_epochs: int | None = None
    """Epochs of a short run; default: 3, for a target a quarter of the training."""
    margin: float = 5.0
    """Points of accuracy that a short run may be behind SGD's: most of it is made up for by the end."""
    seeds: int = 3
    """Seeds that accuracies are compared over."""
    threads: int | None = None
    """Threads on the CPU for each run; None for all cores."""
    jobs: int | None = None
    """Runs at once, each in a process of its own."""
    data_dir: str | None = None
    """Folder with the data set as parquet, or a hub name (owner/name) to download; default: from the hub."""
    out: Path = Path("runs")
    """Where the folder of the short runs is made."""

    def __post_init__(self) -> None:
        at_least_one(trial_epochs=self.trial_epochs, seeds=self.seeds, threads=self.threads, jobs=self.jobs)
        if not self.mu:
            raise UsageError("--mu must name at least one value")
        if not 0 <= self.margin <= 100:
            raise UsageError(f"--margin must be in [0, 100] points, got {self.margin}")
        if self.config.sparsity is not None or self.config.settings:
            raise UsageError("--sparsity and --settings are of other methods: gRDA has --target-sparsity")
        changed = (self.seeds, self.margin) != (TuneOptions.seeds, TuneOptions.margin)
        if self.target_sparsity is not None and changed:
            raise UsageError("--seeds and --margin compare accuracies: leave them out with --target-sparsity")


def tune(arguments: list[str]) -> int:
    """Run the command; returns the exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: dirprune tune RECIPE [OPTIONS]\n\n{recipe_list()}", end="")
        print("\n  dirprune tune RECIPE --help   its options")
        return 0 if arguments else 2
    name, *rest = arguments
    recipe = get_recipe(name)
    default = TuneOptions(config=recipe.config, mu=recipe.mu, threads=recipe.threads)
    options = parse(TuneOptions, rest, prog=f"dirprune tune {name}", default=default)
    if options.config.beta2:
        raise UsageError(
            "tune knows what c is worth with SGD's direction: leave --beta2 at 0, or compare instead"
        )
    command = shlex.join(["dirprune", "tune", *arguments])
    console = Terminal(quiet=not first_process())
    with console.status(f"reading {options.config.dataset}"):
        dataset = load_dataset(options.config.dataset, options.data_dir)

    def folder_of(config: TrainConfig) -> Path:
        return options.out / f"tune-{config.experiment_name(recipe.config)}"

    with console.status("timing a step"):
        experiment, notes = choose(
            replace(recipe, config=_short(options), threads=options.threads), folder_of, rest
        )
    for note in notes:
        console.print(note, soft_wrap=True, highlight=False, markup=False)
    config = experiment.config
    options = replace(
        options,
        config=replace(options.config, precision=config.precision, channels_last=config.channels_last),
    )
    folder = folder_of(config)
    runner = TrialRunner(
        dataset=dataset,
        # Predictions need runs that kept their accumulators.
        folder=folder if options.target_sparsity is None else folder / "predictions",
        console=console,
        data_dir=options.data_dir,
        threads=options.threads,
        at_once=options.jobs,
        command=command,
    )
    search = _by_accuracy if options.target_sparsity is None else _by_sparsity
    chosen, record = search(options, config, runner)
    lines = [_train_command(each, options, recipe) for each in chosen]
    path = folder / f"{_question(options, recipe.config)}.json"
    content = {**record, "train": lines, "environment": describe_environment(command)}
    leave()
    if first_process():
        write_json(path, content)
    console.print(f"result: {path}", soft_wrap=True, highlight=False, markup=False)
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    return 0 if lines else 1


def _question(options: TuneOptions, recipe: TrainConfig) -> str:
    """Return the name of what is asked for, so that the answer to one does not replace another's."""
    target = options.target_sparsity
    asked = "greatest-c" if target is None else f"target-sparsity{target:g}"
    words = [f"{asked}-mu{short(options.mu[0])}", *map(short, options.mu[1:])]
    changed = ((name, getattr(options, name)) for name in ("margin", "seeds"))
    words += [f"{name}{value:g}" for name, value in changed if value != getattr(TuneOptions, name)]
    # What tells runs of one experiment apart is not in the folder's name.
    of_a_run = ((name, getattr(options.config, name)) for name in ("penalty", "seed"))
    words += [f"{name}{value}" for name, value in of_a_run if value != getattr(recipe, name)]
    return "-".join(words)


def _short(options: TuneOptions) -> TrainConfig:
    """Return the configuration of the short runs."""
    config = options.config
    default = _EPOCHS if options.target_sparsity is None else max(4, round(config.epochs / 4))
    short = replace(
        config,
        epochs=min(options.trial_epochs or default, config.epochs),
        schedule_epochs=config.schedule_epochs or config.epochs,
    )
    if options.target_sparsity is None and not config.validation:
        short = replace(short, validation=_VALIDATION)
    return short


def _by_accuracy(
    options: TuneOptions, config: TrainConfig, runner: TrialRunner
) -> tuple[list[TrainConfig], dict[str, Any]]:
    """Search by the paper's rule; print each c, and return what was chosen."""
    tried: list[Candidate] = []
    chosen = []
    for mu in options.mu:
        found = greatest_comparable_c(
            replace(config, mu=mu), options.seeds, options.margin / 100, runner, tried.append
        )
        if found is not None:
            chosen.append(replace(options.config, mu=mu, c=found))
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("c", "mu", "validation accuracy %", "vs SGD, points (90 % interval)", "verdict"):
        table.add_column(heading)
    for candidate in sorted(tried, key=lambda each: (each.mu, each.c)):
        table.add_row(*_accuracy_cells(candidate))
    runner.console.print(table)
    if len(chosen) < len(options.mu):
        runner.console.print(
            "no c of 1e-4 or more is shown to be comparable for some mu: more --seeds, or a greater "
            "--validation narrow the interval; --margin says what loss does not matter"
        )
    for mu, c in _undecided(tried, {config.mu: config.c for config in chosen}):
        runner.console.print(
            f"mu {mu:g}: c = {c:g} is shown to be neither comparable nor worse; more --seeds, "
            "or a greater --validation, may allow it",
            soft_wrap=True,
        )
    rule = (
        f"greatest c whose one-sided lower 95 % bound of the paired difference to SGD is above "
        f"-{options.margin} points, {options.seeds} seeds, {config.epochs} epochs, "
        f"{config.validation:g} of the training images held back"
    )
    return chosen, {"rule": rule, "tried": [candidate.to_json() for candidate in tried]}


def _undecided(tried: list[Candidate], chosen: dict[float, float]) -> list[tuple[float, float]]:
    """Return (mu, c) where the search was turned down by a c of which too little is known."""
    found = []
    for mu in dict.fromkeys(candidate.mu for candidate in tried):
        above = [x for x in tried if x.mu == mu and x.c > chosen.get(mu, 0)]
        nearest = min(above, key=lambda x: x.c, default=None)
        if nearest is not None and nearest.comparison and nearest.comparison.verdict == "undecided":
            found.append((mu, nearest.c))
    return found


def _accuracy_cells(candidate: Candidate) -> list[str]:
    comparison = candidate.comparison
    if candidate.accuracy is None or comparison is None:
        return [f"{candidate.c:g}", f"{candidate.mu:g}", "-", "-", "diverged"]
    interval = f"{100 * comparison.lower:+.2f} to {100 * comparison.upper:+.2f}"
    return [
        f"{candidate.c:g}",
        f"{candidate.mu:g}",
        f"{100 * candidate.accuracy:.2f}",
        f"{100 * comparison.difference:+.2f} ({interval})",
        comparison.verdict,
    ]


def _by_sparsity(
    options: TuneOptions, config: TrainConfig, runner: TrialRunner
) -> tuple[list[TrainConfig], dict[str, Any]]:
    """Search for a sparsity; print each trial, and return what was chosen."""
    target = options.target_sparsity
    assert target is not None
    tried: list[Trial] = []
    best = c_for_sparsity(options.config, options.mu, target, config.epochs, runner, tried.append)
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("c", "mu", "predicted zeros % (interval)", "training loss of the short run"):
        table.add_column(heading)
    for trial in sorted(tried, key=lambda each: (each.mu, each.c)):
        predicted = trial.prediction
        interval = (
            f"{100 * predicted.sparsity:.2f} ({100 * predicted.lower:.1f} to {100 * predicted.upper:.1f})"
            if predicted
            else "diverged"
        )
        loss = "-" if trial.train_loss is None else f"{trial.train_loss:.4f}"
        table.add_row(f"{trial.c:g}", f"{trial.mu:g}", interval, loss)
    runner.console.print(table)
    reached = [trial for trial in best if reaches(trial, target)]
    for trial in best:
        if trial not in reached:
            runner.console.print(_not_reached(trial, target), soft_wrap=True, highlight=False)
    rule = (
        f"for each mu the c whose training is predicted to end at {target:g} zeros, from "
        f"its first {config.epochs} of {options.config.epochs} epochs; lowest training loss first"
    )
    chosen = [replace(options.config, c=trial.c, mu=trial.mu) for trial in reached]
    return chosen, {"rule": rule, "tried": [trial.to_json() for trial in tried]}


def _not_reached(nearest: Trial, target: float) -> str:
    """Say how near a mu comes to the target, and what would come nearer."""
    assert nearest.prediction is not None
    sparsity = nearest.prediction.sparsity
    if sparsity > target:
        remedy = "lower --mu"
    else:
        remedy = "raise --mu or --epochs" if nearest.mu < 1 else "raise --epochs"
    return (
        f"not reached: the nearest prediction is {100 * sparsity:.2f} % at c = {nearest.c:g}, "
        f"mu = {nearest.mu:g}; {remedy}"
    )


def _train_command(config: TrainConfig, options: TuneOptions, recipe: Experiment) -> str:
    """Return the line that trains with what was chosen, computed as the short runs were."""
    words = ["dirprune", "train", config.recipe, "--c", short(config.c), "--mu", short(config.mu)]
    before = asdict(recipe.config)
    if recipe.compute == "auto":  # the line says it, for `train` would choose anew
        del before["precision"], before["channels_last"]
    for name in (each.name for each in fields(config)):
        value, option = getattr(config, name), f"--{name.replace('_', '-')}"
        if name in ("c", "mu", "validation") or value == before.get(name):
            continue
        if isinstance(value, bool):
            words.append(option if value else f"--no-{name.replace('_', '-')}")
        else:
            words += [option, *map(str, value if isinstance(value, tuple) else (value,))]
    if options.data_dir is not None:
        words += ["--data-dir", options.data_dir]
    if options.out != TuneOptions.out:
        words += ["--out", str(options.out)]
    return shlex.join(words)
