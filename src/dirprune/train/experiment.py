"""A set of runs that belong together: methods and seeds of one configuration."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dirprune.data import EncodedDataset, ImageDataset
from dirprune.errors import UsageError
from dirprune.runs import RunFolder
from dirprune.train.callbacks import Callback
from dirprune.train.config import METHODS, Method, TrainConfig
from dirprune.train.duration import Duration
from dirprune.train.execution import Execution
from dirprune.train.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What a recipe describes.

    Args:
        config: The settings that all runs share; its ``seed`` is the first seed.
        seeds: Number of seeds. Runs of one seed start from the same initial weights.
        methods: Methods to run for each seed.
        threads: Threads on the CPU; None for all cores. Small networks are fastest with one.

    Raises:
        UsageError: Nothing would be run.

    Example:
        >>> config = TrainConfig(recipe="mine", dataset="digits", model="lenet-300-100")
        >>> [run.run_name for run in Experiment(config=config, seeds=1).runs()]
        ['sgd-seed0', 'grda-c0.0005-mu0.6-seed0']
    """

    config: TrainConfig
    seeds: int = 1
    methods: tuple[Method, ...] = METHODS
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise UsageError(f"--seeds must be >= 1, got {self.seeds}")
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"--threads must be >= 1, got {self.threads}")
        if not self.methods:
            raise UsageError(f"--methods must name at least one of {', '.join(METHODS)}")

    def runs(self) -> list[TrainConfig]:
        """Return the configuration of every run, the methods of one seed side by side."""
        first = self.config.seed
        return [
            replace(self.config, seed=seed).with_method(method)
            for seed in range(first, first + self.seeds)
            for method in dict.fromkeys(self.methods)
        ]


def run_experiment(
    experiment: Experiment,
    dataset: ImageDataset | EncodedDataset,
    folder: Path,
    *,
    callbacks: Sequence[Callback] = (),
    checkpoint_every: Duration = Duration(1, "ep"),  # noqa: B008 - frozen
    command: str = "",
    execution: Execution = Execution(),  # noqa: B008 - frozen
) -> list[RunFolder]:
    """Train every run that is not over yet, one after the other.

    A run that diverges is recorded as such and does not keep the others from running.

    Args:
        experiment: What to run.
        dataset: The data of all runs.
        folder: Where the runs' folders are made.
        callbacks: Told about the progress of each run.
        checkpoint_every: How often each run is saved.
        command: The command line, for the record.
        execution: How the machine is used.

    Returns:
        The runs' folders, in the order of ``experiment.runs()``.

    Raises:
        RunFolderError: A folder holds another run, or is in use.
        StopRequested: Ctrl-C or SIGTERM came; the same call goes on from there.
        OSError: Something could not be written.
    """
    folders = []
    for config in experiment.runs():
        run = RunFolder(folder / config.run_name)
        Trainer(
            config,
            dataset,
            run,
            callbacks=callbacks,
            checkpoint_every=checkpoint_every,
            command=command,
            execution=execution,
        ).run()
        folders.append(run)
    return folders
