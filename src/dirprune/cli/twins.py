"""The runs that `dirprune landscape` looks at: an SGD run and its gRDA twin, and the data they saw."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro
from torch import Tensor, nn

from dirprune import landscape as ls
from dirprune.cli.arguments import at_least_one
from dirprune.cli.bars import StageBars
from dirprune.data import Split, load_dataset
from dirprune.errors import UsageError
from dirprune.runs import RunFolder
from dirprune.train.reopen import EvaluationData, TrainedRun, reopen, run_config


@dataclass(frozen=True, kw_only=True)
class Common:
    """What all of these commands take."""

    data_dir: str | None = None
    """Folder with the data set as parquet, or a hub name; default: from the hub."""
    out: Path | None = None
    """Where the result is written; default: the folder "landscape" in the last run named."""
    images: int | None = None
    """Measure on only the first so many training images, and test images; default: all."""
    batch: int = 250
    """Images at a time; less needs less memory."""
    threads: int | None = None
    """Threads on the CPU; default: all cores."""

    def __post_init__(self) -> None:
        at_least_one(images=self.images, batch=self.batch, threads=self.threads)


@dataclass(frozen=True, kw_only=True)
class PairOptions(Common):
    """Two runs that started from the same weights and saw the same batches."""

    run_sgd: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN_SGD")]
    """Folder of the SGD run."""
    run_grda: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN_GRDA")]
    """Folder of its gRDA twin."""


class Pair:
    """An SGD run and its gRDA twin."""

    def __init__(self, options: Common, run_sgd: Path, run_grda: Path, bars: StageBars) -> None:
        sgd, grda = (run_config(RunFolder(path)) for path in (run_sgd, run_grda))
        if sgd.method != "sgd" or sgd == grda:
            raise UsageError(
                f"RUN_SGD comes first, and another run after it: got {run_sgd}, trained by "
                f"{sgd.method}, and {run_grda}, trained by {grda.method}"
            )
        pruning = {key: getattr(grda, key) for key in ("method", "c", "mu", "penalty", "prune")}
        held = {**asdict(sgd), **pruning}
        differing = [key for key, value in asdict(grda).items() if held[key] != value]
        if differing:
            raise UsageError(f"the two runs are no twins: they differ in {', '.join(differing)}")
        self.sgd = open_run(run_sgd, options)
        self.grda = open_run(run_grda, options)
        starts = [(run.folder.result() or {}).get("initial_weights") for run in (self.sgd, self.grda)]
        if starts[0] != starts[1]:
            bars.say(f"note: the runs started from different weights ({starts[0]} and {starts[1]})")
        self.objective = objective_of(self.grda, options)
        self.beside_run = run_grda / "landscape"
        self.out = options.out or self.beside_run

    def epochs(self) -> tuple[int, ...]:
        """Epochs of which both runs have kept the weights."""
        return tuple(sorted(set(self.sgd.folder.snapshots()) & set(self.grda.folder.snapshots())))

    def load(self, epoch: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Read both networks after an epoch."""
        return self.sgd.snapshot(epoch), self.grda.snapshot(epoch)


def open_run(path: Path, options: Common) -> TrainedRun:
    """Open a finished run with all of its images."""
    folder = RunFolder(path)
    return reopen(folder, load_dataset(run_config(folder).dataset, options.data_dir))


def first_of(split: Split, images: int | None) -> Split:
    """Return the first so many images of a split, all for None."""
    return Split(split.images[:images], split.labels[:images])


def objective_of(run: TrainedRun, options: Common) -> ls.Objective:
    """Return the loss of a run's network on as much of its data as was asked for, without augmentation."""
    train, test = (
        EvaluationData(first_of(split, options.images), run.augmentation, options.batch)
        for split in (run.training, run.measured)
    )
    return ls.Objective(run.model, nn.CrossEntropyLoss(), train, test)
