"""A set of runs that belong together: methods, settings of gRDA, and seeds of one configuration."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Literal

from dirprune.core.threads import check_threads
from dirprune.data import EncodedDataset, ImageDataset
from dirprune.errors import UsageError
from dirprune.methods import METHODS, penalty_of_form
from dirprune.runs import RunFolder
from dirprune.train.callbacks import Callback
from dirprune.train.config import TWINS, TrainConfig
from dirprune.train.duration import Duration
from dirprune.train.execution import Execution
from dirprune.train.jobs import Job, raise_failures, run_here


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What a recipe describes.

    Args:
        config: The settings that all runs share; its ``seed`` is the first seed.
        c: gRDA: scale of the threshold; several make a run each, beside one SGD run.
        mu: gRDA: exponent of the threshold's growth, greater is sparser; several make a run each.
        seeds: Number of seeds. Runs of one seed start from the same initial weights.
        methods: Methods to run for each seed, by their names in `dirprune.methods.METHODS`.
        threads: Threads on the CPU for each run; None for all cores. Small networks are fastest with one.
        compute: ``"auto"``: `dirprune train` times bf16 and channels_last on this machine when the experiment
            begins, takes them where they pay, and keeps to that; ``"fixed"``: the configuration says it.

    Raises:
        UsageError: Nothing would be run, or a run has a setting outside its range.

    Example:
        >>> config = TrainConfig(recipe="mine", dataset="digits", model="lenet-300-100")
        >>> [run.run_name for run in Experiment(config=config, mu=(0.51, 0.6)).runs()]
        ['sgd-seed0', 'grda-c0.0005-mu0.51-seed0', 'grda-c0.0005-mu0.6-seed0']
    """

    config: TrainConfig
    c: tuple[float, ...] = ()
    mu: tuple[float, ...] = ()
    seeds: int = 1
    methods: tuple[str, ...] = TWINS
    threads: int | None = None
    compute: Literal["auto", "fixed"] = "fixed"

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise UsageError(f"`seeds` must be >= 1, got {self.seeds}")
        check_threads(self.threads)
        if not self.methods:
            raise UsageError(f"`methods` must name at least one of {', '.join(METHODS)}")
        for method in self.methods:
            if method in METHODS and (penalty := penalty_of_form(method)):
                raise UsageError(
                    f"`methods` must name grda with `penalty` {penalty}, `c` and `mu`: {method} is known to "
                    "comparisons alone"
                )
        object.__setattr__(self, "c", self.c or (self.config.c,))
        object.__setattr__(self, "mu", self.mu or (self.config.mu,))
        runs = self.runs()  # every setting within its range
        taken = {pair for run in runs for pair in run.settings}
        if self.config.sparsity is not None and not any(METHODS[m].facts.needs_target for m in self.methods):
            raise UsageError(
                f"`sparsity` belongs to none of {', '.join(self.methods)}, which take no target; "
                "`dirprune tune`, or dirprune.tune.c_for_sparsity, looks for gRDA's c"
            )
        for pair in self.config.settings:
            if pair not in taken:
                raise UsageError(f"`settings` {pair} belongs to none of {', '.join(self.methods)}")

    def runs(self) -> list[TrainConfig]:
        """Return the configuration of every run, those of one seed side by side."""
        first = self.config.seed
        runs = (
            replace(self.config, seed=seed, c=c, mu=mu).with_method(method)
            for seed in range(first, first + self.seeds)
            for method in self.methods
            for c, mu in product(self.c, self.mu)
        )
        return list(dict.fromkeys(runs))  # one run is the twin of every c and mu

    def jobs(
        self,
        folder: str | os.PathLike[str],
        *,
        data_dir: str | os.PathLike[str] | None = None,
        checkpoint_every: Duration = Duration(1, "ep"),  # noqa: B008 - frozen
        command: str = "",
        execution: Execution = Execution(),  # noqa: B008 - frozen
        snapshots: tuple[int, ...] = (),
        trackers: tuple[str, ...] = (),
    ) -> list[Job]:
        """Return every run with all that a process needs to train it.

        Args:
            folder: Where the runs' folders are made.
            data_dir: Where the data set is read from; see :func:`dirprune.data.load_dataset`.
            checkpoint_every: How often each run is saved.
            command: The command line, for the record.
            execution: How each run uses the machine.
            snapshots: Epochs after which the weights are kept; 0: before the first.
            trackers: Where each run is shown beside its folder; see :mod:`dirprune.train.tracking`.
        """
        return [
            Job(
                config=config,
                folder=Path(folder) / config.run_name,
                data_dir=None if data_dir is None else os.fspath(data_dir),
                threads=self.threads,
                checkpoint_every=checkpoint_every,
                command=command,
                execution=execution,
                snapshots=snapshots,
                trackers=trackers,
            )
            for config in self.runs()
        ]


def run_experiment(
    experiment: Experiment,
    dataset: ImageDataset | EncodedDataset,
    folder: str | os.PathLike[str],
    *,
    callbacks: Sequence[Callback] = (),
    checkpoint_every: Duration = Duration(1, "ep"),  # noqa: B008 - frozen
    command: str = "",
    execution: Execution = Execution(),  # noqa: B008 - frozen
) -> list[RunFolder]:
    """Train every run that is not over yet, one after the other in this process.

    A run that diverges or fails is recorded as such and does not keep the others from running. One that
    another process is training is left to it. :func:`~dirprune.train.engines.run_jobs` runs several at once.

    Args:
        experiment: What to run.
        dataset: The data of all runs, whatever the configuration names.
        folder: Where the runs' folders are made.
        callbacks: Told about the progress of each run.
        checkpoint_every: How often each run is saved.
        command: The command line, for the record.
        execution: How the machine is used.

    Returns:
        The runs' folders, in the order of ``experiment.runs()``.

    Raises:
        FailedRunsError: Runs failed; the others are done. A single one raises what it failed with.
        UsageError: The request cannot be met.
        StopRequested: Ctrl-C or SIGTERM came; the same call goes on from there.
        OSError: Something could not be written.
    """
    jobs = experiment.jobs(folder, checkpoint_every=checkpoint_every, command=command, execution=execution)
    raise_failures(run_here(jobs, dataset, callbacks))
    return [RunFolder(job.folder) for job in jobs]
